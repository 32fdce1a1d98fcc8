"""Paired comparison of two arms, and the verdict on a study's hypothesis. docs/statistics.md says it in plain words.

All numbers are Dice from 0 to 1; only sentences speak of Dice points.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segmamba.orchestration.crossed import Crossed, crossed, holm

REGIONS = ("mean", "ET", "TC", "WT")
MOST_SEEDS, MOST_CASES = 30, 2000
"""Beyond these, "run more" is no advice; the verdict says so instead of naming a number."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """`arm` minus `versus` on one region; Dice from 0 to 1, NaN where the data cannot say."""

    arm: str
    versus: str
    region: str
    seeds: tuple = ()
    """The seeds that finished in both arms; only these are compared."""
    cases: tuple = ()
    """Ids of the judge cases that all these trials scored."""
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


def difference(study, arm, versus, region):
    """The paired difference `arm` minus `versus` of judge Dice on `region` (mean, ET, TC or WT), same seed, same case."""
    scores, rivals = _scores(study, arm, region), _scores(study, versus, region)
    seeds = tuple(seed for seed in study.seeds if seed in scores and seed in rivals)
    notes = _missing_seeds(study, (arm, versus), (scores, rivals))
    if not seeds:
        return Difference(arm=arm, versus=versus, region=region, notes=notes)
    tables = [scores[seed] for seed in seeds] + [rivals[seed] for seed in seeds]
    cases = tuple(case for case in tables[0] if all(case in table for table in tables))
    dropped = len({case for table in tables for case in table}) - len(cases)
    if dropped:
        notes += (f"{dropped} judge case{'s' * (dropped != 1)} left out: no {region} Dice in every trial compared",)
    if not cases:
        return Difference(arm=arm, versus=versus, region=region, notes=notes)
    d = np.array([[scores[seed][case] - rivals[seed][case] for case in cases] for seed in seeds])
    found = {
        "arm": arm, "versus": versus, "region": region, "seeds": seeds, "cases": cases, "mean": float(d.mean()),
        "seed_differences": tuple(d.mean(1).tolist()), "case_differences": tuple(d.mean(0).tolist()),
    }  # fmt: skip
    if len(seeds) == 1:
        return Difference(**found, notes=notes + ("one seed: no interval, because nothing shows how much training itself varies",))
    if len(cases) == 1:
        notes += ("one judge case: the interval covers other seeds, not other patients",)
    layout = crossed(d)
    seed_sd, case_sd, rest_sd = (float(np.sqrt(v)) for v in layout.variances)
    half = float(layout.half_width())
    return Difference(**found, low=found["mean"] - half, high=found["mean"] + half, p_value=float(layout.p_value()),
                      standard_error=float(layout.standard_error), seed_sd=seed_sd, case_sd=case_sd, rest_sd=rest_sd,
                      notes=notes, layout=layout)  # fmt: skip


def _scores(study, arm, region):
    """{seed: {case: Dice}} of the finished trials of `arm`; where a seed ran twice, the later trial counts."""
    key, scores = f"dice_{region}", {}
    for trial in study.trials:
        if trial.arm == arm and trial.status == "FINISHED":
            found = {row["case"]: float(row[key]) for row in trial.judge_cases if row.get(key) is not None and math.isfinite(row[key])}
            if found:
                scores[trial.seed] = found
    return scores


def _missing_seeds(study, arms, scores):
    """One note per arm that lacks seeds of the plan."""
    notes = ()
    for arm, found in zip(arms, scores, strict=True):
        missing = [seed for seed in study.seeds if seed not in found]
        if missing:
            notes += (f"{arm} has no judged trial of seed{'s' * (len(missing) != 1)} {', '.join(map(str, missing))}",)
    return notes


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`arm` against `versus`, on every region."""

    arm: str
    versus: str
    regions: dict
    """Region to Difference."""
    p_holm: float = math.nan
    """p on the decision region, adjusted over all arms; the other regions are descriptive and get none."""


def compare_arms(study):
    """A Comparison of every arm with the baseline, in the study's order, Holm-adjusted.

    Where the hypothesis' contrast is not one of them it comes first, on its own: one test, declared beforehand, needs no adjustment.
    """

    def compare(arm, versus):
        return {region: difference(study, arm, versus, region) for region in REGIONS}

    claim = study.hypothesis
    found = [(arm, compare(arm, study.baseline)) for arm in study.arms if arm != study.baseline]
    adjusted = holm([regions[claim.region].p_value for _, regions in found])
    rows = [Comparison(arm=arm, versus=study.baseline, regions=r, p_holm=p) for (arm, r), p in zip(found, adjusted, strict=True)]
    if claim.than != study.baseline:
        rows.insert(0, Comparison(arm=claim.better, versus=claim.than, regions=compare(claim.better, claim.than)))
    return tuple(rows)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to a study's question."""

    answer: Literal["supported", "rejected", "equivalent", "undecided"]
    """With the 95 % interval of `better` minus `than` and the margin of the hypothesis, in this order:
    equivalent: the whole interval lies within +-margin. rejected: all of it lies below the margin.
    supported: all of it lies above 0 and the estimate reaches the margin. undecided: anything else."""
    sentence: str
    """Plain words, in Dice points."""
    difference: Difference
    further_seeds: int | None = None
    """Seeds per arm, beyond those there are, that would decide it if the estimate and the spreads stay; None: no reachable number."""
    further_cases: int | None = None
    """The same for judge cases."""


def verdict(study):
    """Whether the study's hypothesis holds: a Verdict."""
    claim = study.hypothesis
    found = difference(study, claim.better, claim.than, claim.region)
    answer, seeds, cases = _decide(found, claim.margin)
    sentence = " ".join([_sentence(found, claim, answer, seeds, cases, len(study.seeds)), *_caveats(study, found)])
    return Verdict(answer=answer, sentence=sentence, difference=found, further_seeds=seeds, further_cases=cases)


def _decide(found, margin):
    """(answer, further seeds, further cases)."""
    if found.layout is None or len(found.cases) == 1:
        return "undecided", None, None
    if -margin < found.low and found.high < margin:
        return "equivalent", None, None
    if found.high < margin:
        return "rejected", None, None
    if found.low > 0 and found.mean >= margin:
        return "supported", None, None
    return "undecided", *what_would_decide(found.layout, found.mean, margin)


def what_would_decide(layout, mean, margin):
    """(further seeds, further cases): the fewest of either alone at which an interval around the same mean would decide."""
    wanted = mean if mean >= margin else margin - mean  # the half width below which the answer is supported, or else rejected
    seeds = range(layout.seeds + 1, layout.seeds + MOST_SEEDS + 1)
    cases = np.unique(np.geomspace(layout.cases + 1, layout.cases + MOST_CASES, 400).round().astype(int)).tolist()
    return (
        next((s - layout.seeds for s in seeds if _foreseen(layout, s, layout.cases).half_width() < wanted), None),
        next((c - layout.cases for c in cases if _foreseen(layout, layout.seeds, c).half_width() < wanted), None),
    )


def _foreseen(layout, seeds, cases):
    """The mean squares to expect from another number of seeds and cases when the variances stay."""
    seed, case, rest = layout.variances
    return Crossed(seeds=seeds, cases=cases, mean=layout.mean, ms_seed=rest + cases * seed, ms_case=rest + seeds * case, ms_rest=rest)


def points(dice, signed=False):
    """Dice (0 to 1) as Dice points with one decimal, a proper minus sign, and a dash for NaN."""
    if dice is None or not math.isfinite(dice):
        return "\N{EN DASH}"
    rounded = round(100 * dice, 1) + 0.0  # no minus zero
    return f"{rounded:{'+' if signed and rounded else ''}.1f}".replace("-", "\N{MINUS SIGN}")


def count(number, thing):
    """1 seed, 3 seeds."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _sentence(found, claim, answer, further_seeds, further_cases, planned):
    score = "mean Dice" if claim.region == "mean" else f"{claim.region} Dice"
    if not found.seeds or not found.cases:
        why = "; ".join(found.notes) or "nothing was judged"
        return f"Undecided: no pair of trials of {claim.better} and {claim.than} to compare on {score} ({why})."
    direction = "above" if found.mean >= 0 else "below"
    estimate = f"{claim.better} scores {points(abs(found.mean))} Dice points {direction} {claim.than} on {score}"
    based = f"{count(len(found.seeds), 'seed')}, {count(len(found.cases), 'judge case')}"
    if len(found.seeds) == 1:
        hint = "finish the other seeds" if planned > 1 else "run at least 3 seeds"
        return f"Undecided: {estimate}, but from one seed ({based}), which cannot show how much training itself varies; {hint}."
    measured = f"{estimate} (95 % interval {points(found.low, True)} to {points(found.high, True)}; {based})"
    margin = f"{points(claim.margin)} points that matter"
    if len(found.cases) == 1:
        return f"Undecided: {measured}, but one judge case says nothing about other patients."
    if answer == "supported":
        return f"Supported: {measured}; the interval lies above 0 and the estimate reaches the {margin}."
    if answer == "rejected":
        return f"Rejected: {measured}; the whole interval lies below the {margin}."
    if answer == "equivalent":
        return f"Equivalent: {measured}; the whole interval lies within ±{margin}."
    return f"Undecided: {measured}; {_advice(further_seeds, further_cases)}."


def _advice(further_seeds, further_cases):
    ways = []
    if further_seeds:
        ways.append(f"about {count(further_seeds, 'further seed')} per arm")
    if further_cases:
        ways.append(f"about {count(further_cases, 'further judge case')}")
    if ways:
        return f"{' or '.join(ways)} would decide it if estimate and spread stay as they are"
    return (
        f"neither {MOST_SEEDS} further seeds nor {MOST_CASES} further judge cases alone would decide it: "
        "the estimate lies too close to the limit, or the spread is too large"
    )


def _caveats(study, found):
    """Sentences that belong to the answer whatever it is."""
    if found.seeds and found.notes and len(found.seeds) < len(study.seeds):
        yield f"Only {len(found.seeds)} of {len(study.seeds)} planned seeds could be paired."
    if study.data.get("judge_is_minival"):
        yield "The judge set also served as minival (too few cases for three sets), so the last checkpoint was judged."
