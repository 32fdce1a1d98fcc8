"""The field's Mamba networks against their authors' own code: parameters, outputs and gradients.

    git clone https://github.com/ge-xing/SegMamba
    git clone https://github.com/ge-xing/SegMamba-V2
    git clone https://github.com/bowang-lab/U-Mamba
    python benchmarks/authors_networks.py --segmamba SegMamba --v2 SegMamba-V2 --umamba U-Mamba

Each option takes the folder of a clone, which stays outside this repository; a network without one
is left out. The authors' files run as they are, on a CPU: in place of their CUDA kernels stand the
recurrence token by token and a convolution of torch. Of SegMamba, the layer with three scans is
their file too. U-Mamba's files need dynamic-network-architectures (pip install 'segmamba[peers]').

Both networks get the same weights, under the authors' names (strict), and the same input, in
float64. The input of SegMamba is 128 voxels long, for which its slice counts are made; across, it
is short, for the token by token takes its time. `--width 32` compares at the released widths
(`--width 8` is the default), `--sides 128 128 128 --forward` at the released patch. `--names FILE`
writes the names and shapes of the parameters at full width, which the tests compare with.
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from figures import Figure, at_most, command_line, report
from segmamba.config import ModelConfig
from segmamba.errors import UserError
from segmamba.models import build_model
from segmamba.models.nnunet_plan import planned_strides

SIDES = {
    "segmamba_xing": (128, 16, 16),
    "segmamba_v2": (32, 48, 32),
    "umamba_bot": (64, 32, 48),
    "umamba_enc": (32, 32, 16),  # channels are the tokens of its deepest stage
}
FULL_PATCH = (128, 128, 64)
"""The patch whose names and shapes are written."""
TOLERANCE = 1e-4
CLASSES = 4


def main() -> None:
    parser = command_line(__doc__)
    for name in ("segmamba", "v2", "umamba"):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help="the clone")
    parser.add_argument("--width", type=int, default=8, help="model.base_channels")
    parser.add_argument("--sides", type=int, nargs=3, help="voxels of the input")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--forward", action="store_true", help="no gradients, as in float32")
    parser.add_argument("--names", type=Path, metavar="FILE", help="write names and shapes")
    options = parser.parse_args()
    put_oracle_in_place(options.segmamba)
    makers = authors_networks(options.segmamba, options.v2, options.umamba)
    if not makers:
        parser.error("name at least one clone: --segmamba, --v2 or --umamba")
    if options.names:
        write_names(makers, options.names)
        return
    figures: dict[str, Figure] = {}
    for name, make in makers.items():
        sides = tuple(options.sides or SIDES[name])
        dtype = getattr(torch, options.dtype)
        # a bias in front of a norm has the gradient 0: in float32, rounding beside rounding
        gradients = not options.forward and dtype is torch.float64
        figures |= compare(name, make, options.width, sides, dtype, gradients=gradients)
    report(figures, options.json)


def compare(
    name: str,
    make: Callable[[ModelConfig], nn.Module],
    width: int,
    sides: tuple[int, ...],
    dtype: torch.dtype,
    *,
    gradients: bool,
) -> dict[str, Figure]:
    """The largest relative errors of outputs and gradients."""
    torch.manual_seed(0)
    config = config_of(name, width, sides)
    theirs = make(config).to(dtype).train()
    ours = build_model(config).to(dtype).train()
    disturb(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 4, *sides, dtype=dtype)
    began = time.perf_counter()
    with torch.set_grad_enabled(gradients):
        outputs = [as_list(network(x)) for network in (theirs, ours)]
    label = f"{name}, width {width}, {'x'.join(map(str, sides))}, {str(dtype)[6:]}"
    wanted, got = (torch.cat([y.flatten() for y in found]) for found in outputs)
    figures = {f"{label}: logits": at_most(relative_error(got, wanted), TOLERANCE)}
    if gradients:
        towards = torch.randn_like(wanted)
        (wanted * towards).sum().backward()
        (got * towards).sum().backward()
        own = dict(ours.named_parameters())
        # a bias in front of a norm has the gradient 0, up to rounding
        size = math.sqrt(sum(float(p.grad.square().sum()) for p in theirs.parameters()))
        errors = {
            key: float((own[key].grad - p.grad).norm()) / max(float(p.grad.norm()), 1e-6 * size)
            for key, p in theirs.named_parameters()
        }
        worst = max(errors, key=errors.__getitem__)
        print(f"{label}: worst gradient of {len(errors)}: {worst}")
        figures[f"{label}: gradients, worst parameter"] = at_most(errors[worst], TOLERANCE)
    print(f"{label}: {time.perf_counter() - began:.0f} s")
    return figures


def config_of(name: str, width: int, sides: tuple[int, ...]) -> ModelConfig:
    """Our configuration of a network; U-Mamba with all the outputs of its training."""
    if not name.startswith("umamba"):
        return ModelConfig(name=name, base_channels=width)
    return ModelConfig(name=name, base_channels=width, planned_for=sides, deep_supervision=3)


def authors_networks(
    segmamba: Path | None, v2: Path | None, umamba: Path | None
) -> dict[str, Callable[[ModelConfig], nn.Module]]:
    """What builds each of the authors' networks from our configuration."""
    makers: dict[str, Callable[[ModelConfig], nn.Module]] = {}
    for name, clone, file in (
        ("segmamba_xing", segmamba, "model_segmamba/segmamba.py"),
        ("segmamba_v2", v2, "brats23/models_segmamba/segmambav2.py"),
    ):
        if clone:
            sys.modules["mamba_ssm"].Mamba = XingMamba if name == "segmamba_xing" else OracleMamba
            makers[name] = unetr_maker(load(clone / file, name))
    if umamba:
        sys.modules["mamba_ssm"].Mamba = OracleMamba
        stand_in_for_nnunet()
        for name, file, build in (
            ("umamba_bot", "UMambaBot_3d.py", "UMambaBot"),
            ("umamba_enc", "UMambaEnc_3d.py", "UMambaEnc"),
        ):
            module = load(umamba / "umamba/nnunetv2/nets" / file, name)
            makers[name] = umamba_maker(getattr(module, build))
    return makers


def unetr_maker(module: types.ModuleType) -> Callable[[ModelConfig], nn.Module]:
    """The networks of Xing et al."""

    def make(config: ModelConfig) -> nn.Module:
        first = round(1.5 * config.base_channels)
        widths = [first, 2 * first, 4 * first, 8 * first]
        network = module.SegMamba(
            in_chans=4, out_chans=CLASSES, feat_size=widths, hidden_size=16 * first
        )
        if first != 48:  # their last layer takes 48 channels, whatever the widths
            network.out = module.UnetOutBlock(
                spatial_dims=3, in_channels=first, out_channels=CLASSES
            )
        return network

    return make


def umamba_maker(build: Callable[..., nn.Module]) -> Callable[[ModelConfig], nn.Module]:
    """U-Mamba with the arguments that nnU-Net's plans give it."""

    def make(config: ModelConfig) -> nn.Module:
        patch = config.planned_for or FULL_PATCH
        strides = planned_strides(patch)
        inputs = {"input_size": patch} if "Enc" in build.__name__ else {}
        network = build(
            **inputs,
            input_channels=4,
            n_stages=len(strides),
            features_per_stage=[min(config.base_channels * 2**s, 320) for s in range(len(strides))],
            conv_op=nn.Conv3d,
            kernel_sizes=[[3, 3, 3]] * len(strides),
            strides=[list(stride) for stride in strides],
            n_conv_per_stage=[2] * len(strides),
            num_classes=CLASSES,
            n_conv_per_stage_decoder=[2] * (len(strides) - 1),
            conv_bias=True,
            norm_op=nn.InstanceNorm3d,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )
        network.register_forward_hook(lambda module, inputs, outputs: outputs[:4])
        return network

    return make


def write_names(makers: dict[str, Callable[[ModelConfig], nn.Module]], path: Path) -> None:
    """Write {network: {name: shape}} of the authors' networks at their full width."""
    names = {}
    for name, make in makers.items():
        with torch.device("meta"):
            state = make(ModelConfig(name=name)).state_dict()
        names[name] = {key: "x".join(map(str, value.shape)) for key, value in state.items()}
    path.write_text(json.dumps(names, indent=0, sort_keys=True) + "\n")
    print(path)


def disturb(network: nn.Module) -> None:
    """Give all parameters values that a trained network could have: none 0, 1 or equal."""
    with torch.no_grad():
        for parameter in network.parameters():
            size = parameter.square().mean().sqrt().clamp_min(0.1)
            parameter += 0.1 * size * torch.randn_like(parameter)


def as_list(outputs: Any) -> list[Tensor]:
    """The outputs of a network, one or several."""
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """The norm of the difference, as a share of the norm."""
    return float((got - wanted).detach().norm() / wanted.detach().norm())


# --- what stands in place of mamba-ssm -------------------------------------------------------


def oracle_inner(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    A: Tensor,
    B: None = None,
    C: None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
) -> Tensor:
    """What mamba-ssm computes between the projections in and out, token by token.

    Args:
        xz: (batch, 2 channels, tokens): the input and the gate.
        conv_weight: (channels, 1, width).
        conv_bias: (channels).
        x_proj: (rank + 2 states, channels).
        dt_proj: (channels, rank).
        A: (channels, states).
        B: None: it depends on the input.
        C: None: it depends on the input.
        D: (channels).
        delta_bias: (channels).
        delta_softplus: True.

    Returns:
        (batch, channels, tokens).
    """
    assert B is None and C is None and D is not None and delta_bias is not None and delta_softplus
    x, gate = xz.chunk(2, dim=1)
    width, rank, states = conv_weight.shape[-1], dt_proj.shape[1], A.shape[1]
    x = F.silu(F.conv1d(F.pad(x, (width - 1, 0)), conv_weight, conv_bias, groups=len(conv_weight)))
    projected = torch.einsum("pc,bcl->bpl", x_proj, x)
    raw, drive, read = projected.split([rank, states, states], dim=1)
    step = F.softplus(torch.einsum("cr,brl->bcl", dt_proj, raw) + delta_bias[:, None])
    state, outputs = x.new_zeros(len(x), *A.shape), []
    # unbound, since the backward of an index would fill a whole sequence at every token
    for x_t, step_t, drive_t, read_t in zip(
        *(t.unbind(-1) for t in (x, step, drive, read)), strict=True
    ):
        state = (
            torch.exp(step_t[..., None] * A) * state + (step_t * x_t)[..., None] * drive_t[:, None]
        )
        outputs.append((state * read_t[:, None]).sum(-1))
    return (torch.stack(outputs, dim=-1) + D[:, None] * x) * F.silu(gate)


class OracleMamba(nn.Module):
    """mamba-ssm's `Mamba`, token by token."""

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        inner, rank = expand * d_model, math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, d_model, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, tokens, channels) to the same."""
        inner = oracle_inner(
            self.in_proj(tokens).transpose(1, 2),
            self.conv1d.weight,
            self.conv1d.bias,
            self.x_proj.weight,
            self.dt_proj.weight,
            -torch.exp(self.A_log),
            D=self.D,
            delta_bias=self.dt_proj.bias,
        )
        return self.out_proj(inner.transpose(1, 2))


XingMamba: Any = OracleMamba
"""SegMamba's own layer, once `put_oracle_in_place` has loaded it."""


def put_oracle_in_place(segmamba: Path | None) -> None:
    """Let `import mamba_ssm` find the oracle, and load SegMamba's layer of three scans onto it."""
    global XingMamba
    package = module_of("mamba_ssm", Mamba=OracleMamba)
    package.__path__ = []
    ops = module_of("mamba_ssm.ops")
    ops.__path__ = []
    module_of(
        "mamba_ssm.ops.selective_scan_interface",
        selective_scan_fn=None,
        mamba_inner_fn=None,
        bimamba_inner_fn=None,
        mamba_inner_fn_no_out_proj=oracle_inner,
    )
    if segmamba:
        file = segmamba / "mamba/mamba_ssm/modules/mamba_simple.py"
        # their file unpacks one None into two names where causal_conv1d is missing
        module_of("causal_conv1d", causal_conv1d_fn=None, causal_conv1d_update=None)
        XingMamba = load(file, "xing_mamba_simple").Mamba


def stand_in_for_nnunet() -> None:
    """What U-Mamba's files import of nnU-Net and, to build one network, do not use."""
    for name in ("nnunetv2", "nnunetv2.utilities", "nnunetv2.utilities.plans_handling"):
        module_of(name).__path__ = []
    module_of(
        "nnunetv2.utilities.plans_handling.plans_handler",
        ConfigurationManager=object,
        PlansManager=object,
    )
    module_of("nnunetv2.utilities.network_initialization", InitWeights_He=object)


def module_of(name: str, **content: object) -> types.ModuleType:
    """Register a module that is made here."""
    module = types.ModuleType(name)
    vars(module).update(content)
    sys.modules[name] = module
    return module


def load(path: Path, name: str) -> types.ModuleType:
    """Import one of the authors' files."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the folder of the authors' clone")
    spec = importlib.util.spec_from_file_location(f"authors_{name}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise UserError(f"{path}: needs {error.name}; pip install 'segmamba[peers]'") from error
    return module


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
