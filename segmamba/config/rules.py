"""What the sections share: how a wrong value is refused, and the sizes of network and patch."""

import re
from collections.abc import Callable, Iterable
from typing import Any

from segmamba.errors import UserError

LEVELS = 5  # stages 1-4 and the bottleneck; each halves the resolution of the one before
LONGEST_EXPRESSION = 500  # characters of data.patients
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


def is_csv(rule: str) -> bool:
    """Whether `data.patients` is the path of a file rather than a regular expression.

    Args:
        rule: The setting.

    Returns:
        Whether it ends in .csv.
    """
    return rule.lower().endswith(".csv")


def require_patient_group(name: str, expression: str) -> None:
    """Refuse what is no regular expression with a group for the patient.

    Args:
        name: The field's dotted name.
        expression: The field's value.

    Raises:
        UserError: It is too long, does not compile, or has no group to take.
    """
    require(
        len(expression) <= LONGEST_EXPRESSION,
        name,
        f"{expression[:40]}...",
        f"must be a CSV file or a regular expression of at most {LONGEST_EXPRESSION} characters",
    )
    try:
        compiled = re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(
            f"{name} = {expression!r}: is no regular expression ({error}), nor a path that ends in "
            ".csv"
        ) from error
    require(
        "patient" in compiled.groupindex or compiled.groups == 1,
        name,
        expression,
        f"has {compiled.groups} groups; it needs one, as in (P\\d+)_, or one named "
        "(?P<patient>...)",
    )
