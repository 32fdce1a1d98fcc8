"""What a network costs before it is trained: shapes, parameters, FLOPs and the activations kept for the backward pass.

The network runs on fake tensors: they have shapes, strides, dtypes and storages but no memory behind them, so the
largest network is described in about a second on any machine. Mixed precision is autocast on the CPU, which puts the same
operations in half precision as CUDA's where it matters, the convolutions and the matrix products.

A FLOP is one addition or one multiplication: a multiply-add counts 2. Convolutions and matrix products are counted by
torch, the selective scan by a formula; norms, activations and other elementwise work are left out, as is usual.
"""

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from segmamba.models import build_model
from segmamba.models.segmamba import MODALITIES

TRAINING_PASSES = 3  # a training step in forward passes: backward, every product has two, for its input and for its weight


@dataclass
class Part:
    """A part of a network, for one input."""

    name: str
    output: tuple = ()
    """Shape (B, C, D, H, W) of what it hands on."""
    parameters: int = 0
    forward_flops: int = 0
    kept_bytes: int = 0
    """Activations kept for the backward pass. Each storage counts once, for the part that first keeps it."""


def describe_network(model_config, *, patch_size, batch_size, dtype=None):
    """The Parts, in order, of the network of a ModelConfig that trains on inputs (batch_size, 4, *patch_size).

    dtype: the autocast type, None for fp32. Takes whatever `build_model` builds; a network that is not a SegMamba is
    described by its direct children.
    """
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.segmamba.portable_scan: _scan_flops}
    )
    with fake_network(model_config) as model, counter, fake_autocast(dtype):
        tally = _Tally(model, counter)
        with saved_tensors_hooks(tally.keep, lambda tensor: tensor):
            model(torch.empty(batch_size, MODALITIES, *patch_size))
        return tally.parts()


def describe_arms(model_configs, *, patch_size, batch_size=1):
    """One row per arm of {arm name: ModelConfig}: arm, parameters, forward_flops and training_flops of a batch."""
    rows = []
    for arm, config in model_configs.items():
        parts = describe_network(config, patch_size=patch_size, batch_size=batch_size)
        flops = sum(part.forward_flops for part in parts)
        parameters = sum(part.parameters for part in parts)
        rows.append(
            {
                "arm": arm,
                "parameters": parameters,
                "forward_flops": flops,
                "training_flops": TRAINING_PASSES * flops,
            }
        )
    return rows


@contextmanager
def fake_network(model_config):
    """The network in training mode with fake weights, inside a FakeTensorMode: nothing is computed, nothing allocated.

    It is built for real first, since initialisers may look at values. Its scan is the portable one, whichever the
    configuration names: that one has shapes on every machine.
    """
    model, mode = build_model(replace(model_config, scan="portable")).train(), FakeTensorMode()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(
                module,
                name,
                nn.Parameter(
                    mode.from_tensor(parameter.detach()), requires_grad=parameter.requires_grad
                ),
            )
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, mode.from_tensor(buffer))
    with mode:
        yield model


def fake_autocast(dtype):
    return torch.autocast("cpu", dtype=dtype) if dtype else nullcontext()


def scan_flops(batch, tokens, channels, states):
    """Of a selective scan's forward pass: 9 per token, channel and state, and 2 for the skip D x.

    The 9 are the figure of Mamba's authors (state-spaces/mamba, issue 110): 3 for the discretised A and B, and 6 for the
    recurrence and C h as their parallel scan computes them. Token by token it would be 7.
    """
    return batch * tokens * channels * (9 * states + 2)


def _scan_flops(x, delta, A, *_inputs, **_output):
    """`scan_flops` from the shapes that torch's counter hands over."""
    return scan_flops(*x, A[1])


class _Tally:
    """Books FLOPs, kept storages and output shapes to the innermost part of the network that is running."""

    def __init__(self, model, counter):
        self._counter, self._booked_flops = counter, 0
        self._parts, self._running = {}, [Part("between the parts")]
        self._seen = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        self._alive = []  # a freed storage's address could be given to another
        counted = set()
        for name, module in _named_parts(model):
            part = self._parts.setdefault(name, Part(name))
            fresh = [
                p for p in module.parameters() if p not in counted
            ]  # some networks register a module twice
            counted.update(fresh)
            part.parameters += sum(p.numel() for p in fresh)
            module.register_forward_pre_hook(lambda _module, _inputs, part=part: self._enter(part))
            module.register_forward_hook(
                lambda _module, _inputs, output, part=part: self._leave(part, output)
            )

    def parts(self):
        """The parts that have or did something."""
        self._book_flops()
        return [
            part
            for part in (*self._parts.values(), *self._running)
            if part.parameters or part.forward_flops or part.kept_bytes
        ]

    def keep(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._alive.append(storage)
            self._running[-1].kept_bytes += storage.nbytes()
        return tensor

    def _enter(self, part):
        self._book_flops()
        self._running.append(part)

    def _leave(self, part, output):
        self._book_flops()
        self._running.pop()
        part.output = tuple((output if torch.is_tensor(output) else output[0]).shape)

    def _book_flops(self):
        total = self._counter.get_total_flops()
        self._running[-1].forward_flops += total - self._booked_flops
        self._booked_flops = total


def _named_parts(model):
    """(name, module) of the parts; modules of one part share its name."""
    children = list(model.named_children())
    if len(children) == 1 and not isinstance(
        children[0][1], nn.ModuleList
    ):  # a wrapper says nothing: look inside
        return _named_parts(children[0][1]) or children
    named = []
    for name, child in children:
        members = enumerate(child) if isinstance(child, nn.ModuleList) else [(None, child)]
        named += [(_part_name(model, name, index), member) for index, member in members]
    return named


def _part_name(model, name, index):
    """SegMamba's parts by the names of its docstring; else the attribute's name and, in a list, the index."""
    if name == "stages" and hasattr(model, "ups"):
        return f"stage {index + 1}" if index + 1 < len(model.stages) else "bottleneck"
    if name in ("ups", "gates", "decoders") and hasattr(model, "stages"):
        return f"decoder {len(model.stages) - 1 - index}"
    spoken = name.replace("_", " ")
    return spoken if index is None else f"{spoken} {index}"
