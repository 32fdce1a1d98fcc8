"""Scoring a network on whole cases: `validate` chooses (validation), `evaluate` decides (test)."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from segmamba.config import Config, InferenceConfig
from segmamba.data.preprocess import PreparedCase
from segmamba.evaluation.behind import batched, behind
from segmamba.evaluation.dice import dice
from segmamba.evaluation.hausdorff import surface_scores, tumour_box
from segmamba.evaluation.patients import NAMES, patient_means, row_patient
from segmamba.inference.decide import decide
from segmamba.inference.ensemble_member import Member
from segmamba.inference.predictor import Predictor
from segmamba.inference.prepared_scan import Analysis, PreparedScan

CaseScores = dict[str, Any]
"""One case's scores: {"case": its id, "patient": .., "dice_ET": .., "dice_mean": ..,
"hd95_mm_ET": ..}."""

RESIDENT_CASES = 32
"""Validation cases that stay on a GPU from one validation to the next: 30 MiB each for a brain at
1 mm."""
EAGER_PASSES = 1
"""Forward passes of a run's validations before one is captured: many more are to come."""


class Validator:
    """Scores a network again and again on the grid that it works in, as a run's validations do.

    Flips, scales and post-processing are left out: validation runs every few epochs, and compares
    epochs. The copy that predicts and, on a GPU, what was captured of it and the cases stay from
    one validation to the next, and are let go with the validator.

    Args:
        config: The configuration of the run.
        device: Where the network predicts.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        self._config, self._device = config, device
        self._member: Member | None = None
        keeps = device.type == "cuda"
        self._load = functools.lru_cache(RESIDENT_CASES)(_load) if keeps else _load
        self._at_once = RESIDENT_CASES if keeps else 1

    def scores(self, model: torch.nn.Module, cases: Iterable[PreparedCase]) -> Iterator[CaseScores]:
        """Score a network on each case.

        Args:
            model: The network, on the device; it is put into eval mode.
            cases: The validation set.

        Yields:
            A row for each case: {"case", "patient", "dice_ET", .., "dice_mean"}, by the regions of
            its label set.
        """
        member = self._with_weights_of(model.eval())
        for group in batched(cases, self._at_once):
            images, labels = zip(*(self._load(case, self._device) for case in group), strict=True)
            predicted = member.probabilities_of(images)
            for case, label, probability in zip(group, labels, predicted, strict=True):
                classes = decide(probability, member.outputs)
                yield _row(case, dice(classes, label, member.outputs.labels))

    def _with_weights_of(self, model: torch.nn.Module) -> Member:
        if self._member is not None:
            self._member.refresh(model)
            return self._member
        asked = self._config.inference
        inference = InferenceConfig(
            overlap=asked.overlap,
            overlap_voxels=asked.overlap_voxels,
            window_batch=asked.window_batch,
        )
        self._member = Member(
            model, self._config, self._device, inference, eager_passes=EAGER_PASSES
        )
        return self._member


def validate(
    model: torch.nn.Module, cases: Iterable[PreparedCase], config: Config, device: torch.device
) -> list[CaseScores]:
    """Score a network once, as a `Validator` does.

    Args:
        model: The network, on `device`.
        cases: The validation set.
        config: The configuration of the run.
        device: Where the network predicts.

    Returns:
        A row for each case.
    """
    return list(Validator(config, device).scores(model, cases))


def _load(case: PreparedCase, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a case's float16 image (4, x, y, z) and uint8 label (x, y, z) on the device."""
    return (
        torch.from_numpy(np.array(case.image())).to(device),
        torch.from_numpy(np.array(case.label())).to(device),
    )


def evaluate(
    model: torch.nn.Module,
    cases: Iterable[PreparedCase],
    config: Config,
    device: torch.device,
    took: Callable[[float], object] | None = None,
) -> list[CaseScores]:
    """Score a network on the source's grid and labels, as the test does.

    The configuration's test-time options and post-processing are used. Where preprocessing changed
    the grid, probabilities are brought back by trilinear interpolation before the decision. While a
    GPU predicts a case, the CPU scores those before it.

    Args:
        model: The network, on `device`.
        cases: The test set.
        config: The configuration of the run.
        device: Where the network predicts.
        took: Takes the seconds of each case's prediction, from the prepared case to the labels on
            the source's grid.

    Returns:
        A row for each case: Dice as in `validate`, hd95_mm_ET and so on, and the surface Dice
        nsd_1mm_ET, .., nsd_1mm_mean.
    """
    predictor = make_predictor(model, config, device)

    def analyses() -> Iterator[tuple[PreparedCase, Analysis, float]]:
        for case in cases:
            began = time.perf_counter()
            analysis = predictor.analyse(prepared_scan(case, config))
            yield case, analysis, time.perf_counter() - began

    def scored(item: tuple[PreparedCase, Analysis, float]) -> CaseScores:
        case, analysis, seconds = item
        began = time.perf_counter()
        prediction = predictor.finish(analysis)
        if took:
            took(seconds + time.perf_counter() - began)
        truth = np.asarray(case.source_label())
        box, labels = tumour_box(prediction, truth), predictor.labels
        prediction, truth = prediction[box], truth[box]
        surfaces = surface_scores(prediction, truth, case.source_spacing_mm, labels)
        return _row(case, dice(prediction, truth, labels)) | surfaces

    return list(behind(device, scored, analyses()))


def prepared_scan(case: PreparedCase, config: Config) -> PreparedScan:
    """Return a case of the cache that was made with `config`, as a Predictor takes it."""
    return PreparedScan({config.data.spacing_mm: case.image()}, {config.data.spacing_mm: case})


def make_predictor(model: torch.nn.Module, config: Config, device: torch.device) -> Predictor:
    """Make of a network what the test predicts with.

    Args:
        model: The network, on `device`; it is put into eval mode.
        config: Its test-time options and post-processing are used.
        device: Where the network predicts.

    Returns:
        The predictor.
    """
    model.eval()
    return Predictor([Member(model, config, device)], config.postprocess)


def means(rows: Sequence[CaseScores], prefix: str) -> dict[str, float]:
    """Average each score over patients, each patient's cases first.

    Args:
        rows: The scores of each case; at least one.
        prefix: "val" or "test".

    Returns:
        {"<prefix>/dice_mean": .., ...}.
    """
    patients = [row_patient(row) for row in rows]
    return {
        f"{prefix}/{name}": float(
            np.mean(patient_means(np.array([row[name] for row in rows], float), patients)[0])
        )
        for name in rows[0]
        if name not in NAMES
    }


def _row(case: PreparedCase, scores: dict[str, float]) -> CaseScores:
    names = {"case": case.id, "patient": case.patient}
    return names | {f"dice_{name}": score for name, score in scores.items()}
