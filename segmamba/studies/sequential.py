"""Studies that add seeds until the claim is decided: what follows from a look.

After 3 seeds and after every further one `take_look` tests the claim's contrasts at levels that
make up for looking again, and says which arms still need seeds. docs/explanation/statistics.md
gives the design in plain words, benchmarks/verdicts.py how often it errs.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from segmamba.studies.alpha_spending import FIRST_LOOK, level
from segmamba.studies.anova import Crossed
from segmamba.studies.contrasts import Difference, contrast_difference, failed_runs
from segmamba.studies.hypothesis import Contrast, Hypothesis
from segmamba.studies.look_rules import FUTILITY_LOOK, HOPELESS, conditional_power, gain
from segmamba.studies.look_words import (
    decided_words,
    dropped_words,
    goes_on_words,
    state_words,
    summary_words,
)
from segmamba.studies.looks import (
    STOPPED,
    ContrastLook,
    Look,
    State,
    looks_as_rows,
    looks_from_rows,
)
from segmamba.studies.results import Study
from segmamba.studies.sentences import Answer
from segmamba.studies.words import count

__all__ = [
    "FIRST_LOOK",
    "ContrastLook",
    "Look",
    "claim_answer",
    "deciding_look",
    "first_seeds",
    "looks_as_rows",
    "looks_from_rows",
    "take_look",
]


def take_look(study: Study, claim: Hypothesis, seeds: int, earlier: Sequence[Look]) -> Look:
    """Test a claim on the first seeds of a study, and say which arms need another one.

    A contrast that stopped at an earlier look stays as it was then. A study that has decided may
    be looked at again, when a seed had begun before: what was undecided is tested with it, and
    what was decided stands.

    Args:
        study: The study; its `max_seeds` limits the seeds.
        claim: The claim that decides how long it goes on.
        seeds: How many of its seeds the look uses, 3 to `max_seeds`.
        earlier: The looks that were taken after fewer seeds.

    Returns:
        The Look.

    Raises:
        UserError: If `max_seeds`, `seeds` or the number of contrasts is not in the table of levels.
    """
    level(study.max_seeds, seeds)  # refuses what the table does not know
    earlier = sorted((look for look in earlier if look.seeds < seeds), key=lambda look: look.seeds)
    part = first_seeds(study, seeds)
    kept = {c.key: c for look in earlier for c in look.contrasts if c.state in STOPPED}
    asked = [(contrast, region) for contrast in claim.contrasts for region in claim.regions]
    differences = [contrast_difference(part, *pair, claim.score) for pair in asked]
    contrasts = _tested(claim, differences, kept, seeds, study.max_seeds)
    more = study.max_seeds - seeds
    weighed = tuple(
        _weighed(claim, contrast, testable_layout(d), more, study.max_seeds)
        for contrast, d in zip(contrasts, differences, strict=True)
    )
    return _outcome(study, claim, [c for c, _ in asked], weighed, seeds, earlier)


def first_seeds(study: Study, seeds: int) -> Study:
    """The study as if it had planned only its first seeds.

    Args:
        study: The study.
        seeds: How many of its seeds to keep.

    Returns:
        The study with these seeds and their trials.
    """
    kept = study.seeds[:seeds]
    trials = tuple(trial for trial in study.trials if trial.seed in kept)
    return dataclasses.replace(study, seeds=kept, trials=trials)


def testable_layout(difference: Difference) -> Crossed | None:
    """The analysis of variance of a difference that a look may test.

    Args:
        difference: The difference.

    Returns:
        None where fewer than 3 seeds or 2 patients could be paired, or where the runs of one arm
        failed more often than those of another.
    """
    return difference.layout if difference.can_decide else None


def claim_answer(contrasts: Sequence[ContrastLook], claim: Hypothesis) -> Answer:
    """What the states of a look's contrasts say about the claim.

    Args:
        contrasts: The contrasts of one look.
        claim: The claim.

    Returns:
        The answer, by the rules of `segmamba.studies.verdict.Verdict`.
    """
    states = {contrast.state for contrast in contrasts}
    if not states:
        return "undecided"
    if claim.direction == "alike":
        if "outside" in states:
            return "rejected"
        return "supported" if states == {"within"} else "undecided"
    if "gained" in states:
        return "supported" if claim.direction == "better" else "rejected"
    if not states <= {"below", "within"}:
        return "undecided"
    if claim.direction == "no better":
        return "supported"
    return "equivalent" if states == {"within"} else "rejected"


def _tested(
    claim: Hypothesis,
    differences: Sequence[Difference],
    kept: Mapping[tuple[str, str, str], ContrastLook],
    seeds: int,
    max_seeds: int,
) -> list[ContrastLook]:
    """Every contrast with its numbers and its state, futility aside; kept: those that stopped."""
    tests = len(differences)
    if not tests:
        return []
    layouts = [testable_layout(d) for d in differences]
    stopped = [kept.get((d.arm, d.versus, d.region)) for d in differences]
    levels = np.full((tests + 1, tests), np.nan)
    for i, layout in enumerate(layouts):
        if layout is not None:
            levels[1:, i] = [level(max_seeds, layout.seeds, k) for k in range(1, tests + 1)]
    p_values = [math.nan if layout is None else float(layout.p_value()) for layout in layouts]
    gained, used = gain(
        p_values,
        [d.mean for d in differences],
        levels,
        gained=[c is not None and c.state == "gained" for c in stopped],
        alive=[c is None for c in stopped],
        margin=math.inf if claim.direction == "alike" else claim.margin,
    )
    contrasts = []
    for i, (d, layout, before) in enumerate(zip(differences, layouts, stopped, strict=True)):
        look = before or ContrastLook(
            arm=d.arm,
            versus=d.versus,
            region=d.region,
            seeds=seeds,
            paired=len(d.seeds),
            patients=len(d.patients),
            mean=d.mean,
        )
        if before is None and layout is not None:
            # A claim of likeness is rejected by any of its contrasts, without Holm's steps.
            at = levels[tests, i] if claim.direction == "alike" else used[i]
            look = _with_intervals(look, layout, levels[1, i], at)
            state: State = "gained" if gained[i] else _interval_state(look, claim)
            look = dataclasses.replace(look, p_value=p_values[i], state=state)
        contrasts.append(look)
    return contrasts


def _with_intervals(
    look: ContrastLook, layout: Crossed, alone: float, shared: float
) -> ContrastLook:
    """The contrast with its repeated interval, at level `alone`, and its boundary, at `shared`."""
    half = float(layout.half_width(1 - alone))
    return dataclasses.replace(
        look,
        low=look.mean - half,
        high=look.mean + half,
        level=float(shared),
        boundary=float(layout.half_width(1 - shared)),
    )


def _interval_state(look: ContrastLook, claim: Hypothesis) -> State:
    """Where the intervals of a contrast that has not gained place it."""
    margin = claim.margin
    if -margin < look.low and look.high < margin:
        return "within"
    if claim.direction == "alike":
        return "outside" if abs(look.mean) - look.boundary > margin else "continues"
    return "below" if look.high < margin else "continues"


def _weighed(
    claim: Hypothesis, look: ContrastLook, layout: Crossed | None, more: int, max_seeds: int
) -> ContrastLook:
    """The contrast with its conditional power, and given up where that is too small.

    more: the seeds that can still come.
    """
    if look.state != "continues" or layout is None or not more or layout.seeds < FUTILITY_LOOK:
        return look
    power = float(
        conditional_power(
            layout,
            more=more,
            max_seeds=max_seeds,
            margin=claim.margin,
            alike=claim.direction == "alike",
        )
    )
    state: State = "futile" if power < HOPELESS else "continues"
    return dataclasses.replace(look, conditional_power=power, state=state)


def deciding_look(looks: Sequence[Look], claim: Hypothesis) -> Look | None:
    """The first look that decided a claim.

    Args:
        looks: The looks, by rising number of seeds.
        claim: The claim that they were taken for.

    Returns:
        The look; None where none decided.
    """
    return next((k for k in looks if claim_answer(k.contrasts, claim) != "undecided"), None)


def _outcome(
    study: Study,
    claim: Hypothesis,
    asked: Sequence[Contrast],
    contrasts: tuple[ContrastLook, ...],
    seeds: int,
    earlier: Sequence[Look],
) -> Look:
    """The look: who goes on, and why; asked: the Contrast of each of `contrasts`."""
    pairs = list(zip(asked, contrasts, strict=True))
    hopeless = {c.key: no_seed_helps(study, asked, c, seeds) for asked, c in pairs}
    alive = [
        (contrast, look)
        for contrast, look in pairs
        if look.state == "continues" or (look.state == "missing" and not hopeless[look.key])
    ]
    now = Look(seeds=seeds, contrasts=contrasts, arms=(), reason="")
    decided = deciding_look((*earlier, now), claim)
    if decided is not None:
        answer = claim_answer(decided.contrasts, claim)
        return dataclasses.replace(now, reason=decided_words(decided, claim, answer, seeds))
    if seeds >= study.max_seeds:
        reason = f"Stops undecided: all {study.max_seeds} seeds are spent."
        return dataclasses.replace(now, reason=reason)
    if not alive:
        why = summary_words(contrasts, hopeless, claim) or "the run lacks the arms of the claim"
        return dataclasses.replace(now, reason=f"Stops undecided: {why}.")
    needed = {arm for contrast, _ in alive for arm in contrast.weights}
    words = {c.key: state_words(c, hopeless[c.key], claim) for c in contrasts}
    trained = earlier[-1].arms if earlier else tuple(study.arms)
    return dataclasses.replace(
        now,
        arms=tuple(arm for arm in study.arms if arm in needed),
        reason=goes_on_words(study.max_seeds, len(alive), len(contrasts)),
        dropped={
            arm: dropped_words([words[c.key] for asked, c in pairs if arm in asked.weights])
            for arm in trained
            if arm not in needed
        },
    )


def no_seed_helps(study: Study, contrast: Contrast, look: ContrastLook, seeds: int) -> str:
    """Why further seeds cannot make a missing contrast measurable.

    Args:
        study: The study.
        contrast: The contrast.
        look: Where it stands.
        seeds: The seeds that were begun.

    Returns:
        The reason; "" where they can, or where the contrast is not missing.
    """
    if look.state != "missing":
        return ""
    begun = study.seeds[:seeds]
    for arm in contrast.weights:
        trials = [trial for trial in study.trials if trial.arm == arm and trial.seed in begun]
        if any(trial.status == "INFEASIBLE" for trial in trials):
            return f"{arm} cannot run on this machine"
        if not any(trial.status == "FINISHED" and trial.test_cases for trial in trials):
            return f"{arm} finished none of its {seeds} seeds"
    if look.paired and look.patients <= 1:
        return "one test patient says nothing about other patients"
    failed = {arm: failed_runs(first_seeds(study, seeds), arm) for arm in contrast.weights}
    if len(set(failed.values())) > 1:
        times = ", ".join(f"{arm} {count(number, 'time')}" for arm, number in failed.items())
        return f"runs failed unevenly ({times}), and what they would have scored may turn it"
    if look.paired + study.max_seeds - seeds < FIRST_LOOK:
        return f"fewer than {FIRST_LOOK} seeds can still be paired"
    return ""
