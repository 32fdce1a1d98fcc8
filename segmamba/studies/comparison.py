"""What a comparison of studies asks: which contrasts, and whether a study had declared them."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from segmamba.errors import UserError
from segmamba.studies.hypothesis import MINUS, Hypothesis, PairwiseContrast
from segmamba.studies.metrics import METRICS
from segmamba.studies.pooled import arm_names, pool, pooled_arms, renamed
from segmamba.studies.results import Study

CHOSEN_AFTER = "chosen after the studies had ended"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What the user asks of the pooled studies; None and () take the first study's."""

    baseline: str | None = None
    """The arm that every other is compared with."""
    contrasts: Sequence[str] = ()
    """Contrasts as text, "ARM - ARM"."""
    margin: float | None = None
    """The smallest difference that matters, in the unit that a reader sees: points or mm."""
    metric: str | None = None
    region: str | None = None
    direction: str = "better"


def compare(studies: Sequence[Study], asked: Asked) -> Study:
    """Pool studies and ask for contrasts of their arms.

    Args:
        studies: The studies.
        asked: The contrasts and what decides them.

    Returns:
        The pooled Study with its hypothesis, which is marked as exploratory unless one of the
        studies declared it.

    Raises:
        UserError: The studies cannot be compared, or an arm or a value is unknown.
    """
    pooled = pool(studies)
    names = arm_names(pooled_arms(studies))
    baseline = _arm(asked.baseline, names, "--baseline") if asked.baseline else pooled.baseline
    contrasts = [_contrast(text, names) for text in asked.contrasts]
    if asked.baseline or not contrasts:
        contrasts += [PairwiseContrast(arm, baseline) for arm in pooled.arms if arm != baseline]
    if not contrasts:
        raise UserError(
            f"{' and '.join(pooled.pooled_from)} have one arm, {baseline}: nothing to compare it "
            "with; name a study with another arm"
        )
    claim = _claim(pooled.hypothesis, list(dict.fromkeys(contrasts)), asked)
    declared = _declared(studies, claim)
    if declared is None:
        claim = dataclasses.replace(claim, exploratory=CHOSEN_AFTER)
        return dataclasses.replace(pooled, hypothesis=claim, baseline=baseline)
    study, words = declared
    notes = pooled.data.notes
    if len(studies) > 1:
        notes += (
            f"{study.name} declared this claim before it ran; that its seeds are pooled with those "
            "of other studies was decided afterwards",
        )
    return dataclasses.replace(
        pooled,
        hypothesis=dataclasses.replace(claim, claim=words),
        baseline=baseline,
        data=dataclasses.replace(pooled.data, notes=notes),
    )


def _claim(default: Hypothesis, contrasts: Sequence[PairwiseContrast], asked: Asked) -> Hypothesis:
    """The claim on these contrasts, with the first study's metric, region and margin by default."""
    metric = asked.metric or default.metric
    if metric not in METRICS:
        raise UserError(f"--metric {metric}: is none of {', '.join(METRICS)}")
    margin = default.margin if metric == default.metric else METRICS[metric].margin
    if asked.margin is not None:
        margin = asked.margin / METRICS[metric].scale
    labels = "; ".join(contrast.label for contrast in contrasts)
    fields: dict[str, Any] = {
        "metric": metric,
        "margin": margin,
        "region": asked.region or default.region,
        "direction": asked.direction,
    }
    return dataclasses.replace(
        default, claim=f"{asked.direction.capitalize()}: {labels}.", contrasts=contrasts, **fields
    )


def _declared(studies: Sequence[Study], claim: Hypothesis) -> tuple[Study, str] | None:
    """The study that declared a claim before its trials ended, and its words."""
    names = arm_names(pooled_arms(studies))
    for number, study in enumerate(studies):
        if study.registration and not study.registration.before_trials:
            continue
        own = {arm: name for (of, arm), name in names.items() if of == number}
        for declared in study.claims:
            if _asks(renamed(declared, own)) == _asks(claim):
                return study, declared.claim
    return None


def _asks(claim: Hypothesis) -> tuple[Any, ...]:
    """What two claims have to share to be the same; the margin to a millionth."""
    contrasts = frozenset(contrast.label for contrast in claim.contrasts)
    margin = round(claim.margin, 6)
    return contrasts, frozenset(claim.regions), claim.metric, claim.direction, margin


def _contrast(text: str, names: dict[tuple[int, str], str]) -> PairwiseContrast:
    """The contrast that a text names: arms' names may have minus signs of their own."""
    found = {
        PairwiseContrast(arm, versus)
        for left, right in _halves(text)
        for arm in _matches(left, names)
        for versus in _matches(right, names)
    }
    if len(found) == 1:
        contrast = found.pop()
        if contrast.arm == contrast.versus:
            raise UserError(f'--contrast "{text}": both arms are {contrast.arm}; name two arms')
        return contrast
    why = "can be read in several ways" if found else "names no two arms"
    known = ", ".join(dict.fromkeys(names.values()))
    raise UserError(f'--contrast "{text}": {why}; write "ARM - ARM" with two of {known}')


def _halves(text: str) -> Iterator[tuple[str, str]]:
    """The two sides of every minus sign."""
    for place, character in enumerate(text):
        if character in ("-", MINUS):
            yield text[:place].strip(), text[place + 1 :].strip()


def _arm(text: str, names: dict[tuple[int, str], str], option: str) -> str:
    """The arm that a text names."""
    found = _matches(text, names)
    if len(found) == 1:
        return found[0]
    why = f"may be {' or '.join(found)}" if found else "there is no such arm"
    known = ", ".join(dict.fromkeys(names.values()))
    raise UserError(f'{option} "{text}": {why}; name one of {known}')


def _matches(text: str, names: dict[tuple[int, str], str]) -> list[str]:
    """The arms with this name among all, else those that have it in their own study."""
    if text in names.values():
        return [text]
    return list(dict.fromkeys(name for (_, own), name in names.items() if own == text))
