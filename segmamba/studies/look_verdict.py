"""The answer of a study that adds seeds: what its looks decided, with the intervals that did."""

import dataclasses
from collections.abc import Sequence

from segmamba.studies.advice import FurtherRuns
from segmamba.studies.caveats import FEW_SEEDS, caveats
from segmamba.studies.contrasts import Difference, contrast_difference
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.look_words import contrast_name, summary_words
from segmamba.studies.looks import ContrastLook, Look
from segmamba.studies.results import Study
from segmamba.studies.sentences import (
    DIFFERENT,
    GAIN,
    NO_GAIN,
    TOO_SMALL,
    WORSE,
    Answer,
    Decision,
    estimate_words,
    margin_words,
    missing_words,
    sample_words,
)
from segmamba.studies.sequential import (
    FIRST_LOOK,
    claim_answer,
    deciding_look,
    first_seeds,
    no_seed_helps,
)
from segmamba.studies.words import amount


def verdict_of_looks(study: Study) -> tuple[Decision, str]:
    """Answer the hypothesis of a study that adds seeds.

    Args:
        study: The study, with the looks that were taken.

    Returns:
        The decision, of the contrast that the sentences lead with, and the sentences.
    """
    claim = study.hypothesis
    if not study.looks:
        first = contrast_difference(study, claim.contrasts[0], claim.regions[0], claim.score)
        sentence = f"Undecided: the first look is after {FIRST_LOOK} seeds."
        return _decision("undecided", first, gained=False), sentence
    decided, last = deciding_look(study.looks, claim), study.looks[-1]
    look = decided or last
    answer = claim_answer(look.contrasts, claim)
    lead = _leading(look.contrasts, claim, answer)
    difference = _difference(study, claim, look, lead)
    if decided is None:
        sentence = _undecided(study, claim, last, lead, difference)
    else:
        sentence = _decided(study, claim, decided, lead, difference, answer)
    decision = _decision(answer, difference, gained=lead.state == "gained")
    part = first_seeds(study, lead.seeds)
    return decision, " ".join([sentence, *caveats(part, claim, decision)])


def _decision(answer: Answer, difference: Difference, *, gained: bool) -> Decision:
    """A decision about the contrast that the answer leads with."""
    return Decision(
        answer=answer,
        differences=[difference],
        lead=0,
        gained=[gained],
        further=FurtherRuns(),
        failures_forbid=answer == "undecided" and not difference.evenly_failed,
    )


def exploratory_sentence(decision: Decision, claim: Hypothesis) -> str:
    """The answer to a further claim of a study that adds seeds.

    Args:
        decision: The decision, at levels that hold whenever the study stopped.
        claim: The claim.

    Returns:
        Two sentences.
    """
    difference, answer = decision.leading, decision.answer
    note = "The first claim chose the number of seeds, and the level is not shared between claims."
    if not difference.can_decide:
        return f"{missing_words(difference)} {note}"
    tests = len(decision.differences)
    best = f"the {_extreme(claim)} of {tests}: " if tests > 1 else ""
    return (
        f"{answer.capitalize()}: {best}{estimate_words(difference)} (interval "
        f"{_interval(difference, difference.low, difference.high)} at a level that holds for "
        f"every look; {sample_words(difference)}). {note}"
    )


def _leading(contrasts: Sequence[ContrastLook], claim: Hypothesis, answer: Answer) -> ContrastLook:
    """The contrast that shows the answer: the largest of those that decide it."""
    decisive = [c for c in contrasts if c.state in ("gained", "outside")]
    pool = decisive if answer != "undecided" and decisive else contrasts
    alike = claim.direction == "alike"

    def size(contrast: ContrastLook) -> float:
        mean = abs(contrast.mean) if alike else contrast.mean
        return mean if mean == mean else float("-inf")

    return max(pool, key=size)


def _difference(study: Study, claim: Hypothesis, look: Look, lead: ContrastLook) -> Difference:
    """The difference of a contrast at its look, with the numbers that were taken then."""
    asked = [c for c in claim.contrasts for _ in claim.regions]
    contrast = asked[[c.key for c in look.contrasts].index(lead.key)]
    now = contrast_difference(first_seeds(study, lead.seeds), contrast, lead.region, claim.score)
    if lead.state == "missing":
        return now
    return dataclasses.replace(now, mean=lead.mean, low=lead.low, high=lead.high)


def _decided(
    study: Study,
    claim: Hypothesis,
    look: Look,
    lead: ContrastLook,
    difference: Difference,
    answer: Answer,
) -> str:
    """The sentence of a claim that a look decided."""
    tests, matter = len(look.contrasts), margin_words(difference, claim)
    when = f"decided after {look.seeds} of at most {study.max_seeds} seeds"
    opening = f"{answer.capitalize()}{_which(look, claim, answer)}"
    best = f"the {_extreme(claim)} of {tests}: " if tests > 1 else ""
    if lead.state in ("gained", "outside"):
        by = "Holm leaves" if lead.state == "gained" else "Bonferroni leaves"
        among = f" at the level that {by} it among {tests} contrasts" if tests > 1 else ""
        ends = _interval(difference, lead.mean - lead.boundary, lead.mean + lead.boundary)
        kind = "repeated interval" if tests > 1 else "repeated 95 % interval"
        measured = f"{estimate_words(difference)} ({kind} {ends}{among}; "
        measured += f"{sample_words(difference)})"
    if lead.state == "gained":
        also = [c for c in study.looks[-1].contrasts if c.state == "gained" and c.key != lead.key]
        names = ", ".join(contrast_name(c, claim) for c in also)
        others = f"; so {'do' if len(also) > 1 else 'does'} {names}" if also else ""
        curse = ""
        if FEW_SEEDS < look.seeds < study.max_seeds:
            curse = " An estimate that ends a study early is on average too large."
        return (
            f"{opening}: {measured}; {when}: the interval lies above 0 and the estimate reaches "
            f"the {matter}{others}.{curse}"
        )
    if lead.state == "outside":
        return f"{opening}: {best}{measured}; {when}: the interval lies outside ±{matter}."
    ends = _interval(difference, lead.low, lead.high)
    measured = f"{best}{estimate_words(difference)} (repeated 95 % interval {ends}; "
    measured += f"{sample_words(difference)})"
    within = all(c.state == "within" for c in look.contrasts) and claim.direction != "no better"
    every = "every interval" if tests > 1 else "the whole interval"
    small = within and any(c.low > 0 or c.high < 0 for c in look.contrasts)
    return (
        f"{opening}: {measured}; {when}: {every} lies {'within ±' if within else 'below the '}"
        f"{matter}{f'; {TOO_SMALL}' if small else ''}."
    )


def _which(look: Look, claim: Hypothesis, answer: Answer) -> str:
    """Which kind of rejection it is, in brackets; "" for other answers."""
    if answer != "rejected":
        return ""
    if claim.direction == "better":
        worse = all(contrast.high < 0 for contrast in look.contrasts)
        return f" ({WORSE if worse else NO_GAIN})"
    return f" ({GAIN if claim.direction == 'no better' else DIFFERENT})"


def _undecided(
    study: Study, claim: Hypothesis, look: Look, lead: ContrastLook, difference: Difference
) -> str:
    """The sentence of a claim that no look decided, with what would."""
    asked = [c for c in claim.contrasts for _ in claim.regions]
    lost = {
        c.key: no_seed_helps(study, contrast, c, look.seeds)
        for contrast, c in zip(asked, look.contrasts, strict=True)
    }
    if lead.state == "missing":
        measured = missing_words(difference).removeprefix("Undecided: ").removesuffix(".")
    else:
        best = f"the {_extreme(claim)} of {len(asked)}: " if len(asked) > 1 else ""
        measured = (
            f"{best}{estimate_words(difference)} (repeated 95 % interval "
            f"{_interval(difference, lead.low, lead.high)}; {sample_words(difference)})"
        )
    if look.arms:
        return (
            f"Undecided so far, after {look.seeds} of at most {study.max_seeds} seeds: {measured}; "
            "further seeds may decide it."
        )
    if look.seeds >= study.max_seeds:
        return (
            f"Undecided after the last of {study.max_seeds} seeds: {measured}. More seeds need a "
            "new study with fresh ones and a larger limit; its plan shows what that, or more "
            "patients, would find."
        )
    given_up = [c for c in look.contrasts if c.state in ("futile", "missing")]
    why = summary_words(given_up, lost, claim)
    return (
        f"Undecided, stopped after {look.seeds} of at most {study.max_seeds} seeds: {measured}; "
        f"{why}."
    )


def _extreme(claim: Hypothesis) -> str:
    return "largest difference" if claim.direction == "alike" else "best"


def _interval(difference: Difference, low: float, high: float) -> str:
    metric = difference.metric
    return f"{amount(low, metric, signed=True)} to {amount(high, metric, signed=True)}"
