"""Does post-processing help? Paired differences in Dice on cases that a checkpoint has not seen, without retraining.

    python benchmarks/postprocessing.py --checkpoint RUN [--data DIR] [--json FILE]

Without --data: 14 phantoms of the demo's size that no study draws. Differences are in points of Dice, over cases; intervals are 95 %
percentile bootstraps over cases, and hold for this checkpoint alone. The settings were picked by looking at tables like this one.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from segmamba.config import PostprocessConfig
from segmamba.data.cases import find_cases
from segmamba.data.labels import REGIONS
from segmamba.data.phantom import write_phantom
from segmamba.data.volumes import read_scan
from segmamba.evaluation.dice import dice
from segmamba.inference.predictor import load_predictor

CRF = {"crf_steps": 5}
COMPONENTS = {
    "min_component_voxels": (10, 10, 10)
}  # of 3 mm: 270 mm3, the usual 100 voxels being 100 mm3 at 1 mm
SETTINGS = {
    "components under 10 voxels": COMPONENTS,
    "CRF": CRF,
    "CRF without intensities": {**CRF, "crf_smoothness": 3.0, "crf_appearance": 0.0},
    "CRF, both kernels": {**CRF, "crf_smoothness": 1.0, "crf_appearance": 1.0},
    "CRF and components": {**CRF, **COMPONENTS},
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="labelled cases in place of the phantoms"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    predictor = load_predictor(options.checkpoint, postprocessing=PostprocessConfig())
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or write_phantom(
            Path(folder) / "phantom", cases=14, size=(64, 64, 48), seed=7
        )
        predicted = [vote(predictor, read_scan(case)) for case in find_cases(data) if case.label]
    off, _ = scores(predictor, predicted, {})
    before = ", ".join(
        f"{name} {score:.3f}" for name, score in zip((*REGIONS, "mean"), off.mean(0), strict=True)
    )
    print(f"{len(off)} cases, mean Dice without post-processing: {before}")
    print(
        f"{'points of Dice, 95 % interval':28}"
        + "".join(f"{name:>22}" for name in (*REGIONS, "mean"))
        + f"{'s a case':>10}"
    )
    figures = {}
    for name, setting in SETTINGS.items():
        new, seconds = scores(predictor, predicted, setting)
        rows = 100 * (new - off)
        low, high = np.percentile(resampled_means(rows), (2.5, 97.5), axis=0)
        cells = [
            f"{m:+.2f} [{a:+.2f}, {b:+.2f}]"
            for m, a, b in zip(rows.mean(0), low, high, strict=True)
        ]
        print(
            f"{name:28}" + "".join(f"{cell:>22}" for cell in cells) + f"{seconds:10.2f}", flush=True
        )
        figures[name] = {
            "value": float(rows.mean(0)[-1]),
            "unit": "points",
            "goal": "> 0",
            "holds": bool(low[-1] > 0),
        }
    if options.json:
        options.json.write_text(
            json.dumps({"figures": figures, "machine": {"torch": torch.__version__}}, indent=1)
            + "\n"
        )


def vote(predictor, scan):
    """(label, PreparedScan, probabilities on its box) of a case."""
    prepared = predictor.prepare(scan)
    return scan.label, prepared, predictor.vote(predictor.member_probabilities(prepared))


def scores(predictor, predicted, setting):
    """(Dice (cases, regions and mean), median seconds a case)."""
    predictor.postprocessing = PostprocessConfig(**setting)
    rows, taken = [], []
    for label, prepared, probability in predicted:
        began = time.perf_counter()
        classes = predictor.decide(probability, prepared)
        taken.append(time.perf_counter() - began)
        rows.append(list(dice(prepared.whole(classes), label).values()))
    return np.array(rows), statistics.median(taken)


def resampled_means(rows, times=4000):
    rng = np.random.default_rng(0)
    return rows[rng.integers(0, len(rows), (times, len(rows)))].mean(1)


if __name__ == "__main__":
    main()
