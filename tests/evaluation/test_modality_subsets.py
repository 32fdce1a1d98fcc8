"""A network is scored with every subset of the modalities."""

import numpy as np
import pytest
import torch

from segmamba.data.cases import find_cases
from segmamba.data.label_sets import GLIOMA
from segmamba.data.labels import MODALITIES
from segmamba.data.preprocess import prepare_cases
from segmamba.evaluation.cases import evaluate
from segmamba.evaluation.dice import dice
from segmamba.evaluation.modality_subsets import SUBSETS, evaluate_subsets, subset_score
from tests.conftest import write_case
from tests.tiny import CPU, TINY


class SumOfFour(torch.nn.Module):
    """Enhancing tumour where the sum of the channels is large; later ones count more."""

    def forward(self, x):
        weights = torch.tensor([0.5, 0.7, 0.9, 1.1]).view(1, 4, 1, 1, 1)
        logits = torch.zeros(x.shape[0], 4, *x.shape[2:])
        logits[:, 3] = 20 * ((x * weights).sum(1) - 1)
        return logits


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A whole case, and one that lacks FLAIR."""
    folder = tmp_path_factory.mktemp("subsets")
    for number, name in enumerate("AB"):
        write_case(folder / "data", name, shape=(32, 32, 32), seed=number)
    (folder / "data" / "B" / "B_flair.nii.gz").unlink()
    found = find_cases(folder / "data", missing="zeros")
    return prepare_cases(found, folder / "cache", TINY.data)


@pytest.fixture(scope="module")
def rows(cases):
    return evaluate_subsets(SumOfFour(), cases, TINY, CPU)


def test_every_subset_has_columns_of_its_own_and_there_are_fifteen():
    scores = [subset_score(subset) for subset in SUBSETS]
    assert len({*scores}) == 15 and scores[0] == "dice"
    assert scores[-1] == "only_FLAIR_dice" and "only_T1-T2_dice" in scores


def test_a_subsets_score_is_that_of_an_image_without_the_others(cases, rows):
    whole = cases[0]
    image = np.array(whole.image()).astype(np.float32)
    image[[1, 3]] = 0
    logits = SumOfFour()(torch.from_numpy(image)[None])[0]
    classes = np.asarray(whole.whole(logits.argmax(0).numpy().astype(np.uint8)))
    expected = dice(classes, np.array(whole.source_label()), GLIOMA)
    assert rows[0]["only_T1-T2_dice_WT"] == pytest.approx(expected["WT"], abs=1e-3)
    assert rows[0]["only_T1-T2_dice_WT"] != rows[0]["only_T1-FLAIR_dice_WT"]


def test_means_are_over_the_subsets_that_lack_so_many(rows):
    for name, size in (("one_missing", 3), ("two_missing", 2), ("three_missing", 1)):
        single = [rows[0][f"{subset_score(s)}_WT"] for s in SUBSETS if len(s) == size]
        assert len(single) == {3: 4, 2: 6, 1: 4}[size]
        assert rows[0][f"{name}_dice_WT"] == pytest.approx(np.mean(single))


def test_a_case_that_lacks_a_modality_is_given_what_it_has(cases, rows):
    (full,) = evaluate(SumOfFour(), [cases[1]], TINY, CPU)
    without = subset_score(tuple(m for m in MODALITIES if m != "FLAIR"))
    assert rows[1][f"{without}_mean"] == full["dice_mean"]
    assert rows[1]["only_FLAIR_dice_WT"] == 0, "nothing is given, so nothing is predicted"
