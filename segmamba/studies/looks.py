"""The looks of a study that adds seeds: what was measured after each seed, and what followed.

sequential.py takes them. They are stored as rows, one for each contrast of each look.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeAlias, get_args

from segmamba.studies.hypothesis import MINUS

State: TypeAlias = Literal["gained", "below", "within", "outside", "futile", "continues", "missing"]
"""Where a contrast stands after a look.

gained: better by the margin. below: its interval lies below the margin. within: its interval lies
within +-margin. outside: of a claim of likeness, its interval lies outside +-margin. futile: it
would hardly be decided before the seeds run out. continues: none of these. missing: it cannot be
measured.
"""
STATES: tuple[State, ...] = get_args(State)
STOPPED: tuple[State, ...] = ("gained", "below", "within", "outside", "futile")
"""The states that a contrast keeps."""


@dataclass(frozen=True, kw_only=True)
class ContrastLook:
    """One contrast on one region at one look.

    The numbers are in the unit of the tables, Dice from 0 to 1; NaN where the data cannot say.
    """

    arm: str
    versus: str
    """The arm that is subtracted; empty in a trend."""
    region: str
    seeds: int
    """The seeds of the look: in a later look of the study still those at which it stopped."""
    paired: int = 0
    """The seeds among them that finished in every arm of the contrast."""
    patients: int = 0
    """The test patients that all these trials scored."""
    mean: float = math.nan
    low: float = math.nan
    """Lower end of the repeated 95 % interval, which holds at all looks together."""
    high: float = math.nan
    """Upper end of that interval."""
    p_value: float = math.nan
    """Two-sided p of this look's data alone, to be compared with `level`."""
    level: float = math.nan
    """The two-sided level that holds at this look, after Holm over the contrasts left."""
    boundary: float = math.nan
    """Half the width of the interval of coverage 1 - `level`.

    Where the size of `mean` reaches it, `p_value` is at most `level`.
    """
    conditional_power: float = math.nan
    """Probability that it is decided by the last seed if estimate and spread stay."""
    state: State = "missing"

    @property
    def label(self) -> str:
        """The contrast as reports show it."""
        return f"{self.arm} {MINUS} {self.versus}" if self.versus else self.arm

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from the other contrasts of its look."""
        return self.arm, self.versus, self.region


@dataclass(frozen=True, kw_only=True)
class Look:
    """What a study knew after some of its seeds."""

    seeds: int
    """The seeds of the study that the look uses."""
    contrasts: tuple[ContrastLook, ...]
    """Every contrast of the claim on every region of it, in the claim's order."""
    arms: tuple[str, ...]
    """The arms that get a further seed; () where the study stops."""
    reason: str
    """Why it stops or goes on, as one sentence."""
    dropped: dict[str, str] = field(default_factory=dict)
    """The arms that get no further seed from this look on although others do, with the reason."""


def looks_as_rows(looks: Iterable[Look]) -> list[dict[str, Any]]:
    """The looks as a table, one row for each contrast of each look.

    Args:
        looks: The looks.

    Returns:
        The rows, in which JSON can hold everything: None stands for NaN, the arms and the dropped
        arms are texts in JSON.
    """
    return [
        {
            "look": look.seeds,
            "reason": look.reason,
            "arms": json.dumps(look.arms),
            "dropped": json.dumps(look.dropped),
            **{name: _finite(value) for name, value in asdict(contrast).items()},
        }
        for look in looks
        for contrast in look.contrasts
    ]


def looks_from_rows(rows: Iterable[Mapping[str, Any]]) -> tuple[Look, ...]:
    """Restore the looks that `looks_as_rows` made a table of.

    Args:
        rows: The rows, in any order of the looks.

    Returns:
        The looks, by rising number of seeds.
    """
    by_look: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_look.setdefault(int(row["look"]), []).append(row)
    return tuple(
        Look(
            seeds=seeds,
            contrasts=tuple(_contrast_look(row) for row in group),
            arms=tuple(json.loads(group[0]["arms"])),
            reason=group[0]["reason"],
            dropped=json.loads(group[0]["dropped"]),
        )
        for seeds, group in sorted(by_look.items())
    )


def looks_from(stored: Sequence[Mapping[str, Any]]) -> tuple[Look, ...]:
    """Restore looks from rows, or from what `dataclasses.asdict` and JSON made of them.

    Args:
        stored: The rows or dicts.

    Returns:
        The looks.
    """
    if not stored or "contrasts" not in stored[0]:
        return looks_from_rows(stored)
    return tuple(
        Look(
            seeds=look["seeds"],
            contrasts=tuple(_contrast_look(contrast) for contrast in look["contrasts"]),
            arms=tuple(look["arms"]),
            reason=look["reason"],
            dropped=dict(look["dropped"]),
        )
        for look in stored
    )


def _contrast_look(row: Mapping[str, Any]) -> ContrastLook:
    """The numbers of a row, whatever became of their types."""
    values: dict[str, Any] = {}
    for known in fields(ContrastLook):
        value = row[known.name]
        if known.type is float:
            value = math.nan if value is None else float(value)
        elif known.type is int:
            value = int(value)
        values[known.name] = value
    return ContrastLook(**values)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
