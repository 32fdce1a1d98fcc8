"""How should Dice and cross entropy be weighted?

Hypothesis: equal weighting is optimal. It holds where no other ratio is better by the margin.
Decides on: mean Dice, every ratio against 1:1; margin 0.5 Dice points. The sum of the weights is
fixed at 2, so that another ratio is not also another learning rate.
Second: "1:1 doubled" has equal weights with the sum 4 and shows whether the sum itself matters.
AdamW divides it out, except for its epsilon and the weight decay.
"""

from segmamba.studies import Hypothesis, StudySpec


def _weights(dice: float, ce: float, *, total: float = 2.0) -> dict[str, float]:
    return {
        "loss.dice_weight": total * dice / (dice + ce),
        "loss.ce_weight": total * ce / (dice + ce),
    }


# Dice : cross entropy
RATIOS = {
    "1:0": (1, 0),
    "9:1": (9, 1),
    "3:1": (3, 1),
    "1:3": (1, 3),
    "1:9": (1, 9),
    "0:1": (0, 1),
}

STUDY = StudySpec(
    name="ablate_loss_weights",
    question="How should Dice and cross entropy be weighted?",
    hypothesis=Hypothesis(
        claim="Equal weighting is optimal: no other ratio is better.",
        direction="no better",
        contrasts=tuple((ratio, "1:1") for ratio in RATIOS),
    ),
    secondary=(
        Hypothesis(
            claim="The sum of the weights does not matter.",
            direction="alike",
            contrasts=(("1:1 doubled", "1:1"),),
        ),
    ),
    baseline="1:1",
    arms={
        "1:1": _weights(1, 1),
        **{name: _weights(*ratio) for name, ratio in RATIOS.items()},
        "1:1 doubled": _weights(1, 1, total=4.0),
    },
    demo_arms=("1:1", "1:0", "3:1", "1:3", "0:1", "1:1 doubled"),
)
