"""The answer of a study that adds seeds: what its looks decided, with the intervals that did."""

import dataclasses
from collections.abc import Sequence

from segmamba.studies.contrasts import Difference, contrast_difference, points
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.look_words import contrast_name, summary_words
from segmamba.studies.looks import ContrastLook, Look
from segmamba.studies.results import Study
from segmamba.studies.sentences import (
    Answer,
    Decision,
    caveats,
    estimate_words,
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


def verdict_of_looks(study: Study) -> tuple[Answer, str, Difference]:
    """Answer the hypothesis of a study that adds seeds.

    Args:
        study: The study, with the looks that were taken.

    Returns:
        The answer, its sentences, and the difference that they lead with.
    """
    claim = study.hypothesis
    if not study.looks:
        first = contrast_difference(study, claim.contrasts[0], claim.regions[0], claim.score)
        return "undecided", f"Undecided: the first look is after {FIRST_LOOK} seeds.", first
    decided, last = deciding_look(study.looks, claim), study.looks[-1]
    look = decided or last
    answer = claim_answer(look.contrasts, claim)
    lead = _leading(look.contrasts, claim, answer)
    difference = _difference(study, claim, look, lead)
    if decided is None:
        sentence = _undecided(study, claim, last, lead, difference)
    else:
        sentence = _decided(study, claim, decided, lead, difference, answer)
    part = first_seeds(study, lead.seeds)
    return answer, " ".join([sentence, *caveats(part, claim, difference)]), difference


def exploratory_sentence(decision: Decision, claim: Hypothesis) -> str:
    """The answer to a further claim of a study that adds seeds.

    Args:
        decision: The decision, at levels that hold whenever the study stopped.
        claim: The claim.

    Returns:
        Two sentences.
    """
    difference, answer = decision.leading, decision.answer
    note = (
        "Exploratory: the first claim chose the number of seeds, and the level is not shared "
        "between claims."
    )
    if difference.low != difference.low:  # NaN: no interval
        return f"{missing_words(difference)} {note}"
    interval = _interval(difference.low, difference.high)
    tests = len(decision.differences)
    best = f"the {_extreme(claim)} of {tests}: " if tests > 1 else ""
    return (
        f"{answer.capitalize()}: {best}{estimate_words(difference)} "
        f"(repeated 95 % interval {interval}; {sample_words(difference)}). {note}"
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
    tests = len(look.contrasts)
    matter = f"{points(claim.margin)} points that matter"
    when = f"decided after {look.seeds} of at most {study.max_seeds} seeds"
    holm = f" at the level that Holm leaves it among {tests} contrasts" if tests > 1 else ""
    deciding = _interval(lead.mean - lead.boundary, lead.mean + lead.boundary)
    early = look.seeds < study.max_seeds
    if lead.state == "gained":
        also = [c for c in study.looks[-1].contrasts if c.state == "gained" and c.key != lead.key]
        others = f"; so do {', '.join(contrast_name(c, claim) for c in also)}" if also else ""
        curse = " An estimate that ends a study early is on average too large." if early else ""
        return (
            f"{answer.capitalize()}: {estimate_words(difference)} (repeated interval "
            f"{deciding}{holm}; {sample_words(difference)}); {when}: the interval lies above 0 "
            f"and the estimate reaches the {matter}{others}.{curse}"
        )
    best = f"the {_extreme(claim)} of {tests}: " if tests > 1 else ""
    if lead.state == "outside":
        return (
            f"{answer.capitalize()}: {best}{estimate_words(difference)} (repeated interval "
            f"{deciding}{holm.replace('Holm', 'Bonferroni')}; {sample_words(difference)}); "
            f"{when}: the interval lies outside ±{matter}."
        )
    within = all(c.state == "within" for c in look.contrasts) and claim.direction != "no better"
    every = "every interval" if tests > 1 else "the whole interval"
    return (
        f"{answer.capitalize()}: {best}{estimate_words(difference)} (repeated 95 % interval "
        f"{_interval(lead.low, lead.high)}; {sample_words(difference)}); {when}: {every} lies "
        f"{'within ±' if within else 'below the '}{matter}."
    )


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
            f"{_interval(lead.low, lead.high)}; {sample_words(difference)})"
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


def _interval(low: float, high: float) -> str:
    return f"{points(low, signed=True)} to {points(high, signed=True)}"
