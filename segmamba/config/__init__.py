"""Everything that can be set, as a tree of frozen dataclasses with one file for each section.

The defaults are the `paper` preset. A variant is a dict of changes by dotted name,
`{"model.mamba_depths": (0, 0, 0)}`, applied with `Config.changed`. A wrong value is refused at
construction, in one line that gives the field's dotted name, the value and the rule. The package
imports no torch: a configuration is read, printed and checked in an instant.
"""

from segmamba.config.assignments import parse_assignments
from segmamba.config.augment import AugmentConfig
from segmamba.config.data import DataConfig
from segmamba.config.docs import field_docs
from segmamba.config.files import flat_as_stored, load_config, load_postprocess
from segmamba.config.inference import InferenceConfig
from segmamba.config.learning import LearningConfig
from segmamba.config.loss import LossConfig
from segmamba.config.model import ModelConfig
from segmamba.config.optim import OptimConfig
from segmamba.config.phantom import PhantomConfig
from segmamba.config.postprocess import PostprocessConfig
from segmamba.config.presets import PRESETS, RECIPE, preset
from segmamba.config.rules import LEVELS, SIDE_MULTIPLE
from segmamba.config.statistics import CONFIDENCE_LEVEL, DICE_MARGIN, HD95_MARGIN_MM
from segmamba.config.train import TrainConfig
from segmamba.config.tree import Config, from_flat_dict

__all__ = [
    "CONFIDENCE_LEVEL",
    "DICE_MARGIN",
    "HD95_MARGIN_MM",
    "LEVELS",
    "PRESETS",
    "RECIPE",
    "SIDE_MULTIPLE",
    "AugmentConfig",
    "Config",
    "DataConfig",
    "InferenceConfig",
    "LearningConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "PhantomConfig",
    "PostprocessConfig",
    "TrainConfig",
    "field_docs",
    "flat_as_stored",
    "from_flat_dict",
    "load_config",
    "load_postprocess",
    "parse_assignments",
    "preset",
]
