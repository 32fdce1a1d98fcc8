"""The test of a finished run: its chosen checkpoint on the test set, once."""

import functools
import time

from segmamba.evaluation.cases import evaluate, means, predict_classes
from segmamba.models import build_model
from segmamba.training.callback import Callback
from segmamba.training.checkpoint import load_checkpoint, resume_state, weights_digest
from segmamba.training.final_metrics import FinalMetrics
from segmamba.training.plots import draw_predictions, show, worst_and_median
from segmamba.training.pretrain_run import read_pretraining


def evaluate_run(config, data, folder, device, callback=None):
    """Test the finished run in `folder` once and return its FinalMetrics. Writes final_metrics.json and pictures.

    The checkpoint is the best on the validation set, or the last where the test set had to serve as validation set too. With `train.test_last` the
    last one is tested as well, as test/last_...; where both are the same epoch it is tested once.
    """
    callback = callback or Callback()
    started = time.perf_counter()
    model = build_model(config.model).to(device)
    last, _ = resume_state([folder.last, folder.previous], device)
    chosen = {
        "checkpoint": "best",
        "epoch": last["best_epoch"],
        "weights": functools.partial(load_checkpoint, folder.best, device),
    }
    final = {"checkpoint": "last", "epoch": last["epoch"], "weights": lambda: last["model"]}
    if data.test_is_validation:
        chosen = final
    verdicts, digests = {}, {"last": weights_digest(last["model"])}
    for verdict in (
        [chosen, final]
        if config.train.test_last and chosen["epoch"] != final["epoch"]
        else [chosen]
    ):
        weights = verdict["weights"]()
        digests[verdict["checkpoint"]] = weights_digest(weights)
        model.load_state_dict(weights)
        verdicts[verdict["epoch"]] = evaluate(model, _watched(data.test, callback), config, device)
        if verdict is chosen:
            validation = (
                (data.test, verdicts[chosen["epoch"]])
                if data.test_is_validation
                else (data.validation, last.get("best_rows", []))
            )
            _draw_validation(
                model, *validation, config, device, folder.val_predictions(chosen["epoch"])
            )
    rows = verdicts[chosen["epoch"]]
    metrics = means(rows, "test")
    if final["epoch"] in verdicts:
        metrics |= {
            name.replace("test/", "test/last_"): value
            for name, value in means(verdicts[final["epoch"]], "test").items()
        }
    metrics |= {
        "time/test_s": time.perf_counter() - started,
        "time/train_total_s": sum(e["time/train_s"] for e in folder.read_history(last["epoch"]))
        + sum(e["time/pretrain_s"] for e in read_pretraining(folder)),
        "model/parameters": float(sum(p.numel() for p in model.parameters())),
    }
    result = FinalMetrics(
        tested_checkpoint=chosen["checkpoint"],
        tested_epoch=chosen["epoch"],
        epochs=last["epoch"],
        weights_sha256=digests,
        metrics=metrics,
        cases=rows,
        last_cases=verdicts.get(final["epoch"]),
    )
    result.write(folder.final_metrics)
    return result


def _watched(cases, callback):
    for done, case in enumerate(cases):
        yield case
        callback.on_test_case(done + 1)


def _draw_validation(model, cases, rows, config, device, path):
    """The worst and the median of `rows`, unless they were drawn while the run trained; a checkpoint of an earlier version has no rows."""
    if rows and not path.exists():
        draw_predictions(shown_cases(model, cases, worst_and_median(rows), config, device), path)


def shown_cases(model, cases, wanted, config, device):
    """What `worst_and_median` named, as the test would see it."""
    by_id = {case.id: case for case in cases}
    return [
        show(by_id[one], predict_classes(model, by_id[one], config, device), name)
        for name, one in wanted.items()
    ]
