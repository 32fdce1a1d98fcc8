"""What the implementations of the selective scan have in common.

Legend: b batch, l tokens, c channels, n states.
"""

from typing import Protocol

from torch import Tensor

Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""dx, d raw delta, dA, dB, dC, dD, d bias, with the shapes and dtypes of the inputs."""


class Scan(Protocol):
    """A selective scan that autograd can differentiate."""

    def __call__(
        self,
        x: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        bias: Tensor,
        /,
    ) -> Tensor:
        """y (b, l, c) in the dtype of x; the inputs are those of `scan.selective_scan`."""
        ...


class ScanKernels(Protocol):
    """A module that computes the scan and its gradients; autograd does not look inside.

    All inputs are contiguous. States have the dtype of A, and what they are is the module's own
    affair.
    """

    def scan_forward(
        self, x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """y (b, l, c) in the dtype of x, and the states from which the backward starts."""
        ...

    def scan_backward(
        self,
        dy: Tensor,
        x: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        bias: Tensor,
        states: Tensor,
    ) -> Gradients:
        """The gradients, each in the dtype of its input."""
        ...

    def states_shape(self, x: Tensor, A: Tensor) -> tuple[int, ...]:
        """The shape of the states that `scan_forward` returns."""
        ...


def scan_flops(batch: int, tokens: int, channels: int, states: int) -> int:
    """FLOPs of a selective scan's forward pass.

    They are 9 per token, channel and state, and 2 for the skip D x. The 9 are the figure of Mamba's
    authors (state-spaces/mamba, issue 110): 3 for the discretised A and B, and 6 for the recurrence
    and C h as their parallel scan computes them. Token by token it would be 7.

    Args:
        batch: Sequences.
        tokens: Tokens of a sequence.
        channels: Channels of a token.
        states: States of a channel.

    Returns:
        batch * tokens * channels * (9 * states + 2).
    """
    return batch * tokens * channels * (9 * states + 2)
