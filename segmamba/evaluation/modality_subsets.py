"""The Dice of a network that is given only some of the four modalities, the others being zeros."""

import itertools
from collections.abc import Iterable

import numpy as np
import torch

from segmamba.config import Config
from segmamba.data.labels import MODALITIES
from segmamba.data.preprocess import PreparedCase
from segmamba.evaluation.cases import CaseScores, make_predictor, prepared_scan
from segmamba.evaluation.dice import dice
from segmamba.inference.predictor import Predictor
from segmamba.inference.prepared_scan import PreparedScan

SUBSETS: tuple[tuple[str, ...], ...] = tuple(
    subset
    for size in range(len(MODALITIES), 0, -1)
    for subset in itertools.combinations(MODALITIES, size)
)
"""The 15 subsets of the modalities that are not empty, the full set first."""
PARTIAL = SUBSETS[1:]
LACKING = {"one_missing": 1, "two_missing": 2, "three_missing": 3}
"""The columns that average over subsets, by the number of modalities that these lack."""


def subset_score(subset: tuple[str, ...]) -> str:
    """Say how the columns of a subset begin in the per-case tables.

    Args:
        subset: Modalities, in the order of MODALITIES.

    Returns:
        "dice" for the full set, else for example "only_T1-T2_dice".
    """
    return "dice" if subset == MODALITIES else f"only_{'-'.join(subset)}_dice"


def evaluate_subsets(
    model: torch.nn.Module, cases: Iterable[PreparedCase], config: Config, device: torch.device
) -> list[CaseScores]:
    """Score a network on each subset of the modalities but the full one.

    A case that lacks modalities itself is given what it has of a subset. Where it has nothing of
    it, nothing is predicted, and the prediction is empty.

    Args:
        model: The network, on `device`.
        cases: The test set.
        config: The configuration of the run.
        device: Where the network predicts.

    Returns:
        A row for each case, of Dice alone: only_T1-T2_dice_ET, .., for each of 14 subsets, and
        one_missing_dice_ET, .., the means over the subsets that lack so many modalities.
    """
    predictor = make_predictor(model, config, device)
    return [_scores(predictor, prepared_scan(case, config), case) for case in cases]


def _scores(predictor: Predictor, prepared: PreparedScan, case: PreparedCase) -> CaseScores:
    truth = np.array(case.source_label())
    by_subset = {
        subset: dice(_predict(predictor, prepared, subset), truth, predictor.labels)
        for subset in PARTIAL
    }
    row: CaseScores = {
        f"{subset_score(subset)}_{region}": score
        for subset, scores in by_subset.items()
        for region, score in scores.items()
    }
    for name, lacking in LACKING.items():
        of_size = [s for subset, s in by_subset.items() if len(subset) == len(MODALITIES) - lacking]
        for region in of_size[0]:
            row[f"{name}_dice_{region}"] = float(np.mean([scores[region] for scores in of_size]))
    return row


def _predict(predictor: Predictor, prepared: PreparedScan, subset: tuple[str, ...]) -> np.ndarray:
    """Class numbers, uint8 (x, y, z), from the modalities of a subset alone."""
    dropped = [MODALITIES.index(modality) for modality in MODALITIES if modality not in subset]
    images = {spacing_mm: np.array(image) for spacing_mm, image in prepared.images.items()}
    for image in images.values():
        image[dropped] = 0
    if not any(image.any() for image in images.values()):
        return np.zeros(prepared.source_shape, np.uint8)
    return predictor.predict(PreparedScan(images, prepared.grids))
