"""What a soft-voting ensemble is worth, case by case, from one prediction of each member.

Every member, every subset of them and the whole are scored.

Legend: N members; a group is members that vote together, e.g. plain seeds; (x, y, z) the source's
grid.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from segmamba.config import PostprocessConfig
from segmamba.data.label_sets import LabelSet
from segmamba.data.preprocess import PreparedCase
from segmamba.evaluation.cases import prepared_scan
from segmamba.evaluation.dice import dice
from segmamba.evaluation.hausdorff import surface_scores, tumour_box
from segmamba.evaluation.intervals import PairedMean, patient_interval
from segmamba.evaluation.patients import by_patient, row_patient
from segmamba.inference.predictor import Predictor
from segmamba.screen import Progress, no_progress

MOST_SUBSETS = 40
"""Subsets of each size that are scored. Where there are more, these are drawn, always the same."""
ENSEMBLE = "ensemble"
VARIANTS = ((False, False), (True, False), (False, True), (True, True))
"""(8 mirror images, post-processing)."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Members that vote together, and their scores."""

    name: str
    members: tuple[str, ...]
    """Their names."""
    best: int
    """The place of the member with the best validation Dice."""
    postprocessing: PostprocessConfig
    rows: list[dict[str, Any]] = field(default_factory=list)
    """{"case", "patient", "who": a member's name or ENSEMBLE, "flips", "postprocessed",
    "dice_ET" .., "dice_mean", "hd95_mm_ET" ..}. Distances are those of the ensemble and, without
    flips and post-processing, of members."""
    subsets: list[dict[str, Any]] = field(default_factory=list)
    """{"case", "patient", "members": places of those that vote, "dice_mean"}, without flips and
    post-processing."""
    seconds: dict[str, float] = field(default_factory=dict)
    """{"member", "ensemble", "ensemble with flips", "post-processing": mean seconds a case}."""

    def scores(
        self, who: str, score: str, *, flips: bool = False, postprocessed: bool = False
    ) -> dict[str, float]:
        """Return {patient: value} of one column of the rows, a patient's cases averaged.

        Args:
            who: A member's name, or ENSEMBLE.
            score: The column, "dice_mean" for example.
            flips: Whether predictions average over 8 mirror images.
            postprocessed: Whether they are post-processed.
        """
        rows = [
            row
            for row in self.rows
            if (row["who"], row["flips"], row["postprocessed"]) == (who, flips, postprocessed)
        ]
        return _by_patient(rows, score)

    def member_mean(
        self, score: str, *, flips: bool = False, postprocessed: bool = False
    ) -> dict[str, float]:
        """Return {patient: mean over the members}: what to expect of one of them.

        The arguments are those of `scores`.
        """
        each = [
            self.scores(member, score, flips=flips, postprocessed=postprocessed)
            for member in self.members
        ]
        return {who: float(np.mean([scores[who] for scores in each])) for who in each[0]}

    def member_table(self, score: str) -> np.ndarray:
        """Return a column of the rows without test-time options, (members, patients)."""
        each = [self.scores(member, score) for member in self.members]
        return np.array([[scores[who] for who in each[0]] for scores in each])

    def by_size(self) -> dict[int, list[float]]:
        """Return {number of members: the mean Dice over the patients of each subset}."""
        of_subset: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        for row in self.subsets:
            of_subset.setdefault(row["members"], []).append(row)
        sizes: dict[int, list[float]] = {}
        for members, rows in of_subset.items():
            mean = np.mean(list(_by_patient(rows, "dice_mean").values()))
            sizes.setdefault(len(members), []).append(float(mean))
        return sizes


def _by_patient(rows: Sequence[dict[str, Any]], score: str) -> dict[str, float]:
    """Return {patient: mean of a column over the patient's cases}."""
    patients = {row["case"]: row_patient(row) for row in rows}
    return by_patient({row["case"]: row[score] for row in rows}, patients)


def score_group(
    group: Group,
    plain: Predictor,
    flipped: Predictor,
    cases: Sequence[PreparedCase],
    *,
    progress: Progress = no_progress,
) -> Group:
    """Score a group's members, subsets and whole, and fill its tables.

    Args:
        group: The group; its rows, subsets and seconds are filled.
        plain: Its members without mirror images.
        flipped: Its members with mirror images.
        cases: The test set.
        progress: Called with (cases done, cases in all) after each case.

    Returns:
        `group`.
    """
    subsets = subsets_of(len(plain))
    config = plain.members[0].config
    deciders = {
        postprocessed: Predictor(plain.members, group.postprocessing if postprocessed else None)
        for postprocessed in (False, True)
    }
    seconds: list[dict[str, float]] = []
    for done, case in enumerate(cases, 1):
        prepared, truth = prepared_scan(case, config), np.array(case.source_label())
        spacing_mm = case.source_spacing_mm
        spent = {}
        for flips, predictor in ((False, plain), (True, flipped)):
            start = _now(predictor.device)
            each = list(predictor.member_probabilities(prepared))
            vote = predictor.vote(each)
            spent["flips" if flips else "plain"] = _now(predictor.device) - start
            for postprocessed, decider in deciders.items():
                start = _now(predictor.device)
                voted = decider.decide(vote, prepared)
                if postprocessed and not flips:
                    spent["postprocess"] = _now(predictor.device) - start
                classes = [*(decider.decide(probability, prepared) for probability in each), voted]
                for who, prediction in zip((*group.members, ENSEMBLE), classes, strict=True):
                    measured = who == ENSEMBLE or not (flips or postprocessed)
                    scores = _scores(
                        prepared.whole(prediction),
                        truth,
                        spacing_mm if measured else None,
                        plain.labels,
                    )
                    variant = {"flips": flips, "postprocessed": postprocessed}
                    names = {"case": case.id, "patient": case.patient, "who": who}
                    group.rows.append(names | variant | scores)
            if not flips:
                for members in subsets:
                    vote = predictor.vote(each[place] for place in members)
                    few = prepared.whole(deciders[False].decide(vote, prepared))
                    mean = dice(few, truth, plain.labels)["mean"]
                    names = {"case": case.id, "patient": case.patient}
                    group.subsets.append(names | {"members": members, "dice_mean": mean})
        seconds.append(spent)
        progress(done, len(cases))
    ensemble_s, flips_s, postprocess_s = (
        float(np.mean([spent[name] for spent in seconds]))
        for name in ("plain", "flips", "postprocess")
    )
    group.seconds["member"] = ensemble_s / len(plain)
    group.seconds["ensemble"] = ensemble_s
    group.seconds["ensemble with flips"] = flips_s
    group.seconds["post-processing"] = postprocess_s
    return group


def subsets_of(members: int) -> list[tuple[int, ...]]:
    """Return every subset of 0 .. members - 1, the smallest first.

    Args:
        members: How many members there are.

    Returns:
        At most MOST_SUBSETS of each size, always the same.
    """
    subsets: list[tuple[int, ...]] = []
    rng = np.random.default_rng(0)
    for size in range(1, members + 1):
        all_of_size = list(itertools.combinations(range(members), size))
        if len(all_of_size) > MOST_SUBSETS:
            drawn = sorted(rng.choice(len(all_of_size), MOST_SUBSETS, replace=False))
            all_of_size = [all_of_size[place] for place in drawn]
        subsets += all_of_size
    return subsets


def difference(left: dict[str, float], right: dict[str, float]) -> PairedMean:
    """Compute the paired difference of two scores of the same patients.

    Args:
        left: {patient: value}, as `Group.scores` gives it.
        right: {patient: value}.

    Returns:
        (mean, low, high) of left minus right, with the interval over patients; low and high are
        None for fewer than two patients.
    """
    return patient_interval(np.array([left[who] - right[who] for who in left]), list(left))


def _scores(
    pred: np.ndarray, truth: np.ndarray, spacing_mm: Sequence[float] | None, labels: LabelSet
) -> dict[str, float]:
    """Return Dice and, where the spacing is given, HD95 and NSD of class numbers (x, y, z)."""
    box = tumour_box(pred, truth)
    pred, truth = pred[box], truth[box]
    scores = {f"dice_{name}": value for name, value in dice(pred, truth, labels).items()}
    if spacing_mm is not None:
        scores |= surface_scores(pred, truth, spacing_mm, labels)
    return scores


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
