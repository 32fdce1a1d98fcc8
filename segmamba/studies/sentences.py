"""The words of a verdict: what was measured, what follows, and what would decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.evaluation.patients import counted
from segmamba.studies.advice import MOST_PATIENTS, MOST_SEEDS, POWER, FurtherRuns
from segmamba.studies.contrasts import Difference
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.words import amount, count

Answer: TypeAlias = Literal["supported", "rejected", "equivalent", "undecided"]
WORSE, NO_GAIN = "worse", "no gain that matters"
GAIN, DIFFERENT = "a gain that matters", "a difference that matters"
TOO_SMALL = "a difference exists, too small to matter"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How a claim was decided, and on what."""

    answer: Answer
    differences: Sequence[Difference]
    """The difference of every contrast on every region, with the intervals that decide."""
    lead: int
    """Index of the difference that shows the answer."""
    gained: Sequence[bool]
    """Whether each difference is better by the margin."""
    further: FurtherRuns
    """What would decide an undecided claim."""
    failures_forbid: bool = False
    """Whether there would be an answer if the arms had failed equally often."""

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
        One sentence, in the unit that a reader sees.
    """
    difference, answer = decision.leading, decision.answer
    if not difference.seeds or not difference.cases:
        return _no_pair(difference)
    if len(difference.seeds) == 1:
        hint = "finish the other seeds" if planned > 1 else "run at least 3 seeds"
        return f"{_one_seed(difference)}; {hint}."
    if len(difference.patients) == 1:
        return _one_patient(difference)
    measured, margin = _measured(difference), _margin(difference, claim)
    if answer == "supported":
        return f"Supported: {measured}; {_gained(difference, claim)}."
    if answer == "equivalent":
        small = f"; it excludes 0: {TOO_SMALL}" if _excludes_zero(difference) else ""
        return f"Equivalent: {measured}; the whole interval lies within ±{margin}{small}."
    if answer == "rejected":
        worse = difference.high < 0
        limit = "0" if worse else f"the {margin}"
        return (
            f"Rejected ({WORSE if worse else NO_GAIN}): {measured}; "
            f"the whole interval lies below {limit}."
        )
    return f"Undecided: {measured}; {_undecided(decision)}."


def sentence_of_many(decision: Decision, claim: Hypothesis) -> str:
    """The answer to a claim about several contrasts, or that something is no better or alike.

    Args:
        decision: The decision on all differences.
        claim: The claim.

    Returns:
        One sentence, in the unit that a reader sees.
    """
    if decision.answer == "undecided" and (reason := _why_nothing_is_measured(decision)):
        return reason
    answer, first, tests = decision.answer, decision.leading, len(decision.differences)
    margin = _margin(first, claim)
    largest = "the largest difference" if claim.direction == "alike" else "the best"
    lead_in = f"{largest} of {tests}: " if tests > 1 else ""
    measured = f"{lead_in}{_measured(first)}"
    if answer == "undecided":
        return f"Undecided: {measured}; {_undecided(decision)}."
    some = any(_excludes_zero(d) for d in decision.differences)
    if answer == "equivalent" or (answer == "supported" and claim.direction == "alike"):
        which = "it excludes 0" if tests == 1 else "one of them excludes 0"
        small = f"; {which}: {TOO_SMALL}" if some else ""
        return f"{answer.capitalize()}: {measured}; every interval lies within ±{margin}{small}."
    if claim.direction == "alike":
        return f"Rejected ({DIFFERENT}): {measured}; its interval lies outside ±{margin}."
    if (answer == "supported") == (claim.direction == "better"):  # something gained
        measured_ones = zip(decision.differences, decision.gained, strict=True)
        others = [d.label for d, gain in measured_ones if gain and d is not first]
        also = f"; so {'do' if len(others) > 1 else 'does'} {', '.join(others)}" if others else ""
        why = f" ({GAIN})" if answer == "rejected" else ""
        return f"{answer.capitalize()}{why}: {_measured(first)}; {_gained(first, claim)}{also}."
    if answer == "rejected" and all(d.high < 0 for d in decision.differences):
        return f"Rejected ({WORSE}): {measured}; every interval lies below 0."
    why = f" ({NO_GAIN})" if answer == "rejected" else ""
    small = f"; the interval excludes 0: {TOO_SMALL}" if first.low > 0 else ""
    return f"{answer.capitalize()}{why}: {measured}; every interval lies below the {margin}{small}."


def _why_nothing_is_measured(decision: Decision) -> str:
    """The sentence where a difference has no pair, one seed or one patient; otherwise ""."""
    unpaired = [d for d in decision.differences if not d.seeds or not d.cases]
    if unpaired:
        return _no_pair(unpaired[0])
    if min(len(d.seeds) for d in decision.differences) == 1:
        return f"{_one_seed(decision.leading)}."
    if min(len(d.patients) for d in decision.differences) == 1:
        return _one_patient(decision.leading)
    return ""


def nothing_asked(claim: Hypothesis) -> str:
    """The sentence of a claim whose arms are not part of the run.

    Args:
        claim: The claim, without contrasts.

    Returns:
        One sentence.
    """
    return f"Undecided: this run lacks the arms of {', '.join(claim.left_out) or 'the question'}."


def failures_in_words(difference: Difference) -> str:
    """How often each arm of a contrast failed.

    Args:
        difference: The contrast.

    Returns:
        For example "b failed in 1 of 5 runs and a in none".
    """
    parts: list[str] = []
    for arm, failed in difference.failures.items():
        times = f"{failed} of {count(difference.planned[arm], 'run')}" if failed else "none"
        parts.append(f"{arm} failed in {times}" if not parts else f"{arm} in {times}")
    return " and ".join(parts)


def _no_pair(difference: Difference) -> str:
    why = "; ".join(difference.notes) or "nothing was tested"
    arms = f"{difference.arm} and {difference.versus}" if difference.versus else difference.arm
    return f"Undecided: no pair of trials of {arms} to compare on {_score(difference)} ({why})."


def _one_seed(difference: Difference) -> str:
    return (
        f"Undecided: {_estimate(difference)}, but from one seed ({_based(difference)}), "
        "which cannot show how much training itself varies"
    )


def _one_patient(difference: Difference) -> str:
    return (
        f"Undecided: {_measured(difference)}, "
        "but one test patient says nothing about other patients."
    )


def _score(difference: Difference) -> str:
    region = "mean" if difference.region == "mean" else difference.region
    return f"{region} {difference.metric.words}"


def _margin(difference: Difference, claim: Hypothesis) -> str:
    unit = "mm" if difference.metric.unit == "mm" else "points"
    return f"{amount(claim.margin, difference.metric)} {unit} that matter"


def _estimate(difference: Difference) -> str:
    metric, score = difference.metric, _score(difference)
    size, gained = amount(abs(difference.mean), metric), difference.mean >= 0
    none = size == amount(0, metric)
    rises = gained == metric.higher_is_better
    if not difference.versus:
        verb = "rises" if rises else "falls"
        change = "does not change" if none else f"{verb} by {size} {metric.unit}"
        return f"{difference.arm}: {score} {change} from end to end"
    if none:
        return f"{difference.arm} and {difference.versus} show no difference on {score}"
    where = "above" if rises else "below"
    return f"{difference.arm} scores {size} {metric.unit} {where} {difference.versus} on {score}"


def _based(difference: Difference) -> str:
    seeds = count(len(difference.seeds), "seed")
    return f"{seeds}, {counted(difference.cases, difference.patients)}"


def _measured(difference: Difference) -> str:
    metric, level = difference.metric, difference.level
    low, high = (amount(v, metric, signed=True) for v in (difference.low, difference.high))
    of = "" if metric.higher_is_better else " of the improvement"
    adjusted = "" if level == CONFIDENCE_LEVEL else ", adjusted for the number of tests"
    interval = f"{100 * level:.4g} % interval{of} {low} to {high}{adjusted}"
    return f"{_estimate(difference)} ({interval}; {_based(difference)})"


def _gained(difference: Difference, claim: Hypothesis) -> str:
    """Why a contrast gains: above 0 and an estimate that reaches the margin, or more than that."""
    margin = _margin(difference, claim)
    if difference.low >= claim.margin:
        return f"the whole interval lies above the {margin}"
    return (
        f"the interval lies above 0 and the estimate reaches the {margin}, "
        "while smaller effects are not excluded"
    )


def _excludes_zero(difference: Difference) -> bool:
    return difference.low > 0 or difference.high < 0


def _undecided(decision: Decision) -> str:
    if decision.failures_forbid:
        uneven = [d for d in decision.differences if not d.evenly_failed]
        return (
            f"{'; '.join(dict.fromkeys(failures_in_words(d) for d in uneven))}: what the failed "
            "runs would have scored may turn the answer"
        )
    if any(d.max_seeds for d in decision.differences):
        return "what would decide it is for the plan of a study of its own to say"
    return _advice(decision.further)


def _advice(further: FurtherRuns) -> str:
    ways = []
    if further.seeds:
        ways.append(f"about {count(further.seeds, 'further seed')} per arm")
    if further.patients:
        ways.append(f"about {count(further.patients, 'further test patient')}")
    if ways:
        return (
            f"{' or '.join(ways)} would decide it with {100 * POWER:.0f} % power "
            "if estimate and spread stay as they are"
        )
    return (
        f"neither {MOST_SEEDS} further seeds nor {MOST_PATIENTS} further test patients alone would "
        f"decide it with {100 * POWER:.0f} % power: the estimate lies too close to the limit, or "
        "the spread is too large"
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


def margin_words(difference: Difference, claim: Hypothesis) -> str:
    """The smallest difference that matters.

    Args:
        difference: A difference of the claim.
        claim: The claim.

    Returns:
        Words such as "0.5 points that matter".
    """
    return _margin(difference, claim)


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
    if len(difference.patients) == 1:
        return _one_patient(difference)
    if not difference.evenly_failed:
        return f"Undecided: {_estimate(difference)}, but {failures_in_words(difference)}."
    return f"Undecided: {_estimate(difference)}, but only {_based(difference)} could be paired."
