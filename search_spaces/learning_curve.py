"""How many labelled cases does a network need, and do weights from elsewhere stand in for some?

Hypothesis: mean Dice rises with the share of the patients whose labels are used.
Decides on: mean Dice, the trend from a third to all of them; margin 0.5 Dice points for each step.
With --set learning.initial_weights=FILE every share is also trained from those weights, for example
of a network that `segmamba train` trained on phantoms, and a second claim asks what they add.
"""

from segmamba.config import Config
from segmamba.studies import Hypothesis, StudySpec, Trend
from segmamba.studies.spec import Changes

SHARES = {"a third": 1 / 3, "two thirds": 2 / 3, "all": 1.0}


def STUDY(base: Config) -> StudySpec:
    """The study for a preset.

    Args:
        base: The preset's configuration; its `learning.initial_weights` count.

    Returns:
        The study.
    """
    scratch: Changes = {"learning.initial_weights": ""} if base.learning.initial_weights else {}
    arms: dict[str, Changes] = {
        share: scratch | {"data.labelled_share": part} for share, part in SHARES.items()
    }
    secondary: tuple[Hypothesis, ...] = ()
    if scratch:
        arms |= {
            f"{share}, fine-tuned": {"data.labelled_share": part} for share, part in SHARES.items()
        }
        secondary = (
            Hypothesis(
                claim="Weights from elsewhere raise mean Dice.",
                contrasts=tuple((f"{share}, fine-tuned", share) for share in SHARES),
            ),
        )
    return StudySpec(
        name="learning_curve",
        question="How many labelled cases does a network need?",
        hypothesis=Hypothesis(
            claim="Mean Dice rises with the share of the patients whose labels are used.",
            contrasts=(Trend({"a third": 1, "two thirds": 2, "all": 3}),),
        ),
        secondary=secondary,
        baseline="all",
        arms=arms,
    )
