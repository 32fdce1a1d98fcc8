"""`--set name=value` as changes by dotted name."""

import ast
from collections.abc import Iterable

from segmamba.errors import UserError


def parse_assignments(assignments: Iterable[str]) -> dict[str, object]:
    """Read assignments from the command line.

    Args:
        assignments: Texts such as "optim.lr=3e-4". A value is a Python literal or a bare word.

    Returns:
        The changes by dotted name.

    Raises:
        UserError: A text is no assignment.
    """
    changes: dict[str, object] = {}
    for text in assignments:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise UserError(
                f"--set {text!r}: write it as name=value, for example --set optim.lr=3e-4"
            )
        changes[name.strip()] = _literal(value.strip())
    return changes


def _literal(text: str) -> object:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
