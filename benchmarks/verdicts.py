"""How often do the verdicts' statistics raise a false alarm, and which effects do they find?

    python benchmarks/verdicts.py [--studies 2000] [--json FILE]      # some minutes on two cores

Each cell simulates whole studies: a baseline and three arms that share cases and seeds. The Dice of
arm a, seed s and case c is effect[a] + run[a, s] + patient[c] + taste[a, c] + rest[a, s, c].
`--case-sd` and `--rest-sd` are those of the *paired* difference, in Dice points. The seed sd is
that of one run's mean Dice, so a paired difference has it times sqrt(2).

The second table has t-distributed (3 degrees of freedom) taste and rest: Dice has outliers, such as
missed lesions. The third table is of a cross-validation: FOLDS runs for every seed, each tested on
its own share of the cases, with the cases put together. The fourth is of patients with several
time points: an arm's taste is the patient's, the rest is the time point's; a patient's cases are
averaged first, as studies do, and for comparison counted as if they were patients.

Studies that add seeds until their claim is decided follow, of at most 10 and 15 seeds
(sequential_cells.py). `--sequential-studies 0` leaves them out.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np

from figures import Figure, at_most, command_line, report
from segmamba.config import CONFIDENCE_LEVEL
from segmamba.evaluation.patients import patient_means
from segmamba.studies.anova import crossed, holm
from sequential_cells import sequential_figures
from simulated_studies import Draw, heavy_tailed, normal, simulate

SEED_SDS, CASES, SEEDS, EFFECTS = (0.0, 0.5, 1.0, 2.0), (20, 100, 250), (3, 5, 10), (1.0, 2.0, 3.0)
ARMS, MARGIN, FOLDS = 3, 0.5, 5  # arms beside the baseline; Dice points
BATCH = 1000  # studies simulated at once: 120 MB of differences in the largest cell
GOAL_PERCENT = 6.5
TIME_POINTS, PATIENTS, GOAL_SUPPORTED = (2, 4), (20, 100), 3.0  # GOAL: percent, one-sided

Rates = dict[str, float]
"""Percent by name."""
Table = dict[tuple[float, int, int], Rates]
"""Rates by seed sd, cases and seeds."""


def cell(d: np.ndarray) -> Rates:
    """Rates of one cell, from differences d (studies, ARMS, seeds, cases) without a true effect."""
    alpha, layout = 1 - CONFIDENCE_LEVEL, crossed(d)
    p, half = layout.p_value(), layout.half_width()
    adjusted = np.array([holm(row) for row in p])
    rates = {
        "one": np.mean(p < alpha),
        "family": np.mean((adjusted < alpha).any(-1)),
        "supported": np.mean((layout.mean - half > 0) & (layout.mean >= MARGIN)),
        "overlooked": np.mean(layout.mean + half < 0),
        "family supported": np.mean(((adjusted < alpha) & (layout.mean >= MARGIN)).any(-1)),
        **{
            f"{route} alone": np.mean(p_route < alpha)
            for route, p_route in layout.p_values().items()
        },
    }
    for effect in EFFECTS:  # a true effect moves the mean and leaves every mean square alone
        mean = layout.mean + effect
        rates[f"power {effect:g}"] = np.mean((mean - half > 0) & (mean >= MARGIN))
    return {name: 100 * float(rate) for name, rate in rates.items()}


def table(
    draw: Draw, rng: np.random.Generator, options: argparse.Namespace, folds: int = 1
) -> Table:
    """The rates of every cell, averaged over batches of studies."""
    rows: Table = {}
    spread = {
        "studies": BATCH,
        "arms": ARMS,
        "case_sd": options.case_sd,
        "rest_sd": options.rest_sd,
        "folds": folds,
    }
    for seed_sd, cases, seeds in itertools.product(SEED_SDS, CASES, SEEDS):
        batches = [
            cell(simulate(rng, draw, seed_sd=seed_sd, cases=cases, seeds=seeds, **spread))
            for _ in range(-(-options.studies // BATCH))
        ]
        rows[seed_sd, cases, seeds] = {
            name: float(np.mean([batch[name] for batch in batches])) for name in batches[0]
        }
    return rows


def time_points_table(rng: np.random.Generator, options: argparse.Namespace) -> Table:
    """False "supported" with several time points a patient; keyed by seed sd, time points, seeds.

    The rates are the worst over PATIENTS: of patients that are averaged first, and of cases that
    are taken for patients.
    """
    rows: Table = {}
    for seed_sd, points, seeds in itertools.product(SEED_SDS, TIME_POINTS, SEEDS):
        rates: dict[str, list[float]] = {"supported": [], "counted as cases": []}
        for patients in PATIENTS:
            found = [
                _time_points_cell(rng, options, (seed_sd, points, seeds, patients))
                for _ in range(-(-4 * options.studies // BATCH))
            ]
            for name, of_cell in rates.items():
                of_cell.append(float(np.mean([one[name] for one in found])))
        rows[seed_sd, points, seeds] = {name: max(of_cell) for name, of_cell in rates.items()}
    return rows


def _time_points_cell(
    rng: np.random.Generator, options: argparse.Namespace, cell: tuple[float, int, int, int]
) -> Rates:
    """The rates of BATCH studies of one contrast without a true effect."""
    seed_sd, points, seeds, patients = cell
    seed = rng.standard_normal((BATCH, seeds, 1)) * seed_sd * 2**0.5
    taste = rng.standard_normal((BATCH, 1, patients)) * options.case_sd
    rest = rng.standard_normal((BATCH, seeds, patients * points)) * options.rest_sd
    d = seed + np.repeat(taste, points, axis=-1) + rest
    whose = [str(patient) for patient in range(patients) for _ in range(points)]
    rates: Rates = {}
    for name, values in (("supported", patient_means(d, whose)[0]), ("counted as cases", d)):
        layout = crossed(values)
        gained = (layout.mean - layout.half_width() > 0) & (layout.mean >= MARGIN)
        rates[name] = 100 * float(np.mean(gained))
    return rates


LEGEND = """Rates in %, without a true effect:
one                a given arm is called different
family             at least one of three arms is, after Holm
supported          the verdict on one declared contrast
family supported   at least one of three after Holm
overlooked         an arm that is better by exactly the margin is called no better
seeds, patients, crossed alone   as "one", by only that of the three t tests
power n            the verdict is supported at a true effect of n Dice points"""


def print_table(title: str, rows: Table, second: str = "cases") -> None:
    """Print a table in Markdown; `second` names what is in the second place of its keys."""
    columns = list(next(iter(rows.values())))
    print(f"\n{title}\n")
    print(f"| seed sd | {second} | seeds | " + " | ".join(columns) + " |")
    print("|" + "--:|" * (3 + len(columns)))
    for (sd, cases, seeds), rates in rows.items():
        print(
            f"| {sd:g} | {cases} | {seeds} | "
            + " | ".join(f"{rates[name]:.1f}" for name in columns)
            + " |"
        )


def figures(plain: Table, heavy: Table, folded: Table, timed: Table) -> dict[str, Figure]:
    """The worst rates of each table, and the power of a typical study."""
    worst: dict[str, Figure] = {}
    for noise, rows in (("normal", plain), ("heavy_tails", heavy), ("folds", folded)):
        for name in ("one", "family", "supported", "family supported", "overlooked"):
            rate = max(rates[name] for rates in rows.values())
            key = f"false_alarms_{name.replace(' ', '_')}_{noise}"
            worst[key] = at_most(rate, GOAL_PERCENT, "%")
    power = {
        f"power_{effect:g}_points_5_seeds_100_cases_sd_0.5": Figure(
            plain[0.5, 100, 5][f"power {effect:g}"], "%"
        )
        for effect in EFFECTS
    }
    several = {
        f"false_supported_{points}_time_points_a_patient": at_most(
            max(rates["supported"] for (_, of, _), rates in timed.items() if of == points),
            GOAL_SUPPORTED,
            "%",
        )
        for points in TIME_POINTS
    }
    return worst | several | power


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--studies",
        type=int,
        default=2000,
        help=f"simulated studies per cell, a multiple of {BATCH}",
    )
    parser.add_argument(
        "--case-sd",
        type=float,
        default=5.0,
        help="how much arms differ from patient to patient, Dice points",
    )
    parser.add_argument(
        "--rest-sd",
        type=float,
        default=5.0,
        help="what varies from case to case within a seed, Dice points",
    )
    parser.add_argument(
        "--sequential-studies",
        type=int,
        default=20_000,
        help="simulated studies per cell that add seeds; half of them with six contrasts",
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start, rng = time.perf_counter(), np.random.default_rng(options.seed)

    plain = table(normal(rng), rng, options)
    heavy = table(heavy_tailed(rng), rng, options)
    folded = table(normal(rng), rng, options, folds=FOLDS)
    timed = time_points_table(rng, options)
    print(LEGEND)
    print_table("Normal taste and rest", plain)
    print_table("Heavy tails (t with 3 degrees of freedom)", heavy)
    print_table(f"{FOLDS} folds", folded)
    print_table("False supported with time points", timed, "time points")
    sequential = sequential_figures(options.sequential_studies, options.seed)
    every = figures(plain, heavy, folded, timed) | sequential
    report(every, options.json, numpy=np.__version__)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
