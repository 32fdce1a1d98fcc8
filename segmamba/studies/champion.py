"""The run of a study that is registered, and what its study says about the arm behind it."""

import numpy as np

from segmamba.studies.results import Study, Trial
from segmamba.studies.scores import seed_scores
from segmamba.studies.words import count, points


def best_tested(study: Study) -> Trial | None:
    """Return the finished Trial that the validation set, never the test set, likes best."""
    tested = [t for t in study.trials if t.status == "FINISHED" and "test/dice_mean" in t.metrics]
    return max(tested, key=lambda t: t.metrics.get("val/best_dice_mean", -1.0), default=None)


def champion_words(study: Study) -> str:
    """What a reader has to know of the best run: it is one run, and its arm has a mean.

    They leave the verdict out, which a page says once.

    Args:
        study: The study.

    Returns:
        Sentences with the arm's mean; empty where nothing was tested.
    """
    best = best_tested(study)
    if best is None:
        return ""
    scores = list(seed_scores(study, best.arm, "dice_mean").values())
    mean = points(float(np.mean(scores))) if scores else points(None)
    fold = "" if best.fold is None else f", fold {best.fold}"
    return (
        f"The best single run on the validation set is {best.arm}, seed {best.seed}{fold}; it is "
        f"chosen for its luck as well as for its arm. {best.arm} scores {mean} Dice points on the "
        f"test set on average over {count(len(scores), 'seed')}."
    )
