"""What does an ensemble add to one network?

Hypothesis: averaging five networks gains 2 to 3 Dice points over one of them (expected, not measured), and members that differ in more than
the seed gain more than plain seeds.
Decides on: test Dice of the vote against the mean of its members, patient by patient. The members themselves are the arms here.
Cost: 5 trainings (10 with --members diverse, so that both ensembles have five); about 35 s each on one CPU core (demo).
"""

from segmamba.studies import Hypothesis, StudySpec

SIZE = 5
EXPECTED_GAIN = (0.02, 0.03)
"""In Dice, of five members over one, as the design expects."""

# What the diverse members differ in beside their seeds: augmentation strategies and patch sizes.
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
DIVERSITY = (
    ((1, 1, 1), {}),
    ((1, 1, 1), SPATIAL | INTENSITY),
    ((0.75, 0.75, 1.5), NO_TURNS),
    ((0.75, 0.75, 1), INTENSITY),
    ((1, 1, 1.5), SPATIAL),
)
"""(patch as a share of the preset's along x, y, z; augmentation) of each member; more than five start again."""


def members(size=SIZE, *, diverse=False):
    """A function from the preset's Config to the StudySpec that trains the members: `size` plain seeds and, if diverse, as many others."""
    return lambda base: _study(size, diverse, base)


def _study(size, diverse, base):
    arms = {f"plain {i + 1}": {"seed": i} for i in range(size)}
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


def _variety(number, base):
    shares, augmentation = DIVERSITY[number % len(DIVERSITY)]
    patch = tuple(
        max(16, 16 * round(side * share / 16))
        for side, share in zip(base.data.patch_size, shares, strict=True)
    )
    return augmentation | ({} if patch == base.data.patch_size else {"data.patch_size": patch})
