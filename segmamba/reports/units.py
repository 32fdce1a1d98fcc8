"""The units in which reports show what a network costs."""

from collections.abc import Sequence

from segmamba.studies.pareto import Cost
from segmamba.studies.words import DASH

TIME_UNITS = (("h", 3600.0, 7200.0), ("min", 60.0, 120.0), ("s", 1.0, 0.0))
"""Name, seconds, and the longest time in seconds from which on the unit is taken."""
COUNT_UNITS = (("millions", 1e6, 1e5), ("thousands", 1e3, 0.0))
"""Name, how many it stands for, and the largest number from which on it is taken."""


def unit_of(cost: Cost, values: Sequence[float]) -> tuple[str, float]:
    """Choose the unit that suits the largest of some costs.

    Args:
        cost: What they are.
        values: The costs in the unit of their metric; at least one.

    Returns:
        The unit's name, and what a cost is divided by.
    """
    if cost.metric.endswith("_gib"):
        return "GiB", 1.0
    units = TIME_UNITS if cost.metric.startswith("time/") else COUNT_UNITS
    return next((name, per) for name, per, least in units if max(values) >= least)


def in_unit(value: float | None, per: float) -> str:
    """Write a cost with three significant digits.

    Args:
        value: The cost in the unit of its metric; None where it is not known.
        per: What it is divided by.
    """
    if value is None:
        return DASH
    shown = value / per
    return f"{shown:.0f}" if shown >= 100 else f"{shown:#.3g}"
