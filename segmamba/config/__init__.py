"""Everything that can be set, as a tree of frozen dataclasses, one file a section; the defaults are the `paper` preset.

A variant is a dict of dotted changes, `{"model.mamba_depths": (0, 0, 0)}`, applied with `Config.changed`.
A wrong value dies at construction, in one line that gives the field's dotted name, the value and the rule.
Imports no torch: reading, printing and checking a configuration is instant.
"""

from segmamba.config.assignments import parse_assignments
from segmamba.config.augment import AugmentConfig
from segmamba.config.data import DataConfig
from segmamba.config.inference import InferenceConfig
from segmamba.config.learning import LearningConfig
from segmamba.config.loss import LossConfig
from segmamba.config.model import ModelConfig
from segmamba.config.optim import OptimConfig
from segmamba.config.phantom import PhantomConfig
from segmamba.config.postprocess import PostprocessConfig
from segmamba.config.presets import PRESETS, preset
from segmamba.config.rules import LEVELS, SIDE_MULTIPLE
from segmamba.config.statistics import CONFIDENCE_LEVEL, DICE_MARGIN
from segmamba.config.train import TrainConfig
from segmamba.config.tree import Config, field_docs, from_flat_dict, load_config, load_postprocess

__all__ = [
    "CONFIDENCE_LEVEL",
    "DICE_MARGIN",
    "LEVELS",
    "PRESETS",
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
    "from_flat_dict",
    "load_config",
    "load_postprocess",
    "parse_assignments",
    "preset",
]
