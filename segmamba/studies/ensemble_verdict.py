"""What an ensemble experiment found, and whether the vote gains what is expected of it."""

from dataclasses import dataclass

from segmamba.evaluation.ensemble_scores import ENSEMBLE, difference
from segmamba.studies.contrasts import count, points


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """What came of it. The study's trials are the members; groups: Group objects, plain seeds first."""

    study: object
    groups: tuple
    expected_gain: tuple
    """(least, most) Dice that the vote is expected to gain over one member."""
    validation: dict
    """{group: mean Dice of the vote on the validation set, with post-processing}."""
    registered: str
    """The address of the registered model, and whether it is the champion, in words."""
    seconds: float
    """Scoring, tuning and registering, without the training."""

    def group(self, name):
        return next(group for group in self.groups if group.name == name)


def gain(found, group, score="dice_mean", **variant):
    """(mean, low, high): the vote minus the mean of its members."""
    return difference(group.scores(ENSEMBLE, score, **variant), group.member_mean(score, **variant))


def answer(found):
    """supported, rejected or undecided: whether plain seeds gain what is expected over one of them."""
    mean, low, high = gain(found, found.groups[0])
    if low is None:
        return "undecided"
    least = found.expected_gain[0]
    return "rejected" if high < least else "supported" if low > 0 and mean >= least else "undecided"


def verdict_sentence(found):
    """The answer in plain words, in Dice points."""
    group, (mean, low, high) = found.groups[0], gain(found, found.groups[0])
    cases = count(len(group.scores(ENSEMBLE, "dice_mean")), "test case")
    where = "above" if mean >= 0 else "below"
    measured = f"{len(group.members)} {group.name} members together score {points(abs(mean))} Dice points {where} one of them"
    if low is None:
        return f"Undecided: {measured}, on one patient ({cases}), which says nothing about others."
    least, most = (points(value) for value in found.expected_gain)
    measured += f" on mean Dice (95 % interval {points(low, True)} to {points(high, True)} over patients; {cases})"
    reason = {
        "supported": f"the interval lies above 0 and the estimate reaches the {least} to {most} points that are expected",
        "rejected": f"the whole interval lies below the {least} to {most} points that are expected",
        "undecided": f"the interval neither excludes the {least} to {most} points that are expected nor shows them",
    }[answer(found)]
    return f"{answer(found).capitalize()}: {measured}; {reason}."
