"""The tensors of a network, out of whatever a program wraps them in, and into a network.

Other programs save {"state_dict": ...} or nnU-Net's {"network_weights": ...}, and wrappers of torch
put `module.` or `_orig_mod.` in front of every name. Both are taken off, and it is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmamba.errors import UserError

OURS = "model"
"""Where our own checkpoints, from which a run goes on, hold the network."""
WRAPPERS = (
    OURS,
    "state_dict",
    "model_state_dict",
    "network_weights",
    "network",
    "net",
    "weights",
    "module",
)
PREFIX = "module."
"""What data-parallel wrappers put in front of every name."""
COMPILED = "_orig_mod."
"""What torch.compile puts in front of the names of what it compiled."""
NAMED = 3
"""How many tensors a message names before it counts."""


@dataclass(frozen=True)
class NetworkState:
    """The tensors of a network, and what was done to find them."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    """Lines for the user: what was stripped and converted."""


def network_state(content: Any, source: str | Path) -> NetworkState:
    """Find the tensors of a network in the content of a checkpoint.

    Args:
        content: What `load_checkpoint` returned.
        source: The file; messages begin with it.

    Returns:
        The tensors by their names in the network, floating-point ones as float32.

    Raises:
        UserError: There are none, one holds something else than plain finite numbers, or two have
            the same name once it is stripped.
    """
    notes: list[str] = []
    while isinstance(content, Mapping) and not _has_tensors(content):
        key = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if key is None:
            break
        content = content[key]
        if key != OURS:
            notes.append(f'{source}: its weights stand under "{key}"')
    if not isinstance(content, Mapping) or not _has_tensors(content):
        raise UserError(
            f"{source}: holds no weights of a network; give a run's checkpoint or a state_dict"
        )
    tensors = _stripped(content, source, notes)
    return NetworkState(_plain(tensors, source, notes), tuple(notes))


def load_into(model: nn.Module, tensors: Mapping[str, Tensor], source: str, fix: str) -> None:
    """Load all tensors of a network, in place.

    Args:
        model: The network.
        tensors: A tensor for each of its own.
        source: Where they come from and what they should fit; the message begins with it.
        fix: What the user can do about it; it ends the message.

    Raises:
        UserError: A tensor is missing, is none of the network's, or has another shape.
    """
    problems = misfits(model.state_dict(), tensors)
    if problems:
        raise UserError(f"{source} ({'; '.join(problems)}); {fix}")
    model.load_state_dict(dict(tensors))


def misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Say how two sets of tensors differ: by names missing, by names to spare, by shapes.

    Args:
        wanted: The network's.
        given: The file's.

    Returns:
        One clause for each kind of difference, with the first names and a count.
    """
    missing = [name for name in wanted if name not in given]
    surplus = [name for name in given if name not in wanted]
    shapes = [
        f"{name} is {shape_of(given[name])} there and {shape_of(tensor)} here"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    kinds = (("missing", missing), ("not of this network", surplus), ("of another shape", shapes))
    return [f"{len(names)} {words}: {some(names)}" for words, names in kinds if names]


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many there are besides."""
    rest = len(names) - NAMED
    shown = ", ".join(name if len(name) <= 120 else f"{name[:120]}..." for name in names[:NAMED])
    return shown + (f" and {rest} more" if rest > 0 else "")


def shape_of(tensor: Tensor) -> str:
    """A shape as messages write it: 3x4x1x1x1, or "a number"."""
    return "x".join(map(str, tensor.shape)) or "a number"


def _has_tensors(content: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in content.values())


def _stripped(content: Mapping[Any, Any], source: str | Path, notes: list[str]) -> dict[str, Any]:
    """The entries under their names in the network."""
    taken_off: list[str] = []
    names = {name: str(name) for name in content}
    changed = True
    while changed:
        changed = False
        if all(name.startswith(PREFIX) for name in names.values()):
            names = {key: name.removeprefix(PREFIX) for key, name in names.items()}
            taken_off.append(PREFIX)
            changed = True
        if any(f".{COMPILED}" in f".{name}" for name in names.values()):
            names = {
                key: f".{name}".replace(f".{COMPILED}", ".")[1:] for key, name in names.items()
            }
            taken_off.append(COMPILED)
            changed = True
    if taken_off:
        words = ", ".join(dict.fromkeys(taken_off))
        notes.append(f"{source}: {words} was taken off the names of its weights")
    stripped = {name: content[key] for key, name in names.items()}
    if len(stripped) < len(names):
        raise UserError(f"{source}: two of its weights have one name without {words}; give others")
    return stripped


def _plain(tensors: Mapping[str, Any], source: str | Path, notes: list[str]) -> dict[str, Tensor]:
    """Check that every entry is a tensor of finite numbers; make half and double single."""
    kinds: dict[str, list[str]] = {}
    converted: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        if problem := _problem(tensor):
            kinds.setdefault(problem, []).append(name)
        elif tensor.is_floating_point() and tensor.dtype != torch.float32:
            converted.setdefault(str(tensor.dtype).removeprefix("torch."), []).append(name)
    if kinds:
        words = "; ".join(f"{len(names)} {kind}: {some(names)}" for kind, names in kinds.items())
        raise UserError(
            f"{source}: not all of its {len(tensors)} entries are weights ({words}); give another "
            "checkpoint"
        )
    for dtype, names in converted.items():
        notes.append(
            f"{source}: {len(names)} of its {len(tensors)} tensors are {dtype}, read as float32: "
            f"{some(names)}"
        )
    return {
        name: tensor.detach().float() if tensor.is_floating_point() else tensor.detach()
        for name, tensor in tensors.items()
    }


def _problem(tensor: Any) -> str | None:
    """What forbids an entry to be a weight; None where nothing does."""
    if not isinstance(tensor, Tensor):
        return "no tensors"
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return "without plain values"
    if tensor.is_complex():
        return "complex"
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        return "not finite"
    return None
