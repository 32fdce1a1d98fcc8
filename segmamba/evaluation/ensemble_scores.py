"""What a soft-voting ensemble is worth: every member, every subset and the whole, case by case, from one prediction of each member.

Legend: N members; a group is members that vote together, e.g. plain seeds.
"""

import itertools
import time
from dataclasses import dataclass, field

import numpy as np
import torch

from segmamba.config import PostprocessConfig
from segmamba.data.case import patient_of
from segmamba.data.labels import REGIONS
from segmamba.evaluation.cases import prepared_scan
from segmamba.evaluation.dice import dice
from segmamba.evaluation.hausdorff import hd95_mm
from segmamba.evaluation.intervals import paired_interval
from segmamba.inference.predictor import Predictor

SCORES = (*REGIONS, "mean")
MOST_SUBSETS = 40
"""Of each size; where there are more, so many are drawn, always the same."""
ENSEMBLE = "ensemble"
VARIANTS = ((False, False), (True, False), (False, True), (True, True))
"""(8 mirror images, post-processing)."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Members that vote together, and what came of them."""

    name: str
    members: tuple
    """Their names."""
    best: int
    """Which of them validation likes best."""
    postprocessing: PostprocessConfig
    rows: list = field(default_factory=list)
    """{"case", "who": a member's name or ENSEMBLE, "flips", "postprocessed", "dice_ET" .., "dice_mean", "hd95_mm_ET" ..} (distances of
    the ensemble and, without flips and post-processing, of members)."""
    subsets: list = field(default_factory=list)
    """{"case", "members": places of those that vote, "dice_mean"}, without flips and post-processing."""
    seconds: dict = field(default_factory=dict)
    """{"member", "ensemble", "ensemble with flips", "post-processing": mean seconds a case}."""

    def scores(self, who, score, *, flips=False, postprocessed=False):
        """{case: value} of one column of the rows."""
        rows = (
            row
            for row in self.rows
            if (row["who"], row["flips"], row["postprocessed"]) == (who, flips, postprocessed)
        )
        return {row["case"]: row[score] for row in rows}

    def member_mean(self, score, *, flips=False, postprocessed=False):
        """{case: mean over the members}: what to expect of one of them."""
        each = [
            self.scores(member, score, flips=flips, postprocessed=postprocessed)
            for member in self.members
        ]
        return {case: float(np.mean([scores[case] for scores in each])) for case in each[0]}

    def by_size(self):
        """{number of members: [mean Dice over the cases, for each subset]}."""
        means = {}
        for row in self.subsets:
            means.setdefault(row["members"], []).append(row["dice_mean"])
        sizes = {}
        for members, values in means.items():
            sizes.setdefault(len(members), []).append(float(np.mean(values)))
        return sizes


def score_group(group, plain, flipped, cases, *, progress=lambda done, total: None):
    """Fill a Group: plain and flipped are its Predictors without and with mirror images, cases PreparedCases that it is tested on."""
    subsets = subsets_of(len(plain))
    config, taken = plain.members[0].config, []
    deciders = {
        post: Predictor(plain.members, group.postprocessing if post else None)
        for post in (False, True)
    }
    for done, case in enumerate(cases, 1):
        prepared, truth = prepared_scan(case, config), np.array(case.source_label())
        spent = {}
        for flips, predictor in ((False, plain), (True, flipped)):
            start = _now(predictor.device)
            each = list(predictor.member_probabilities(prepared))
            vote = predictor.vote(each)
            spent["flips" if flips else "plain"] = _now(predictor.device) - start
            for post, decider in deciders.items():
                start = _now(predictor.device)
                voted = decider.decide(vote, prepared)
                if post and not flips:
                    spent["post"] = _now(predictor.device) - start
                for who, probability in (*zip(group.members, each, strict=True), (ENSEMBLE, None)):
                    classes = (
                        voted if probability is None else decider.decide(probability, prepared)
                    )
                    distances = who == ENSEMBLE or not (flips or post)
                    group.rows.append(
                        {"case": case.id, "who": who, "flips": flips, "postprocessed": post}
                        | _scores(
                            prepared.whole(classes),
                            truth,
                            case.source_spacing_mm if distances else None,
                        )
                    )
            if not flips:
                for members in subsets:
                    classes = deciders[False].decide(
                        predictor.vote(each[place] for place in members), prepared
                    )
                    group.subsets.append(
                        {
                            "case": case.id,
                            "members": members,
                            "dice_mean": dice(prepared.whole(classes), truth)["mean"],
                        }
                    )
        taken.append(spent)
        progress(done, len(cases))
    group.seconds.update(
        {
            "member": _mean(taken, "plain") / len(plain),
            "ensemble": _mean(taken, "plain"),
            "ensemble with flips": _mean(taken, "flips"),
            "post-processing": _mean(taken, "post"),
        }
    )
    return group


def subsets_of(members):
    """Every subset of 0 .. members - 1 as a tuple, the smallest first; at most MOST_SUBSETS of a size."""
    found, rng = [], np.random.default_rng(0)
    for size in range(1, members + 1):
        all_of_size = list(itertools.combinations(range(members), size))
        if len(all_of_size) > MOST_SUBSETS:
            all_of_size = [
                all_of_size[place]
                for place in sorted(rng.choice(len(all_of_size), MOST_SUBSETS, replace=False))
            ]
        found += all_of_size
    return found


def difference(left, right):
    """(mean, low, high) of left minus right, both {case: value} of the same cases: paired, with the interval over patients."""
    cases = list(left)
    return paired_interval(
        np.array([left[case] - right[case] for case in cases]), [patient_of(case) for case in cases]
    )


def _scores(pred, truth, spacing_mm):
    found = {f"dice_{name}": value for name, value in dice(pred, truth).items()}
    return found | (
        {}
        if spacing_mm is None
        else {f"hd95_mm_{region}": mm for region, mm in hd95_mm(pred, truth, spacing_mm).items()}
    )


def _now(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _mean(taken, name):
    return float(np.mean([spent[name] for spent in taken]))
