"""The tree of sections, and its forms: flat and dotted for MLflow and the command line, JSON for a run's folder."""

import ast
import dataclasses
import difflib
import inspect
import itertools
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segmamba.config.augment import AugmentConfig
from segmamba.config.data import DataConfig
from segmamba.config.inference import InferenceConfig
from segmamba.config.learning import LearningConfig
from segmamba.config.loss import LossConfig
from segmamba.config.model import OURS, ModelConfig
from segmamba.config.optim import OptimConfig
from segmamba.config.phantom import PhantomConfig
from segmamba.config.postprocess import PostprocessConfig
from segmamba.config.rules import require
from segmamba.config.train import TrainConfig
from segmamba.errors import UserError

# Settings of configurations that were written before 0.2, whose "test" is today's holdout.
RENAMED = {
    "data.minival_cases": "data.validation_cases",
    "data.minival_share": "data.validation_share",
    "data.judge_cases": "data.test_cases",
    "data.judge_share": "data.test_share",
    "data.test_share": "data.holdout_share",
    "data.test_file": "data.holdout_file",
    "train.judge_last": "train.test_last",
}


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
    learning: LearningConfig = field(default_factory=LearningConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    phantom: PhantomConfig = field(default_factory=PhantomConfig)

    def __post_init__(self):
        require(self.seed >= 0, "seed", self.seed, "must be 0 or more")
        require(
            self.optim.warmup_epochs <= self.train.epochs,
            "optim.warmup_epochs",
            self.optim.warmup_epochs,
            f"must not exceed train.epochs = {self.train.epochs}",
        )
        require(
            not self.learning.pretrain_epochs or self.model.name in OURS,
            "learning.pretrain_epochs",
            self.learning.pretrain_epochs,
            f"only {', '.join(OURS)} can be pretrained; model.name is {self.model.name}",
        )
        self.inference.overlaps(self.data.patch_size)

    def changed(self, changes):
        """A new Config with the dotted `changes` ({"optim.lr": 3e-4}) applied together and checked."""
        return from_flat_dict({**self.to_flat_dict(), **_known(changes, self.to_flat_dict())})

    def to_flat_dict(self):
        """{"optim.lr": 1e-4, ...}: dotted names to values, in declaration order."""
        flat = {}
        for top in dataclasses.fields(self):
            value = getattr(self, top.name)
            if dataclasses.is_dataclass(value):
                flat |= {
                    f"{top.name}.{f.name}": getattr(value, f.name)
                    for f in dataclasses.fields(value)
                }
            else:
                flat[top.name] = value
        return flat

    def to_json(self):
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def from_flat_dict(flat):
    """The Config of a complete or partial flat dict; what is missing takes its default."""
    hints, sections = typing.get_type_hints(Config), {}
    top = {}
    for name, value in flat.items():
        section, _, leaf = name.rpartition(".")
        owner = hints[section] if section else Config
        value = _typed(value, typing.get_type_hints(owner)[leaf], name)
        (sections.setdefault(section, {}) if section else top)[leaf] = value
    return Config(
        **top, **{section: hints[section](**values) for section, values in sections.items()}
    )


def load_config(path):
    """The Config that `config.json` holds; a field it does not know is an error that names the nearest."""
    flat = {}
    for name, value in _read_tree(
        path, "a configuration", "a config.json written by a run"
    ).items():
        flat |= (
            {f"{name}.{leaf}": v for leaf, v in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    if "data.minival_share" in flat:
        flat = {RENAMED.get(name, name): value for name, value in flat.items()}
    return Config().changed(flat)


def load_postprocess(path):
    """The PostprocessConfig that a postprocessing.json holds; what it does not name is off."""
    tree = _read_tree(path, "post-processing", "a postprocessing.json")
    try:
        return (
            Config()
            .changed({f"postprocess.{name}": value for name, value in tree.items()})
            .postprocess
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _read_tree(path, what, wanted):
    try:
        tree = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as {what} ({error}); give {wanted}") from error
    if not isinstance(tree, dict):
        raise UserError(
            f"{path}: cannot be read as {what} (it holds a {type(tree).__name__}); give {wanted}"
        )
    return tree


def _known(changes, fields):
    for name in changes:
        if name not in fields:
            leaves = difflib.get_close_matches(
                name.rpartition(".")[2], {f.rpartition(".")[2] for f in fields}, n=2, cutoff=0.7
            )
            near = [f for f in fields if f.rpartition(".")[2] in leaves]
            near += [
                f for f in difflib.get_close_matches(name, fields, n=3, cutoff=0.7) if f not in near
            ]
            hint = (
                f"did you mean {', '.join(near)}?"
                if near
                else f"the sections are {', '.join(sorted({f.partition('.')[0] for f in fields}))}"
            )
            raise UserError(f"unknown setting {name!r}: {hint}")
    return changes


def _typed(value, hint, name):
    """`value` as the type `hint` (bool, int, float, str, Literal, tuple of these), or a UserError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        require(value in args, name, value, f"must be one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        if args[-1] is Ellipsis and not isinstance(value, (tuple, list)):
            value = (value,)
        item_hints = (
            args
            if args[-1] is not Ellipsis
            else (args[0],) * (len(value) if isinstance(value, (tuple, list)) else 0)
        )
        wanted = f"{len(args)} values" if args[-1] is not Ellipsis else "a list of values"
        require(
            isinstance(value, (tuple, list)) and len(value) == len(item_hints),
            name,
            value,
            f"must be {wanted}, for example {name}=1,2,3",
        )
        return tuple(_typed(v, h, name) for v, h in zip(value, item_hints, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) < 1e300, name, "a huge integer", "must be finite")
        value = float(value)
    right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    require(
        right,
        name,
        value,
        f"must be {'an' if hint is int else 'a'} {hint.__name__}, not {type(value).__name__}",
    )
    require(
        hint is not float or (value == value and abs(value) != float("inf")),
        name,
        value,
        "must be finite",
    )
    return value


def field_docs():
    """{dotted name: docstring} of every field, read from the sections' source, for --help and docs."""
    sections = {
        f"{name}.": hint
        for name, hint in typing.get_type_hints(Config).items()
        if dataclasses.is_dataclass(hint)
    }
    return {
        prefix + name: doc
        for prefix, section in {"": Config, **sections}.items()
        for name, doc in _docs_of(section).items()
    }


def _docs_of(section):
    """{field: the string below it} of one dataclass."""
    body = ast.parse(inspect.getsource(section)).body[0].body
    pairs = itertools.pairwise(body)
    return {
        this.target.id: after.value.value
        for this, after in pairs
        if isinstance(this, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
