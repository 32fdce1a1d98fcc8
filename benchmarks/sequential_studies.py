"""Simulated studies that add seeds; verdicts.py prints their figures.

The tables are simulated for thousands of studies at once, and every look is evaluated by the
product's own rules on arrays (segmamba/studies/look_rules.py, anova.py, alpha_spending.py).
`disagreements` builds whole Study objects from some of the tables and compares the product's
`take_look` and `verdict` with the result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from segmamba.studies.alpha_spending import FIRST_LOOK, level
from segmamba.studies.anova import Crossed
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.look_rules import FUTILITY_LOOK, HOPELESS, conditional_power, gain
from segmamba.studies.looks import Look
from segmamba.studies.results import Study, StudyData, Trial
from segmamba.studies.sequential import take_look
from segmamba.studies.verdict import verdict

MARGIN = 0.5  # Dice points
BASELINE = "baseline"


@dataclass(frozen=True, kw_only=True)
class Tables:
    """What the looks need of simulated differences; S studies, m contrasts, N seeds.

    A seed's effect moves the mean of its row only, so one set of tables serves every seed sd, every
    correlation and every true effect.
    """

    rows: np.ndarray
    """Mean over the cases of each seed, Dice points, (S, m, N)."""
    ms_case: np.ndarray
    """Mean square of the cases after the first 3 ... N seeds, (N - 2, S, m)."""
    ms_rest: np.ndarray
    """Mean square of the rest, likewise."""
    cases: int

    def layout(self, seeds: int, rows: np.ndarray) -> Crossed:
        """The analysis of variance after some seeds, with rows that were moved."""
        rows = rows[..., :seeds]
        return Crossed(
            seeds=seeds,
            patients=self.cases,
            mean=rows.mean(-1),
            ms_seed=self.cases * rows.var(-1, ddof=1),
            ms_patient=self.ms_case[seeds - FIRST_LOOK],
            ms_rest=self.ms_rest[seeds - FIRST_LOOK],
        )


def tables(d: np.ndarray) -> Tables:
    """Sum up differences d (S, m, N, C) for every look, in one pass over the seeds."""
    *_, seeds, cases = d.shape
    rows = d.mean(-1, dtype=np.float64)
    squares = np.einsum("smnc,smnc->smn", d, d, dtype=np.float64)
    total = d[:, :, 0].astype(np.float64)
    ms_case, ms_rest = [], []
    for n in range(2, seeds + 1):
        total += d[:, :, n - 1]
        if n < FIRST_LOOK:
            continue
        grand = n * cases * rows[..., :n].mean(-1) ** 2
        by_case = (total**2).sum(-1) / n - grand
        by_seed = cases * (rows[..., :n] ** 2).sum(-1) - grand
        rest = squares[..., :n].sum(-1) - grand - by_case - by_seed
        ms_case.append(by_case / (cases - 1))
        ms_rest.append(rest / ((n - 1) * (cases - 1)))
    return Tables(rows=rows, ms_case=np.array(ms_case), ms_rest=np.array(ms_rest), cases=cases)


def joined(parts: Iterable[Tables]) -> Tables:
    """The tables of several sets of studies as one."""
    every = list(parts)
    return Tables(
        rows=np.concatenate([part.rows for part in every]),
        ms_case=np.concatenate([part.ms_case for part in every], 1),
        ms_rest=np.concatenate([part.ms_rest for part in every], 1),
        cases=every[0].cases,
    )


def run_effects(
    rng: np.random.Generator, shape: tuple[int, int, int], *, seed_sd: float, correlation: float
) -> np.ndarray:
    """Differences of the runs' mean Dice from the baseline's of the same seed.

    Args:
        rng: Source of the draws.
        shape: Studies, contrasts, seeds.
        seed_sd: Standard deviation of one run's mean Dice.
        correlation: Of an arm's run with the baseline's of the same seed.

    Returns:
        Dice points, of `shape`.
    """
    studies, arms, seeds = shape
    baseline = rng.standard_normal((studies, 1, seeds))
    own = rng.standard_normal((studies, arms, seeds))
    arm = correlation * baseline + (1 - correlation**2) ** 0.5 * own
    return seed_sd * (arm - baseline)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How simulated studies ended; arrays over the studies."""

    supported: np.ndarray
    rejected: np.ndarray
    """Whether every contrast was shown to lie below the margin, equivalence included."""
    gained: np.ndarray
    """Which contrasts gained, (S, m)."""
    seeds: np.ndarray
    """Seeds at the last look."""
    trainings: np.ndarray
    """Runs of all arms, the baseline included."""


def race(summary: Tables, rows: np.ndarray, *, max_seeds: int) -> Outcome:
    """Take every look of the studies whose differences have these row means, (S, m, N)."""
    studies, tests, _ = rows.shape
    gained, below, futile = (np.zeros((studies, tests), bool) for _ in range(3))
    going, seeds = np.ones(studies, bool), np.full(studies, FIRST_LOOK)
    trainings = np.full(studies, FIRST_LOOK * (tests + 1))
    for n in range(FIRST_LOOK, max_seeds + 1):
        layout = summary.layout(n, rows)
        levels = np.array([[np.nan]] + [[level(max_seeds, n, k)] for k in range(1, tests + 1)])
        alive = going[:, None] & ~(gained | below | futile)
        won, _ = gain(
            layout.p_value(), layout.mean, levels, gained=gained, alive=alive, margin=MARGIN
        )
        gained = won
        high = layout.mean + layout.half_width(1 - level(max_seeds, n))
        below |= alive & ~gained & (high < MARGIN)
        still = alive & ~gained & ~below
        if FUTILITY_LOOK <= n < max_seeds and still.any():
            power = conditional_power(
                _of(layout, still),
                more=max_seeds - n,
                max_seeds=max_seeds,
                margin=MARGIN,
                alike=False,
            )
            futile[still] = power < HOPELESS
        seeds[going] = n
        alive = still & ~futile
        going &= ~gained.any(-1) & ~below.all(-1) & alive.any(-1)
        if n < max_seeds:
            trainings += np.where(going, alive.sum(-1) + 1, 0)
    return Outcome(
        supported=gained.any(-1),
        rejected=below.all(-1) & ~gained.any(-1),
        gained=gained,
        seeds=seeds,
        trainings=trainings,
    )


def fixed(summary: Tables, rows: np.ndarray, *, seeds: int) -> np.ndarray:
    """Which contrasts gain in a study of a fixed number of seeds, (S, m); Holm over them."""
    layout, tests = summary.layout(seeds, rows), rows.shape[1]
    levels = np.array([[np.nan]] + [[0.05 / k] for k in range(1, tests + 1)])
    nothing = np.zeros(rows.shape[:2], bool)
    won, _ = gain(
        layout.p_value(), layout.mean, levels, gained=nothing, alive=~nothing, margin=MARGIN
    )
    return won


def _of(layout: Crossed, chosen: np.ndarray) -> Crossed:
    """The layout of some of its tables."""
    arrays = {
        name: getattr(layout, name)[chosen] for name in ("mean", "ms_seed", "ms_patient", "ms_rest")
    }
    return dataclasses.replace(layout, **arrays)


def study_of(d: np.ndarray, max_seeds: int) -> Study:
    """A Study whose arms differ from the baseline by d (m, N, C), in Dice points."""
    tests, seeds, cases = d.shape
    scores = {BASELINE: np.full((seeds, cases), 0.8)}
    scores |= {f"arm {i}": 0.8 + d[i].astype(float) / 100 for i in range(tests)}
    claim = Hypothesis(
        claim="An arm is better.",
        region="WT",
        contrasts=tuple((arm, BASELINE) for arm in scores if arm != BASELINE),
        margin=MARGIN / 100,
    )
    trials = tuple(
        Trial(
            run_id="",
            arm=arm,
            seed=seed,
            status="FINISHED",
            test_cases=[
                {"case": str(c), "patient": str(c), "dice_WT": float(value)}
                for c, value in enumerate(values[seed])
            ],
        )
        for arm, values in scores.items()
        for seed in range(seeds)
    )
    return bare_study(claim, tuple(scores), trials, seeds=seeds, max_seeds=max_seeds)


def bare_study(
    claim: Hypothesis, arms: Sequence[str], trials: Sequence[Trial], *, seeds: int, max_seeds: int
) -> Study:
    """A study of seeds 0, 1, ... that consists of little but its claim and its trials.

    Args:
        claim: The claim.
        arms: Names of the arms, the baseline first.
        trials: The trials that have ended.
        seeds: How many seeds it has begun.
        max_seeds: The most seeds.

    Returns:
        The Study.
    """
    return Study(
        name="benchmark",
        question="",
        hypothesis=claim,
        baseline=arms[0],
        arms={arm: {} for arm in arms},
        seeds=tuple(range(seeds)),
        max_seeds=max_seeds,
        preset="",
        config={},
        data=StudyData(source="", phantom=True, convention=""),
        environment={},
        command="",
        mlflow_uri="",
        parent_run_id="",
        seconds=0.0,
        trials=tuple(trials),
    )


def run_study(study: Study) -> Study:
    """Look at a study whose trials are all there as if they were trained look by look."""
    looks: list[Look] = []
    trained = dict.fromkeys(study.arms, FIRST_LOOK)
    for n in range(FIRST_LOOK, study.max_seeds + 1):
        trials = tuple(t for t in study.trials if t.seed < trained[t.arm])
        now = dataclasses.replace(study, trials=trials, seeds=study.seeds[:n])
        looks.append(take_look(now, study.hypothesis, n, looks))
        if not looks[-1].arms:
            break
        trained |= dict.fromkeys(looks[-1].arms, n + 1)
    return dataclasses.replace(now, looks=tuple(looks))


def disagreements(d: np.ndarray, outcome: Outcome, *, max_seeds: int, chosen: Sequence[int]) -> int:
    """How many of some simulated studies end otherwise when the product looks at them.

    Args:
        d: The differences, (S, m, N, C), in Dice points.
        outcome: What `race` found.
        max_seeds: The most seeds.
        chosen: The studies to compare.

    Returns:
        The number of studies whose answer, seeds or trainings differ.
    """
    differ = 0
    for i in chosen:
        study = run_study(study_of(d[i], max_seeds))
        answer = verdict(study).answer
        same = (
            (answer == "supported") == outcome.supported[i]
            and (answer in ("rejected", "equivalent")) == outcome.rejected[i]
            and study.looks[-1].seeds == outcome.seeds[i]
            and len(study.trials) == outcome.trainings[i]
        )
        differ += not same
    return differ
