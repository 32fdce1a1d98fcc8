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

    The checkpoint is the best on minival, or the last where the judge set had to serve as minival too. With `train.judge_last` the
    last one is judged as well, as last/judge_...; where both are the same epoch it is judged once.
    """
    started = time.perf_counter()
    model = build_model(config.model).to(device)
    last = load_checkpoint(folder.last, device)
    chosen = {"checkpoint": "best", "epoch": last["best_epoch"], "weights": functools.partial(load_checkpoint, folder.best, device)}
    final = {"checkpoint": "last", "epoch": last["epoch"], "weights": lambda: last["model"]}
    if data.judge_is_minival:
        chosen = final
    verdicts = {}
    for verdict in [chosen, final] if config.train.judge_last and chosen["epoch"] != final["epoch"] else [chosen]:
        model.load_state_dict(verdict["weights"]())
        verdicts[verdict["epoch"]] = judge(model, data.judge, config, device)
        if verdict is chosen:
            predict = functools.partial(predict_classes, model, config=config, device=device)
            draw_predictions(data.minival, predict, folder.val_predictions(chosen["epoch"]))
    rows = verdicts[chosen["epoch"]]
    metrics = means(rows, "judge")
    if final["epoch"] in verdicts:
        metrics |= {f"last/{name.replace('/', '_')}": value for name, value in means(verdicts[final["epoch"]], "judge").items()}
    metrics |= {
        "time/judge_s": time.perf_counter() - started,
        "time/train_total_s": sum(e["time/train_s"] for e in folder.read_history(last["epoch"])),
        "model/parameters": float(sum(p.numel() for p in model.parameters())),
    }
    told = {"judged_checkpoint": chosen["checkpoint"], "judged_epoch": chosen["epoch"], "epochs": last["epoch"], **metrics, "cases": rows}
    if final["epoch"] in verdicts:
        told["last_cases"] = verdicts[final["epoch"]]
    write_json(folder.final_metrics, told)
    return metrics, rows


def _tensorboard(folder, purge_step):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, purge_step=purge_step)
