"""Draw one phantom case at 240x240x155, cut through its tumour.

    python benchmarks/phantom_picture.py [--index 4] [--output docs/images/phantom.png]

Columns: T1, T1ce, T2, FLAIR, and FLAIR with the label's outlines; rows: axial, coronal, sagittal.
The patient's right is on the left.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from segmamba.data.phantom import make_case

SIZE = (240, 240, 155)
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the axis that is cut
OUTLINES = {
    2: ("tab:green", "ED"),
    4: ("yellow", "ET"),
    1: ("tab:red", "NCR"),
}  # drawn in this order


def draw(images: dict[str, np.ndarray], label: np.ndarray, path: Path) -> None:
    """Draw the case.

    Args:
        images: Modality to array (x, y, z); x points to the left, y posterior, z superior.
        label: BraTS values on the same grid.
        path: The picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    largest = {
        axis: int(np.count_nonzero(label, axis=tuple({0, 1, 2} - {axis})).argmax())
        for axis in range(3)
    }
    box = tuple(slice(max(0, at.min() - 6), at.max() + 7) for at in np.nonzero(images["T1"]))
    heights = [_cut(label, axis, largest[axis], box).shape[0] for axis in PLANES.values()]
    figure, axes = pyplot.subplots(
        3, 5, figsize=(10, 5.9), facecolor="black", height_ratios=heights, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    for row, axis in enumerate(PLANES.values()):
        for column, name in enumerate([*images, "FLAIR + label"]):
            image = images.get(name, images["FLAIR"])
            ax = axes[row, column]
            ax.imshow(
                _cut(image, axis, largest[axis], box),
                cmap="gray",
                vmin=0,
                vmax=np.percentile(image[image > 0], 99.8),
            )
            ax.axis("off")
            if row == 0:
                ax.set_title(name, color="white", fontsize=9)
        for value, (colour, _) in OUTLINES.items():
            mask = _cut(label, axis, largest[axis], box) == value
            if mask.any():
                ax.contour(mask, [0.5], colors=[colour], linewidths=0.7)
    handles = [
        pyplot.Line2D([], [], color=colour, label=name) for colour, name in OUTLINES.values()
    ]
    axes[2, 4].legend(
        handles=handles,
        loc="lower right",
        fontsize=6,
        facecolor="black",
        labelcolor="white",
        framealpha=0.6,
    )
    figure.savefig(path, dpi=130)


def _cut(array: np.ndarray, axis: int, at: int, box: tuple[slice, ...]) -> np.ndarray:
    """A slice as a picture, whose rows start at the top or front of the head.

    Its columns start at the patient's right or front.
    """
    plane = np.take(array[box[0], box[1], box[2]], at - box[axis].start, axis).T
    return plane if axis == 2 else plane[::-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("docs/images/phantom.png"))
    options = parser.parse_args()
    images, label, _ = make_case(options.seed, options.index, SIZE)
    draw(images, label, options.output)
    print(f"{options.output}: {options.output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
