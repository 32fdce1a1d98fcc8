"""Draw one phantom case at 240x240x155, cut through its tumour.

    python benchmarks/phantom_picture.py [--index 4] [--theme light] [--output FILE]

Columns: T1, T1ce, T2, FLAIR, and FLAIR with the label's outlines; rows: axial, coronal, sagittal.
The patient's right is on the left.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from segmamba.data.label_sets import label_set
from segmamba.data.labels import MODALITIES, to_classes
from segmamba.data.phantom import KINDS, make_case
from segmamba.pictures.overlay import TRUTH, draw_cases
from segmamba.pictures.palette import THEMES
from segmamba.pictures.view import CaseView, surroundings

SIZE, KIND = (240, 240, 155), "glioma"
MARGIN = 1 / 50  # around the brain, of the volume's sides


def view_of(seed: int, index: int) -> CaseView:
    """Make a case, and turn its axes, left and posterior, to right and anterior."""
    images, label, affine = make_case(seed, index, SIZE, KIND)
    turned = affine @ np.diag([-1.0, -1.0, 1.0, 1.0])
    turned[:3, 3] = (affine @ [SIZE[0] - 1, SIZE[1] - 1, 0, 1])[:3]
    view = CaseView(
        f"Phantom case {index}: real anatomy, invented disease",
        {name: np.float32(image[::-1, ::-1]) for name, image in images.items()},
        turned,
        label_set(KIND),
        truth=to_classes(label, KINDS[KIND].convention, "phantom")[::-1, ::-1],
    )
    return view.cut(surroundings(view.brain(), MARGIN))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=int, default=4)
    parser.add_argument("--theme", choices=THEMES, default="dark")
    parser.add_argument("--output", type=Path, default=Path("docs/images/phantom.png"))
    options = parser.parse_args()
    columns = [*((modality, "") for modality in MODALITIES), ("FLAIR", TRUTH)]
    view = view_of(options.seed, options.index)
    draw_cases(options.output, [view], THEMES[options.theme], columns)
    print(f"{options.output}: {options.output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
