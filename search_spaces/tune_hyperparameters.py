"""Which learning rate, weight decay and loss weights?

Hypothesis: a search finds settings that improve on the preset's.
Decides on: mean Dice of the settings that the validation set liked best, trained again with fresh seeds, against the baseline; margin 0.5 Dice points.
The validation set chooses, the test set sees two arms alone. The baseline is the first trial; ASHA stops the trials that the validation set likes least.
With --scheduler pbt a population trains in step and its worst members copy the best: what is found is a schedule, which "found" follows.
"""

from segmamba.studies import Between, Budget, Hypothesis, OneOf, StudySpec


def STUDY(base):
    """The study for a preset's Config: around its own learning rate."""
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
        budget=Budget(seeds=2, trials=12 if base.train.epochs < 10 else 40),
    )
