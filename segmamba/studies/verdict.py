"""The answer to a study's question.

docs/explanation/statistics.md gives the rules and how often they err; sentences.py puts the answer
into words.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.studies.advice import FurtherRuns, advice_for
from segmamba.studies.caveats import caveats
from segmamba.studies.comparisons import adjusted_p, at_deciding_levels, differences_of
from segmamba.studies.contrasts import Difference
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.look_verdict import exploratory_sentence, verdict_of_looks
from segmamba.studies.results import Study
from segmamba.studies.sentences import (
    Answer,
    Decision,
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
    them have to hold. A contrast whose arms failed unequally often decides nothing.
    """

    answer: Answer
    sentence: str
    """The answer in plain words, in the unit that a reader sees."""
    difference: Difference
    """The Difference that the sentence leads with, with the interval that decides."""
    further_seeds: int | None = None
    """Further seeds per arm that would decide it with 80 % power if the estimate and the spreads
    stay.

    None where no number that can be reached would.
    """
    further_patients: int | None = None
    """Further test patients that would decide it, likewise."""


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
            difference=Difference(arm="", versus="", region=claim.regions[0], score=claim.score),
        )
    adds_seeds = study.max_seeds and not study.pooled_from
    if adds_seeds and claim == study.hypothesis:
        decision, sentence = verdict_of_looks(study)
        return Verdict(answer=decision.answer, sentence=sentence, difference=decision.leading)
    differences = differences_of(study, claim)
    decision = decide(differences, claim)
    if adds_seeds:
        sentence = exploratory_sentence(decision, claim)
    elif len(differences) == 1 and claim.direction == "better":
        sentence = sentence_of_one(decision, claim, len(study.seeds))
    else:
        sentence = sentence_of_many(decision, claim)
    return Verdict(
        answer=decision.answer,
        sentence=" ".join([sentence, *caveats(study, claim, decision)]),
        difference=decision.leading,
        further_seeds=decision.further.seeds,
        further_patients=decision.further.patients,
    )


def decide(differences: Sequence[Difference], claim: Hypothesis) -> Decision:
    """Decide a claim on its differences.

    Args:
        differences: The difference of every contrast on every region, with 95 % intervals.
        claim: The claim.

    Returns:
        The Decision; its differences have the intervals that decide.
    """
    answer, lead = _answer(differences, claim)
    would, fixed = answer, not any(d.max_seeds for d in differences)
    if answer == "undecided":
        pretended = [replace(d, failures={}) for d in differences]
        would, _ = _answer(pretended, claim)
    return Decision(
        answer=answer,
        differences=_shown(differences, claim, answer),
        lead=lead,
        gained=gains(differences, claim.margin),
        further=advice_for(differences, claim)
        if fixed and answer == "undecided"
        else FurtherRuns(),
        failures_forbid=would != answer,
    )


def gains(differences: Sequence[Difference], margin: float) -> list[bool]:
    """Which differences are better by the margin, after Holm's adjustment over all of them.

    Args:
        differences: The differences that are tested together.
        margin: Smallest difference that matters, in the unit of the tables.

    Returns:
        Whether each of them gains.
    """
    adjusted = adjusted_p(differences)
    return [
        p < 1 - CONFIDENCE_LEVEL and d.mean >= margin and d.can_decide
        for d, p in zip(differences, adjusted, strict=True)
    ]


def _answer(differences: Sequence[Difference], claim: Hypothesis) -> tuple[Answer, int]:
    """The answer, and the index of the difference that shows it."""
    margin = claim.margin
    gained = gains(differences, margin)
    measured = all(d.can_decide for d in differences)

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
    wider = difference.at_level(difference.coverage(tests))
    return difference.can_decide and (wider.low > margin or wider.high < -margin)


def _shown(
    differences: Sequence[Difference], claim: Hypothesis, answer: Answer
) -> list[Difference]:
    """The differences with the intervals that decide.

    They are adjusted where one contrast of several is enough, and the usual ones where all
    contrasts have to hold.
    """
    if claim.direction == "alike":
        tests = 1 if answer == "supported" else len(differences)
        return [d.at_level(d.coverage(tests)) for d in differences]
    gained = answer == ("supported" if claim.direction == "better" else "rejected")
    return at_deciding_levels(differences) if gained or answer == "undecided" else [*differences]
