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
from segmamba.data.label_sets import GLIOMA
from segmamba.data.labels import MODALITIES, to_classes
from segmamba.data.phantom import KINDS, make_case
from segmamba.data.working_grid import zscore
from segmamba.pictures.figures import new_figure, save_figure
from segmamba.pictures.overlay import add_legend
from segmamba.pictures.palette import DARK
from segmamba.pictures.panel import draw_image, draw_outlines, draw_scale
from segmamba.pictures.view import CaseView

SIZE, PATCH, T1CE = (240, 240, 155), (176, 176, 64), MODALITIES.index("T1ce")
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
    off = AugmentConfig(
        flip_probability=0,
        rotate90_probability=0,
        scale_range=(1, 1),
        brightness=0,
        contrast_range=(1, 1),
    )
    nothing = draw_augmentation(off, 0, 1, 0, len(MODALITIES))
    axial = int(label[0].count_nonzero((0, 1)).argmax())
    figure = new_figure(figsize=(10, 8.2), facecolor=DARK.page)
    figure.subplots_adjust(0.01, 0.05, 0.99, 0.96, 0.03, 0.14)
    for panel, (name, changes) in zip(figure.subplots(3, 4).flat, SHOWN.items(), strict=True):
        out, out_label = augment(image, label, [replace(nothing, **changes)])
        view = CaseView(
            name, {"T1ce": out[0, T1CE].numpy()}, np.eye(4), GLIOMA, truth=out_label[0].numpy()
        )
        draw_image(panel, view, "T1ce", 2, axial)
        draw_scale(panel)
        draw_outlines(panel, view, out_label[0].numpy(), 2, axial)
        panel.set_title(name, color=DARK.ink, fontsize=10)
    add_legend(figure, [view], DARK)
    save_figure(figure, path)


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
