"""The cells and figures of studies that add seeds, for verdicts.py.

False "supported" is counted without a true effect in any contrast; false "rejected" (equivalence
included) with one contrast that is better by exactly the margin and the others far below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from figures import Figure, at_least, at_most
from sequential_studies import (
    MARGIN,
    Tables,
    disagreements,
    fixed,
    joined,
    race,
    run_effects,
    tables,
)
from simulated_studies import heavy_tailed, normal, simulate

SEED_SDS, CASES, CONTRASTS = (0.0, 0.5, 1.0, 2.0), (20, 100, 250), (1, 6)
CORRELATIONS = (-0.5, 0.4, 0.8)  # of two arms' runs of one seed; 0 stands in every other cell
FOLDS, FAR = 5, 10.0  # Dice points below the margin
GOAL_PERCENT = 3.0
NUMBERS = 30_000_000  # differences that are simulated at once: 120 MB
COMPARED = 20  # studies of each kind that the product itself looks at


@dataclass(frozen=True, kw_only=True)
class Rates:
    """One cell; percent."""

    name: str
    supported: float
    rejected: float
    seeds: float
    """Mean seeds without a true effect."""


def simulated(
    rng: np.random.Generator,
    *,
    studies: int,
    contrasts: int,
    max_seeds: int,
    cases: int,
    case_sd: float,
    rest_sd: float,
    heavy: bool = False,
    folds: int = 1,
    seed_sd: float = 0.0,
) -> Tables:
    """Tables of many studies, simulated in parts that fit into memory."""
    draw = heavy_tailed(rng) if heavy else normal(rng)
    part = max(1, min(studies, NUMBERS // ((contrasts + 1) * max_seeds * cases)))
    return joined(
        tables(
            simulate(
                rng,
                draw,
                studies=part,
                arms=contrasts,
                seed_sd=seed_sd,
                cases=cases,
                seeds=max_seeds,
                case_sd=case_sd,
                rest_sd=rest_sd,
                folds=folds,
            )
        )
        for _ in range(-(-studies // part))
    )


def rates(name: str, summary: Tables, rows: np.ndarray) -> Rates:
    """The errors of one cell, from rows without a true effect."""
    max_seeds = rows.shape[-1]
    none = race(summary, rows, max_seeds=max_seeds)
    at_margin = rows + MARGIN
    at_margin[:, 1:] -= FAR
    margin = race(summary, at_margin, max_seeds=max_seeds)
    return Rates(
        name=name,
        supported=100 * float(none.supported.mean()),
        rejected=100 * float(margin.rejected.mean()),
        seeds=float(none.seeds.mean()),
    )


def cells(rng: np.random.Generator, studies: int, max_seeds: int) -> Iterator[Rates]:
    """Every cell of the false alarms."""
    for contrasts in CONTRASTS:
        many = studies if contrasts == 1 else studies // 2
        common = {"studies": many, "contrasts": contrasts, "max_seeds": max_seeds}
        for heavy in (False, True):
            few = {**common, "studies": many // 2} if heavy else common
            for cases in CASES:
                noise = simulated(rng, **few, cases=cases, case_sd=5, rest_sd=5, heavy=heavy)
                for seed_sd in SEED_SDS:
                    for correlation in (0.0, *CORRELATIONS) if seed_sd == 1 else (0.0,):
                        runs = run_effects(
                            rng, noise.rows.shape, seed_sd=seed_sd, correlation=correlation
                        )
                        kind = "heavy tails" if heavy else "normal"
                        name = f"{contrasts} | {seed_sd:g} | {cases} | {correlation:g} | {kind}"
                        yield rates(name, noise, noise.rows + runs)
        for cases in (20, 100):
            for seed_sd in (1.0, 2.0):
                few = {**common, "studies": many // 2}
                folded = simulated(
                    rng, **few, cases=cases, case_sd=5, rest_sd=5, folds=FOLDS, seed_sd=seed_sd
                )
                yield rates(
                    f"{contrasts} | {seed_sd:g} | {cases} | 0 | {FOLDS} folds", folded, folded.rows
                )


def sequential_figures(studies: int, seed: int) -> dict[str, Figure]:
    """Simulate and print every cell.

    Args:
        studies: Studies of one contrast for each cell; 0 leaves everything out.
        seed: Seed of the draws.

    Returns:
        The figures with their goals.
    """
    if not studies:
        return {}
    rng, found = np.random.default_rng(seed), {}
    for max_seeds in (10, 15):
        print(f"\nAdding seeds, at most {max_seeds}: errors in % of studies\n")
        print(
            "| contrasts | seed sd | cases | correlation | noise | supported | rejected | seeds |"
        )
        print("|--:|--:|--:|--:|---|--:|--:|--:|")
        worst = {"supported": 0.0, "rejected": 0.0}
        for cell in cells(rng, studies if max_seeds == 10 else studies // 2, max_seeds):
            print(
                f"| {cell.name} | {cell.supported:.2f} | {cell.rejected:.2f} | {cell.seeds:.1f} |"
            )
            worst = {name: max(rate, getattr(cell, name)) for name, rate in worst.items()}
        for name, rate in worst.items():
            found[f"sequential_false_{name}_{max_seeds}_seeds"] = at_most(rate, GOAL_PERCENT, "%")
        found |= power_figures(rng, 2 * studies, max_seeds) | race_figures(rng, studies, max_seeds)
    return found | {"sequential_product_disagrees": at_most(_compared(rng), 0, "studies")}


def power_figures(rng: np.random.Generator, studies: int, max_seeds: int) -> dict[str, Figure]:
    """What one contrast finds on 250 patients at a seed sd of one Dice point."""
    noise = simulated(
        rng, studies=studies, contrasts=1, max_seeds=max_seeds, cases=250, case_sd=2, rest_sd=3
    )
    rows = noise.rows + run_effects(rng, noise.rows.shape, seed_sd=1, correlation=0)
    print(
        "\nOne contrast, 250 cases, seed sd 1, patient and rest sd 2 and 3: % supported (seeds)\n"
    )
    print("| effect | adding seeds | mean seeds | fixed | \n|--:|--:|--:|--:|")
    figures = {}
    for effect in (0.0, 0.5, 1.0, 2.0, 3.0):
        outcome = race(noise, rows + effect, max_seeds=max_seeds)
        power, seeds = 100 * float(outcome.supported.mean()), float(outcome.seeds.mean())
        once = 100 * float(fixed(noise, rows + effect, seeds=max_seeds).mean())
        print(f"| {effect:g} | {power:.1f} | {seeds:.2f} | {once:.1f} |")
        if effect == 2:
            goal = max_seeds == 10
            figures = {
                f"sequential_power_2_points_{max_seeds}_seeds": at_least(power, 94, "%")
                if goal
                else Figure(power, "%"),
                f"sequential_mean_seeds_2_points_{max_seeds}_seeds": at_most(seeds, 7, "seeds")
                if goal
                else Figure(seeds, "seeds"),
            }
    return figures


def race_figures(rng: np.random.Generator, studies: int, max_seeds: int) -> dict[str, Figure]:
    """Six contrasts, one of them two points better and five equal to the baseline."""
    noise = simulated(
        rng, studies=studies, contrasts=6, max_seeds=max_seeds, cases=250, case_sd=2, rest_sd=3
    )
    rows = noise.rows + run_effects(rng, noise.rows.shape, seed_sd=1, correlation=0)
    rows[:, 0] += 2
    outcome = race(noise, rows, max_seeds=max_seeds)
    power = 100 * float(outcome.supported.mean())
    arm = 100 * float(outcome.gained[:, 0].mean())
    other = 100 * float(outcome.gained[:, 1:].any(-1).mean())
    trainings = float(outcome.trainings.mean())
    once = 100 * float(fixed(noise, rows, seeds=max_seeds).any(-1).mean())
    print(
        f"\nSix contrasts, at most {max_seeds} seeds: supported {power:.1f} % (by the arm that is "
        f"better {arm:.1f} %, by another one {other:.1f} %), {trainings:.1f} trainings, 90 % of "
        f"studies at most {np.quantile(outcome.trainings, 0.9):.0f}; fixed {once:.1f} %, "
        f"{7 * max_seeds} trainings"
    )
    least, most = {10: (69, 52), 15: (95, 75)}[max_seeds]
    key = f"sequential_six_contrasts_{max_seeds}_seeds"
    return {
        f"{key}_found": at_least(power, least, "%"),
        f"{key}_right_arm": Figure(arm, "%"),
        f"{key}_trainings": at_most(trainings, most, "runs"),
    }


def _compared(rng: np.random.Generator) -> int:
    """Studies that end otherwise when the product's take_look and verdict see their trials."""
    differ = 0
    for contrasts, max_seeds in ((1, 10), (6, 10), (3, 15)):
        d = simulate(
            rng,
            normal(rng),
            studies=COMPARED,
            arms=contrasts,
            seed_sd=0.8,
            cases=40,
            seeds=max_seeds,
            case_sd=2,
            rest_sd=3,
        )
        d[:, 0] += np.linspace(-3, 3, COMPARED)[:, None, None]
        summary = tables(d)
        outcome = race(summary, summary.rows, max_seeds=max_seeds)
        differ += disagreements(d, outcome, max_seeds=max_seeds, chosen=range(COMPARED))
    return differ
