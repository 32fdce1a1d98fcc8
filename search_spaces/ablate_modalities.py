"""Does a network that has seen modalities missing do without them?

Hypothesis: dropping each modality from a quarter of the training patches raises the Dice of cases
that lack one of the four, and costs those that have all of them nothing that matters.
Decides on: mean Dice over the four subsets that lack one modality, with dropout against without;
margin 0.5 Dice points. Second: the same arms' mean Dice on all four modalities. The report shows
Dice for each of the 15 subsets.
Cost: 2 arms. Each network is tested with 15 subsets in place of one, which makes a demo trial about
a quarter longer.
"""

from segmamba.studies import Budget, Hypothesis, StudySpec
from segmamba.studies.spec import Changes

SUBSETS: Changes = {"train.test_subsets": True}

STUDY = StudySpec(
    name="ablate_modalities",
    question="Does a network that has seen modalities missing do without them?",
    hypothesis=Hypothesis(
        claim="With modality dropout, the mean Dice over the subsets that lack one modality is "
        "higher than without.",
        metric="dice_one_missing",
        better="dropout",
        than="no dropout",
    ),
    secondary=(
        Hypothesis(
            claim="Where all four modalities are there, the network without dropout is no better.",
            better="no dropout",
            than="dropout",
            direction="no better",
        ),
    ),
    baseline="no dropout",
    arms={
        "no dropout": SUBSETS,
        # A third of the patches keeps all four modalities, and 42 % lack one.
        "dropout": SUBSETS | {"augment.modality_dropout": (0.25, 0.25, 0.25, 0.25)},
    },
    budget=Budget(seeds=2),
)
