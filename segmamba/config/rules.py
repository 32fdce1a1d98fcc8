"""What the sections share: how a wrong value dies, and the sizes that a network and its patch agree on."""

from segmamba.errors import UserError

LEVELS = 5  # stage 1-4 and the bottleneck; each halves the resolution of the one before
SIDE_MULTIPLE = 2 ** (LEVELS - 1)  # a patch side must survive four halvings


def require(holds, name, value, rule):
    """UserError with the field's dotted name, its value and the rule, unless it holds."""
    if not holds:
        raise UserError(f"{name} = {value!r}: {rule}")
