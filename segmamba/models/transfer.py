"""A network begun with the weights of another: of other classes, of other input channels.

Every tensor whose shape fits is taken. Where the number of output or input channels differs, or
their names are known and differ, the channels that both have by name are taken, one by one; the
others keep the values with which the network was built. All else must fit, so that weights of
other settings of `model` are never taken in part by accident.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from segmamba.errors import UserError
from segmamba.models.state_dicts import misfits, some

HEADS = ("head.", "deep_heads.", "out.conv.conv.", "decoder.seg_layers.")
"""How the names of a network's output layers begin, in ours and in those of the field that we
build; a file may lack them."""
INPUTS = (
    "stem.conv1.weight",
    "stem.shortcut.weight",
    "vit.downsample_layers.0.0.weight",
    "encoder1.layer.conv1.conv.weight",
    "encoder1.layer.conv3.conv.weight",
    "encoder.stem.0.conv1.weight",
    "encoder.stem.0.conv3.weight",
)
"""How the names of the weights that may read the image end, in the same networks."""
OUTPUT_AXIS, INPUT_AXIS = 0, 1
"""The axes of a convolution's weight."""


@dataclass(frozen=True)
class Channels:
    """The names of a network's channels, in order; () where they are not known."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Transfer:
    """What a network took from another's weights."""

    taken: int
    """Tensors that were taken whole."""
    tensors: int
    """Tensors that the network has."""
    begun: tuple[str, ...] = ()
    """The tensors that began anew, whole or in part, each with the reason."""

    @property
    def summary(self) -> str:
        """One line for the user."""
        line = f"taken {self.taken} of {self.tensors} tensors"
        return f"{line}; begun anew: {', '.join(self.begun)}" if self.begun else line


def without_heads(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What another task can start from: a network's tensors without its output layers.

    Args:
        state: A network's `state_dict()`.

    Returns:
        The same tensors under the same names.
    """
    return {name: tensor for name, tensor in state.items() if not name.startswith(HEADS)}


def start_from(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    *,
    given: Channels | None = None,
    wanted: Channels | None = None,
) -> Transfer:
    """Load tensors into a network, in place, as far as its channels allow.

    Args:
        model: The network.
        state: Tensors by name, of a network with the same settings apart from its channels.
        source: Where they come from; the message names it.
        given: The channels of the file.
        wanted: The channels of the network.

    Returns:
        What was taken and what began anew.

    Raises:
        UserError: Tensors differ by more than the numbers of input and output channels.
    """
    given, wanted = given or Channels(), wanted or Channels()
    own = model.state_dict()
    resized = {
        name: _resized_axis(own[name], tensor)
        for name, tensor in state.items()
        if name in own and own[name].shape != tensor.shape
    }
    _check(own, state, resized, source)
    loaded = {name: tensor for name, tensor in state.items() if name in own and name not in resized}
    begun = {}
    for name, axis in {**resized, **_renamed(own, state, given, wanted)}.items():
        names = (
            (given.outputs, wanted.outputs)
            if axis == OUTPUT_AXIS
            else (
                given.inputs,
                wanted.inputs,
            )
        )
        loaded[name], begun[name] = _matched(own[name], state[name], axis or 0, *names)
    begun |= {name: "not in the file" for name in own if name not in state}
    model.load_state_dict(loaded, strict=False)
    return Transfer(
        sum(name in state and name not in begun for name in own),
        len(own),
        tuple(f"{name} ({why})" for name, why in begun.items()),
    )


def _resized_axis(own: Tensor, other: Tensor) -> int | None:
    """The axis of channels in which alone two tensors differ; None where they differ otherwise."""
    if own.ndim != other.ndim:
        return None
    axes = [axis for axis, (a, b) in enumerate(zip(own.shape, other.shape, strict=True)) if a != b]
    return axes[0] if len(axes) == 1 and axes[0] in (OUTPUT_AXIS, INPUT_AXIS) else None


def _check(
    own: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    resized: Mapping[str, int | None],
    source: str | Path,
) -> None:
    """Refuse weights that differ by more than the numbers of the channels."""
    alien = [name for name in own.keys() ^ state.keys() if not name.startswith(HEADS)]
    counts = {
        (axis, own[name].shape[axis], state[name].shape[axis])
        for name, axis in resized.items()
        if axis is not None
    }
    one_count_each = len(counts) == len({axis for axis, *_ in counts})
    if alien or None in resized.values() or not one_count_each or 2 * len(resized) > len(own):
        compared = {n: t for n, t in own.items() if n in state or not n.startswith(HEADS)}
        offered = {n: t for n, t in state.items() if n in own or not n.startswith(HEADS)}
        raise UserError(
            f"{source}: not weights of this network ({'; '.join(misfits(compared, offered))}); "
            "choose the settings of `model` that they were trained with"
        )


def _renamed(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], given: Channels, wanted: Channels
) -> dict[str, int]:
    """The layers whose channels are as many, but others or in another order."""
    found: dict[str, int] = {}
    for name in own.keys() & state.keys():
        if own[name].shape != state[name].shape:
            continue
        if name.startswith(HEADS) and _differ(given.outputs, wanted.outputs):
            found[name] = OUTPUT_AXIS
        reads_image = name.endswith(INPUTS) and own[name].shape[INPUT_AXIS] == len(wanted.inputs)
        if reads_image and _differ(given.inputs, wanted.inputs):
            found[name] = INPUT_AXIS
    return {name: found[name] for name in own if name in found}


def _differ(given: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return bool(given and wanted) and given != wanted


def _matched(
    own: Tensor, other: Tensor, axis: int, given: tuple[str, ...], wanted: tuple[str, ...]
) -> tuple[Tensor, str]:
    """The network's tensor with the channels of the other that have the same names, and why."""
    kind = "classes" if axis == OUTPUT_AXIS else "channels"
    why = f"{other.shape[axis]} → {own.shape[axis]} {kind}"
    if len(given) != other.shape[axis] or len(wanted) != own.shape[axis]:
        return own, why
    shared = [name for name in wanted if name in given]
    matched = own.clone()
    for name in shared:
        here = torch.tensor([wanted.index(name)], device=own.device)
        channel = other.narrow(axis, given.index(name), 1).to(own)
        matched.index_copy_(axis, here, channel)
    return matched, f"{why}, of which taken: {some(shared)}" if shared else why
