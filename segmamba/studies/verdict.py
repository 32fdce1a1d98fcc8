"""The answer to a study's question, and the sentence that says it. docs/statistics.md gives the rules and how often they err."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segmamba.studies.anova import LEVEL, Crossed, holm
from segmamba.studies.contrasts import Difference, contrast_difference, count, points

MOST_SEEDS, MOST_CASES = 30, 2000
"""Beyond these, "run more" is no advice; the verdict says so instead of naming a number."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to one Hypothesis. In the words below a contrast gains where it is better by the margin: its p, adjusted by Holm over
    all contrasts and regions, is below 5 %, and its estimate reaches the margin.

    direction better:    supported: a contrast gains; equivalent: every interval within +-margin; rejected: every interval below the margin.
    direction no better: rejected: a contrast gains; supported: every interval below the margin.
    direction alike:     supported: every interval within +-margin; rejected: one, adjusted by Bonferroni, wholly outside it.
    Anything else is undecided. Claims about every interval need no adjustment: all of them have to hold.
    """

    answer: Literal["supported", "rejected", "equivalent", "undecided"]
    sentence: str
    """Plain words, in Dice points."""
    difference: Difference
    """Of the contrast that the sentence leads with."""
    further_seeds: int | None = None
    """Seeds per arm, beyond those there are, that would decide it if the estimate and the spreads stay; None: no reachable number."""
    further_cases: int | None = None
    """The same for test cases."""


def verdict(study, claim=None):
    """Whether the study's first hypothesis, or `claim`, holds: a Verdict."""
    claim = claim or study.hypothesis
    if not claim.contrasts:
        return Verdict(
            answer="undecided",
            sentence=_nothing_asked(claim),
            difference=Difference(arm="", versus="", region=claim.regions[0]),
        )
    found = [
        contrast_difference(study, c, region, claim.score)
        for c in claim.contrasts
        for region in claim.regions
    ]
    answer, lead = _decide(found, claim)
    seeds, cases = (None, None) if answer != "undecided" else _what_would_decide_claim(found, claim)
    if len(found) == 1 and claim.direction == "better":
        sentence = _sentence(found[0], claim, answer, seeds, cases, len(study.seeds))
    else:
        sentence = _sentence_of_many(found, lead, claim, answer, seeds, cases)
    caveats = [*_caveats(study, found[lead]), *_left_out(claim)]
    return Verdict(
        answer=answer,
        sentence=" ".join([sentence, *caveats]),
        difference=found[lead],
        further_seeds=seeds,
        further_cases=cases,
    )


def gains(found, margin):
    """Which Differences are better by the margin, after Holm over all of them: a list of bool."""
    adjusted = holm([f.p_value for f in found])
    return [
        p < 1 - LEVEL and f.mean >= margin and len(f.cases) > 1
        for f, p in zip(found, adjusted, strict=True)
    ]


def _decide(found, claim):
    """(answer, place of the Difference that shows it)."""
    margin, gained = claim.margin, gains(found, claim.margin)
    whole = all(f.layout is not None and len(f.cases) > 1 for f in found)
    within, below = (
        [whole and low(f) for f in found]
        for low in (lambda f: -margin < f.low and f.high < margin, lambda f: f.high < margin)
    )
    largest = max(range(len(found)), key=lambda i: _size(found[i], claim))
    if claim.direction == "alike":
        if all(within):
            return "supported", largest
        outside = [_outside(f, margin, len(found)) for f in found]
        return ("rejected", outside.index(True)) if any(outside) else ("undecided", largest)
    if any(gained):
        best = max((i for i, gain in enumerate(gained) if gain), key=lambda i: found[i].mean)
        return ("supported" if claim.direction == "better" else "rejected"), best
    if claim.direction == "no better":
        return ("supported" if all(below) else "undecided"), largest
    return ("equivalent" if all(within) else "rejected" if all(below) else "undecided"), largest


def _size(found, claim):
    if not math.isfinite(found.mean):
        return -math.inf
    return abs(found.mean) if claim.direction == "alike" else found.mean


def _outside(found, margin, tests):
    """Whether the interval, at a level that holds for all tests together, lies wholly outside +-margin."""
    if found.layout is None or len(found.cases) == 1:
        return False
    half = float(found.layout.half_width(1 - (1 - LEVEL) / tests))
    return found.mean - half > margin or found.mean + half < -margin


def _what_would_decide_claim(found, claim):
    """(further seeds, further cases): the fewest of either alone at which intervals around the same means would decide."""
    if any(f.layout is None or len(f.cases) == 1 for f in found):
        return None, None
    margin, level = claim.margin, 1 - (1 - LEVEL) / len(found)
    if claim.direction == "alike":
        outside = [(f, abs(f.mean) - margin) for f in found if abs(f.mean) > margin]
        inside = [(f, margin - abs(f.mean)) for f in found]
    else:
        outside = [(f, f.mean) for f in found if f.mean >= margin]
        inside = [(f, margin - f.mean) for f in found]
    if outside:  # one contrast is enough, at the adjusted level
        needs = [what_would_decide(f.layout, wanted, level) for f, wanted in outside]
        return tuple(
            min((n for n in numbers if n is not None), default=None)
            for numbers in zip(*needs, strict=True)
        )
    needs = [
        (0, 0) if f.high - f.mean < wanted else what_would_decide(f.layout, wanted)
        for f, wanted in inside
    ]  # all of them have to hold
    return tuple(None if None in numbers else max(numbers) for numbers in zip(*needs, strict=True))


def what_would_decide(layout, half_width, level=LEVEL):
    """(further seeds, further cases): the fewest of either alone at which the interval is expected to be narrower than `half_width`."""
    seeds = range(layout.seeds + 1, layout.seeds + MOST_SEEDS + 1)
    cases = np.unique(
        np.geomspace(layout.cases + 1, layout.cases + MOST_CASES, 400).round().astype(int)
    ).tolist()
    return (
        next(
            (
                s - layout.seeds
                for s in seeds
                if _foreseen(layout, s, layout.cases).half_width(level) < half_width
            ),
            None,
        ),
        next(
            (
                c - layout.cases
                for c in cases
                if _foreseen(layout, layout.seeds, c).half_width(level) < half_width
            ),
            None,
        ),
    )


def _foreseen(layout, seeds, cases):
    """The mean squares to expect from another number of seeds and cases when the variances stay."""
    seed, case, rest = layout.variances
    return Crossed(
        seeds=seeds,
        cases=cases,
        mean=layout.mean,
        ms_seed=rest + cases * seed,
        ms_case=rest + seeds * case,
        ms_rest=rest,
    )


def _sentence(found, claim, answer, further_seeds, further_cases, planned):
    """Of a claim with one contrast."""
    if not found.seeds or not found.cases:
        return _no_pair(found)
    estimate = _estimate(found)
    if len(found.seeds) == 1:
        hint = "finish the other seeds" if planned > 1 else "run at least 3 seeds"
        based = _based(found)
        return f"Undecided: {estimate}, but from one seed ({based}), which cannot show how much training itself varies; {hint}."
    measured = _measured(found)
    margin = f"{points(claim.margin)} points that matter"
    if len(found.cases) == 1:
        return f"Undecided: {measured}, but one test case says nothing about other patients."
    if answer == "supported":
        return f"Supported: {measured}; the interval lies above 0 and the estimate reaches the {margin}."
    if answer == "rejected":
        return f"Rejected: {measured}; the whole interval lies below the {margin}."
    if answer == "equivalent":
        return f"Equivalent: {measured}; the whole interval lies within ±{margin}."
    return f"Undecided: {measured}; {_advice(further_seeds, further_cases)}."


def _sentence_of_many(found, lead, claim, answer, further_seeds, further_cases):
    """Of a claim with several contrasts, or that something is no better or alike."""
    tests, margin, first = len(found), f"{points(claim.margin)} points that matter", found[lead]
    unpaired = [f for f in found if not f.seeds or not f.cases]
    if unpaired and answer == "undecided":
        return _no_pair(unpaired[0])
    if answer == "undecided" and min(len(f.seeds) for f in found) == 1:
        return f"Undecided: {_estimate(first)}, but from one seed ({_based(first)}), which cannot show how much training itself varies."
    if answer == "undecided" and min(len(f.cases) for f in found) == 1:
        return (
            f"Undecided: {_measured(first)}, but one test case says nothing about other patients."
        )
    corrected = f" after Holm's correction for {tests} tests" if tests > 1 else ""
    largest = "the largest difference" if claim.direction == "alike" else "the best"
    lead_in = f"{largest} of {tests}: " if tests > 1 else ""
    measured = _measured(first)
    if answer == "undecided":
        return f"Undecided: {lead_in}{measured}; {_advice(further_seeds, further_cases)}."
    if claim.direction == "alike":
        place = (
            f"every interval lies within ±{margin}"
            if answer == "supported"
            else f"its interval lies outside ±{margin}{_bonferroni(tests)}"
        )
        return f"{answer.capitalize()}: {lead_in}{measured}; {place}."
    if answer == "equivalent":
        return f"Equivalent: {lead_in}{measured}; every interval lies within ±{margin}."
    if (answer == "supported") == (claim.direction == "better"):  # something gained
        others = [
            f.label
            for f, gain in zip(found, gains(found, claim.margin), strict=True)
            if gain and f is not first
        ]
        also = f"; so do {', '.join(others)}" if others else ""
        return f"{answer.capitalize()}: {measured}; that is above 0{corrected} and reaches the {margin}{also}."
    return f"{answer.capitalize()}: {lead_in}{measured}; every interval lies below the {margin}."


def _bonferroni(tests):
    return f" (at a level that holds for {tests} tests)" if tests > 1 else ""


def _nothing_asked(claim):
    return f"Undecided: this run lacks the arms of {', '.join(claim.left_out) or 'the question'}."


def _no_pair(found):
    why = "; ".join(found.notes) or "nothing was tested"
    who = f"{found.arm} and {found.versus}" if found.versus else found.arm
    return f"Undecided: no pair of trials of {who} to compare on {_score(found)} ({why})."


def _score(found):
    return "mean Dice" if found.region == "mean" else f"{found.region} Dice"


def _estimate(found):
    direction = "above" if found.mean >= 0 else "below"
    if not found.versus:
        return f"{found.arm}: {_score(found)} {'rises' if found.mean >= 0 else 'falls'} by {points(abs(found.mean))} points from end to end"
    return f"{found.arm} scores {points(abs(found.mean))} Dice points {direction} {found.versus} on {_score(found)}"


def _based(found):
    return f"{count(len(found.seeds), 'seed')}, {count(len(found.cases), 'test case')}"


def _measured(found):
    return f"{_estimate(found)} (95 % interval {points(found.low, True)} to {points(found.high, True)}; {_based(found)})"


def _advice(further_seeds, further_cases):
    ways = []
    if further_seeds:
        ways.append(f"about {count(further_seeds, 'further seed')} per arm")
    if further_cases:
        ways.append(f"about {count(further_cases, 'further test case')}")
    if ways:
        return f"{' or '.join(ways)} would decide it if estimate and spread stay as they are"
    return (
        f"neither {MOST_SEEDS} further seeds nor {MOST_CASES} further test cases alone would decide it: "
        "the estimate lies too close to the limit, or the spread is too large"
    )


def _caveats(study, found):
    """Sentences that belong to the answer whatever it is."""
    if found.seeds and found.notes and len(found.seeds) < len(study.seeds):
        yield f"Only {len(found.seeds)} of {len(study.seeds)} planned seeds could be paired."
    if study.data.get("test_is_validation"):
        yield "The test set also served as the validation set (too few cases for three sets), so the last checkpoint was tested."


def _left_out(claim):
    if claim.left_out and claim.contrasts:
        yield f"This run lacks the arms for {len(claim.left_out)} of the question's contrasts."
