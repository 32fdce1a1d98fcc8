"""The healthy half of the phantom: a patient's head, warped from the MNI ICBM 2009a templates that nilearn ships.

Axes are those of BraTS files: voxel x to the patient's left, y posterior, z superior (LPS). Lengths are in mm from the
middle of the head box; everything random is drawn in mm too, so the same generator gives the same head at any voxel size.
"""

import functools
import importlib.util
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

from segmamba.errors import UserError

HEAD_BOX_MM = (192.0, 192.0, 144.0)  # holds every deformed brain; 64x64x48 voxels of 3 mm
BRAIN_SCALE = 0.93  # MNI brains are larger than most: BraTS's measure about 137 x 171 x 130 mm
TEMPLATE_CENTRE = (
    98.0,
    117.5,
    84.0,
)  # template voxel (1 mm, RAS) in the middle of the head box; the brain stem is cut below it
TO_TEMPLATE_AXES = (-1, -1, 1)  # LPS to RAS
SITING_MM = 3.0  # of the templates in which tumours are placed, at any voxel size, so that they have the same place


@dataclass(frozen=True)
class Grid:
    """The voxels of the head box. shape: (x, y, z); spacing_mm: isotropic."""

    shape: tuple
    spacing_mm: float

    def axis_mm(self, axis):
        """Voxel centres along one axis, float32, shaped to broadcast over the grid."""
        n = self.shape[axis]
        return ((np.arange(n, dtype=np.float32) - (n - 1) / 2) * self.spacing_mm).reshape(
            _along(axis)
        )

    def offset_mm(self, centre_mm):
        """Distance from `centre_mm` along x, y and z: three arrays that broadcast over the grid."""
        return [self.axis_mm(axis) - np.float32(centre_mm[axis]) for axis in range(3)]

    def blurred(self, array, sd_mm):
        return ndimage.gaussian_filter(array, sd_mm / self.spacing_mm, truncate=2)


def _along(axis):
    return tuple(-1 if a == axis else 1 for a in range(3))


def smooth_field(rng, grid, feature_mm):
    """A random field of zero mean and unit variance, float32 on the grid, with bumps about `feature_mm` across.

    A cubic B-spline with normal coefficients, two knots to a bump: four multiply-adds per axis, and no draw depends on the voxel size.
    """
    step_mm = feature_mm / 2
    field = rng.standard_normal([math.ceil(mm / step_mm) + 4 for mm in HEAD_BOX_MM]).astype(
        np.float32
    )
    for axis in range(3):
        place = (grid.axis_mm(axis).ravel() + HEAD_BOX_MM[axis] / 2) / step_mm
        knot = np.floor(place).astype(int)
        t = (place - knot).astype(np.float32)
        weights = (
            (1 - t) ** 3 / 6,
            (3 * t**3 - 6 * t**2 + 4) / 6,
            (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6,
            t**3 / 6,
        )
        field = sum(
            np.take(field, knot + i, axis) * w.reshape(_along(axis)) for i, w in enumerate(weights)
        )
    return field * np.float32(
        0.479**-1.5
    )  # 0.479 is the sum of the squared weights, averaged over t: the variance per axis


def soft_step(value, width):
    """0 where `value` is well below 0, 1 well above, rising over about `width`."""
    return 1 / (1 + np.exp(-np.clip(4 * value / width, -30, 30)))


@functools.lru_cache(maxsize=4)
def templates(spacing_mm):
    """Maps in template space (197, 233, 189), 1 mm, float32: gm, wm and brain in [0, 1], depth in mm below the brain's surface.

    Smoothed so that sampling them every `spacing_mm` does not alias. Without nilearn a UserError.
    """
    nilearn = importlib.util.find_spec("nilearn")  # found, not imported: the import takes seconds
    if nilearn is None:
        raise UserError(
            "the phantom needs the anatomy that nilearn ships: pip install nilearn, or give a folder of BraTS cases"
        )
    folder = Path(nilearn.submodule_search_locations[0], "datasets", "data")
    t1, gm, wm = (
        np.asarray(
            nibabel.load(folder / f"mni_icbm152_{m}_tal_nlin_sym_09a_converted.nii.gz").dataobj
        )
        for m in ("t1", "gm", "wm")
    )
    brain = ndimage.binary_fill_holes(t1 > 0)
    depth = 2 * ndimage.distance_transform_edt(
        brain[::2, ::2, ::2]
    )  # every other voxel: 20 times faster, and smooth anyway
    depth = ndimage.zoom(depth.astype(np.float32), 2, order=1)[tuple(slice(n) for n in brain.shape)]
    maps = {
        "gm": gm / np.float32(255),
        "wm": wm / np.float32(255),
        "brain": brain.astype(np.float32),
        "depth": depth,
    }
    if spacing_mm > 1:
        with ThreadPoolExecutor() as pool:
            smooth = pool.map(
                lambda m: ndimage.gaussian_filter(m, 0.4 * spacing_mm, truncate=3), maps.values()
            )
            maps = dict(zip(maps, smooth, strict=True))
    return maps


def load_templates(spacing_mm):
    """Have `templates` remember all that a case of this voxel size needs, before threads would each load it."""
    for needed_mm in (SITING_MM, spacing_mm):
        templates(needed_mm)


def is_deep_white_matter(point_mm):
    """Whether the undeformed head has cerebral white matter there, off the midline and at least 12 mm below the surface."""
    x, _, z = point_mm
    voxel = tuple(
        round(c + sign * p / BRAIN_SCALE)
        for c, sign, p in zip(TEMPLATE_CENTRE, TO_TEMPLATE_AXES, point_mm, strict=True)
    )
    maps = templates(SITING_MM)
    inside = all(0 <= v < n for v, n in zip(voxel, maps["wm"].shape, strict=True))
    return (
        inside and abs(x) > 15 and z > -15 and maps["wm"][voxel] > 0.5 and maps["depth"][voxel] > 12
    )


def make_head(rng, grid, foci):
    """A patient's anatomy, pushed aside by the foci, as maps of the grid's shape.

    gm, wm, csf: fractions that sum to 1 in `brain` (bool); depth: mm below the surface. Harmless look-alikes of tumour, in [0, 1]:
    vessel and plexus (both enhance on T1ce), wmh (white matter bright on FLAIR).
    """
    voxels = _template_voxels(rng, grid, foci)
    sampled = {
        name: ndimage.map_coordinates(m, voxels, order=1)
        for name, m in templates(grid.spacing_mm).items()
    }
    brain, depth = sampled["brain"] > 0.5, sampled["depth"]
    atrophy = math.exp(rng.normal(0, 0.25))
    csf = atrophy * (sampled["brain"] - sampled["gm"] - sampled["wm"]).clip(0)
    # The power sharpens what averaging 152 heads and interpolation have blurred.
    sharpened = {"gm": sampled["gm"] ** 1.6, "wm": sampled["wm"] ** 1.6, "csf": csf**1.6}
    total = sum(sharpened.values()) + 1e-6
    tissue = {name: np.where(brain, m / total, 0) for name, m in sharpened.items()}
    return {
        **tissue,
        "brain": brain,
        "depth": depth,
        **_look_alikes(rng, grid, tissue, brain, depth),
    }


def _template_voxels(rng, grid, foci):
    """Where in the template each voxel comes from, (3, x, y, z): growth of the foci, size, tilt and a smooth deformation."""
    scale = BRAIN_SCALE * rng.normal(1, 0.02, 3).clip(0.95, 1.04)
    tilt = rng.normal(0, math.radians(2.5), 3)
    at = [
        grid.axis_mm(axis) + 2.2 * smooth_field(rng, grid, 80) + 0.8 * smooth_field(rng, grid, 30)
        for axis in range(3)
    ]
    for focus in foci:
        offset = grid.offset_mm(focus.centre_mm)
        push = 0.35 * np.exp(-sum(o**2 for o in offset) / (1.6 * focus.radius_mm) ** 2)
        at = [a - push * o for a, o in zip(at, offset, strict=True)]
    for one, other, angle in zip((0, 0, 1), (1, 2, 2), tilt, strict=True):
        cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
        at[one], at[other] = cos * at[one] - sin * at[other], sin * at[one] + cos * at[other]
    return np.stack(
        [
            c + np.float32(sign / s) * a
            for c, sign, s, a in zip(TEMPLATE_CENTRE, TO_TEMPLATE_AXES, scale, at, strict=True)
        ]
    )


def _look_alikes(rng, grid, tissue, brain, depth):
    # Two random fields are both near 0 along winding curves: vessels, densest in the sulci and at the surface.
    winding = np.exp(
        -sum(smooth_field(rng, grid, 26) ** 2 for _ in range(2)) / (0.05 + 0.03 * grid.spacing_mm)
    )
    vessel = winding * np.clip(tissue["csf"] + tissue["gm"] + np.exp(-((depth / 14) ** 2)), 0, 1)
    ventricle = tissue["csf"] * (depth > 22)
    plexus = ventricle * soft_step(smooth_field(rng, grid, 12) - 0.7, 0.3)
    burden = rng.uniform(0, 1.3)
    patches = smooth_field(rng, grid, 12) + 6 * grid.blurred(ventricle, 5) + burden - 2.2
    wmh = tissue["wm"] * soft_step(patches, 0.25) * (depth > 6)
    return {"vessel": np.where(brain, vessel, 0), "plexus": plexus, "wmh": wmh}
