"""The looks of a sequential study: what each decided, and which arms got a further seed."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

FIRST_LOOK = 3
"""Seeds of every arm before the first look."""
MOST_SEEDS = range(4, 16)
"""The numbers of seeds that a sequential study may be limited to."""

State: TypeAlias = Literal["gained", "below", "within", "outside", "futile", "continues", "missing"]


@dataclass(frozen=True, kw_only=True)
class ContrastLook:
    """What a look saw of one contrast. Numbers are Dice from 0 to 1, NaN where nothing is known."""

    arm: str
    versus: str
    region: str
    seeds: int = 0
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p_value: float = math.nan
    level: float = math.nan
    conditional_power: float = math.nan
    state: State = "missing"


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look at the trials of the first seeds."""

    seeds: int
    contrasts: tuple[ContrastLook, ...]
    arms: tuple[str, ...]
    """The arms that get a further seed; () where the study stops."""
    reason: str
    dropped: dict[str, str] = field(default_factory=dict)


def looks_as_rows(looks: Iterable[Look]) -> list[dict[str, Any]]:
    """The looks as JSON."""
    return [dataclasses.asdict(look) for look in looks]


def looks_from_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[Look, ...]:
    """Restore looks."""
    return tuple(
        Look(
            **{
                **row,
                "arms": tuple(row["arms"]),
                "contrasts": tuple(ContrastLook(**c) for c in row["contrasts"]),
            }
        )
        for row in rows
    )
