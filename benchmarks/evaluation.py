"""Seconds to score a real-size case under both rules, against other people's scorers.

    python benchmarks/evaluation.py [--json FILE] [--data DIR]

One core. Three predictions of each 240x240x155 case: the truth with its outline disturbed; the same with 300 stray components all over the
brain; the truth mirrored to the other side, far from all surfaces. Ours: from two files to all rows of both rules. Theirs: the masks in
memory, HD95 of the whole case alone. --data takes labelled cases in place of two phantoms.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import torch
from scipy import ndimage

from segmamba.data.labels import from_classes, region_masks, to_classes
from segmamba.data.phantom import write_phantom
from segmamba.data.volumes import read_volume
from segmamba.evaluation.folders import match, read_pair
from segmamba.evaluation.rules import CHALLENGES, RULES
from segmamba.evaluation.score import score_case
from segmamba.evaluation.segmentations import true_segmentations

GOAL_S = 3.0
SIZE, STRAYS = (240, 240, 155), 300


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="labelled cases in place of the phantom"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures, theirs = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        truth = options.data or write_phantom(scratch / "phantom", cases=2, size=SIZE, seed=0)
        score_case(
            "warm", *(np.ones((8, 8, 8), np.uint8),) * 2, (1, 1, 1), tuple(RULES), CHALLENGES["GLI"]
        )  # imports
        for kind, predict in PREDICTIONS.items():
            folder = write_predictions(scratch / kind, truth, predict)
            pairs, _ = match(folder, truth)
            taken = [
                seconds(
                    lambda pair=pair: score_case(
                        pair.id, *read_pair(pair), tuple(RULES), CHALLENGES["GLI"]
                    )
                )
                for pair in pairs
            ]
            figures[f"{kind}: files to both rules"] = figure(
                max(taken), f"<= {GOAL_S:g} s", max(taken) <= GOAL_S
            )
            for name, scorer in scorers().items():
                taken = [seconds(partial(scorer, *read_pair(pair))) for pair in pairs]
                theirs[f"{kind}: {name}"] = figure(statistics.mean(taken), "-", True)
    for name, found in (figures | theirs).items():
        print(
            f"{name:60} {found['value']:7.2f} s   goal {found['goal']:8} {'holds' if found['holds'] else 'MISSED'}"
        )
    if options.json:
        machine = {
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "threads": 1,
            "numpy": np.__version__,
        }
        options.json.write_text(
            json.dumps({"figures": figures | theirs, "machine": machine}, indent=1) + "\n"
        )


def disturbed(masks, rng):
    return [
        ndimage.gaussian_filter(
            np.float32(mask) + rng.normal(0, 1, mask.shape).astype(np.float32), 2
        )
        > 0.5
        for mask in masks
    ]


def with_strays(masks, rng):
    masks = disturbed(masks, rng)
    for _ in range(STRAYS):
        at = [int(rng.integers(side // 5, side - side // 5)) for side in SIZE]
        stray = tuple(slice(start, start + int(rng.integers(1, 5))) for start in at)
        for mask in masks:
            mask[stray] = True
    return masks


PREDICTIONS = {
    "disturbed": disturbed,
    f"{STRAYS} strays": with_strays,
    "mirrored": lambda masks, rng: [mask[::-1] for mask in masks],
}


def write_predictions(folder, truth, predict):
    """A prediction of every case of `truth`, by `predict` from its three masks."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for case_id, known in true_segmentations(truth).items():
        values, affine, _ = read_volume(known.path)
        et, tc, wt = predict(list(region_masks(to_classes(values, known.labels, known.path))), rng)
        classes = np.where(et & tc & wt, 3, np.where(tc & wt, 1, np.where(wt, 2, 0))).astype(
            np.uint8
        )
        nibabel.save(
            nibabel.Nifti1Image(from_classes(classes, known.labels), affine),
            folder / f"{case_id}.nii.gz",
        )
    return folder


def scorers():
    """{name: function of (pred, truth, spacing)} of what is installed: HD95 of the three regions, from classes in memory."""
    found = {}
    if importlib.util.find_spec("surface_distance"):
        np.Inf = np.inf  # it is older than NumPy 2
        from surface_distance import metrics

        def surface_distance(pred, truth, spacing_mm):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                for p, t in zip(region_masks(pred), region_masks(truth), strict=True):
                    metrics.compute_robust_hausdorff(
                        metrics.compute_surface_distances(t, p, spacing_mm), 95
                    )

        found["surface-distance, HD95 of the whole alone"] = surface_distance
    if importlib.util.find_spec("monai"):
        from monai.metrics import compute_hausdorff_distance

        def monai(pred, truth, spacing_mm):
            masks = (torch.from_numpy(region_masks(classes))[None] for classes in (pred, truth))
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # of an argument that it gives itself
                compute_hausdorff_distance(
                    *masks, include_background=True, percentile=95, spacing=list(spacing_mm)
                )

        found["MONAI, HD95 of the whole alone"] = monai
    return found


def figure(value, goal, holds):
    return {"value": value, "unit": "s", "goal": goal, "holds": holds}


def seconds(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
