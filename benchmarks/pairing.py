"""Would choosing between paired seeds and Welch's test by the measured correlation be safe?

    python benchmarks/pairing.py [--studies 20000] [--json FILE]      # ten seconds on one core

Two arms without a true difference, whose seeds correlate by rho. "paired" is what studies do;
"welch" gives each arm a variance of its own; "chosen" takes Welch where the correlation measured in
the study lies below the one from which on pairing wins. Rates are false "supported" in percent, one
contrast, 2.5 nominal. Seeds, then patients, enter as in the crossed interval; PATIENTS are many
enough for the runs' spread to dominate.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
from scipy.special import stdtrit

from figures import Figure, at_most, command_line, report
from segmamba.config import CONFIDENCE_LEVEL

BREAK_EVEN = {3: 0.58, 5: 0.31, 10: 0.14}  # seeds to the correlation above which pairing wins
CORRELATIONS, RUN_SDS = (-0.5, 0.0, 0.3, 0.6), (1.0, 2.0)
PATIENTS, PATIENT_SD, REST_SD, MARGIN = 100, 5.0, 5.0, 0.5  # Dice points
Rates = dict[str, float]


def cell(rng: np.random.Generator, studies: int, seeds: int, rho: float, run_sd: float) -> Rates:
    """The rates of one cell."""
    draws = rng.standard_normal((2, studies, seeds))
    runs = np.stack([draws[0], rho * draws[0] + (1 - rho**2) ** 0.5 * draws[1]]) * run_sd
    rest = rng.standard_normal(runs.shape) * REST_SD / (2 * PATIENTS) ** 0.5
    means, patient_variance = runs + rest, PATIENT_SD**2 / PATIENTS
    paired = (means[0] - means[1]).var(-1, ddof=1) / seeds
    each = means.var(-1, ddof=1) / seeds
    welch = each.sum(0)
    patients = rng.standard_normal(studies) * patient_variance**0.5
    estimate = (means[0] - means[1]).mean(-1) + patients
    half_paired = half_width(paired, np.full(studies, seeds - 1.0))
    half_welch = half_width(welch, welch**2 / ((each**2).sum(0) / (seeds - 1)))
    centred = means - means.mean(-1, keepdims=True)
    measured = centred.prod(0).sum(-1) / (centred**2).sum(-1).prod(0) ** 0.5
    halves = {
        "paired": half_paired,
        "welch": half_welch,
        "chosen": np.where(measured < BREAK_EVEN[seeds], half_welch, half_paired),
    }
    return {
        name: 100 * float(np.mean((estimate - half > 0) & (estimate >= MARGIN)))
        for name, half in halves.items()
    }


def half_width(variance: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """The wider of the intervals over runs and over runs and patients."""
    patient_variance = PATIENT_SD**2 / PATIENTS
    both = variance + patient_variance
    both_freedom = both**2 / (variance**2 / freedom + patient_variance**2 / (PATIENTS - 1))
    quantile = 0.5 + CONFIDENCE_LEVEL / 2
    over_runs = variance**0.5 * stdtrit(freedom, quantile)
    return np.maximum(over_runs, both**0.5 * stdtrit(both_freedom, quantile))


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--studies", type=int, default=20000, help="simulated studies per cell")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start, rng, rows = time.perf_counter(), np.random.default_rng(options.seed), []
    print("| seeds | correlation | run sd | paired | welch | chosen |\n|" + "--:|" * 6)
    for seeds, rho, run_sd in itertools.product(BREAK_EVEN, CORRELATIONS, RUN_SDS):
        rates = cell(rng, options.studies, seeds, rho, run_sd)
        rows.append(rates)
        cells = " | ".join(f"{rate:.1f}" for rate in rates.values())
        print(f"| {seeds} | {rho:+.1f} | {run_sd:g} | {cells} |")
    worst = {name: max(rates[name] for rates in rows) for name in rows[0]}
    figures = {"false_supported_paired": at_most(worst["paired"], 3.2, "%")}
    figures |= {f"false_supported_{name}": Figure(worst[name], "%") for name in ("welch", "chosen")}
    report(figures, options.json, numpy=np.__version__)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
