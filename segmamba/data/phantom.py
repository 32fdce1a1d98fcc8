"""Phantom: the embedded data. BraTS-format cases of real anatomy (see phantom_head) with an invented disease.

A case is a deformed head in four contrasts, as a scanner of its own would show it, and a glioma: necrotic core, enhancing
rim, and oedema that follows the white matter. The intensities of tumour and normal tissue overlap on purpose, so that a
voxel alone does not give its label away (benchmarks/phantom_difficulty.py).

A case is a pure function of (seed, index, size). All shapes are drawn in mm: (seed, index) is one patient at any size.
"""

import json
import math
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from segmamba.data.labels import ED, ET, MODALITIES, NCR, from_classes
from segmamba.data.layouts.names import PHANTOM_NOTE
from segmamba.data.phantom_head import (
    HEAD_BOX_MM,
    Grid,
    is_deep_white_matter,
    load_templates,
    make_head,
    smooth_field,
)
from segmamba.errors import UserError
from segmamba.files import write_json

GENERATOR_VERSION = 2  # raise it whenever the voxels of a case change
SMALLEST_SIZE, LARGEST_SIZE = (48, 48, 48), (240, 240, 155)
MOST_AT_ONCE = 16  # a case of the largest size takes 0.4 GiB while it is made
CONVENTION = "brats2018"
SUFFIXES = dict(zip(MODALITIES, ("t1", "t1ce", "t2", "flair"), strict=True))

# Mean intensity, with white matter on T1 and T1ce at 100, and how far a case departs from it (sd, relative).
# Chosen to look like BraTS cases beside them; ET is as bright as vessels, NCR near CSF, ED near WMH.
#               T1   T1ce   T2  FLAIR   sd
TISSUES = {
    "gm": (80, 84, 106, 104, 0.06),
    "wm": (100, 100, 82, 86, 0.04),
    "csf": (40, 42, 210, 46, 0.10),
    "wmh": (76, 78, 142, 148, 0.08),
    "vessel": (76, 160, 120, 120, 0.12),
    "plexus": (76, 158, 125, 118, 0.12),
    ED: (75, 77, 142, 148, 0.08),
    NCR: (46, 50, 190, 68, 0.15),
    ET: (76, 160, 120, 120, 0.12),
}
LOOK_ALIKES = ("wmh", "vessel", "plexus")
GRAIN = {
    ED: 0.10,
    NCR: 0.15,
    ET: 0.15,
    "wmh": 0.10,
    "vessel": 0.15,
    "plexus": 0.15,
}  # relative sd of the texture inside a tissue; 0.05 elsewhere


@dataclass(frozen=True)
class Focus:
    """One tumour focus. centre_mm is from the middle of the head box; stretch is a (3, 3) matrix that makes it an ellipsoid."""

    centre_mm: tuple
    radius_mm: float
    """Of the core: the rim and what it encloses."""
    rim_mm: float
    reach_mm: float
    """How far oedema runs from the core along white matter."""
    stretch: np.ndarray


def spacing_mm_for(size):
    """Isotropic voxel size, in tenths of a mm and at least 1 mm, at which the head box fits into `size` voxels.

    64x64x48 -> 3.0, 240x240x155 -> 1.0. A size out of bounds is a UserError.
    """
    if len(size) != 3 or not all(
        low <= n <= high for low, n, high in zip(SMALLEST_SIZE, size, LARGEST_SIZE, strict=True)
    ):
        low, high = ("x".join(map(str, bound)) for bound in (SMALLEST_SIZE, LARGEST_SIZE))
        raise UserError(
            f"phantom.size = {tuple(size)}: must be three numbers of voxels between {low} and {high}"
        )
    needed_mm = max(mm / n for mm, n in zip(HEAD_BOX_MM, size, strict=True))
    return max(1.0, math.ceil(round(needed_mm * 10, 6)) / 10)


def make_case(seed, index, size):
    """One case as (images, label, affine).

    images: modality to int16 array of shape `size`, exactly 0 outside the brain and at least 1 inside.
    label: uint8 of shape `size`, BraTS 2018-2021 values: 0, 1 NCR, 2 ED, 4 ET. affine: (4, 4), diag(-s, -s, s) with BraTS's offset.
    """
    spacing_mm = spacing_mm_for(size)
    grid = Grid(
        tuple(min(n, int(mm / spacing_mm)) for n, mm in zip(size, HEAD_BOX_MM, strict=True)),
        spacing_mm,
    )
    head_rng, tumour_rng, scanner_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence((seed, index)).spawn(3)
    )
    foci, enhancing = _plan_tumour(tumour_rng, spacing_mm)
    head = make_head(head_rng, grid, foci)
    classes = _grow_tumour(tumour_rng, grid, head, foci, enhancing)
    images = {
        modality: _placed(image, size)
        for modality, image in _scan(scanner_rng, grid, head, classes).items()
    }
    affine = np.diag((-spacing_mm, -spacing_mm, spacing_mm, 1.0))
    affine[1, 3] = (size[1] - 1) * spacing_mm
    return images, _placed(from_classes(classes, CONVENTION), size), affine


def write_phantom(folder, *, cases, size, seed, progress=None):
    """Write folder/Phantom_000/Phantom_000_{t1,t1ce,t2,flair,seg}.nii.gz and so on, `cases` cases; return the folder's Path.

    Each case appears in one step and phantom.json last, so a call that was killed is continued by the next, and a complete
    folder is returned at once. Cases are made in threads, one for each core: what takes the time is array arithmetic.
    A folder begun with other parameters is a UserError; nothing in it is touched.
    progress: called with (cases done, cases in all) after each case.
    """
    folder, size = Path(folder), tuple(size)
    spacing_mm = spacing_mm_for(size)
    parameters = {"generator": GENERATOR_VERSION, "cases": cases, "size": list(size), "seed": seed}
    begun, complete = folder / "phantom_begun.json", folder / PHANTOM_NOTE
    for note in (complete, begun):
        if note.exists() and (found := json.loads(note.read_text())) != parameters:
            raise UserError(
                f"{folder}: holds a phantom made with {found}, asked for {parameters}; choose another folder or delete this one"
            )
    if complete.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_json(begun, parameters)
    load_templates(spacing_mm)
    with ThreadPoolExecutor(min(cases, os.cpu_count(), MOST_AT_ONCE)) as pool:
        jobs = [
            pool.submit(_complete_case, folder / f"Phantom_{index:03d}", seed, index, size)
            for index in range(cases)
        ]
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                job.result()
                if progress:
                    progress(done, cases)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    write_json(complete, parameters)
    begun.unlink(missing_ok=True)
    return folder


def _complete_case(case_folder, seed, index, size):
    if not case_folder.exists():
        _write_case(case_folder, *make_case(seed, index, size))


def _write_case(case_folder, images, label, affine):
    # The scratch folder lies beside `folder`: what a killed call leaves there is never taken for a case.
    folder = case_folder.parent
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        half_done = Path(scratch) / case_folder.name
        half_done.mkdir()
        for suffix, array in {
            **{SUFFIXES[m]: image for m, image in images.items()},
            "seg": label,
        }.items():
            nibabel.save(
                nibabel.Nifti1Image(array, affine),
                half_done / f"{case_folder.name}_{suffix}.nii.gz",
            )
        try:
            os.replace(half_done, case_folder)
        except OSError:
            if not case_folder.exists():  # else another process was faster, with the same voxels
                raise


def _placed(array, size):
    """The head box in the middle of a volume of `size`, zeros around it."""
    whole = np.zeros(size, array.dtype)
    whole[
        tuple(slice((n - b) // 2, (n - b) // 2 + b) for n, b in zip(size, array.shape, strict=True))
    ] = array
    return whole


def _plan_tumour(rng, spacing_mm):
    """(foci, whether the tumour enhances): 15 % do not, as low-grade gliomas; 20 % have two or three foci."""
    enhancing = rng.random() < 0.85
    count = 1 if rng.random() < 0.8 else int(rng.integers(2, 4))
    foci = []
    for number in range(count):
        share = 1.0 if number == 0 else rng.uniform(0.55, 0.8)
        radius_mm = share * rng.uniform(13, 22)
        rim_mm = min(rng.uniform(4.5, 8), 0.6 * radius_mm)
        foci.append(
            Focus(
                centre_mm=_site(rng, foci),
                radius_mm=radius_mm,
                rim_mm=max(
                    rim_mm, 2.2 * spacing_mm
                ),  # a rim thinner than two voxels could not be learned on a coarse grid
                reach_mm=share * rng.uniform(8, 20),
                stretch=np.exp(rng.normal(0, 0.18, (3, 1)))
                * np.linalg.qr(rng.standard_normal((3, 3)))[0],
            )
        )
    return foci, enhancing


def _site(rng, others, *, apart_mm=30, draws=5000):
    for _ in range(draws):
        point_mm = rng.uniform(-0.5, 0.5, 3) * HEAD_BOX_MM
        if is_deep_white_matter(point_mm) and all(
            math.dist(point_mm, other.centre_mm) > apart_mm for other in others
        ):
            return tuple(point_mm)
    raise RuntimeError(f"no site for a tumour in {draws} draws")


def _grow_tumour(rng, grid, head, foci, enhancing):
    """Internal classes, uint8 of the grid's shape. Oedema runs far in white matter, little in grey, and stops at CSF."""
    lumps = 0.16 * smooth_field(rng, grid, 24)
    bumps = smooth_field(rng, grid, 10)
    uneven = smooth_field(rng, grid, 28)
    passable = head["brain"] & (head["csf"] < 0.6)
    speed = 0.3 + 0.9 * grid.blurred(head["wm"], 2)
    core, rim, oedema = (np.zeros(grid.shape, bool) for _ in range(3))
    for focus in foci:
        offset = grid.offset_mm(focus.centre_mm)
        distance = np.sqrt(
            sum(
                sum(np.float32(m) * o for m, o in zip(row, offset, strict=True)) ** 2
                for row in focus.stretch
            )
        )
        outside_mm = distance - focus.radius_mm * (1 + lumps) + bumps
        core |= (outside_mm < 0) & head["brain"] & (head["depth"] > 2)
        rim |= (outside_mm < 0) & (
            outside_mm > -focus.rim_mm * (1 + 0.25 * uneven + 0.2 * bumps).clip(0.5, 1.8)
        )
        oedema |= (
            outside_mm < focus.reach_mm * speed * (1 + 0.35 * uneven).clip(0.2, 2)
        ) & passable
    pieces, _ = ndimage.label(core | oedema)
    classes = np.zeros(grid.shape, np.uint8)
    classes[oedema & np.isin(pieces, np.unique(pieces[core]))] = ED
    classes[core] = NCR
    if enhancing:
        classes[core & rim] = ET
    return classes


def _scan(rng, grid, head, classes):
    """Modality to int16 image: the tissues in this scanner's contrasts, slices that may be thick, bias field, Rician noise."""
    fractions = _fractions(head, classes)
    textures = [smooth_field(rng, grid, feature_mm) for feature_mm in (9, 6, 5)]
    images = {}
    for column, modality in enumerate(MODALITIES):
        image = np.zeros(grid.shape, np.float32)
        for number, (tissue, fraction) in enumerate(fractions.items()):
            mean = TISSUES[tissue][column] * math.exp(rng.normal(0, TISSUES[tissue][-1]))
            image += fraction * (
                np.float32(mean)
                * (1 + np.float32(GRAIN.get(tissue, 0.05)) * textures[number % len(textures)])
            )
        if (
            modality != "T1ce" and rng.random() < 0.5
        ):  # T1ce is mostly acquired in 3-D, the others often in thick slices
            image = ndimage.gaussian_filter1d(
                image, rng.uniform(1, 2) / grid.spacing_mm, axis=2, truncate=2.5
            )
        image *= np.exp(0.12 * smooth_field(rng, grid, 120))
        real, imaginary = rng.standard_normal((2, *grid.shape), np.float32) * np.float32(
            rng.uniform(3, 6)
        )
        image = np.hypot(image + real, imaginary) * np.float32(rng.uniform(3, 8))
        images[modality] = np.where(head["brain"], np.rint(image).clip(1, 32000), 0).astype(
            np.int16
        )
    return images


def _fractions(head, classes):
    """Tissue to the share of each voxel that it fills, summing to 1 in the brain; what comes later displaces what came before."""
    layers = {name: head[name] for name in LOOK_ALIKES}
    layers |= {
        c: ndimage.gaussian_filter((classes == c).astype(np.float32), 0.6, truncate=2)
        for c in (ED, NCR, ET)
    }
    fractions = {name: head[name] for name in ("gm", "wm", "csf")}
    for name, layer in layers.items():
        fractions = {n: f * (1 - layer) for n, f in fractions.items()} | {name: layer}
    return fractions
