"""The words of a look: where each contrast stands, and why a study goes on or stops."""

import math
from collections.abc import Mapping, Sequence

from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.looks import ContrastLook, Look
from segmamba.studies.metrics import metric_of
from segmamba.studies.sentences import Answer
from segmamba.studies.words import amount, count


def state_words(look: ContrastLook, hopeless: str, claim: Hypothesis) -> str:
    """Where a contrast stands, and since when.

    Args:
        look: The contrast.
        hopeless: Why no further seed helps a missing contrast; "" where one may.
        claim: The claim.

    Returns:
        A clause, in the unit that a reader sees.
    """
    after = f", after {count(look.seeds, 'seed')}"
    return _clause([contrast_name(look, claim)], look, hopeless, claim) + after


def summary_words(
    contrasts: Sequence[ContrastLook],
    hopeless: Mapping[tuple[str, str, str], str],
    claim: Hypothesis,
) -> str:
    """Where all contrasts stand, those of one state together.

    Args:
        contrasts: The contrasts.
        hopeless: Why no further seed helps a missing one, by its key.
        claim: The claim.

    Returns:
        A clause for each state.
    """
    groups: dict[tuple[str, str], list[ContrastLook]] = {}
    for look in contrasts:
        groups.setdefault((look.state, hopeless.get(look.key, "")), []).append(look)
    return "; ".join(
        _clause([contrast_name(c, claim) for c in group], group[0], why, claim)
        for (_, why), group in groups.items()
    )


def contrast_name(look: ContrastLook, claim: Hypothesis) -> str:
    """A contrast, with its region where the claim has several."""
    return f"{look.label} on {look.region}" if len(claim.regions) > 1 else look.label


def _clause(names: Sequence[str], look: ContrastLook, hopeless: str, claim: Hypothesis) -> str:
    """Where the contrasts `names` stand; look: the first of them."""
    name, one = ", ".join(names), len(names) == 1
    metric = metric_of(claim.score)
    unit = "mm" if metric.unit == "mm" else "points"
    matter = f"{amount(claim.margin, metric)} {unit} that matter"
    lies = f"the repeated interval{'s' * (not one)} of {name} lie{'s' * one}"
    chance = _chance_words(look) if one else ""
    return {
        "gained": f"{name} reach{'es' * one} the {matter}",
        "below": f"{lies} below the {matter}",
        "within": f"{lies} within ±{matter}",
        "outside": f"{lies} outside ±{matter}",
        "futile": f"{name} would hardly be decided before the seeds run out{chance}",
        "continues": f"{name} {'is' if one else 'are'} open",
        "missing": f"{name} cannot be measured{f' ({hopeless})' if hopeless else ' yet'}",
    }[look.state]


def _chance_words(look: ContrastLook) -> str:
    """The conditional power of a contrast in brackets; "" where it was not computed."""
    power = look.conditional_power
    if not math.isfinite(power):
        return ""
    return f" (probability {'below 1' if power < 0.005 else f'{100 * power:.0f}'} %)"


def dropped_words(clauses: Sequence[str]) -> str:
    """Why an arm gets no further seed.

    Args:
        clauses: Where its contrasts stand.

    Returns:
        The clauses together, or that it has none.
    """
    return "; ".join(clauses) or "no contrast of the claim needs it"


def goes_on_words(max_seeds: int, alive: int, contrasts: int) -> str:
    """The sentence of a study that goes on.

    Args:
        max_seeds: The most seeds of the study.
        alive: Contrasts that may still be decided.
        contrasts: All contrasts.

    Returns:
        One sentence.
    """
    left = "the contrast" if contrasts == 1 else f"{alive} of {contrasts} contrasts"
    return f"Goes on, to at most {max_seeds} seeds: {left} can still be decided."


def decided_words(look: Look, claim: Hypothesis, answer: Answer, seeds: int) -> str:
    """The sentence of a study that stops because its claim is decided.

    Args:
        look: The look that decided it.
        claim: The claim.
        answer: The answer.
        seeds: The seeds of the look that says so; more where further ones had begun.

    Returns:
        One sentence.
    """
    state = {
        ("better", "supported"): "gained",
        ("no better", "rejected"): "gained",
        ("alike", "rejected"): "outside",
    }.get((claim.direction, answer))
    show = [c for c in look.contrasts if c.state == state] or list(look.contrasts)
    why = summary_words(show, {}, claim)
    stops = "Stops" if seeds == look.seeds else f"As it stood after {look.seeds} seeds"
    return f"{stops}, the claim is {answer}: {why}."
