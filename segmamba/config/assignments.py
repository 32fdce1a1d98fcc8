"""`--set name=value` as dotted changes."""

import ast

from segmamba.errors import UserError


def parse_assignments(assignments):
    """["optim.lr=3e-4", ...] from the command line as dotted changes; values are Python literals or bare words."""
    changes = {}
    for text in assignments:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise UserError(
                f"--set {text!r}: write it as name=value, for example --set optim.lr=3e-4"
            )
        changes[name.strip()] = _literal(value.strip())
    return changes


def _literal(text):
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
