"""The results of an ensemble experiment, and whether the vote gains what is expected of it."""

from dataclasses import dataclass
from typing import Literal

from segmamba.evaluation.ensemble_scores import ENSEMBLE, Group, difference
from segmamba.evaluation.intervals import FEW_PATIENTS, PairedMean
from segmamba.studies.results import Study
from segmamba.studies.words import count, points


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """The results of an ensemble experiment; the trials of its study are the members."""

    study: Study
    groups: tuple[Group, ...]
    """The members that vote together, plain seeds first."""
    expected_gain: tuple[float, float]
    """Least and most Dice (0 to 1) that the vote is expected to gain over one member."""
    validation: dict[str, float]
    """Mean Dice of each group's vote on the validation set, with post-processing."""
    registered: str
    """Address of the registered model, and whether it is the champion, in words."""
    seconds: float
    """Time for scoring, tuning and registering, without the training."""

    def group(self, name: str) -> Group:
        """The group of this name."""
        return next(group for group in self.groups if group.name == name)


def gain(group: Group, score: str = "dice_mean", **variant: bool) -> PairedMean:
    """What the vote of a group gains over the mean of its members.

    Args:
        group: The group.
        score: Column of the group's rows.
        **variant: Test-time options, flips and postprocessed; both are off unless given.

    Returns:
        The mean over patients, and the ends of its interval.
    """
    return difference(group.scores(ENSEMBLE, score, **variant), group.member_mean(score, **variant))


def answer(ensemble: Ensemble) -> Literal["supported", "rejected", "undecided"]:
    """Whether plain seeds gain what is expected over one of them.

    Args:
        ensemble: The results.

    Returns:
        The answer.
    """
    mean, low, high = gain(ensemble.groups[0])
    if low is None or high is None:
        return "undecided"
    least = ensemble.expected_gain[0]
    return "rejected" if high < least else "supported" if low > 0 and mean >= least else "undecided"


def verdict_sentence(ensemble: Ensemble) -> str:
    """The answer in plain words.

    Args:
        ensemble: The results.

    Returns:
        One sentence, in Dice points.
    """
    group = ensemble.groups[0]
    mean, low, high = gain(group)
    patients = count(len(group.scores(ENSEMBLE, "dice_mean")), "test patient")
    where = "above" if mean >= 0 else "below"
    measured = (
        f"{len(group.members)} {group.name} members together score {points(abs(mean))} "
        f"Dice points {where} one of them"
    )
    if points(abs(mean)) == points(0):
        measured = (
            f"{len(group.members)} {group.name} members together show no difference to one of them"
        )
    if low is None:
        return f"Undecided: {measured}, on one test patient, which says nothing about others."
    least, most = (points(value) for value in ensemble.expected_gain)
    measured += (
        f" on mean Dice (95 % interval {points(low, signed=True)} to {points(high, signed=True)} "
        f"over {patients})"
    )
    expected = f"the {least} to {most} points that are expected"
    reason = {
        "supported": f"the interval lies above 0 and the estimate reaches {expected}",
        "rejected": f"the whole interval lies below {expected}",
        "undecided": f"the interval neither excludes {expected} nor shows them",
    }[answer(ensemble)]
    few = ""
    if len(group.scores(ENSEMBLE, "dice_mean")) < FEW_PATIENTS:
        few = (
            f" Fewer than {FEW_PATIENTS} test patients: the interval errs where some scores are 0."
        )
    return f"{answer(ensemble).capitalize()}: {measured}; {reason}.{few}"
