"""The test of a finished run: its chosen checkpoint on the test set, once."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from segmamba.config import Config
from segmamba.data.preprocess import PreparedCase
from segmamba.data.splits import Split
from segmamba.evaluation.behind import Aside
from segmamba.evaluation.cases import CaseScores, evaluate, means
from segmamba.evaluation.modality_subsets import evaluate_subsets
from segmamba.models import build_model
from segmamba.models.state_dicts import load_into
from segmamba.models.weights import load_network
from segmamba.training.callback import Callback
from segmamba.training.checkpoint import resume_state, weights_digest
from segmamba.training.drawing import draw
from segmamba.training.final_metrics import FinalMetrics
from segmamba.training.fit import Checkpoint
from segmamba.training.plots import draw_predicted
from segmamba.training.pretrain_run import read_pretraining
from segmamba.training.run_folder import RunFolder
from segmamba.training.run_pictures import worst_and_median_predicted


@dataclass(frozen=True)
class _Candidate:
    """A checkpoint that may be tested."""

    checkpoint: Literal["best", "last"]
    epoch: int
    load: Callable[[], dict[str, torch.Tensor]]


def evaluate_run(
    config: Config,
    data: Split,
    folder: RunFolder,
    device: torch.device,
    callback: Callback | None = None,
    aside: Aside | None = None,
    trained: Checkpoint | None = None,
    saved: Callable[[], None] = lambda: None,
) -> FinalMetrics:
    """Test a finished run once; write final_metrics.json and the picture of its validation.

    The tested checkpoint is the best on the validation set, or the last where the test set had to
    serve as validation set too. With `train.test_last` the last one is tested as well, as
    test/last_...; where both are of the same epoch it is tested once. With `train.test_subsets` the
    tested one is scored with every subset of the modalities too.

    Args:
        config: The configuration of the run.
        data: A Split of PreparedCases.
        folder: The folder of the run.
        device: Where the network predicts.
        callback: Watches the run.
        aside: Draws; None draws before the test ends.
        trained: The checkpoint of the last epoch, where the run has just been trained; None reads
            it.
        saved: Returns once all checkpoints are on the disk. No result is written before: it would
            be about weights that a run killed then has not kept.

    Returns:
        The content of final_metrics.json.
    """
    callback, drawing, hashing = callback or Callback(), aside or Aside(device), Aside(device)
    started = time.perf_counter()
    model = build_model(config.model).to(device)
    state = trained or resume_state([folder.last, folder.previous], device)[0]
    assert state is not None, f"{folder.root} has not been trained"
    chosen, last = _candidates(state, data, folder, device)
    test_last = config.train.test_last and chosen.epoch != last.epoch
    digests: dict[str, str] = {}
    rows_of: dict[int, list[CaseScores]] = {}  # by epoch
    predicted_s: list[float] = []

    def digest(which: str, weights: dict[str, torch.Tensor]) -> None:
        digests[which] = weights_digest(weights)

    hashing.do(partial(digest, "last", state["model"]))
    for candidate in [chosen, last] if test_last else [chosen]:
        weights = candidate.load()
        if candidate.checkpoint != "last":
            hashing.do(partial(digest, candidate.checkpoint, weights))
        source = f"{folder.root}: its {candidate.checkpoint} weights do not fit its config.json"
        load_into(model, weights, source, "keep a run's files together")
        if candidate is chosen and not data.test_is_validation:
            # There are no rows in a checkpoint of an earlier version.
            validated = state.get("best_rows", [])
            _draw_chosen(drawing, model, data.validation, validated, config, folder, chosen.epoch)
        cases = _watched(data.test, callback)
        rows = evaluate(model, cases, config, device, predicted_s.append)
        rows_of[candidate.epoch] = rows
        if candidate is chosen and data.test_is_validation:
            _draw_chosen(drawing, model, data.test, rows, config, folder, chosen.epoch)
        if candidate is chosen and config.train.test_subsets:
            further = evaluate_subsets(model, _watched(data.test, callback), config, device)
            for row, scores in zip(rows, further, strict=True):
                row |= scores
    hashing.settle()
    last_rows = rows_of.get(last.epoch)
    metrics = means(rows_of[chosen.epoch], "test")
    if last_rows is not None:
        last_means = means(last_rows, "test")
        metrics |= {n.replace("test/", "test/last_"): value for n, value in last_means.items()}
    metrics["time/test_s"] = time.perf_counter() - started
    if predicted_s:
        metrics["time/predict_case_s"] = statistics.median(predicted_s)  # the first one warms up
    metrics["time/train_total_s"] = _train_total_s(folder, state["epoch"])
    metrics["model/parameters"] = float(sum(p.numel() for p in model.parameters()))
    result = FinalMetrics(
        tested_checkpoint=chosen.checkpoint,
        tested_epoch=chosen.epoch,
        epochs=state["epoch"],
        weights_sha256=digests,
        metrics=metrics,
        cases=rows_of[chosen.epoch],
        last_cases=last_rows,
    )
    saved()
    result.write(folder.final_metrics)
    if aside is None:
        drawing.settle()
    return result


def _draw_chosen(
    aside: Aside,
    model: torch.nn.Module,
    cases: Sequence[PreparedCase],
    rows: Sequence[CaseScores],
    config: Config,
    folder: RunFolder,
    epoch: int,
) -> None:
    """Have the picture of the chosen epoch drawn, unless it was while the run trained."""
    path, device = folder.val_predictions(epoch), next(model.parameters()).device
    if rows and not path.exists():
        predicted = worst_and_median_predicted(model, cases, rows, config, device)
        aside.do(partial(draw, device, draw_predicted, path, predicted))


def _candidates(
    state: Checkpoint, data: Split, folder: RunFolder, device: torch.device
) -> tuple[_Candidate, _Candidate]:
    """Return the checkpoint that is chosen for the test, and the last one."""

    def load_best() -> dict[str, Any]:
        if state["best_epoch"] == state["epoch"]:  # the file may still be written
            return state["model"]
        return load_network(folder.best, device).tensors

    last = _Candidate("last", state["epoch"], lambda: state["model"])
    if data.test_is_validation:
        return last, last
    return _Candidate("best", state["best_epoch"], load_best), last


def _watched(cases: Sequence[PreparedCase], callback: Callback) -> Iterator[PreparedCase]:
    for done, case in enumerate(cases):
        yield case
        callback.on_test_case(done + 1)


def _train_total_s(folder: RunFolder, epochs: int) -> float:
    """Return the seconds of training and pretraining."""
    return sum(entry["time/train_s"] for entry in folder.read_history(epochs)) + sum(
        entry["time/pretrain_s"] for entry in read_pretraining(folder)
    )
