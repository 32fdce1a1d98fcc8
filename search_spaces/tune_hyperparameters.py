"""Which learning rate, weight decay and loss weights?

Hypothesis: a search finds settings that improve on the preset's.
Decides on: mean Dice of the best settings against the baseline, both trained with fresh seeds;
margin 0.5 Dice points. The validation set chooses the best settings, so that the test set sees two
arms alone.
The baseline is the first trial. ASHA stops the trials that score lowest on the validation set. With
--scheduler pbt a population trains in step and its worst members copy the best; it finds a
schedule, which the arm "found" then follows.
"""

from segmamba.config import Config
from segmamba.studies import Between, Budget, Hypothesis, OneOf, StudySpec


def STUDY(base: Config) -> StudySpec:
    """The study for a preset; the space is centred on the preset's learning rate.

    Args:
        base: The preset's configuration.

    Returns:
        The study.
    """
    return StudySpec(
        name="tune_hyperparameters",
        question="Which learning rate, weight decay and loss weights?",
        hypothesis=Hypothesis(
            claim="A search finds settings that improve on the preset's.",
            better="found",
            than="baseline",
        ),
        baseline="baseline",
        space={
            "optim.lr": Between(base.optim.lr / 10, base.optim.lr * 10, log=True),
            "optim.weight_decay": Between(1e-5, 1e-1, log=True),
            "loss.dice_weight": Between(0.25, 4.0, log=True),
            "data.tumour_centre_share": Between(0.2, 0.9),
            "model.norm": OneOf(("batch", "instance")),
        },
        population_space=(
            "optim.lr",
            "optim.weight_decay",
            "loss.dice_weight",
            "data.tumour_centre_share",
        ),
        budget=Budget(trials=12 if base.train.epochs < 10 else 40),
    )
