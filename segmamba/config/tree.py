"""The tree of sections and its two forms.

Flat by dotted name for MLflow and the command line; JSON for a run's folder.
"""

import dataclasses
import difflib
import functools
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from segmamba.config.augment import AugmentConfig
from segmamba.config.data import DataConfig
from segmamba.config.inference import InferenceConfig
from segmamba.config.learning import LearningConfig
from segmamba.config.loss import LossConfig
from segmamba.config.model import OURS, UMAMBAS, ModelConfig
from segmamba.config.optim import OptimConfig
from segmamba.config.phantom import PhantomConfig
from segmamba.config.postprocess import PostprocessConfig
from segmamba.config.rules import require
from segmamba.config.train import TrainConfig
from segmamba.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run; the defaults are the `paper` preset."""

    seed: int = 0
    """Decides initial weights, patches and augmentation of one run."""
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

    def __post_init__(self) -> None:
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
        self._plan_for_patch()

    def _plan_for_patch(self) -> None:
        """Fix the patch for which nnU-Net plans U-Mamba's network, where it is left open."""
        patch, name = self.data.patch_size, self.model.name
        if name in UMAMBAS and not self.model.planned_for:
            planned = dataclasses.replace(self.model, planned_for=patch)
            object.__setattr__(self, "model", planned)  # frozen for everyone else
        require(
            name != "umamba_enc" or self.model.planned_for == patch,
            "model.planned_for",
            self.model.planned_for,
            f"the weights of umamba_enc fit the patch that it is planned for alone, and "
            f"data.patch_size is {patch}; set both alike",
        )

    def changed(self, changes: Mapping[str, object]) -> "Config":
        """Apply changes together and check the result.

        Args:
            changes: New values by dotted name, for example {"optim.lr": 3e-4}.

        Returns:
            A new configuration.

        Raises:
            UserError: A name is unknown, with the nearest known ones, or a value is wrong.
        """
        flat = self.to_flat_dict()
        _check_known(changes, flat)
        return from_flat_dict({**flat, **changes})

    def to_flat_dict(self) -> dict[str, Any]:
        """Map dotted names to values, {"optim.lr": 1e-4, ...}, in declaration order."""
        flat: dict[str, Any] = {}
        for top in dataclasses.fields(self):
            value = getattr(self, top.name)
            if dataclasses.is_dataclass(value):
                flat |= {
                    f"{top.name}.{leaf.name}": getattr(value, leaf.name)
                    for leaf in dataclasses.fields(value)
                }
            else:
                flat[top.name] = value
        return flat

    def to_json(self) -> str:
        """Write the settings as the content of a config.json."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


def from_flat_dict(flat: Mapping[str, object]) -> Config:
    """Build a configuration from values by dotted name.

    Args:
        flat: Values by dotted name; what is missing takes its default.

    Returns:
        The configuration.

    Raises:
        UserError: A value is wrong.
    """
    hints = _hints(Config)
    top: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {}
    for name, value in flat.items():
        section, _, leaf = name.rpartition(".")
        owner = hints[section] if section else Config
        values = sections.setdefault(section, {}) if section else top
        values[leaf] = _typed(value, _hints(owner)[leaf], name)
    return Config(
        **top, **{section: hints[section](**values) for section, values in sections.items()}
    )


@functools.cache
def _hints(owner: type) -> dict[str, Any]:
    """The types of a dataclass's fields; finding them takes longer than all else here."""
    return typing.get_type_hints(owner)


def _check_known(names: Iterable[str], fields: Iterable[str]) -> None:
    """Refuse the first name that is no field, with the nearest fields by leaf or whole name."""
    fields = list(fields)
    for name in names:
        if name in fields:
            continue
        leaves = difflib.get_close_matches(
            _leaf(name), {_leaf(field) for field in fields}, n=2, cutoff=0.7
        )
        near = [field for field in fields if _leaf(field) in leaves]
        alike = difflib.get_close_matches(name, fields, n=3, cutoff=0.7)
        near += [field for field in alike if field not in near]
        hint = (
            f"did you mean {', '.join(near)}?"
            if near
            else f"the sections are {', '.join(sorted({f.partition('.')[0] for f in fields}))}"
        )
        raise UserError(f"unknown setting {name!r}: {hint}")


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _typed(value: object, hint: Any, name: str) -> object:
    """Check a value against a type, bool, int, float, str, Literal or a tuple of these.

    An int is made a float and a list a tuple where the type asks for it.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        require(value in args, name, value, f"must be one of {', '.join(map(str, args))}")
        return value
    if origin is tuple:
        return _typed_tuple(value, args, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        require(abs(value) < 1e300, name, "a huge integer", "must be finite")
        value = float(value)
    require(
        isinstance(value, hint) and not (hint is int and isinstance(value, bool)),
        name,
        value,
        f"must be {'an' if hint is int else 'a'} {hint.__name__}, not {type(value).__name__}",
    )
    if isinstance(value, float):
        require(value == value and abs(value) != float("inf"), name, value, "must be finite")
    return value


def _typed_tuple(value: object, args: tuple[Any, ...], name: str) -> tuple[object, ...]:
    """Check a tuple against the arguments of its type: one type per item, or (type, ...)."""
    any_length = args[-1] is Ellipsis
    if any_length and not isinstance(value, (tuple, list)):
        value = (value,)
    wanted = "a list of values" if any_length else f"{len(args)} values"
    rule = f"must be {wanted}, for example {name}=1,2,3"
    if not isinstance(value, (tuple, list)):
        raise UserError(f"{name} = {value!r}: {rule}")
    hints = (args[0],) * len(value) if any_length else args
    require(len(value) == len(hints), name, value, rule)
    return tuple(_typed(item, hint, name) for item, hint in zip(value, hints, strict=True))
