"""The healthy half of the phantom: a patient's head.

The head is warped from the MNI ICBM 2009a templates that nilearn ships. Axes and lengths are those
of `phantom_grid`. Everything random is drawn in mm, so the same generator gives the same head at
any voxel size.
"""

import functools
import importlib.util
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import nibabel
import numpy as np
from scipy import ndimage

from segmamba.data.phantom_grid import Grid, smooth_field, soft_step
from segmamba.errors import UserError

BRAIN_SCALE = (
    0.93  # MNI brains are larger than most: those of BraTS measure about 137 x 171 x 130 mm
)
# The template voxel (1 mm, RAS) in the middle of the head box. The brain stem is cut below it.
TEMPLATE_CENTRE = (98.0, 117.5, 84.0)
TO_TEMPLATE_AXES = (-1, -1, 1)  # LPS to RAS
# Spacing of the templates in which tumours are placed, whatever the voxel size of the case, so that
# a tumour has the same place at any voxel size.
SITING_MM = 3.0


class Mass(Protocol):
    """What pushes the anatomy aside."""

    @property
    def centre_mm(self) -> tuple[float, ...]: ...

    @property
    def radius_mm(self) -> float: ...


@functools.lru_cache(maxsize=4)
def templates(spacing_mm: float) -> dict[str, np.ndarray]:
    """The anatomy in template space, smoothed for sampling every `spacing_mm` without aliasing.

    Args:
        spacing_mm: Distance of the samples.

    Returns:
        Maps (197, 233, 189) of 1 mm voxels, float32: gm, wm and brain in [0, 1], and depth, in mm
        below the brain's surface.

    Raises:
        UserError: nilearn is not installed.
    """
    nilearn = importlib.util.find_spec("nilearn")  # not imported: the import takes seconds
    if nilearn is None or not nilearn.submodule_search_locations:
        raise UserError(
            "the phantom needs the anatomy that nilearn ships: pip install nilearn, or give a "
            "folder of BraTS cases"
        )
    folder = Path(nilearn.submodule_search_locations[0], "datasets", "data")
    t1, gm, wm = (
        np.asarray(
            nibabel.Nifti1Image.from_filename(
                folder / f"mni_icbm152_{m}_tal_nlin_sym_09a_converted.nii.gz"
            ).dataobj
        )
        for m in ("t1", "gm", "wm")
    )
    brain = ndimage.binary_fill_holes(t1 > 0)
    maps = {
        "gm": gm / np.float32(255),
        "wm": wm / np.float32(255),
        "brain": brain.astype(np.float32),
        "depth": _depth_mm(brain),
    }
    if spacing_mm > 1:
        with ThreadPoolExecutor() as pool:
            smooth = pool.map(
                lambda m: ndimage.gaussian_filter(m, 0.4 * spacing_mm, truncate=3), maps.values()
            )
            maps = dict(zip(maps, smooth, strict=True))
    return maps


def _depth_mm(brain: np.ndarray) -> np.ndarray:
    """Distance to the surface of the brain, measured on every other voxel.

    That is 20 times faster, and the result is smooth anyway.
    """
    depth = 2 * ndimage.distance_transform_edt(brain[::2, ::2, ::2])
    depth = ndimage.zoom(depth.astype(np.float32), 2, order=1)
    return depth[tuple(slice(n) for n in brain.shape)]


def load_templates(spacing_mm: float) -> None:
    """Load all templates that a case needs, before several threads would each load them.

    Args:
        spacing_mm: The case's voxel size.
    """
    for needed_mm in (SITING_MM, spacing_mm):
        templates(needed_mm)


def is_deep_white_matter(point_mm: Sequence[float]) -> bool:
    """Whether a tumour may be placed here.

    Args:
        point_mm: (x, y, z) in the undeformed head, in mm from the middle of the head box.

    Returns:
        True in cerebral white matter, off the midline and at least 12 mm below the surface.
    """
    x, _, z = point_mm
    voxel = tuple(
        round(c + sign * p / BRAIN_SCALE)
        for c, sign, p in zip(TEMPLATE_CENTRE, TO_TEMPLATE_AXES, point_mm, strict=True)
    )
    maps = templates(SITING_MM)
    inside = all(0 <= v < n for v, n in zip(voxel, maps["wm"].shape, strict=True))
    return bool(
        inside and abs(x) > 15 and z > -15 and maps["wm"][voxel] > 0.5 and maps["depth"][voxel] > 12
    )


def make_head(
    rng: np.random.Generator, grid: Grid, masses: Sequence[Mass]
) -> dict[str, np.ndarray]:
    """A patient's anatomy, pushed aside by masses.

    Args:
        rng: Draws the patient.
        grid: The voxels of the head box.
        masses: What pushes the anatomy aside.

    Returns:
        Maps of the grid's shape. gm, wm and csf are fractions that sum to 1 in `brain` (bool).
        depth is in mm below the surface. Harmless look-alikes of tumour are in [0, 1]: vessel and
        plexus, which both enhance on T1ce, and wmh, white matter that is bright on FLAIR.
    """
    voxels = _template_voxels(rng, grid, masses)
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


def _template_voxels(rng: np.random.Generator, grid: Grid, masses: Sequence[Mass]) -> np.ndarray:
    """(3, x, y, z): where in the template each voxel comes from.

    The masses' growth, the patient's size and tilt, and a smooth deformation.
    """
    scale = BRAIN_SCALE * rng.normal(1, 0.02, 3).clip(0.95, 1.04)
    tilt = rng.normal(0, math.radians(2.5), 3)
    at = [
        grid.axis_mm(axis) + 2.2 * smooth_field(rng, grid, 80) + 0.8 * smooth_field(rng, grid, 30)
        for axis in range(3)
    ]
    for mass in masses:
        offset = grid.offset_mm(mass.centre_mm)
        push = 0.35 * np.exp(-sum(o**2 for o in offset) / (1.6 * mass.radius_mm) ** 2)
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


def _look_alikes(
    rng: np.random.Generator,
    grid: Grid,
    tissue: dict[str, np.ndarray],
    brain: np.ndarray,
    depth: np.ndarray,
) -> dict[str, np.ndarray]:
    # Two random fields are both near 0 along winding curves: vessels, densest in the sulci and at
    # the surface.
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
