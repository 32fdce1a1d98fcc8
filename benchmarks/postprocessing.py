"""Does post-processing help? Paired differences in Dice on cases that a checkpoint has not seen.

    python benchmarks/postprocessing.py --checkpoint RUN [--data DIR] [--json FILE]

Nothing is trained again. Without --data it makes 14 phantoms of the demo's size that no study
draws. Differences are in Dice points, over cases; intervals are 95 % percentile bootstraps over
cases, and hold for this checkpoint alone. The settings were picked by looking at tables like this
one.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from figures import Figure, command_line, report
from segmamba.config import PostprocessConfig
from segmamba.data.cases import find_cases
from segmamba.data.label_sets import GLIOMA
from segmamba.data.phantom import write_phantom
from segmamba.data.volumes import Scan, read_scan
from segmamba.evaluation.dice import dice
from segmamba.inference.predictor import Predictor, PreparedScan, load_predictor

CRF: dict[str, Any] = {"crf_steps": 5}
# Voxels of 3 mm: 270 mm3, where the usual 100 voxels of 1 mm are 100 mm3.
COMPONENTS: dict[str, Any] = {"min_component_voxels": (10, 10, 10)}
SETTINGS = {
    "components under 10 voxels": COMPONENTS,
    "CRF": CRF,
    "CRF without intensities": {**CRF, "crf_smoothness": 3.0, "crf_appearance": 0.0},
    "CRF, both kernels": {**CRF, "crf_smoothness": 1.0, "crf_appearance": 1.0},
    "CRF and components": {**CRF, **COMPONENTS},
}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="RUN")
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="labelled cases in place of the phantoms"
    )
    options = parser.parse_args()
    predictor = load_predictor(options.checkpoint, postprocessing=PostprocessConfig())
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or write_phantom(
            Path(folder) / "phantom", cases=14, size=(64, 64, 48), seed=7
        )
        predicted = [vote(predictor, read_scan(case)) for case in find_cases(data) if case.label]
    off, _ = scores(predictor, predicted, {})
    before = ", ".join(
        f"{name} {score:.3f}" for name, score in zip(GLIOMA.scores, off.mean(0), strict=True)
    )
    print(f"{len(off)} cases, mean Dice without post-processing: {before}")
    print(
        f"{'Dice points, 95 % interval':28}"
        + "".join(f"{name:>22}" for name in GLIOMA.scores)
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
        # The goal is that the whole interval lies above 0.
        figures[name] = Figure(float(rows.mean(0)[-1]), "points", "> 0", bool(low[-1] > 0))
    report(figures, options.json, checkpoint=str(options.checkpoint))


Vote = tuple[np.ndarray, PreparedScan, torch.Tensor]
"""The label of a case, the prepared case and the probabilities on its box."""


def vote(predictor: Predictor, scan: Scan) -> Vote:
    """Predict one case without post-processing."""
    prepared = predictor.prepare(scan)
    return scan.label, prepared, predictor.vote(predictor.member_probabilities(prepared))


def scores(
    predictor: Predictor, predicted: list[Vote], setting: dict[str, Any]
) -> tuple[np.ndarray, float]:
    """Dice (cases, regions and mean) with a setting, and its median seconds a case."""
    predictor.postprocessing = PostprocessConfig(**setting)
    rows, taken = [], []
    for label, prepared, probability in predicted:
        began = time.perf_counter()
        classes = predictor.decide(probability, prepared)
        taken.append(time.perf_counter() - began)
        rows.append(list(dice(prepared.whole(classes), label, predictor.labels).values()))
    return np.array(rows), statistics.median(taken)


def resampled_means(rows: np.ndarray, times: int = 4000) -> np.ndarray:
    """Means of bootstrap samples of the rows, (times, columns)."""
    rng = np.random.default_rng(0)
    return rows[rng.integers(0, len(rows), (times, len(rows)))].mean(1)


if __name__ == "__main__":
    main()
