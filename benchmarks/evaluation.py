"""Seconds to score a real-size case under both rules, against other people's scorers.

    python benchmarks/evaluation.py [--json FILE] [--data DIR]

One core. Each 240x240x155 case has three predictions: the truth with its outline disturbed; the
same with 300 stray components all over the brain; the truth mirrored to the other side, far from
all surfaces. Our time is from two files to all rows of both rules; that of the other scorers is
from masks in memory to HD95 of the whole case alone. --data takes labelled cases in place of two
phantoms.

The last figure is what a GPU's test leaves to the CPU: Dice, HD95 and NSD of cases in memory, by as
many threads as there are cores, against one thread.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import torch
from scipy import ndimage

from figures import Figure, at_most, command_line, report
from segmamba.data.label_sets import GLIOMA, region_masks
from segmamba.data.labels import from_classes, to_classes
from segmamba.data.phantom import write_phantom
from segmamba.data.volumes import read_volume
from segmamba.evaluation.dice import dice
from segmamba.evaluation.folders import match, read_pair
from segmamba.evaluation.hausdorff import surface_scores, tumour_box
from segmamba.evaluation.rules import CHALLENGES, RULES
from segmamba.evaluation.score import score_case
from segmamba.evaluation.segmentations import true_segmentations

GOAL_S = 3.0
SIZE, STRAYS = (240, 240, 155), 300
THREADED = 16
"""Cases that are scored by several threads."""


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="labelled cases in place of the phantom"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Figure] = {}
    theirs: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        truth = options.data or write_phantom(scratch / "phantom", cases=2, size=SIZE, seed=0)
        score_case(
            "warm",
            *(np.ones((8, 8, 8), np.uint8),) * 2,
            (1, 1, 1),
            tuple(RULES),
            CHALLENGES["GLI"],
            GLIOMA,
        )  # imports
        for kind, predict in PREDICTIONS.items():
            folder = write_predictions(scratch / kind, truth, predict)
            pairs, _ = match(folder, truth)
            taken = [
                seconds(
                    lambda pair=pair: score_case(
                        pair.id, *read_pair(pair), tuple(RULES), CHALLENGES["GLI"], pair.classes
                    )
                )
                for pair in pairs
            ]
            figures[f"{kind}: files to both rules"] = at_most(max(taken), GOAL_S, "s")
            for name, scorer in scorers().items():
                taken = [seconds(partial(scorer, *read_pair(pair))) for pair in pairs]
                theirs[f"{kind}: {name}"] = Figure(statistics.mean(taken), "s")
            if kind == "disturbed":
                figures |= threaded([read_pair(pair) for pair in pairs])
    report(figures | theirs, options.json, numpy=np.__version__)


Pair = tuple[np.ndarray, np.ndarray, tuple[float, float, float]]


def threaded(
    pairs: list[tuple[np.ndarray, np.ndarray, tuple[float, float, float]]],
) -> dict[str, Figure]:
    """Seconds a case to score THREADED cases, by one thread and by one a core."""

    def score(number: int) -> None:
        pred, truth, spacing_mm = pairs[number % len(pairs)]
        box = tumour_box(pred, truth)
        dice(pred[box], truth[box], GLIOMA)
        surface_scores(pred[box], truth[box], spacing_mm, GLIOMA)

    taken = {}
    for threads in (1, os.cpu_count() or 1):
        with ThreadPoolExecutor(threads) as pool:
            taken[threads] = seconds(lambda p=pool: [*p.map(score, range(THREADED))]) / THREADED
    return {
        f"a case of the test behind a GPU, threads: {threads}": Figure(each, "s")
        for threads, each in taken.items()
    }


Masks = list[np.ndarray]  # ET, TC and WT


def disturbed(masks: Masks, rng: np.random.Generator) -> Masks:
    """The masks with noise on their outlines."""
    return [
        ndimage.gaussian_filter(
            np.float32(mask) + rng.normal(0, 1, mask.shape).astype(np.float32), 2
        )
        > 0.5
        for mask in masks
    ]


def with_strays(masks: Masks, rng: np.random.Generator) -> Masks:
    """Disturbed masks with STRAYS small components all over the brain."""
    masks = disturbed(masks, rng)
    for _ in range(STRAYS):
        at = [int(rng.integers(side // 5, side - side // 5)) for side in SIZE]
        stray = tuple(slice(start, start + int(rng.integers(1, 5))) for start in at)
        for mask in masks:
            mask[stray] = True
    return masks


Predict = Callable[[Masks, np.random.Generator], Masks]
PREDICTIONS: dict[str, Predict] = {
    "disturbed": disturbed,
    f"{STRAYS} strays": with_strays,
    "mirrored": lambda masks, rng: [mask[::-1] for mask in masks],
}


def write_predictions(folder: Path, truth: Path, predict: Predict) -> Path:
    """Write a prediction of every case of `truth`, made by `predict` from its three masks."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for case_id, known in true_segmentations(truth).items():
        values, affine, _ = read_volume(known.path)
        et, tc, wt = predict(
            list(region_masks(to_classes(values, known.labels, known.path, GLIOMA), GLIOMA)), rng
        )
        classes = np.where(et & tc & wt, 3, np.where(tc & wt, 1, np.where(wt, 2, 0))).astype(
            np.uint8
        )
        nibabel.save(
            nibabel.Nifti1Image(from_classes(classes, known.labels, GLIOMA), affine),
            folder / f"{case_id}.nii.gz",
        )
    return folder


Scorer = Callable[[np.ndarray, np.ndarray, tuple[float, float, float]], None]


def scorers() -> dict[str, Scorer]:
    """The installed scorers by name: HD95 of the three regions, from classes in memory."""
    installed: dict[str, Scorer] = {}
    if importlib.util.find_spec("surface_distance"):
        np.Inf = np.inf  # it is older than NumPy 2
        from surface_distance import metrics

        def surface_distance(
            pred: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, float, float]
        ) -> None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                for p, t in zip(
                    region_masks(pred, GLIOMA), region_masks(truth, GLIOMA), strict=True
                ):
                    metrics.compute_robust_hausdorff(
                        metrics.compute_surface_distances(t, p, spacing_mm), 95
                    )

        installed["surface-distance, HD95 of the whole alone"] = surface_distance
    if importlib.util.find_spec("monai"):
        from monai.metrics import compute_hausdorff_distance

        def monai(
            pred: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, float, float]
        ) -> None:
            masks = (
                torch.from_numpy(region_masks(classes, GLIOMA))[None] for classes in (pred, truth)
            )
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # of an argument that it gives itself
                compute_hausdorff_distance(
                    *masks, include_background=True, percentile=95, spacing=list(spacing_mm)
                )

        installed["MONAI, HD95 of the whole alone"] = monai
    return installed


def seconds(action: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
