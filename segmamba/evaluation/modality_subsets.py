"""The Dice of a network that is given only some of the four modalities, the others being zeros."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch

from segmamba.config import Config
from segmamba.data.labels import MODALITIES
from segmamba.data.preprocess import PreparedCase
from segmamba.evaluation.behind import behind
from segmamba.evaluation.cases import CaseScores, make_predictor, prepared_scan
from segmamba.evaluation.dice import dice
from segmamba.inference.predictor import Predictor
from segmamba.inference.prepared_scan import Analysis, PreparedScan

SUBSETS: tuple[tuple[str, ...], ...] = tuple(
    subset
    for size in range(len(MODALITIES), 0, -1)
    for subset in itertools.combinations(MODALITIES, size)
)
"""The 15 subsets of the modalities that are not empty, the full set first."""
PARTIAL = SUBSETS[1:]
LACKING = {"one_missing": 1, "two_missing": 2, "three_missing": 3}
"""The columns that average over subsets, by the number of modalities that these lack."""
Analyses = dict[tuple[str, ...], Analysis | None]
"""Subset to what the device says of it; None where a case has no modality of it."""


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

    def analyses() -> Iterator[tuple[PreparedCase, Analyses]]:
        for case in cases:
            prepared = prepared_scan(case, config)
            yield case, {subset: _analysed(predictor, prepared, subset) for subset in PARTIAL}

    return list(behind(device, lambda item: _scores(predictor, *item), analyses()))


def _scores(predictor: Predictor, case: PreparedCase, analyses: Analyses) -> CaseScores:
    truth = np.array(case.source_label())
    by_subset = {}
    for subset, analysis in analyses.items():
        predicted = predictor.finish(analysis) if analysis else np.zeros_like(truth)
        by_subset[subset] = dice(predicted, truth, predictor.labels)
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


def _analysed(
    predictor: Predictor, prepared: PreparedScan, subset: tuple[str, ...]
) -> Analysis | None:
    """The prediction from the modalities of a subset alone; None where the case has none of it."""
    dropped = [MODALITIES.index(modality) for modality in MODALITIES if modality not in subset]
    images = {spacing_mm: np.array(image) for spacing_mm, image in prepared.images.items()}
    for image in images.values():
        image[dropped] = 0
    if not any(image.any() for image in images.values()):
        return None
    return predictor.analyse(replace(prepared, images=images))
