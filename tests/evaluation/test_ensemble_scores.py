import numpy as np
import pytest
import torch

from segmamba.config import PostprocessConfig
from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.evaluation.cases import evaluate, prepared_scan
from segmamba.evaluation.dice import dice
from segmamba.evaluation.ensemble_scores import ENSEMBLE, Group, difference, score_group, subsets_of
from segmamba.inference.ensemble_member import Member
from segmamba.inference.predictor import Predictor
from tests.conftest import write_case
from tests.tiny import CPU, TINY

CONFIG = TINY.changed({"data.spacing_mm": 2.0})


class Threshold(torch.nn.Module):
    """Every voxel whose T1ce exceeds a threshold is enhancing tumour, the surer the brighter."""

    def __init__(self, at):
        super().__init__()
        self.at = torch.nn.Parameter(torch.tensor(float(at)))

    def forward(self, x):
        logits = torch.zeros(x.shape[0], 4, *x.shape[2:])
        logits[:, 3] = 4 * (x[:, 1] - self.at)
        return logits


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    for number in range(3):
        write_case(folder / "data", f"BraTS20_Training_{number:03d}", seed=number)
    return prepare_cases(find_cases(folder / "data"), folder / "cache", CONFIG.data)


@pytest.fixture(scope="module")
def scored(prepared):
    """(a Group of three members that is scored, their networks, the cases)."""
    models = [Threshold(at) for at in (0.5, 1.5, 2.5)]
    members = {
        flips: [Member(m, CONFIG.changed({"inference.flips": flips}), CPU) for m in models]
        for flips in (False, True)
    }
    group = Group(
        name="plain",
        members=("a", "b", "c"),
        best=1,
        postprocessing=PostprocessConfig(min_et_voxels=10_000),
    )
    return (
        score_group(group, Predictor(members[False]), Predictor(members[True]), prepared),
        models,
        prepared,
    )


def test_members_score_as_the_test_has_it_and_a_subset_of_one_is_its_member(scored):
    group, models, cases = scored
    for place, (name, model) in enumerate(zip(group.members, models, strict=True)):
        expected = {row["case"]: row for row in evaluate(model, cases, CONFIG, CPU)}
        assert group.scores(name, "dice_mean") == {
            case: row["dice_mean"] for case, row in expected.items()
        }
        assert group.scores(name, "hd95_mm_WT") == {
            case: row["hd95_mm_WT"] for case, row in expected.items()
        }
        alone = {
            row["case"]: row["dice_mean"] for row in group.subsets if row["members"] == (place,)
        }
        assert alone == group.scores(name, "dice_mean")


def test_the_ensemble_is_the_vote_of_all_and_so_is_the_largest_subset(scored):
    group, models, cases = scored
    vote = Predictor([Member(model, CONFIG, CPU) for model in models])
    expected = {
        case.id: dice(
            vote.predict(prepared_scan(case, CONFIG)), np.array(case.source_label()), vote.labels
        )["mean"]
        for case in cases
    }
    assert group.scores(ENSEMBLE, "dice_mean") == expected
    assert {
        row["case"]: row["dice_mean"] for row in group.subsets if len(row["members"]) == 3
    } == expected
    assert list(group.by_size()) == [1, 2, 3] and [
        len(means) for means in group.by_size().values()
    ] == [3, 3, 1]
    assert np.mean(group.by_size()[1]) == pytest.approx(
        np.mean(list(group.member_mean("dice_mean").values()))
    )


def test_post_processing_and_flips_are_scored_on_their_own(scored):
    group, *_ = scored
    raw = group.scores(ENSEMBLE, "dice_WT")
    assert (
        set(group.scores(ENSEMBLE, "dice_ET", postprocessed=True).values()) == {0.0}
        and min(group.scores(ENSEMBLE, "dice_ET").values()) > 0
    )
    flipped = group.scores(ENSEMBLE, "dice_WT", flips=True)
    assert flipped.keys() == raw.keys() and flipped == pytest.approx(raw, abs=0.02), (
        "a network of single voxels sees no mirror"
    )
    assert group.seconds["ensemble"] > group.seconds["member"] > 0


def test_every_subset_is_there_unless_there_are_too_many():
    assert (
        len(subsets_of(5)) == 31
        and subsets_of(5)[0] == (0,)
        and subsets_of(5)[-1] == (0, 1, 2, 3, 4)
    )
    sizes = [len(subset) for subset in subsets_of(12)]
    assert max(sizes.count(size) for size in range(1, 13)) == 40 and subsets_of(12) == subsets_of(
        12
    )


def test_differences_are_paired_by_case():
    mean, low, high = difference({"a": 0.9, "b": 0.5}, {"b": 0.4, "a": 0.8})
    assert mean == pytest.approx(0.1) and (low, high) == pytest.approx((0.1, 0.1))
