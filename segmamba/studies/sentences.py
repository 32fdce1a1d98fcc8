"""The words of a verdict: what was measured, what follows, and what would decide."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from segmamba.studies.contrasts import Difference, count, points
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.results import Study

Answer: TypeAlias = Literal["supported", "rejected", "equivalent", "undecided"]
MOST_SEEDS, MOST_CASES = 30, 2000
"""Beyond these, "run more" is no advice; the sentence says so instead of naming a number."""


@dataclass(frozen=True, kw_only=True)
class FurtherRuns:
    """The fewest further seeds, or further test cases, that would decide a claim.

    Either alone would, if the estimate and the spreads stay. None where no number that can be
    reached would.
    """

    seeds: int | None = None
    cases: int | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How a claim was decided, and on what."""

    answer: Answer
    differences: Sequence[Difference]
    """The difference of every contrast on every region."""
    lead: int
    """Index of the difference that shows the answer."""
    gained: Sequence[bool]
    """Whether each difference is better by the margin."""
    further: FurtherRuns
    """What would decide an undecided claim."""

    @property
    def leading(self) -> Difference:
        """The difference that shows the answer."""
        return self.differences[self.lead]


def sentence_of_one(decision: Decision, claim: Hypothesis, planned: int) -> str:
    """The answer to a claim that one contrast is better.

    Args:
        decision: The decision on one difference.
        claim: The claim.
        planned: The number of seeds that the study planned.

    Returns:
        One sentence, in Dice points.
    """
    difference = decision.leading
    if not difference.seeds or not difference.cases:
        return _no_pair(difference)
    if len(difference.seeds) == 1:
        hint = "finish the other seeds" if planned > 1 else "run at least 3 seeds"
        return f"{_one_seed(difference)}; {hint}."
    if len(difference.cases) == 1:
        return _one_case(difference)
    measured = _measured(difference)
    margin = f"{points(claim.margin)} points that matter"
    follows = {
        "supported": f"the interval lies above 0 and the estimate reaches the {margin}",
        "rejected": f"the whole interval lies below the {margin}",
        "equivalent": f"the whole interval lies within ±{margin}",
        "undecided": _advice(decision.further),
    }
    return f"{decision.answer.capitalize()}: {measured}; {follows[decision.answer]}."


def sentence_of_many(decision: Decision, claim: Hypothesis) -> str:
    """The answer to a claim about several contrasts, or that something is no better or alike.

    Args:
        decision: The decision on all differences.
        claim: The claim.

    Returns:
        One sentence, in Dice points.
    """
    if decision.answer == "undecided" and (reason := _why_nothing_is_measured(decision)):
        return reason
    answer, first, tests = decision.answer, decision.leading, len(decision.differences)
    margin = f"{points(claim.margin)} points that matter"
    largest = "the largest difference" if claim.direction == "alike" else "the best"
    lead_in = f"{largest} of {tests}: " if tests > 1 else ""
    opening = f"{answer.capitalize()}: {lead_in}{_measured(first)}"
    if answer == "undecided":
        return f"{opening}; {_advice(decision.further)}."
    if claim.direction == "alike":
        bonferroni = f" (at a level that holds for {tests} tests)" if tests > 1 else ""
        place = (
            f"every interval lies within ±{margin}"
            if answer == "supported"
            else f"its interval lies outside ±{margin}{bonferroni}"
        )
        return f"{opening}; {place}."
    if answer == "equivalent":
        return f"{opening}; every interval lies within ±{margin}."
    if (answer == "supported") == (claim.direction == "better"):  # something gained
        measured = zip(decision.differences, decision.gained, strict=True)
        others = [d.label for d, gain in measured if gain and d is not first]
        corrected = f" after Holm's correction for {tests} tests" if tests > 1 else ""
        also = f"; so do {', '.join(others)}" if others else ""
        return (
            f"{answer.capitalize()}: {_measured(first)}; that is above 0{corrected} "
            f"and reaches the {margin}{also}."
        )
    return f"{opening}; every interval lies below the {margin}."


def _why_nothing_is_measured(decision: Decision) -> str:
    """The sentence where a difference has no pair, one seed or one case; otherwise ""."""
    unpaired = [d for d in decision.differences if not d.seeds or not d.cases]
    if unpaired:
        return _no_pair(unpaired[0])
    if min(len(d.seeds) for d in decision.differences) == 1:
        return f"{_one_seed(decision.leading)}."
    if min(len(d.cases) for d in decision.differences) == 1:
        return _one_case(decision.leading)
    return ""


def nothing_asked(claim: Hypothesis) -> str:
    """The sentence of a claim whose arms are not part of the run.

    Args:
        claim: The claim, without contrasts.

    Returns:
        One sentence.
    """
    return f"Undecided: this run lacks the arms of {', '.join(claim.left_out) or 'the question'}."


def caveats(study: Study, claim: Hypothesis, difference: Difference) -> Iterator[str]:
    """The sentences that belong to an answer whatever it is.

    Args:
        study: The study.
        claim: The claim.
        difference: The difference that the answer leads with.

    Yields:
        A sentence for each thing that the reader should know.
    """
    if difference.seeds and difference.notes and len(difference.seeds) < len(study.seeds):
        yield (f"Only {len(difference.seeds)} of {len(study.seeds)} planned seeds could be paired.")
    if study.data.test_is_validation:
        yield (
            "The test set also served as the validation set (too few cases for three sets), "
            "so the last checkpoint was tested."
        )
    if claim.left_out:
        yield f"This run lacks the arms for {len(claim.left_out)} of the question's contrasts."


def _no_pair(difference: Difference) -> str:
    why = "; ".join(difference.notes) or "nothing was tested"
    arms = f"{difference.arm} and {difference.versus}" if difference.versus else difference.arm
    return f"Undecided: no pair of trials of {arms} to compare on {_score(difference)} ({why})."


def _one_seed(difference: Difference) -> str:
    return (
        f"Undecided: {_estimate(difference)}, but from one seed ({_based(difference)}), "
        "which cannot show how much training itself varies"
    )


def _one_case(difference: Difference) -> str:
    return (
        f"Undecided: {_measured(difference)}, but one test case says nothing about other patients."
    )


def _score(difference: Difference) -> str:
    return "mean Dice" if difference.region == "mean" else f"{difference.region} Dice"


def _estimate(difference: Difference) -> str:
    size, rises = points(abs(difference.mean)), difference.mean >= 0
    if not difference.versus:
        return (
            f"{difference.arm}: {_score(difference)} {'rises' if rises else 'falls'} by {size} "
            "points from end to end"
        )
    return (
        f"{difference.arm} scores {size} Dice points {'above' if rises else 'below'} "
        f"{difference.versus} on {_score(difference)}"
    )


def _based(difference: Difference) -> str:
    return f"{count(len(difference.seeds), 'seed')}, {count(len(difference.cases), 'test case')}"


def _measured(difference: Difference) -> str:
    low, high = points(difference.low, signed=True), points(difference.high, signed=True)
    return f"{_estimate(difference)} (95 % interval {low} to {high}; {_based(difference)})"


def _advice(further: FurtherRuns) -> str:
    ways = []
    if further.seeds:
        ways.append(f"about {count(further.seeds, 'further seed')} per arm")
    if further.cases:
        ways.append(f"about {count(further.cases, 'further test case')}")
    if ways:
        return f"{' or '.join(ways)} would decide it if estimate and spread stay as they are"
    return (
        f"neither {MOST_SEEDS} further seeds nor {MOST_CASES} further test cases alone would "
        "decide it: the estimate lies too close to the limit, or the spread is too large"
    )


def estimate_words(difference: Difference) -> str:
    """The estimate of a difference.

    Args:
        difference: The difference.

    Returns:
        Words such as "b scores 1.2 Dice points above a on WT Dice".
    """
    return _estimate(difference)


def sample_words(difference: Difference) -> str:
    """What a difference is based on.

    Args:
        difference: The difference.

    Returns:
        Its seeds and cases.
    """
    return _based(difference)


def missing_words(difference: Difference) -> str:
    """Why a difference has no interval.

    Args:
        difference: A difference of no, one or too few seeds or cases.

    Returns:
        One sentence.
    """
    if not difference.seeds or not difference.cases:
        return _no_pair(difference)
    if len(difference.seeds) == 1:
        return f"{_one_seed(difference)}."
    if len(difference.cases) == 1:
        return _one_case(difference)
    return f"Undecided: {_estimate(difference)}, but only {_based(difference)} could be paired."
