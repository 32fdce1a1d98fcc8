"""How many patients does a network need, and do weights from elsewhere stand in for some?

Hypothesis: the more patients a network trains on, the higher its mean Dice.
Decides on: mean Dice, the trend from a third of the training patients to all of them; margin 0.5
Dice points. Every arm takes the same number of optimizer steps; the seed draws the patients, and a
larger share keeps those of a smaller one.
Second, where learning.initial_weights names a file: whether its weights, fine-tuned, raise mean
Dice at any share, Holm over all of them. `segmamba train` on phantoms writes such weights.
"""

from segmamba.config import Config
from segmamba.studies import Hypothesis, StudySpec, Trend
from segmamba.studies.spec import Changes

WEIGHTS = "learning.initial_weights"
SHARES = {"a third": 1 / 3, "two thirds": 2 / 3, "all": 1.0}


def STUDY(base: Config) -> StudySpec:
    """The study for a preset.

    Args:
        base: The preset's configuration. With its `learning.initial_weights` there are arms that
            start from them.

    Returns:
        The study.
    """
    shares: dict[str, Changes] = {
        name: {"learning.training_share": share} for name, share in SHARES.items()
    }
    arms = shares
    secondary: tuple[Hypothesis, ...] = ()
    if base.learning.initial_weights:
        scratch: Changes = {WEIGHTS: ""}
        arms = {name: change | scratch for name, change in shares.items()}
        arms |= {f"{name}, fine-tuned": change for name, change in shares.items()}
        secondary = (
            Hypothesis(
                claim="Weights from elsewhere, fine-tuned, raise the mean Dice.",
                contrasts=tuple((f"{name}, fine-tuned", name) for name in shares),
            ),
        )
    return StudySpec(
        name="learning_curve",
        question="How many patients does a network need?",
        hypothesis=Hypothesis(
            claim="The mean Dice rises with the number of patients to train on.",
            contrasts=(Trend({name: 3 * share for name, share in SHARES.items()}),),
        ),
        secondary=secondary,
        baseline="all",
        arms=arms,
        asks_for=(WEIGHTS,),
    )
