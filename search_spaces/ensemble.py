"""What does an ensemble add to one network?

Hypothesis: averaging five networks gains 2 to 3 Dice points over one of them (expected, not
measured), and members that differ in more than the seed gain more than plain seeds.
Decides on: test Dice of the vote against the mean of its members, patient by patient. The members
themselves are the arms of this study.
Cost: 5 trainings, or 10 with --members diverse, so that both ensembles have five; about 35 s each
on one CPU core (demo).
"""

from collections.abc import Callable

from segmamba.config import Config
from segmamba.studies import Hypothesis, StudySpec
from segmamba.studies.spec import Changes

SIZE = 5
EXPECTED_GAIN = (0.02, 0.03)
"""Least and most Dice (0 to 1) that five members are expected to gain over one."""

# The diverse members differ in augmentation and patch size, besides their seeds.
SPATIAL = {
    "augment.rotation_probability": 0.2,
    "augment.elastic_probability": 0.2,
    "augment.scale_range": (0.7, 1.4),
}
INTENSITY = {
    "augment.noise_probability": 0.1,
    "augment.blur_probability": 0.1,
    "augment.low_resolution_probability": 0.125,
    "augment.gamma_probability": 0.3,
}
NO_TURNS = {"augment.rotate90_probability": 0.0}  # BraTS has one orientation
DIVERSITY: tuple[tuple[tuple[float, float, float], Changes], ...] = (
    ((1, 1, 1), {}),
    ((1, 1, 1), SPATIAL | INTENSITY),
    ((0.75, 0.75, 1.5), NO_TURNS),
    ((0.75, 0.75, 1), INTENSITY),
    ((1, 1, 1.5), SPATIAL),
)
"""For each member the sides of its patch, as shares of the preset's along x, y and z, and its
augmentation. More than five members start again from the first."""


def members(size: int = SIZE, *, diverse: bool = False) -> Callable[[Config], StudySpec]:
    """The study that trains the members of an ensemble.

    Args:
        size: Number of plain seeds.
        diverse: Whether to train as many members that differ in more than the seed.

    Returns:
        A function from the preset's configuration to the study.
    """
    return lambda base: _study(size, base, diverse=diverse)


def _study(size: int, base: Config, *, diverse: bool) -> StudySpec:
    arms: dict[str, Changes] = {f"plain {i + 1}": {"seed": i} for i in range(size)}
    if diverse:
        arms |= {f"diverse {i + 1}": {"seed": size + i} | _variety(i, base) for i in range(size)}
    last = f"plain {size}"
    return StudySpec(
        name="ensemble",
        question="What does an ensemble add to one network?",
        hypothesis=Hypothesis(
            claim="Networks that differ in nothing but the seed score alike.",
            better=last,
            than="plain 1",
            direction="alike",
        ),
        baseline="plain 1",
        arms=arms,
        registers_best=False,  # the vote is registered
    )


def _variety(number: int, base: Config) -> Changes:
    """The changes of a diverse member; the sides of its patch are multiples of 16."""
    shares, augmentation = DIVERSITY[number % len(DIVERSITY)]
    patch = tuple(
        max(16, 16 * round(side * share / 16))
        for side, share in zip(base.data.patch_size, shares, strict=True)
    )
    return augmentation | ({} if patch == base.data.patch_size else {"data.patch_size": patch})
