"""Phantom: the embedded data. BraTS-format cases made from the MNI ICBM 2009a templates that nilearn ships.

Real anatomy, invented disease. A case is a deformed head in four contrasts with a bias field, Rician noise, vessels and
other harmless bright things, and a glioma: necrotic core, enhancing rim, and oedema that follows the white matter.
The intensities of tumour and normal tissue overlap on purpose, so that a voxel alone does not give its label away.

A case is a pure function of (seed, index, size). Shapes are drawn in mm, so (seed, index) is the same patient at any size.
Axes are those of BraTS files: voxel x to the patient's left, y posterior, z superior (LPS).
"""

import functools
import importlib.util
import json
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segmamba.data.labels import ED, ET, MODALITIES, NCR, from_classes
from segmamba.errors import UserError

GENERATOR_VERSION = 1  # raised whenever the voxels of a case change
SUFFIXES = dict(zip(MODALITIES, ("t1", "t1ce", "t2", "flair"), strict=True))

SMALLEST_SIZE, LARGEST_SIZE = (48, 48, 48), (240, 240, 155)
HEAD_BOX_MM = (192.0, 192.0, 144.0)  # holds every deformed brain; gives 3 mm at 64x64x48 and 1 mm at 240x240x155
TEMPLATE_CENTRE = (98.0, 117.5, 84.0)  # template voxel (1 mm) that is put into the middle of the head box
BRAIN_SCALE = 0.93  # MNI brains are larger than most; BraTS brains measure about 137 x 171 x 130 mm

# Mean intensity of each tissue, white matter on T1 = 100, and how far it varies from case to case (sd, relative).
#                T1   T1ce   T2  FLAIR   sd
TISSUES = {
    "GM":      (  80,   84,  105,  102, 0.05),
    "WM":      ( 100,  100,   80,   85, 0.03),
    "CSF":     (  38,   40,  190,   42, 0.08),
    "vessel":  (  85,  165,   70,   80, 0.10),
    "plexus":  (  75,  145,  130,   95, 0.10),
    "WMH":     (  84,   86,  122,  135, 0.08),
    "ED":      (  76,   78,  145,  150, 0.06),
    "NCR":     (  52,   56,  165,   90, 0.08),
    "ET":      (  74,  165,  122,  125, 0.08),
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """The head box on voxels. shape: (x, y, z); spacing_mm: isotropic."""

    shape: tuple
    spacing_mm: float

    def axis_mm(self, axis):
        """Voxel centres along one axis, in mm from the middle of the box, shaped to broadcast over the grid."""
        n = self.shape[axis]
        return ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * self.spacing_mm).reshape([-1 if a == axis else 1 for a in range(3)])

    def offset_mm(self, centre_mm):
        return [self.axis_mm(a) - np.float32(centre_mm[a]) for a in range(3)]


@dataclass(frozen=True)
class Focus:
    """One tumour focus. Lengths in mm; centre_mm from the middle of the head box."""

    centre_mm: tuple
    radius_mm: float
    rim_mm: float
    reach_mm: float
    stretch: np.ndarray


def spacing_mm_for(size):
    """Isotropic voxel size, in mm to one decimal, at which the head box fits into `size` voxels."""
    wrong = len(size) != 3 or any(not low <= n <= high for n, low, high in zip(size, SMALLEST_SIZE, LARGEST_SIZE, strict=False))
    if wrong:
        raise UserError(
            f"phantom.size = {tuple(size)}: every case must have between {'x'.join(map(str, SMALLEST_SIZE))} "
            f"and {'x'.join(map(str, LARGEST_SIZE))} voxels; choose a size in between"
        )
    finest = max(mm / n for mm, n in zip(HEAD_BOX_MM, size, strict=True))
    return max(1.0, math.ceil(finest * 10 - 1e-6) / 10)


def make_case(seed, index, size):
    """One case as (images, label, affine).

    images: modality to int16 array of shape `size`, exactly 0 outside the brain and at least 1 inside.
    label: uint8, BraTS 2018-2021 values: 0, 1 NCR, 2 ED, 4 ET. affine: (4, 4), diag(-s, -s, s) with BraTS's offset.
    """
    spacing_mm = spacing_mm_for(size)
    grid = Grid(tuple(min(n, int(mm / spacing_mm + 1e-6)) for n, mm in zip(size, HEAD_BOX_MM, strict=True)), spacing_mm)
    head_rng, tumour_rng, scanner_rng = (np.random.default_rng(s) for s in np.random.SeedSequence((seed, index)).spawn(3))
    foci, enhancing = _plan_tumour(tumour_rng, spacing_mm)
    head = _head(head_rng, grid, foci)
    classes = _grow_tumour(tumour_rng, grid, head, foci, enhancing)
    images = _scan(scanner_rng, grid, head, classes)
    images = {m: _placed(image, size) for m, image in images.items()}
    affine = np.diag((-spacing_mm, -spacing_mm, spacing_mm, 1.0))
    affine[1, 3] = (size[1] - 1) * spacing_mm
    return images, _placed(from_classes(classes, "brats2018"), size), affine


def write_phantom(folder, *, cases, size, seed, progress=None):
    """Write `cases` cases as folder/Phantom_000/Phantom_000_{t1,t1ce,t2,flair,seg}.nii.gz and return `folder`.

    A case appears in one step, so a call that was killed is continued by the next, and a complete folder is returned at once.
    phantom.json is written last. A folder that holds a phantom of other parameters is a UserError, never overwritten.
    progress: called with (cases done, cases in all) after each case.
    """
    folder, size = Path(folder), tuple(size)
    spacing_mm_for(size)
    parameters = {"generator": GENERATOR_VERSION, "cases": cases, "size": list(size), "seed": seed}
    started, finished = folder / ".phantom_started.json", folder / "phantom.json"
    folder.mkdir(parents=True, exist_ok=True)
    for note in (finished, started):
        if note.exists() and (found := json.loads(note.read_text())) != parameters:
            raise UserError(f"{folder}: holds a phantom of other parameters ({found}, asked for {parameters}); choose another folder or delete it")
    if finished.exists():
        return folder
    _write_json(started, parameters)
    for index in range(cases):
        case_folder = folder / f"Phantom_{index:03d}"
        if not case_folder.exists():
            _write_case(case_folder, *make_case(seed, index, size))
        if progress:
            progress(index + 1, cases)
    os.replace(started, finished)
    return folder


def _write_case(case_folder, images, label, affine):
    import nibabel

    with tempfile.TemporaryDirectory(dir=case_folder.parent, prefix=".") as scratch:
        half_done = Path(scratch) / case_folder.name
        half_done.mkdir()
        for suffix, array in {**{SUFFIXES[m]: a for m, a in images.items()}, "seg": label}.items():
            nibabel.save(nibabel.Nifti1Image(array, affine), half_done / f"{case_folder.name}_{suffix}.nii.gz")
        os.replace(half_done, case_folder)


def _write_json(path, content):
    half_done = path.with_name(path.name + ".part")
    half_done.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(half_done, path)


def _placed(array, size):
    """The head box in the middle of a volume of `size`, zeros around it."""
    whole = np.zeros(size, array.dtype)
    whole[tuple(slice((n - b) // 2, (n - b) // 2 + b) for n, b in zip(size, array.shape, strict=True))] = array
    return whole


@functools.lru_cache(maxsize=4)
def _templates(spacing_mm):
    """Maps in template space, 1 mm: gm, wm and brain as probabilities, depth in mm below the brain's surface.

    Smoothed so that sampling every `spacing_mm` does not alias.
    """
    import nibabel
    from scipy import ndimage

    home = Path(importlib.util.find_spec("nilearn").submodule_search_locations[0], "datasets", "data")
    t1, gm, wm = (np.asarray(nibabel.load(home / f"mni_icbm152_{m}_tal_nlin_sym_09a_converted.nii.gz").dataobj) for m in ("t1", "gm", "wm"))
    brain = ndimage.binary_fill_holes(t1 > 0)
    depth = np.repeat(np.repeat(np.repeat(ndimage.distance_transform_edt(brain[::2, ::2, ::2]) * 2, 2, 0), 2, 1), 2, 2)
    maps = {
        "brain": brain.astype(np.float32),
        "gm": gm.astype(np.float32) / 255,
        "wm": wm.astype(np.float32) / 255,
        "depth": depth[tuple(slice(n) for n in brain.shape)].astype(np.float32),
    }
    if spacing_mm > 1:
        maps = {name: ndimage.gaussian_filter(m, 0.4 * spacing_mm, truncate=3) for name, m in maps.items()}
    return maps


def _smooth_field(rng, grid, feature_mm):
    """A random field of zero mean and unit variance, float32 on the grid, with bumps about `feature_mm` across.

    A cubic B-spline with normal coefficients: the numbers drawn do not depend on the voxel size.
    """
    step = feature_mm / 2
    field = rng.standard_normal([int(math.ceil(mm / step)) + 4 for mm in HEAD_BOX_MM]).astype(np.float32)
    for axis in range(3):
        place = (grid.axis_mm(axis).ravel() + HEAD_BOX_MM[axis] / 2) / step
        knot = np.floor(place).astype(int)
        t = (place - knot).astype(np.float32)
        weights = ((1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6)
        shape = [-1 if a == axis else 1 for a in range(3)]
        field = sum(np.take(field, knot + i, axis) * w.reshape(shape) for i, w in enumerate(weights))
    return field * np.float32(0.479**-1.5)  # 0.479: mean over t of the sum of the squared weights


def _plan_tumour(rng, spacing_mm):
    """Where the foci are and how large, and whether the tumour enhances at all (about 85 % do)."""
    enhancing = rng.random() < 0.85
    count = 1 if rng.random() < 0.8 else int(rng.integers(2, 4))
    foci = []
    for number in range(count):
        shrink = 1 if number == 0 else rng.uniform(0.55, 0.8)
        radius = shrink * rng.uniform(13, 22)
        stretch = np.linalg.qr(rng.standard_normal((3, 3)))[0] * np.exp(rng.normal(0, 0.15, 3))
        foci.append(Focus(
            centre_mm=_site(rng, foci),
            radius_mm=radius,
            rim_mm=max(min(rng.uniform(4.5, 8), 0.6 * radius), 2.2 * spacing_mm),
            reach_mm=shrink * rng.uniform(8, 20),
            stretch=stretch.astype(np.float32),
        ))  # fmt: skip
    return foci, enhancing


def _site(rng, others):
    """A place in the cerebral white matter, off the midline, at least 12 mm deep and 30 mm from the other foci."""
    maps = _templates(3.0)
    for _ in range(2000):
        left, posterior, up = point = rng.uniform(-0.5, 0.5, 3) * HEAD_BOX_MM
        voxel = tuple(int(round(t + p * sign / BRAIN_SCALE)) for t, p, sign in zip(TEMPLATE_CENTRE, point, (-1, -1, 1), strict=True))
        if not all(0 <= v < n for v, n in zip(voxel, maps["wm"].shape, strict=True)) or abs(left) < 15 or up < -15:
            continue
        apart = all(math.dist(point, other.centre_mm) > 30 for other in others)
        if apart and maps["wm"][voxel] > 0.5 and maps["depth"][voxel] > 12:
            return tuple(point)
    raise RuntimeError("no site for a tumour found in 2000 draws")


def _head(rng, grid, foci):
    """A patient's healthy anatomy, pushed aside by the foci: maps of the grid's shape, fractions gm + wm + csf = brain."""
    from scipy import ndimage

    maps = _templates(grid.spacing_mm)
    scale = BRAIN_SCALE * rng.normal(1, 0.02, 3).clip(0.95, 1.04)
    angles = rng.normal(0, math.radians(2.5), 3)
    shifts = [3.0 * _smooth_field(rng, grid, 80) + 0.8 * _smooth_field(rng, grid, 30) for _ in range(3)]
    at = [grid.axis_mm(a) + shifts[a] for a in range(3)]
    for focus in foci:
        offset = grid.offset_mm(focus.centre_mm)
        push = 0.35 * np.exp(-sum(o**2 for o in offset) / (1.6 * focus.radius_mm) ** 2)
        at = [a - push * o for a, o in zip(at, offset, strict=True)]
    for first, second, angle in zip((0, 0, 1), (1, 2, 2), angles, strict=True):
        at[first], at[second] = (
            math.cos(angle) * at[first] - math.sin(angle) * at[second],
            math.sin(angle) * at[first] + math.cos(angle) * at[second],
        )
    coordinates = np.stack([t + sign * a / s for t, sign, a, s in zip(TEMPLATE_CENTRE, (-1, -1, 1), at, scale, strict=True)])
    head = {name: ndimage.map_coordinates(m, coordinates, order=1, cval=0.0) for name, m in maps.items()}
    brain = head["brain"] > 0.5
    atrophy = math.exp(rng.normal(0, 0.25))
    csf = (head["brain"] - head["gm"] - head["wm"]).clip(0) * atrophy
    raw = {"gm": head["gm"] ** 1.6, "wm": head["wm"] ** 1.6, "csf": csf**1.6}
    total = sum(raw.values()) + 1e-6
    tissue = {name: np.where(brain, r / total, 0) for name, r in raw.items()}
    return {**tissue, "brain": brain, "depth": head["depth"]} | _confounders(rng, grid, tissue, brain, head["depth"])


def _confounders(rng, grid, tissue, brain, depth):
    """Harmless things that look like tumour: enhancing vessels and choroid plexus, hyperintense white matter. Soft maps in [0, 1]."""
    thin = 0.04 + 0.03 * grid.spacing_mm
    tubes = np.exp(-sum(_smooth_field(rng, grid, 30) ** 2 for _ in range(2)) / thin)
    near_surface = np.exp(-((depth / 14) ** 2))
    vessel = tubes * np.clip(tissue["csf"] + tissue["gm"] + near_surface, 0, 1)
    ventricle = tissue["csf"] * (depth > 22)
    plexus = ventricle * _step(_smooth_field(rng, grid, 12) - 0.6, 0.3)
    from scipy import ndimage

    beside_ventricle = ndimage.gaussian_filter(ventricle, 5 / grid.spacing_mm, truncate=2)
    burden = rng.uniform(-0.5, 1.5)
    wmh = tissue["wm"] * _step(_smooth_field(rng, grid, 16) + 6 * beside_ventricle + 0.5 * burden - 2.2, 0.25)
    return {"vessel": np.where(brain, vessel, 0), "plexus": plexus, "wmh": np.where(brain & (depth > 6), wmh, 0)}


def _step(value, width):
    """A soft threshold at 0: 0 below, 1 above, over about `width`."""
    return 1 / (1 + np.exp(-np.clip(4 * value / width, -30, 30)))


def _grow_tumour(rng, grid, head, foci, enhancing):
    """The internal classes, uint8: necrotic core, enhancing rim and oedema of all foci."""
    from scipy import ndimage

    lumps = 0.16 * _smooth_field(rng, grid, 24)
    bumps = _smooth_field(rng, grid, 10)
    uneven = _smooth_field(rng, grid, 28)
    solid = head["brain"] & (head["csf"] < 0.6)
    speed = 0.3 + 0.9 * ndimage.gaussian_filter(head["wm"], 2 / grid.spacing_mm, truncate=2)
    classes = np.zeros(grid.shape, np.uint8)
    core, rim, oedema = (np.zeros(grid.shape, bool) for _ in range(3))
    for focus in foci:
        offset = grid.offset_mm(focus.centre_mm)
        radius = np.sqrt(sum(sum(float(row[a]) * offset[a] for a in range(3)) ** 2 for row in focus.stretch))
        outside = radius - focus.radius_mm * (1 + lumps) + bumps  # mm outside the core's surface, roughly
        core |= (outside < 0) & head["brain"] & (head["depth"] > 2)
        rim |= (outside > -focus.rim_mm * (1 + 0.3 * uneven).clip(0.6, 1.6)) & (outside < 0)
        oedema |= (outside < focus.reach_mm * speed * (1 + 0.35 * uneven).clip(0.2, 2)) & solid
    pieces, _ = ndimage.label(core | oedema)
    joined = np.isin(pieces, np.unique(pieces[core]))
    classes[oedema & joined] = ED
    classes[core] = NCR
    if enhancing:
        classes[core & rim] = ET
    return classes


def _scan(rng, grid, head, classes):
    """The four images, int16, of a head with a tumour, on a scanner with its own contrasts, bias field and noise."""
    from scipy import ndimage

    soft = {c: ndimage.gaussian_filter((classes == c).astype(np.float32), 0.6, truncate=2) for c in (ED, NCR, ET)}
    fractions = {"GM": head["gm"], "WM": head["wm"], "CSF": head["csf"]}
    for name, part in (("WMH", head["wmh"]), ("vessel", head["vessel"]), ("plexus", head["plexus"]), ("ED", soft[ED]), ("NCR", soft[NCR]), ("ET", soft[ET])):
        fractions = {n: f * (1 - part) for n, f in fractions.items()} | {name: part}
    textures = [_smooth_field(rng, grid, mm) for mm in (9, 9, 5)]
    images = {}
    for column, modality in enumerate(MODALITIES):
        image = np.zeros(grid.shape, np.float32)
        for number, (name, fraction) in enumerate(fractions.items()):
            *means, sd = TISSUES[name]
            mean = means[column] * math.exp(rng.normal(0, sd))
            grain = 0.03 if name in ("GM", "WM", "CSF") else 0.08
            image += fraction * np.float32(mean) * (1 + np.float32(grain) * textures[number % 3])
        image *= np.exp(0.08 * _smooth_field(rng, grid, 120))
        noise_sd = rng.uniform(2, 4.5)
        real, imaginary = (rng.standard_normal(grid.shape, np.float32) * np.float32(noise_sd) for _ in range(2))
        image = np.sqrt((image + real) ** 2 + imaginary**2) * rng.uniform(3, 8)
        images[modality] = np.where(head["brain"], np.clip(np.rint(image), 1, 32000), 0).astype(np.int16)
    return images
