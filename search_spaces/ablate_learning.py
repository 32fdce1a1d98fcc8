"""What does learning beyond the plain loop add where labels are few?

Hypothesis: at least one of six options raises the mean Dice of a network that has few labels.
Decides on: mean Dice, each option against the plain loop; margin 0.5 Dice points, Holm over all of
them.
Second: the mean teacher against its moving average alone, which shows what unlabelled images add.
Cost: 7 arms. In the demo 50 s a trial on one CPU core, and twice that for pretraining and the mean
teacher. All arms take the same number of optimizer steps on labelled patches; the report shows the
time that an arm adds to them.

    python experiments/ablate_learning.py --set data.labelled_share=0.2
"""

from segmamba.config import Config
from segmamba.studies import Hypothesis, StudySpec
from segmamba.studies.spec import Changes

# 0.999 suits the thousands of steps of quick and paper. In the 120 steps of the demo the warm-up of
# the average reaches 0.93.
AVERAGE = {"learning.ema_decay": 0.999}


def STUDY(base: Config) -> StudySpec:
    """The study for a preset.

    Pretraining takes as many epochs as training, and the consistency weight of the mean teacher
    rises over the first half of them.

    Args:
        base: The preset's configuration.

    Returns:
        The study.
    """
    epochs = base.train.epochs
    options: dict[str, Changes] = {
        "deep supervision": {"model.deep_supervision": 2},
        "EMA": AVERAGE,
        "hard cases": {"learning.hard_case_factor": 4.0},
        "regions": {"model.outputs": "regions"},
        "pretraining": {"learning.pretrain_epochs": epochs},
        "mean teacher": AVERAGE
        | {"learning.consistency_weight": 1.0, "learning.consistency_rampup_epochs": epochs // 2},
    }
    return StudySpec(
        name="ablate_learning",
        question="What does learning beyond the plain loop add where labels are few?",
        hypothesis=Hypothesis(
            claim="Deep supervision, averaged weights, hard cases, region outputs, pretraining or "
            "a mean teacher raise the mean Dice.",
            contrasts=tuple((option, "plain") for option in options),
        ),
        secondary=(
            Hypothesis(
                claim="Unlabelled images add to the mean Dice beyond what averaged weights do.",
                better="mean teacher",
                than="EMA",
            ),
        ),
        baseline="plain",
        arms={"plain": {}, **options},
    )
