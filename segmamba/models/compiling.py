"""What torch.compile must know of our functions.

It is said without importing the compiler, which would take a second of every start that compiles
nothing.
"""

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def constant_result(function: Callable[P, R]) -> Callable[P, R]:
    """Mark a function that torch.compile calls once, as it traces, taking the result as given.

    This sets what `torch.compiler.assume_constant_result` sets and nothing else (a test compares
    them).

    Args:
        function: A function whose result does not change while a compiled network lives.

    Returns:
        The same function, marked.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch's own mark
    return function


def concrete(sides: Sequence[int]) -> tuple[int, ...]:
    """The sides of a tensor as numbers, for what torch.compile cannot do with symbols.

    A graph whose sizes are symbols is then one for these sizes alone.

    Args:
        sides: A tensor's sides, or some of them.

    Returns:
        The same, as numbers.
    """
    if not torch.compiler.is_compiling():
        return tuple(sides)
    from torch.fx.experimental.symbolic_shapes import guard_scalar

    return tuple(guard_scalar(side) for side in sides)  # type: ignore[misc]  # ints stay ints
