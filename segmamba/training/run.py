"""One run from start to verdict: `fit` with its run folder around it, then the judge."""

import functools
import os
import time

from segmamba.evaluation.cases import judge, means, predict_classes
from segmamba.files import write_json
from segmamba.models import build_model
from segmamba.training.checkpoint import load_checkpoint, save_checkpoint
from segmamba.training.fit import fit
from segmamba.training.plots import draw_predictions, draw_training_curves


def train_run(config, data, folder, device):
    """Yield `fit`'s epochs, each after it is saved in `folder` (a RunFolder); goes on from `folder.last` where that exists.

    data: a Split of PreparedCases.
    """
    folder.write_config(config)
    resume_from = load_checkpoint(folder.last, device) if folder.last.exists() else None
    done = resume_from["epoch"] if resume_from else 0
    history = folder.read_history(done)
    with _tensorboard(folder.logs, purge_step=done + 1) as events:
        for epoch in fit(config, data, device, resume_from):
            history.append({"epoch": epoch.number} | epoch.metrics)
            write_json(folder.history, history)
            for name, value in epoch.metrics.items():
                events.add_scalar(name, value, epoch.number)
            weights = epoch.checkpoint["model"]
            if epoch.is_best:
                save_checkpoint(weights, folder.best)
            if config.train.keep_every_epochs and epoch.number % config.train.keep_every_epochs == 0:
                save_checkpoint(weights, folder.periodic(epoch.number))
            save_checkpoint(epoch.checkpoint, folder.last)  # last: a run killed before this repeats the epoch
            yield epoch
    draw_training_curves(history, folder.plots / "training_curves.png")


def judge_run(config, data, folder, device):
    """Judge the finished run in `folder` once: (metrics with judge/ names, rows per case). Writes final_metrics.json and pictures.

    The checkpoint is the best on minival, or the last where the judge set had to serve as minival too.
    """
    started = time.perf_counter()
    model = build_model(config.model).to(device)
    last = load_checkpoint(folder.last, device)
    judged = "last" if data.judge_is_minival else "best"
    model.load_state_dict(last["model"] if data.judge_is_minival else load_checkpoint(folder.best, device))
    rows = judge(model, data.judge, config, device)
    metrics = means(rows, "judge") | {
        "time/judge_s": time.perf_counter() - started,
        "model/parameters": float(sum(p.numel() for p in model.parameters())),
    }
    history = folder.read_history(last["epoch"])
    metrics["time/train_total_s"] = sum(e["time/train_s"] for e in history)
    chosen_epoch = last["epoch"] if data.judge_is_minival else last["best_epoch"]
    final = {"judged_checkpoint": judged, "judged_epoch": chosen_epoch, "epochs": last["epoch"], **metrics, "cases": rows}
    write_json(folder.final_metrics, final)
    draw_predictions(data.minival, functools.partial(predict_classes, model, config=config, device=device), folder.val_predictions(chosen_epoch))
    return metrics, rows


def _tensorboard(folder, purge_step):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=purge_step)
