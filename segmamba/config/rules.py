"""What the sections share: how a wrong value is refused, and the sizes of network and patch."""

from collections.abc import Callable, Iterable
from typing import Any

from segmamba.errors import UserError

LEVELS = 5  # stages 1-4 and the bottleneck; each halves the resolution of the one before
SIDE_MULTIPLE = 2 ** (LEVELS - 1)  # a patch side must survive four halvings


def require(holds: object, name: str, value: object, rule: str) -> None:
    """Refuse a value that breaks a rule.

    Args:
        holds: Whether the rule holds, by truth value.
        name: The field's dotted name.
        value: The field's value.
        rule: What the value must be, for the message.

    Raises:
        UserError: The rule does not hold.
    """
    if not holds:
        raise UserError(f"{name} = {value!r}: {rule}")


def require_each(
    section: object,
    prefix: str,
    names: Iterable[str],
    holds: Callable[[Any], object],
    rule: str,
) -> None:
    """Refuse the first of several fields of a section that breaks their common rule.

    Args:
        section: The dataclass that has the fields.
        prefix: The section's name in the configuration.
        names: Names of the fields.
        holds: Tells from a value whether the rule holds.
        rule: What the values must be, for the message.

    Raises:
        UserError: The rule does not hold for a field.
    """
    for name in names:
        value = getattr(section, name)
        require(holds(value), f"{prefix}.{name}", value, rule)
