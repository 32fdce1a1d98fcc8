"""Numbers as reports and sentences write them."""

import math

from segmamba.studies.hypothesis import MINUS
from segmamba.studies.metrics import METRICS, Metric

DASH = "\N{EN DASH}"


def amount(value: float | None, metric: Metric, *, signed: bool = False) -> str:
    """A score, or a difference of two, as text in the unit that a reader sees.

    Args:
        value: The score in the unit of the per-case tables.
        metric: What it measures.
        signed: Whether a positive number gets a plus sign.

    Returns:
        One decimal with a proper minus sign; an en dash for None and NaN.
    """
    if value is None or not math.isfinite(value):
        return DASH
    rounded = round(metric.scale * value, 1) + 0.0  # no minus zero
    return f"{rounded:{'+' if signed and rounded else ''}.1f}".replace("-", MINUS)


def points(dice: float | None, *, signed: bool = False) -> str:
    """Dice as text in Dice points.

    Args:
        dice: Dice from 0 to 1, or a difference of such.
        signed: Whether a positive number gets a plus sign.

    Returns:
        One decimal with a proper minus sign; an en dash for None and NaN.
    """
    return amount(dice, METRICS["dice"], signed=signed)


def count(number: int, thing: str) -> str:
    """A number and its noun, in the plural where it is due: 1 seed, 3 seeds.

    Args:
        number: How many.
        thing: The noun in the singular.

    Returns:
        The text.
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"


def p_words(p: float) -> str:
    """A p value in a sentence.

    Args:
        p: The p value.

    Returns:
        "p = 0.012", or "p below 0.001".
    """
    return "p below 0.001" if p < 0.001 else f"p = {p_text(p)}"


def p_text(p: float) -> str:
    """A p value as text.

    Args:
        p: The p value.

    Returns:
        Three decimals; "< 0.001" below that, an en dash for NaN.
    """
    return DASH if not math.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"
