"""How a scanner shows the head of a phantom: contrasts, slices, bias field and noise.

The intensities of tumour and normal tissue overlap on purpose, so that a voxel alone does not give
its label away (benchmarks/phantom_difficulty.py).
"""

import math

import numpy as np
from scipy import ndimage

from segmamba.data.label_sets import LabelSet
from segmamba.data.labels import MODALITIES
from segmamba.data.phantom_grid import Grid, smooth_field

# Mean intensity, with white matter on T1 and T1ce at 100, and the relative standard deviation with
# which a case departs from it. The values were chosen to look like BraTS cases beside them. ET is
# as bright as vessels, NCR and CC are near CSF, RC is as CSF, ED and SNFH are near WMH. Names in
# capitals are those of classes.
#         T1, T1ce, T2, FLAIR, sd
TISSUES: dict[str, tuple[float, ...]] = {
    "gm": (80, 84, 106, 104, 0.06),
    "wm": (100, 100, 82, 86, 0.04),
    "csf": (40, 42, 210, 46, 0.10),
    "wmh": (76, 78, 142, 148, 0.08),
    "vessel": (76, 160, 120, 120, 0.12),
    "plexus": (76, 158, 125, 118, 0.12),
    "ED": (75, 77, 142, 148, 0.08),
    "NCR": (46, 50, 190, 68, 0.15),
    "ET": (76, 160, 120, 120, 0.12),
    "SNFH": (75, 77, 142, 148, 0.08),
    "RC": (40, 43, 205, 48, 0.10),
    "CC": (42, 45, 200, 58, 0.12),
}
# NETC is mostly necrosis in adults, as NCR, and solid tumour in children.
NETC = {"post_treatment": (46, 50, 190, 68, 0.15), "pediatric": (62, 68, 165, 138, 0.10)}
LOOK_ALIKES = ("wmh", "vessel", "plexus")
# Relative standard deviation of the texture inside a tissue, and of that inside all others.
GRAIN: dict[str, float] = {
    "ED": 0.10,
    "NCR": 0.15,
    "ET": 0.15,
    "SNFH": 0.10,
    "NETC": 0.15,
    "wmh": 0.10,
    "vessel": 0.15,
    "plexus": 0.15,
}
USUAL_GRAIN = 0.05


def scan_head(
    rng: np.random.Generator,
    grid: Grid,
    head: dict[str, np.ndarray],
    classes: np.ndarray,
    labels: LabelSet,
) -> dict[str, np.ndarray]:
    """Image a head in all modalities.

    Args:
        rng: Draws the scanner: its contrasts, slices, bias field and Rician noise.
        grid: The voxels of the head box.
        head: The anatomy, as `make_head` gives it.
        classes: Class numbers of the tumour, uint8 of the grid's shape.
        labels: Their label set.

    Returns:
        Modality to int16 image of the grid's shape, exactly 0 outside the brain and at least 1
        inside.
    """
    fractions = _fractions(head, classes, labels)
    tissues = TISSUES | ({"NETC": NETC[labels.name]} if "NETC" in labels.classes else {})
    textures = [smooth_field(rng, grid, feature_mm) for feature_mm in (9, 6, 5)]
    images = {}
    for column, modality in enumerate(MODALITIES):
        image = np.zeros(grid.shape, np.float32)
        for number, (tissue, fraction) in enumerate(fractions.items()):
            mean = tissues[tissue][column] * math.exp(rng.normal(0, tissues[tissue][-1]))
            grain = np.float32(GRAIN.get(tissue, USUAL_GRAIN))
            image += fraction * (np.float32(mean) * (1 + grain * textures[number % len(textures)]))
        # T1ce is mostly acquired in 3-D, the others often in thick slices.
        if modality != "T1ce" and rng.random() < 0.5:
            thickness = rng.uniform(1, 2) / grid.spacing_mm
            image = ndimage.gaussian_filter1d(image, thickness, axis=2, truncate=2.5)
        image *= np.exp(0.12 * smooth_field(rng, grid, 120))
        noise = rng.standard_normal((2, *grid.shape), np.float32)
        real, imaginary = noise * np.float32(rng.uniform(3, 6))
        image = np.hypot(image + real, imaginary) * np.float32(rng.uniform(3, 8))
        voxels = np.where(head["brain"], np.rint(image).clip(1, 32000), 0)
        images[modality] = voxels.astype(np.int16)
    return images


def _fractions(
    head: dict[str, np.ndarray], classes: np.ndarray, labels: LabelSet
) -> dict[str, np.ndarray]:
    """Tissue to the share of each voxel that it fills, summing to 1 in the brain.

    What comes later displaces what came before.
    """
    layers: dict[str, np.ndarray] = {name: head[name] for name in LOOK_ALIKES}
    layers |= {
        name: ndimage.gaussian_filter(
            (classes == labels.number(name)).astype(np.float32), 0.6, truncate=2
        )
        for _, name in labels.written
    }
    fractions: dict[str, np.ndarray] = {name: head[name] for name in ("gm", "wm", "csf")}
    for name, layer in layers.items():
        fractions = {n: f * (1 - layer) for n, f in fractions.items()} | {name: layer}
    return fractions
