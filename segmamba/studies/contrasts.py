"""Paired comparison of arms: what the trials' per-case tables say of a contrast. docs/statistics.md says it in plain words.

All numbers are Dice from 0 to 1; only text speaks of Dice points.
"""

import math
from dataclasses import dataclass

import numpy as np

from segmamba.studies.anova import Crossed, crossed, holm
from segmamba.studies.hypothesis import MINUS, REGIONS, Pair


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`arm` minus `versus` on one region; Dice from 0 to 1, NaN where the data cannot say."""

    arm: str
    versus: str
    region: str
    seeds: tuple = ()
    """The seeds that finished in both arms; only these are compared."""
    cases: tuple = ()
    """Ids of the test cases that all these trials scored."""
    seed_differences: tuple = ()
    """Mean over cases, per seed of `seeds`."""
    case_differences: tuple = ()
    """Mean over seeds, per case of `cases`."""
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    """The 95 % interval for other seeds and other patients."""
    p_value: float = math.nan
    standard_error: float = math.nan
    seed_sd: float = math.nan
    case_sd: float = math.nan
    rest_sd: float = math.nan
    """Standard deviations of the paired difference between seeds, between patients, and of what is left."""
    notes: tuple = ()
    """What was left out, and what the interval cannot cover."""
    layout: Crossed | None = None

    @property
    def label(self):
        return f"{self.arm} {MINUS} {self.versus}" if self.versus else self.arm


def difference(study, arm, versus, region, score="dice"):
    """The paired difference `arm` minus `versus` of test Dice on `region` (mean, ET, TC or WT), same seed, same case."""
    return contrast_difference(study, Pair(arm, versus), region, score)


def contrast_difference(study, contrast, region, score="dice"):
    """The Difference that a Pair or a Trend asks for: the weighted sum of its arms' scores, same seed, same case."""
    scores = {arm: _scores(study, arm, f"{score}_{region}") for arm in contrast.weights}
    seeds = tuple(seed for seed in study.seeds if all(seed in found for found in scores.values()))
    named = {"arm": contrast.arm, "versus": contrast.versus, "region": region}
    notes = _missing_trials(study, contrast.weights, scores)
    if not seeds:
        return Difference(**named, notes=notes)
    tables = [found[seed] for found in scores.values() for seed in seeds]
    cases = tuple(case for case in tables[0] if all(case in table for table in tables))
    dropped = len({case for table in tables for case in table}) - len(cases)
    if dropped:
        notes += (
            f"{dropped} test case{'s' * (dropped != 1)} left out: no {region} Dice in every trial compared",
        )
    if not cases:
        return Difference(**named, notes=notes)
    d = np.array(
        [
            [
                sum(w * scores[arm][seed][case] for arm, w in contrast.weights.items())
                for case in cases
            ]
            for seed in seeds
        ]
    )
    found = named | {
        "seeds": seeds,
        "cases": cases,
        "mean": float(d.mean()),
        "seed_differences": tuple(d.mean(1).tolist()),
        "case_differences": tuple(d.mean(0).tolist()),
    }
    if len(seeds) == 1:
        return Difference(
            **found,
            notes=notes
            + ("one seed: no interval, because nothing shows how much training itself varies",),
        )
    if len(cases) == 1:
        notes += ("one test case: the interval covers other seeds, not other patients",)
    layout = crossed(d)
    seed_sd, case_sd, rest_sd = (float(np.sqrt(v)) for v in layout.variances)
    half = float(layout.half_width())
    return Difference(
        **found,
        low=found["mean"] - half,
        high=found["mean"] + half,
        p_value=float(layout.p_value()),
        standard_error=float(layout.standard_error),
        seed_sd=seed_sd,
        case_sd=case_sd,
        rest_sd=rest_sd,
        notes=notes,
        layout=layout,
    )


def _scores(study, arm, column):
    """{seed: {case: Dice}} of the finished trials of `arm`, folds put together; where a trial ran twice, the later one counts."""
    scores = {}
    for trial in study.trials:
        if trial.arm == arm and trial.status == "FINISHED":
            found = {
                r["case"]: float(r[column])
                for r in trial.test_cases
                if r.get(column) is not None and math.isfinite(r[column])
            }
            if found:
                scores[trial.seed] = scores.get(trial.seed, {}) | found if study.folds else found
    return scores


def _missing_trials(study, arms, scores):
    """One note per arm that lacks trials of the plan."""
    notes = ()
    tested = {
        (t.arm, t.seed, t.fold) for t in study.trials if t.status == "FINISHED" and t.test_cases
    }
    for arm in arms:
        missing = [seed for seed in study.seeds if seed not in scores[arm]]
        if missing:
            notes += (
                f"{arm} has no tested trial of seed{'s' * (len(missing) != 1)} {', '.join(map(str, missing))}",
            )
        folds = [
            f"{s}/{f}"
            for s in study.seeds
            if s not in missing
            for f in study.folds
            if (arm, s, f) not in tested
        ]
        if folds:
            notes += (
                f"{arm} has no tested trial of seed/fold {', '.join(folds)}: its patients are left out for every seed",
            )
    return notes


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One contrast, on every region."""

    arm: str
    versus: str
    regions: dict
    """Region to Difference."""
    p_holm: float = math.nan
    """p on the decision region, adjusted over its family; the other regions are descriptive and get none."""
    decides: bool = False
    """Whether the study's first claim is about it."""

    @property
    def label(self):
        return next(iter(self.regions.values())).label


def compare_arms(study):
    """A Comparison of every contrast that a claim names, and of every arm with the baseline, in the study's order, Holm-adjusted.

    A family is what one claim names, or all arms against the baseline. A family of one contrast needs no adjustment and gets none.
    A claim's contrasts that are also arms against the baseline stand among those.
    """
    score, decides = study.hypothesis.score, study.hypothesis.regions[0]
    asked = {contrast.label for contrast in study.hypothesis.contrasts}
    plain = [Pair(arm, study.baseline) for arm in study.arms if arm != study.baseline]
    rows, shown = [], {pair.label for pair in plain}
    for family in [*(claim.contrasts for claim in study.claims), plain]:
        if family is not plain:
            family = [c for c in family if c.label not in shown]
            shown |= {c.label for c in family}
        found = [
            {region: contrast_difference(study, c, region, score) for region in REGIONS}
            for c in family
        ]
        adjusted = holm([regions[decides].p_value for regions in found])
        if len(family) == 1 and family is not plain:
            adjusted = [math.nan]
        rows += [
            Comparison(
                arm=c.arm, versus=c.versus, regions=regions, p_holm=p, decides=c.label in asked
            )
            for c, regions, p in zip(family, found, adjusted, strict=True)
        ]
    return tuple(rows)


def points(dice, signed=False):
    """Dice (0 to 1) as Dice points with one decimal, a proper minus sign, and a dash for NaN."""
    if dice is None or not math.isfinite(dice):
        return "\N{EN DASH}"
    rounded = round(100 * dice, 1) + 0.0  # no minus zero
    return f"{rounded:{'+' if signed and rounded else ''}.1f}".replace("-", MINUS)


def count(number, thing):
    """1 seed, 3 seeds."""
    return f"{number} {thing}{'' if number == 1 else 's'}"
