"""What is augmentation worth, and which part of it?

Hypothesis: augmentation is crucial for generalisation.
Decides on: mean Dice, all transforms against none; margin 0.5 Dice points.
Second: whether a single transform is worth having, by leaving out each in turn, Holm over all of
them. Third: whether the further transforms that the field uses add to the default list "all".
"""

from segmamba.studies import Hypothesis, StudySpec
from segmamba.studies.spec import Changes

OFF: dict[str, Changes] = {
    "flips": {"augment.flip_probability": 0.0},
    "90° turns": {"augment.rotate90_probability": 0.0},
    "scaling": {"augment.scale_range": (1.0, 1.0)},
    "brightness": {"augment.brightness": 0.0},
    "contrast": {"augment.contrast_range": (1.0, 1.0)},
}
# nnU-Net's probabilities; those of blur and low resolution are for each channel.
FIELD = {
    "augment.rotation_probability": 0.2,
    "augment.noise_probability": 0.1,
    "augment.blur_probability": 0.1,
    "augment.low_resolution_probability": 0.125,
    "augment.gamma_probability": 0.3,
}

STUDY = StudySpec(
    name="ablate_augmentation",
    question="What is augmentation worth, and which part of it?",
    hypothesis=Hypothesis(
        claim="Augmentation is crucial for generalisation.", better="all", than="none"
    ),
    secondary=(
        Hypothesis(
            claim="At least one transform is worth having on its own.",
            contrasts=tuple(("all", f"without {name}") for name in OFF),
        ),
        Hypothesis(
            claim="The field's further transforms improve on the default ones.",
            better="all and the field's",
            than="all",
        ),
    ),
    baseline="all",
    arms={
        "none": {name: value for off in OFF.values() for name, value in off.items()},
        "all": {},
        **{f"without {name}": off for name, off in OFF.items()},
        "all and the field's": FIELD,
    },
    demo_arms=("none", "all", "without flips", "without 90° turns"),
)
