"""How often does a 95 % interval of a mean over few patients cover the mean over all patients?

    python benchmarks/intervals.py [--samples 2000] [--json FILE]      # a minute on one core

Scores are drawn like Dice: `1 - Gamma`, so that most are high and some are low, and a share of
zeros, where a region was missed or predicted for nothing. "printed" is the interval that summaries
print (segmamba/evaluation/intervals.py); the others are what it is held against.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from figures import Figure, at_least, command_line, report
from segmamba.config import CONFIDENCE_LEVEL
from segmamba.evaluation.intervals import score_interval

PATIENTS, ZEROS = (5, 8, 12, 20, 50), (0.0, 0.06)
RESAMPLES = 999
TAILS = ((1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2)
LARGE = 1_000_000  # draws that stand for all patients

Interval = tuple[np.ndarray, np.ndarray]
"""Lower and upper ends, (samples,)."""
Rows = dict[tuple[float, int], dict[str, float]]
"""Coverage in percent by method, for each share of zeros and number of patients."""


def scores(rng: np.random.Generator, shape: tuple[int, ...], zeros: float) -> np.ndarray:
    """Scores like Dice, in [0, 1], with a share of zeros."""
    dice = np.clip(1 - rng.gamma(2.0, 0.06, shape), 0, 1)
    return np.where(rng.random(shape) < zeros, 0.0, dice)


def t_interval(values: np.ndarray) -> Interval:
    """The t interval of each sample, (samples, patients)."""
    patients = values.shape[-1]
    half = stdtrit(patients - 1, TAILS[1]) * values.std(-1, ddof=1) / patients**0.5
    return values.mean(-1) - half, values.mean(-1) + half


def bootstraps(rng: np.random.Generator, values: np.ndarray) -> dict[str, Interval]:
    """The percentile, BCa and bootstrap-t intervals of each sample, (samples, patients)."""
    patients = values.shape[1]
    drawn = np.stack(
        [sample[rng.integers(patients, size=(RESAMPLES, patients))] for sample in values]
    )
    means, mean = drawn.mean(-1), values.mean(-1)
    spread = drawn.std(-1, ddof=1) / patients**0.5
    ratios = (means - mean[:, None]) / np.where(spread > 0, spread, np.inf)
    error = values.std(-1, ddof=1) / patients**0.5
    low, high = np.quantile(ratios, TAILS, axis=-1)
    centred = values - mean[:, None]  # the jackknife's acceleration of a mean
    squares = (centred**2).sum(-1)
    acceleration = (centred**3).sum(-1) / (6 * np.where(squares > 0, squares, 1) ** 1.5)
    share = np.clip((means < mean[:, None]).mean(-1), 1 / RESAMPLES, 1 - 1 / RESAMPLES)
    bias, ends = ndtri(share), []
    for tail in TAILS:
        z = bias + ndtri(tail)
        at = ndtr(bias + z / (1 - acceleration * z))
        ends.append(np.array([np.quantile(m, a) for m, a in zip(means, at, strict=True)]))
    percentile = np.quantile(means, TAILS, axis=-1)
    return {
        "percentile": (percentile[0], percentile[1]),
        "BCa": (ends[0], ends[1]),
        "bootstrap-t": (mean - high * error, mean - low * error),
    }


def coverage(rng: np.random.Generator, samples: int) -> Rows:
    """Coverage of every method in every cell, in percent."""
    rows: Rows = {}
    for zeros, patients in itertools.product(ZEROS, PATIENTS):
        truth = scores(rng, (LARGE,), zeros).mean()
        values = scores(rng, (samples, patients), zeros)
        ends = np.array([score_interval(sample, (0, 1)) for sample in values], float).T
        printed = {"printed": (ends[0], ends[1])}
        intervals = printed | {"t": t_interval(values)} | bootstraps(rng, values)
        rows[zeros, patients] = {
            name: 100 * float(np.mean((low <= truth) & (truth <= high)))
            for name, (low, high) in intervals.items()
        }
    return rows


def print_table(rows: Rows) -> None:
    """Print the coverages in Markdown."""
    methods = list(next(iter(rows.values())))
    print("| zeros | patients | " + " | ".join(methods) + " |")
    print("|" + "--:|" * (2 + len(methods)))
    for (zeros, patients), covered in rows.items():
        cells = " | ".join(f"{covered[name]:.0f}" for name in methods)
        print(f"| {100 * zeros:.0f} % | {patients} | {cells} |")


def figures(rows: Rows) -> dict[str, Figure]:
    """The least coverage of the printed interval, and its gain on a percentile bootstrap."""
    gains = [covered["printed"] - covered["percentile"] for covered in rows.values()]
    figures = {"printed_covers_more_than_percentile_at_least": at_least(min(gains), 0, "%")}
    for zeros, goal in zip(ZEROS, (90, 78), strict=True):
        least = min(covered["printed"] for (share, _), covered in rows.items() if share == zeros)
        figures[f"least_coverage_with_{100 * zeros:.0f}_percent_zeros"] = at_least(least, goal, "%")
    return figures


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--samples", type=int, default=2000, help="simulated test sets per cell")
    parser.add_argument("--seed", type=int, default=0)
    options: argparse.Namespace = parser.parse_args()
    start = time.perf_counter()
    rows = coverage(np.random.default_rng(options.seed), options.samples)
    print_table(rows)
    report(figures(rows), options.json, numpy=np.__version__)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
