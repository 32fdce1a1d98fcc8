"""Draw each augmentation alone, at the strong end of its range, on one phantom case.

    python benchmarks/augmentations_picture.py [--output docs/images/augmentations.png]

The picture shows the axial slice of T1ce through the most tumour, with the label's outlines, as
augmentation returns both. It is a radiological view: the patient's right is on the left, front is
up.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmamba.config import AugmentConfig
from segmamba.data.augment import augment, draw_augmentation
from segmamba.data.labels import MODALITIES, to_classes
from segmamba.data.phantom import KINDS, make_case
from segmamba.data.working_grid import zscore

SIZE, PATCH, T1CE = (240, 240, 155), (176, 176, 64), MODALITIES.index("T1ce")
OUTLINES = {
    2: ("tab:green", "ED"),
    3: ("yellow", "ET"),
    1: ("tab:red", "NCR"),
}  # drawn in this order
RANGES = AugmentConfig()


def channels(value: float) -> np.ndarray:
    """The same value for every modality, (4,)."""
    return np.full(len(MODALITIES), float(value))


SHOWN: dict[str, dict[str, Any]] = {  # title to changed draws
    "as it is": {},
    "flip (left and right)": {"flips": (True, False, False)},
    "90° rotation": {"quarter_turns": 1},
    f"scaling {RANGES.scale_range[1]}": {"scale": RANGES.scale_range[1]},
    f"brightness +{RANGES.brightness}": {"brightness": channels(RANGES.brightness)},
    f"contrast {RANGES.contrast_range[1]}": {"contrast": channels(RANGES.contrast_range[1])},
    f"rotation {RANGES.rotation_degrees:g}°": {
        "rotation_degrees": (0.0, 0.0, RANGES.rotation_degrees)
    },
    f"elastic {RANGES.elastic_range[1]:g} voxels": {"elastic_voxels": RANGES.elastic_range[1]},
    f"noise {RANGES.noise_range[1]}": {"noise_std": channels(RANGES.noise_range[1])},
    f"blur {RANGES.blur_range[1]:g} voxel": {"blur_sigma": channels(RANGES.blur_range[1])},
    f"low resolution {RANGES.low_resolution_range[0]}": {
        "zoom": channels(RANGES.low_resolution_range[0])
    },
    f"gamma {RANGES.gamma_range[1]}": {"gamma": channels(RANGES.gamma_range[1])},
}


def patch_of(seed: int, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Image (1, 4, D, H, W) and label (1, D, H, W) around the tumour of a phantom case.

    x points to the patient's right, y to the front.
    """
    images, label, _ = make_case(seed, index, SIZE)
    image = zscore(np.stack([images[m] for m in MODALITIES]).astype(np.float32))[:, ::-1, ::-1]
    label = to_classes(label, KINDS["glioma"].convention, "phantom")[::-1, ::-1]
    middle = [round(at.mean()) for at in np.nonzero(image.any(0))]
    middle[2] = int(np.count_nonzero(label, axis=(0, 1)).argmax())
    window = tuple(
        slice(max(0, c - n // 2), max(0, c - n // 2) + n)
        for c, n in zip(middle, PATCH, strict=True)
    )
    patch, patch_label = image[(slice(None), *window)].copy(), label[window].copy()
    return torch.from_numpy(patch)[None], torch.from_numpy(patch_label)[None]


def draw(image: torch.Tensor, label: torch.Tensor, path: Path) -> None:
    """Draw every entry of SHOWN on one image (1, 4, D, H, W) with its label (1, D, H, W)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    off = AugmentConfig(
        flip_probability=0,
        rotate90_probability=0,
        scale_range=(1, 1),
        brightness=0,
        contrast_range=(1, 1),
    )
    nothing = draw_augmentation(off, 0, 1, 0, len(MODALITIES))
    axial = int(label[0].count_nonzero((0, 1)).argmax())
    low, high = np.percentile(image[0, T1CE][image[0, T1CE] != 0], (0.5, 99.7))
    figure, axes = pyplot.subplots(3, 4, figsize=(10, 8), facecolor="black", layout="constrained")
    for ax, (name, changes) in zip(axes.flat, SHOWN.items(), strict=True):
        out, out_label = augment(image, label, [replace(nothing, **changes)])
        picture, classes = (
            out[0, T1CE, :, :, axial].numpy().T[::-1, ::-1],
            out_label[0, :, :, axial].numpy().T[::-1, ::-1],
        )
        ax.imshow(np.where(picture == 0, low, picture), cmap="gray", vmin=low, vmax=high)
        for value, (colour, _) in OUTLINES.items():
            if (classes == value).any():
                ax.contour(classes == value, [0.5], colors=[colour], linewidths=0.7)
        ax.set_title(name, color="white", fontsize=10)
        ax.axis("off")
    handles = [
        pyplot.Line2D([], [], color=colour, label=name) for colour, name in OUTLINES.values()
    ]
    axes[2, 3].legend(
        handles=handles,
        loc="lower right",
        fontsize=7,
        facecolor="black",
        labelcolor="white",
        framealpha=0.6,
    )
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("docs/images/augmentations.png"))
    options = parser.parse_args()
    draw(*patch_of(options.seed, options.index), options.output)
    print(f"{options.output}: {options.output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
