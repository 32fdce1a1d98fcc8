"""Everything that can be set, as a tree of frozen dataclasses; the defaults are the `paper` preset.

A variant is a dict of dotted changes, `{"model.mamba_depths": (0, 0, 0)}`, applied with `Config.changed`.
A wrong value dies at construction, in one line that gives the field's dotted name, the value and the rule.
Imports no torch: reading, printing and checking a configuration is instant.
"""

import ast
import dataclasses
import difflib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segmamba.errors import UserError

LEVELS = 5  # stage 1-4 and the bottleneck; each halves the resolution of the one before
SIDE_MULTIPLE = 2 ** (LEVELS - 1)  # a patch side must survive four halvings


def _require(holds, name, value, rule):
    if not holds:
        raise UserError(f"{name} = {value!r}: {rule}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    spacing_mm: float = 1.0
    """Isotropic voxel size, in mm, of the grid the network works in. A case that already has it is not resampled."""
    patch_size: tuple[int, int, int] = (128, 128, 64)
    """Voxels along NIfTI x, y, z of one training patch and of one inference window; multiples of 16."""
    pad_to_patch: bool = False
    """Zero-pad volumes that are smaller than the patch. Off: such a volume is an error."""
    tumour_centre_share: float = 0.5
    """Probability that a patch is centred on a tumour voxel; otherwise on a brain voxel that is none. 0 is off."""
    balance_classes: bool = False
    """Draw a tumour centre's class first, all classes of the case alike, so that small ones are seen as often. Off: all tumour voxels alike."""
    minival_cases: int = 20
    """At most this many cases choose checkpoints (minival). More would only make validation slower."""
    minival_share: float = 0.15
    """Share of the patients held out for minival, before the cap of `minival_cases`."""
    judge_share: float = 0.2
    """Share of the patients held out for the verdict (judge)."""
    judge_cases: int = 0
    """At most this many cases are judged; 0 is no cap."""
    split_seed: int = 0
    """Which patients fall into which set. The same for every arm and every seed of a study."""
    folds: int = 0
    """Folds of a cross-validation, stratified by tumour volume and presence of ET; judge is 1 / folds of the patients. 0 is one split."""
    fold: int = 0
    """Which of the folds is trained and judged, from 0; they are those of `folds` or of `splits_file`."""
    splits_file: str = ""
    """Path of nnU-Net's splits_final.json, or of a MONAI datalist with folds, that says who trains and who is judged. Empty is off."""
    test_share: float = 0.0
    """Share of the patients that no study touches, chosen by their ids alone; kept for a final evaluation. 0 is off."""
    test_file: str = ""
    """Path of a list of patients or cases, one a line or a JSON list, that no study touches; instead of `test_share`. Empty is off."""
    workers: int = 4
    """Processes that read patches; 0 reads them in the training process."""

    def __post_init__(self):
        _require(self.spacing_mm > 0, "data.spacing_mm", self.spacing_mm, "must be above 0 mm")
        _require(all(s > 0 and s % SIDE_MULTIPLE == 0 for s in self.patch_size), "data.patch_size", self.patch_size,
                 f"every side must be a positive multiple of {SIDE_MULTIPLE}, because the network halves it four times")
        for name in ("tumour_centre_share", "minival_share", "judge_share", "test_share"):
            _require(0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "must lie in [0, 1]")
        _require(self.minival_share + self.judge_share < 1, "data.judge_share", self.judge_share,
                 f"minival_share + judge_share must leave patients to train on, below 1 (minival_share is {self.minival_share})")
        _require(self.minival_cases >= 1, "data.minival_cases", self.minival_cases, "at least one case must choose the checkpoint")
        _require(self.judge_cases >= 0, "data.judge_cases", self.judge_cases, "must be 0 (no cap) or more")
        _require(self.folds == 0 or self.folds >= 2, "data.folds", self.folds, "must be 0 (one split) or at least 2")
        _require(self.fold >= 0, "data.fold", self.fold, "folds are numbered from 0")
        _require(not (self.folds and self.splits_file), "data.folds", self.folds, "splits_file brings its own folds; set one of the two")
        _require(self.splits_file or self.fold < max(self.folds, 1), "data.fold", self.fold,
                 f"there are {self.folds} folds, numbered from 0; set data.folds or data.splits_file")
        _require(self.test_share < 1, "data.test_share", self.test_share, "must leave patients to study, below 1")
        _require(not (self.test_share and self.test_file), "data.test_file", self.test_file, "set test_share or test_file, not both")
        _require(self.workers >= 0, "data.workers", self.workers, "must be 0 or more processes")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    name: Literal["segmamba", "unet", "control", "dynunet", "segresnet", "swinunetr", "nnunet_plain", "nnunet_resenc"] = "segmamba"
    """unet: conv blocks at every level, as many in stage 4 and the bottleneck as in stage 3. control: no Mamba blocks, and wider
    convolution in their stages for the parameters that `mamba_depths` would have cost. The others are MONAI's and nnU-Net's networks,
    to which of the settings below only base_channels applies."""
    base_channels: int = 32
    """Channels of the stem and of stage 1; doubled at every level below."""
    conv_depths: tuple[int, int, int] = (2, 2, 2)
    """Residual conv blocks in stages 1, 2 and 3 (each two 3x3x3 convolutions)."""
    mamba_depths: tuple[int, int, int] = (2, 2, 2)
    """Mamba blocks in stage 3, stage 4 and the bottleneck; 0 removes them."""
    d_state: int = 16
    """N, the state size of the selective scan (Gu & Dao 2023, section 3)."""
    d_conv: int = 4
    """Width, in tokens, of the causal depthwise convolution in front of the scan."""
    expand: int = 2
    """Inner width of a Mamba block as a multiple of its channels."""
    scan_order: Literal["forward", "bidirectional", "tri"] = "forward"
    """Which ways a Mamba block reads the voxels: once; forwards and backwards; these and across slices (Xing et al. 2024, SegMamba),
    along `scan_axes` with its slowest axis made the fastest. Every way has its own scan and shares the projections in and out."""
    scan_axes: Literal["dhw", "dwh", "hdw", "hwd", "wdh", "whd"] = "dhw"
    """The order of the axes in a scan, slowest first; d, h, w are NIfTI x, y, z. dhw is the order in memory."""
    norm: Literal["batch", "instance"] = "batch"
    """Normalisation of the conv blocks. The mission takes batch; nnU-Net and most of the field take instance."""
    upsample: Literal["transposed", "interpolate"] = "transposed"
    """How the decoder doubles the resolution: 2x2x2 transposed convolution, or 1x1x1 convolution and trilinear interpolation."""
    attention_gates: bool = False
    """Weigh the skips by attention gates (Oktay et al. 2018). False is off."""
    deep_supervision: int = 0
    """Further outputs of the decoder in training, at 1/2, 1/4 and 1/8 of the resolution; up to 3. 0 is off."""
    checkpoint_stages: tuple[int, ...] = ()
    """Levels, 1 (full resolution, most memory) to 5 (bottleneck), whose activations the backward computes again. () is off."""
    scan: Literal["auto", "sequential", "portable", "mamba_ssm", "triton"] = "auto"
    """What computes the selective scan; the weights fit all. auto: the fastest that runs here. sequential is for tests: slow, exact."""

    def __post_init__(self):
        _require(self.base_channels >= 1, "model.base_channels", self.base_channels, "must be 1 or more")
        _require(min(self.conv_depths) >= 1, "model.conv_depths", self.conv_depths, "stages 1-3 need at least one conv block each")
        _require(min(self.mamba_depths) >= 0, "model.mamba_depths", self.mamba_depths, "must be 0 (no Mamba block) or more, per stage")
        for name in ("d_state", "d_conv", "expand"):
            _require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "must be 1 or more")
        _require(0 <= self.deep_supervision <= LEVELS - 2, "model.deep_supervision", self.deep_supervision, "must lie in 0 (off) to 3")
        _require(set(self.checkpoint_stages) <= set(range(1, LEVELS + 1)), "model.checkpoint_stages", self.checkpoint_stages,
                 f"levels are numbered 1 to {LEVELS}, the last being the bottleneck")
        if self.name not in ("segmamba", "unet", "control"):
            for name in ("norm", "upsample", "attention_gates", "deep_supervision", "checkpoint_stages"):
                _require(getattr(self, name) == getattr(ModelConfig, name), f"model.{name}", getattr(self, name),
                         f"has no effect on {self.name}, which is built as its authors build it; leave it at {getattr(ModelConfig, name)!r}")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    flip_probability: float = 0.5
    """Chance of a mirror image, for each axis on its own; 0 is off."""
    rotate90_probability: float = 0.5
    """Chance of a turn by 90, 180 or 270 degrees in the axial (x-y) plane; 0 is off."""
    scale_range: tuple[float, float] = (0.9, 1.1)
    """Zoom factor, uniform, of every patch; (1, 1) is off."""
    brightness: float = 0.1
    """Largest offset, in standard deviations of the z-scored channel, uniform in +-; 0 is off."""
    contrast_range: tuple[float, float] = (0.9, 1.1)
    """Factor on the intensities, uniform, per channel; (1, 1) is off."""
    rotation_probability: float = 0.0
    """Chance of a turn by any angle; 0 is off. This and what follows is off in the mission; ranges are nnU-Net's, whose chance here is 0.2."""
    rotation_degrees: float = 30.0
    """Largest angle about each of the three axes, uniform in +-."""
    elastic_probability: float = 0.0
    """Chance of an elastic deformation; 0 is off, as in nnU-Net."""
    elastic_range: tuple[float, float] = (1.0, 4.0)
    """Standard deviation, in voxels, of the displacement at the control points, uniform. Above 0.13 x spacing the tissue starts to fold."""
    elastic_spacing_voxels: float = 32.0
    """Distance between the control points of the cubic B-spline that interpolates the displacement."""
    noise_probability: float = 0.0
    """Chance of Gaussian noise, for each channel on its own; 0 is off. nnU-Net: 0.1 a patch."""
    noise_range: tuple[float, float] = (0.0, 0.1)
    """Standard deviation of the noise, in standard deviations of the z-scored channel, uniform."""
    blur_probability: float = 0.0
    """Chance of a Gaussian blur, for each channel on its own; 0 is off. nnU-Net: 0.2 a patch, then 0.5 a channel."""
    blur_range: tuple[float, float] = (0.5, 1.0)
    """Standard deviation of the blur, in voxels, uniform."""
    low_resolution_probability: float = 0.0
    """Chance of a simulated low resolution, for each channel on its own; 0 is off. nnU-Net: 0.25 a patch, then 0.5 a channel."""
    low_resolution_range: tuple[float, float] = (0.5, 1.0)
    """Share of the voxels along each axis that is kept, uniform."""
    gamma_probability: float = 0.0
    """Chance of a gamma correction, for each channel on its own; 0 is off. nnU-Net: 0.3 a patch."""
    gamma_range: tuple[float, float] = (0.7, 1.5)
    """Exponent on the channel's own range, log-uniform; mean and standard deviation are kept."""

    def __post_init__(self):
        for name in (f.name for f in dataclasses.fields(self) if f.name.endswith("_probability")):
            _require(0 <= getattr(self, name) <= 1, f"augment.{name}", getattr(self, name), "must lie in [0, 1]")
        for name in ("scale_range", "contrast_range", "blur_range", "low_resolution_range", "gamma_range"):
            low, high = getattr(self, name)
            _require(0 < low <= high, f"augment.{name}", (low, high), "must be (low, high) with 0 < low <= high")
        for name in ("elastic_range", "noise_range"):
            low, high = getattr(self, name)
            _require(0 <= low <= high, f"augment.{name}", (low, high), "must be (low, high) with 0 <= low <= high")
        _require(self.low_resolution_range[1] <= 1, "augment.low_resolution_range", self.low_resolution_range, "must not exceed 1 (no loss)")
        _require(self.brightness >= 0, "augment.brightness", self.brightness, "must be 0 (off) or more")
        _require(0 <= self.rotation_degrees <= 180, "augment.rotation_degrees", self.rotation_degrees, "must lie in [0, 180]")
        _require(self.elastic_spacing_voxels >= 2, "augment.elastic_spacing_voxels", self.elastic_spacing_voxels, "must be 2 voxels or more")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    dice_weight: float = 1.0
    """Weight of the Dice loss (lambda_dice); 0 is off."""
    ce_weight: float = 1.0
    """Weight of the cross entropy (lambda_ce); 0 is off."""
    dice_smooth: float = 1e-5
    """Epsilon in numerator and denominator of the Dice; keeps an absent class finite. MONAI's and nnU-Net's value."""

    def __post_init__(self):
        _require(self.dice_weight >= 0, "loss.dice_weight", self.dice_weight, "must be 0 (off) or more")
        _require(self.ce_weight >= 0, "loss.ce_weight", self.ce_weight, "must be 0 (off) or more")
        _require(self.dice_weight + self.ce_weight > 0, "loss.ce_weight", self.ce_weight, "one of dice_weight and ce_weight must be above 0")
        _require(self.dice_smooth > 0, "loss.dice_smooth", self.dice_smooth, "must be above 0")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    lr: float = 1e-4
    """Peak learning rate of AdamW."""
    min_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    weight_decay: float = 1e-2
    """Decoupled weight decay; never on A_log, D, norms and biases. 0 is off."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moment decays (Loshchilov & Hutter 2019); torch's defaults, on which the mission is silent."""
    warmup_epochs: int = 10
    """Epochs of linear warm-up from lr / warmup_epochs to lr; 0 is off."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0 is off."""

    def __post_init__(self):
        _require(self.lr > 0, "optim.lr", self.lr, "must be above 0")
        _require(0 <= self.min_lr <= self.lr, "optim.min_lr", self.min_lr, f"must lie in [0, lr = {self.lr}]")
        for name in ("weight_decay", "warmup_epochs", "clip_norm"):
            _require(getattr(self, name) >= 0, f"optim.{name}", getattr(self, name), "must be 0 (off) or more")
        _require(all(0 <= b < 1 for b in self.betas), "optim.betas", self.betas, "both must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    epochs: int = 300
    """Epochs of `steps_per_epoch` optimiser steps."""
    steps_per_epoch: int = 250
    """Optimiser steps in an epoch, whatever the number of cases or the patch size (nnU-Net's 250)."""
    batch_size: int = 2
    """Patches in one forward pass."""
    accumulation: int = 2
    """Forward passes to one optimiser step: the effective batch is batch_size x accumulation."""
    precision: Literal["mixed", "fp32"] = "mixed"
    """mixed: autocast on CUDA, bf16 where the GPU has it, else fp16 with loss scaling; fp32 on a CPU. fp32: never autocast."""
    validate_every_epochs: int = 2
    """Epochs between two evaluations of minival; the last epoch is always evaluated."""
    early_stop_epochs: int = 50
    """Stop after this many epochs without a better minival Dice; 0 is off. Studies turn it off unless it is set, so that arms train alike."""
    keep_every_epochs: int = 10
    """Keep a copy of the weights every so many epochs; 0 is off."""
    overlap: float = 0.5
    """Overlap of neighbouring inference windows, as a share of the patch (nnU-Net's 0.5)."""
    compile: Literal["auto", "always", "never"] = "auto"
    """Compile network and loss into one graph. auto: on a GPU, where the run is long enough to earn the minute back."""
    deterministic: bool = False
    """Ask torch for deterministic kernels. The CPU path is deterministic either way."""

    def __post_init__(self):
        for name in ("epochs", "steps_per_epoch", "batch_size", "accumulation", "validate_every_epochs"):
            _require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "must be 1 or more")
        for name in ("early_stop_epochs", "keep_every_epochs"):
            _require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "must be 0 (off) or more")
        _require(self.early_stop_epochs == 0 or self.early_stop_epochs >= self.validate_every_epochs, "train.early_stop_epochs",
                 self.early_stop_epochs, f"must be 0 (off) or at least train.validate_every_epochs = {self.validate_every_epochs}")
        _require(0 <= self.overlap < 1, "train.overlap", self.overlap, "must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class PhantomConfig:
    """The embedded data, used when no folder is given."""

    cases: int = 24
    """How many cases are generated."""
    size: tuple[int, int, int] = (240, 240, 155)
    """Voxels along x, y, z; the voxel size follows so that the head fits."""
    seed: int = 0
    """Which heads and tumours."""

    def __post_init__(self):
        _require(self.cases >= 2, "phantom.cases", self.cases, "at least one case to train on and one to judge")
        _require(min(self.size) >= 48, "phantom.size", self.size, "every side must be at least 48 voxels")
        _require(self.seed >= 0, "phantom.seed", self.seed, "must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class Config:
    seed: int = 0
    """Initial weights, patches and augmentation of one run."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    phantom: PhantomConfig = field(default_factory=PhantomConfig)

    def __post_init__(self):
        _require(self.seed >= 0, "seed", self.seed, "must be 0 or more")
        _require(self.optim.warmup_epochs <= self.train.epochs, "optim.warmup_epochs", self.optim.warmup_epochs,
                 f"must not exceed train.epochs = {self.train.epochs}")

    def changed(self, changes):
        """A new Config with the dotted `changes` ({"optim.lr": 3e-4}) applied together and checked."""
        return from_flat_dict({**self.to_flat_dict(), **_known(changes, self.to_flat_dict())})

    def to_flat_dict(self):
        """{"optim.lr": 1e-4, ...}: dotted names to values, in declaration order."""
        flat = {}
        for top in dataclasses.fields(self):
            value = getattr(self, top.name)
            if dataclasses.is_dataclass(value):
                flat |= {f"{top.name}.{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)}
            else:
                flat[top.name] = value
        return flat

    def to_json(self):
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


PRESETS = {
    "paper": {},  # the mission's tables, exactly
    # An hour on one GPU for a study of a few arms: the paper's network and patch, a short schedule with its own warm-up.
    "quick": {
        "train.epochs": 30, "train.steps_per_epoch": 100, "train.accumulation": 1, "optim.lr": 3e-4, "optim.warmup_epochs": 2,
        "data.minival_cases": 8, "phantom.cases": 40,
    },
    # Minutes on two CPU cores: a 3 mm grid, so that a whole head is 64x64x48 voxels, and a narrow network.
    "demo": {
        "data.spacing_mm": 3.0, "data.patch_size": (48, 48, 32), "data.pad_to_patch": True, "data.workers": 0, "data.minival_cases": 4,
        "model.base_channels": 8, "model.conv_depths": (1, 1, 1), "model.d_state": 8,
        "optim.lr": 3e-3, "optim.min_lr": 1e-5, "optim.warmup_epochs": 1,
        "train.epochs": 6, "train.steps_per_epoch": 20, "train.accumulation": 1, "train.validate_every_epochs": 3,
        "phantom.cases": 30, "phantom.size": (64, 64, 48),
    },
}  # fmt: skip


def preset(name):
    """The Config of a preset: demo, quick or paper."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return Config().changed(PRESETS[name])


def parse_assignments(assignments):
    """["optim.lr=3e-4", ...] from the command line as dotted changes; values are Python literals or bare words."""
    changes = {}
    for text in assignments:
        name, sign, value = text.partition("=")
        if not sign or not name.strip():
            raise UserError(f"--set {text!r}: write it as name=value, for example --set optim.lr=3e-4")
        changes[name.strip()] = _literal(value.strip())
    return changes


def from_flat_dict(flat):
    """The Config of a complete or partial flat dict; what is missing takes its default."""
    hints, sections = typing.get_type_hints(Config), {}
    top = {}
    for name, value in flat.items():
        section, _, leaf = name.rpartition(".")
        owner = hints[section] if section else Config
        value = _typed(value, typing.get_type_hints(owner)[leaf], name)
        (sections.setdefault(section, {}) if section else top)[leaf] = value
    return Config(**top, **{section: hints[section](**values) for section, values in sections.items()})


def load_config(path):
    """The Config that `config.json` holds; a field it does not know is an error that names the nearest."""
    path = Path(path)
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a configuration ({error}); give a config.json written by a run") from error
    flat = {}
    for name, value in tree.items():
        flat |= {f"{name}.{leaf}": v for leaf, v in value.items()} if isinstance(value, dict) else {name: value}
    return Config().changed(flat)


def _known(changes, fields):
    for name in changes:
        if name not in fields:
            leaves = difflib.get_close_matches(name.rpartition(".")[2], {f.rpartition(".")[2] for f in fields}, n=2, cutoff=0.7)
            near = [f for f in fields if f.rpartition(".")[2] in leaves]
            near += [f for f in difflib.get_close_matches(name, fields, n=3, cutoff=0.7) if f not in near]
            hint = f"did you mean {', '.join(near)}?" if near else f"the sections are {', '.join(sorted({f.partition('.')[0] for f in fields}))}"
            raise UserError(f"unknown setting {name!r}: {hint}")
    return changes


def _literal(text):
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _typed(value, hint, name):
    """`value` as the type `hint` (bool, int, float, str, Literal, tuple of these), or a UserError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        _require(value in args, name, value, f"must be one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if args[-1] is Ellipsis and not isinstance(value, (tuple, list)):
            value = (value,)
        item_hints = args if args[-1] is not Ellipsis else (args[0],) * (len(value) if isinstance(value, (tuple, list)) else 0)
        wanted = f"{len(args)} values" if args[-1] is not Ellipsis else "a list of values"
        _require(isinstance(value, (tuple, list)) and len(value) == len(item_hints), name, value, f"must be {wanted}, for example {name}=1,2,3")
        return tuple(_typed(v, h, name) for v, h in zip(value, item_hints, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        _require(abs(value) < 1e300, name, "a huge integer", "must be finite")
        value = float(value)
    right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    _require(right, name, value, f"must be {'an' if hint is int else 'a'} {hint.__name__}, not {type(value).__name__}")
    _require(hint is not float or (value == value and abs(value) != float("inf")), name, value, "must be finite")
    return value


def field_docs():
    """{dotted name: docstring} of every field, read from this file's source, for --help and docs."""
    docs, hints = {}, typing.get_type_hints(Config)
    sections = {hint.__name__: f"{name}." for name, hint in hints.items() if isinstance(hint, type) and dataclasses.is_dataclass(hint)}
    for node in ast.parse(Path(__file__).read_text()).body:
        if isinstance(node, ast.ClassDef) and (node.name in sections or node.name == "Config"):
            for this, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(this, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    docs[sections.get(node.name, "") + this.target.id] = after.value.value
    return docs
