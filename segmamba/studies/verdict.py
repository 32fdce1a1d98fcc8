"""The answer to a study's question.

docs/explanation/statistics.md gives the rules and how often they err; sentences.py puts the answer
into words.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.studies.anova import Crossed
from segmamba.studies.contrasts import Difference, adjusted_p, contrast_difference
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.look_verdict import exploratory_sentence, verdict_of_looks
from segmamba.studies.results import Study
from segmamba.studies.sentences import (
    MOST_CASES,
    MOST_SEEDS,
    Answer,
    Decision,
    FurtherRuns,
    caveats,
    nothing_asked,
    sentence_of_many,
    sentence_of_one,
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer to one Hypothesis.

    A contrast gains where it is better by the margin: its p, adjusted by Holm over all contrasts
    and regions, is below 5 %, and its estimate reaches the margin. The answers by direction:

    better: supported where a contrast gains; equivalent where every interval lies within +-margin;
    rejected where every interval lies below the margin.

    no better: rejected where a contrast gains; supported where every interval lies below the
    margin.

    alike: supported where every interval lies within +-margin; rejected where one interval,
    adjusted by Bonferroni, lies wholly outside it.

    Everything else is undecided. A claim about every interval needs no adjustment, because all of
    them have to hold.
    """

    answer: Answer
    sentence: str
    """The answer in plain words, in Dice points."""
    difference: Difference
    """The Difference that the sentence leads with."""
    further_seeds: int | None = None
    """Further seeds per arm that would decide it if the estimate and the spreads stay.

    None where no number that can be reached would.
    """
    further_cases: int | None = None
    """Further test cases that would decide it, likewise."""


def verdict(study: Study, claim: Hypothesis | None = None) -> Verdict:
    """Decide whether a claim holds.

    Args:
        study: The study.
        claim: The claim; None takes the study's hypothesis.

    Returns:
        The Verdict.
    """
    claim = claim or study.hypothesis
    if not claim.contrasts:
        return Verdict(
            answer="undecided",
            sentence=nothing_asked(claim),
            difference=Difference(arm="", versus="", region=claim.regions[0]),
        )
    if study.max_seeds and claim == study.hypothesis:
        answer, sentence, leading = verdict_of_looks(study)
        return Verdict(answer=answer, sentence=sentence, difference=leading)
    differences = [
        contrast_difference(study, contrast, region, claim.score)
        for contrast in claim.contrasts
        for region in claim.regions
    ]
    answer, lead = _decide(differences, claim)
    open_ = answer == "undecided" and not study.max_seeds
    further = _what_would_decide(differences, claim) if open_ else FurtherRuns()
    decision = Decision(
        answer=answer,
        differences=differences,
        lead=lead,
        gained=gains(differences, claim.margin),
        further=further,
    )
    if study.max_seeds:
        sentence = exploratory_sentence(decision, claim)
    elif len(differences) == 1 and claim.direction == "better":
        sentence = sentence_of_one(decision, claim, len(study.seeds))
    else:
        sentence = sentence_of_many(decision, claim)
    return Verdict(
        answer=answer,
        sentence=" ".join([sentence, *caveats(study, claim, decision.leading)]),
        difference=decision.leading,
        further_seeds=further.seeds,
        further_cases=further.cases,
    )


def gains(differences: Sequence[Difference], margin: float) -> list[bool]:
    """Which differences are better by the margin, after Holm's adjustment over all of them.

    Args:
        differences: The differences that are tested together.
        margin: Smallest Dice (0 to 1) that matters.

    Returns:
        Whether each of them gains.
    """
    adjusted = adjusted_p(differences)
    return [
        p < 1 - CONFIDENCE_LEVEL and d.mean >= margin and len(d.cases) > 1
        for d, p in zip(differences, adjusted, strict=True)
    ]


def _decide(differences: Sequence[Difference], claim: Hypothesis) -> tuple[Answer, int]:
    """The answer, and the index of the difference that shows it."""
    margin = claim.margin
    gained = gains(differences, margin)
    measured = all(d.layout is not None and len(d.cases) > 1 for d in differences)

    def every(holds: Callable[[Difference], bool]) -> bool:
        return measured and all(holds(d) for d in differences)

    within = every(lambda d: -margin < d.low and d.high < margin)
    below = every(lambda d: d.high < margin)
    largest = max(range(len(differences)), key=lambda i: _size(differences[i], claim))
    if claim.direction == "alike":
        if within:
            return "supported", largest
        outside = [_outside(d, margin, len(differences)) for d in differences]
        return ("rejected", outside.index(True)) if any(outside) else ("undecided", largest)
    if any(gained):
        best = max((i for i, gain in enumerate(gained) if gain), key=lambda i: differences[i].mean)
        return ("supported" if claim.direction == "better" else "rejected"), best
    if claim.direction == "no better":
        return ("supported" if below else "undecided"), largest
    return ("equivalent" if within else "rejected" if below else "undecided"), largest


def _size(difference: Difference, claim: Hypothesis) -> float:
    if not math.isfinite(difference.mean):
        return -math.inf
    return abs(difference.mean) if claim.direction == "alike" else difference.mean


def _outside(difference: Difference, margin: float, tests: int) -> bool:
    """Whether the interval lies wholly outside +-margin, at a level that holds for all tests."""
    if difference.layout is None or len(difference.cases) == 1:
        return False
    half = difference.half_width(tests)
    return difference.mean - half > margin or difference.mean + half < -margin


def _what_would_decide(differences: Sequence[Difference], claim: Hypothesis) -> FurtherRuns:
    """The fewest further seeds, or cases, at which intervals around the same means would decide."""
    measured = [(d, d.layout) for d in differences if d.layout is not None and len(d.cases) > 1]
    if len(measured) < len(differences):
        return FurtherRuns()
    margin, level = claim.margin, 1 - (1 - CONFIDENCE_LEVEL) / len(differences)
    alike = claim.direction == "alike"
    reached = [
        (layout, abs(d.mean) - margin if alike else d.mean)
        for d, layout in measured
        if (abs(d.mean) > margin if alike else d.mean >= margin)
    ]
    if reached:  # one contrast is enough, at the adjusted level
        needs = [what_would_decide(layout, wanted, level=level) for layout, wanted in reached]
        return FurtherRuns(
            seeds=min((n.seeds for n in needs if n.seeds is not None), default=None),
            cases=min((n.cases for n in needs if n.cases is not None), default=None),
        )
    needs = []  # all of them have to hold
    for d, layout in measured:
        wanted = margin - abs(d.mean) if alike else margin - d.mean
        narrow = d.high - d.mean < wanted
        needs.append(FurtherRuns(seeds=0, cases=0) if narrow else what_would_decide(layout, wanted))
    return FurtherRuns(
        seeds=_most([need.seeds for need in needs]), cases=_most([need.cases for need in needs])
    )


def _most(numbers: Sequence[int | None]) -> int | None:
    """The largest number; None where one of them is None."""
    known = [number for number in numbers if number is not None]
    return max(known) if len(known) == len(numbers) else None


def what_would_decide(
    layout: Crossed, half_width: float, *, level: float = CONFIDENCE_LEVEL
) -> FurtherRuns:
    """The fewest further seeds, or further cases, that are expected to narrow an interval enough.

    Args:
        layout: The analysis of variance of the present runs.
        half_width: Half the width that the interval has to stay below, in Dice (0 to 1).
        level: Coverage of the interval.

    Returns:
        The number of seeds with the present cases, and of cases with the present seeds.
    """
    seeds = range(layout.seeds + 1, layout.seeds + MOST_SEEDS + 1)
    cases = np.unique(
        np.geomspace(layout.cases + 1, layout.cases + MOST_CASES, 400).round().astype(int)
    ).tolist()

    def narrow(seeds: int, cases: int) -> bool:
        return bool(_foreseen(layout, seeds, cases).half_width(level) < half_width)

    return FurtherRuns(
        seeds=next((s - layout.seeds for s in seeds if narrow(s, layout.cases)), None),
        cases=next((c - layout.cases for c in cases if narrow(layout.seeds, c)), None),
    )


def _foreseen(layout: Crossed, seeds: int, cases: int) -> Crossed:
    """The mean squares to expect of other numbers of seeds and cases if the variances stay."""
    seed, case, rest = layout.variances
    return Crossed(
        seeds=seeds,
        cases=cases,
        mean=layout.mean,
        ms_seed=rest + cases * seed,
        ms_case=rest + seeds * case,
        ms_rest=rest,
    )
