"""What a network costs before it is trained: shapes, parameters, FLOPs and kept activations.

The network runs on fake tensors: they have shapes, strides, dtypes and storages but no memory
behind them, so that the largest network is described in about a second on any machine. Mixed
precision is autocast on the CPU, which puts the same operations in half precision as CUDA's where
it matters, the convolutions and the matrix products.

A FLOP is one addition or one multiplication: a multiply-add counts 2. Convolutions and matrix
products are counted by torch, the selective scan by a formula; norms, activations and other
elementwise work are left out, as is usual.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from segmamba.config import ModelConfig
from segmamba.models import build_model
from segmamba.models.scan_types import scan_flops
from segmamba.models.segmamba import IN_CHANNELS

TRAINING_PASSES = 3
"""A training step in forward passes: in the backward pass every product has two, for its input and
for its weight."""


@dataclass
class Part:
    """A part of a network, for one input."""

    name: str
    output: tuple[int, ...] = ()
    """Shape (B, C, D, H, W) of what it hands on."""
    parameters: int = 0
    forward_flops: int = 0
    kept_bytes: int = 0
    """Activations kept for the backward pass. Each storage counts once, for the part that first
    keeps it."""


def describe_network(
    config: ModelConfig,
    *,
    patch_size: tuple[int, int, int],
    batch_size: int,
    dtype: torch.dtype | None = None,
) -> list[Part]:
    """Describe a network that trains on inputs (batch_size, 4, *patch_size).

    Args:
        config: The `model` section of a Config. Whatever `build_model` builds is described; a
            network that is not a SegMamba by its direct children.
        patch_size: Voxels along x, y and z.
        batch_size: Patches in a batch.
        dtype: The autocast dtype; None for fp32.

    Returns:
        The parts, in order.
    """
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.segmamba.portable_scan: _scan_flops}
    )
    with fake_network(config) as model, counter, fake_autocast(dtype):
        tally = _Tally(model, counter)
        with saved_tensors_hooks(tally.keep, lambda tensor: tensor):
            model(torch.empty(batch_size, IN_CHANNELS, *patch_size))
        return tally.parts()


def describe_arms(
    configs: Mapping[str, ModelConfig], *, patch_size: tuple[int, int, int], batch_size: int = 1
) -> list[dict[str, Any]]:
    """Describe the networks of a study's arms.

    Args:
        configs: The `model` section of each arm, by the arm's name.
        patch_size: Voxels along x, y and z.
        batch_size: Patches in a batch.

    Returns:
        One row an arm: arm, parameters, and forward_flops and training_flops of a batch.
    """
    rows = []
    for arm, config in configs.items():
        parts = describe_network(config, patch_size=patch_size, batch_size=batch_size)
        flops = sum(part.forward_flops for part in parts)
        rows.append(
            {
                "arm": arm,
                "parameters": sum(part.parameters for part in parts),
                "forward_flops": flops,
                "training_flops": TRAINING_PASSES * flops,
            }
        )
    return rows


@contextmanager
def fake_network(config: ModelConfig) -> Iterator[nn.Module]:
    """A network in training mode with fake weights, inside a FakeTensorMode.

    Nothing is computed and nothing allocated inside. The network is built for real first, since
    initialisers may look at values. Its scan is the portable one, whichever the configuration
    names: that one has shapes on every machine.

    Args:
        config: The `model` section of a Config.

    Yields:
        The network.
    """
    model, mode = build_model(replace(config, scan="portable")).train(), FakeTensorMode()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            fake = nn.Parameter(
                mode.from_tensor(parameter.detach()), requires_grad=parameter.requires_grad
            )
            setattr(module, name, fake)
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, mode.from_tensor(buffer))
    with mode:
        yield model


def fake_autocast(dtype: torch.dtype | None) -> AbstractContextManager[None]:
    """Autocast on the CPU to `dtype`, or nothing where it is None."""
    return torch.autocast("cpu", dtype=dtype) if dtype else nullcontext()


def _scan_flops(
    x: torch.Size, delta: torch.Size, A: torch.Size, *_inputs: object, **_output: object
) -> int:
    """`scan_flops` of the shapes that torch's counter hands over."""
    batch, tokens, channels = x
    return scan_flops(batch, tokens, channels, A[1])


class _Tally:
    """Books FLOPs, kept storages and output shapes to the innermost part that is running."""

    def __init__(self, model: nn.Module, counter: FlopCounterMode) -> None:
        self._counter, self._booked_flops = counter, 0
        self._parts: dict[str, Part] = {}
        self._running = [Part("between the parts")]
        self._seen = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        # a freed storage's address could be given to another
        self._alive: list[torch.UntypedStorage] = []
        counted: set[nn.Parameter] = set()
        for name, module in _named_parts(model):
            part = self._parts.setdefault(name, Part(name))
            # some networks register a module twice
            fresh = [p for p in module.parameters() if p not in counted]
            counted.update(fresh)
            part.parameters += sum(p.numel() for p in fresh)
            self._watch(module, part)

    def _watch(self, module: nn.Module, part: Part) -> None:
        """Notice when the part begins and ends."""
        module.register_forward_pre_hook(lambda _module, _inputs: self._enter(part))
        module.register_forward_hook(lambda _module, _inputs, output: self._leave(part, output))

    def parts(self) -> list[Part]:
        """The parts that have or did something."""
        self._book_flops()
        return [
            part
            for part in (*self._parts.values(), *self._running)
            if part.parameters or part.forward_flops or part.kept_bytes
        ]

    def keep(self, tensor: Tensor) -> Tensor:
        """Book what autograd keeps."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(storage)
            self._running[-1].kept_bytes += storage.nbytes()
        return tensor

    def _enter(self, part: Part) -> None:
        self._book_flops()
        self._running.append(part)

    def _leave(self, part: Part, output: Tensor | list[Tensor]) -> None:
        self._book_flops()
        self._running.pop()
        part.output = tuple((output if isinstance(output, Tensor) else output[0]).shape)

    def _book_flops(self) -> None:
        total = self._counter.get_total_flops()
        self._running[-1].forward_flops += total - self._booked_flops
        self._booked_flops = total


def _named_parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts of a network with their names; modules of one part share its name."""
    children = list(model.named_children())
    # a wrapper says nothing: look inside
    if len(children) == 1 and not isinstance(children[0][1], nn.ModuleList):
        return _named_parts(children[0][1]) or children
    named = []
    for name, child in children:
        if isinstance(child, nn.ModuleList):
            named += [(_part_name(model, name, index), part) for index, part in enumerate(child)]
        else:
            named.append((_part_name(model, name, None), child))
    return named


def _part_name(model: nn.Module, name: str, index: int | None) -> str:
    """SegMamba's parts by the names of its docstring, others by their attribute and index."""
    stages = getattr(model, "stages", None)
    if index is not None and isinstance(stages, nn.ModuleList):
        if name == "stages" and hasattr(model, "ups"):
            return f"stage {index + 1}" if index + 1 < len(stages) else "bottleneck"
        if name in ("ups", "gates", "decoders"):
            return f"decoder {len(stages) - 1 - index}"
    spoken = name.replace("_", " ")
    return spoken if index is None else f"{spoken} {index}"
