"""Which training recipe is better than the paper's, and what is each part of it worth?

Hypothesis: the recipe of the preset `strong` raises mean Dice above the preset's own.
Decides on: mean Dice, all parts together against none; margin 0.5 Dice points.
Second: each part on its own, Holm over all of them. Third: choices of the field that the recipe
leaves out: SGD with a polynomial rate, as nnU-Net trains, and a cube of 128 voxels.
"""

from segmamba.config import RECIPE, Config
from segmamba.studies import Hypothesis, StudySpec
from segmamba.studies.spec import Changes

SGD: Changes = {
    "optim.name": "sgd",
    "optim.lr": 1e-2,
    "optim.weight_decay": 3e-5,
    "optim.schedule": "polynomial",
    "optim.warmup_epochs": 0,
    "optim.clip_norm": 12.0,
}
"""nnU-Net's: Isensee et al. 2021, and the norm at which its trainer clips gradients."""
FURTHER: dict[str, Changes] = {
    "SGD, polynomial rate": SGD,
    "cube of 128 voxels": {"data.patch_size": (128, 128, 128)},
}


def STUDY(base: Config) -> StudySpec:
    """The study for a preset.

    Args:
        base: The preset's configuration.

    Returns:
        The study.
    """
    # The demo's learning rate is larger than the recipe's already.
    parts = RECIPE | {"larger learning rate": {"optim.lr": max(1e-3, 2 * base.optim.lr)}}
    return StudySpec(
        name="ablate_recipe",
        question="Which training recipe is better than the paper's?",
        hypothesis=Hypothesis(
            claim="Together, the parts of the recipe raise mean Dice.",
            better="strong",
            than="paper's",
        ),
        secondary=(
            Hypothesis(
                claim="At least one part of the recipe is worth having on its own.",
                contrasts=tuple((part, "paper's") for part in parts),
            ),
            Hypothesis(
                claim="At least one of the field's further choices is worth having.",
                contrasts=tuple((choice, "paper's") for choice in FURTHER),
            ),
        ),
        baseline="paper's",
        arms={
            "paper's": {},
            "strong": {name: value for part in parts.values() for name, value in part.items()},
            **parts,
            **FURTHER,
        },
        demo_arms=("paper's", "strong", "instance norm", "averaged weights"),
    )
