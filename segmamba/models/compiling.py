"""What torch.compile must know of our functions.

It is said without importing the compiler, which would take a second of every start that compiles
nothing.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

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
