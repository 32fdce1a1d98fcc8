"""A training whose settings change on the way: the part of a population's member, and of who trains again along what a population found."""

import json
import shutil
import tempfile
from pathlib import Path

from ray import tune

from segmamba.files import replacing, write_json
from segmamba.orchestration.tracking.runs import note_stages
from segmamba.training.checkpoint import resume_state


def join_population(plan, folder, log):
    """Take over what a round gave this member, unless it has it already, and tell MLflow. Nothing for any other TrialPlan.

    Killed in between, it is done once more at the next start: the copy stays until the member has come to another round.
    """
    if not plan.stages:
        return
    record, newest = folder.metrics / "stages.json", plan.stages[-1]
    rows = [
        {"epoch": stage.epoch, "from": stage.donor, "old": before.changes, "new": stage.changes}
        for before, stage in zip(plan.stages, plan.stages[1:], strict=False)
    ]
    known = json.loads(record.read_text()) if record.exists() else []
    if newest.donor and (len(known) < len(rows) or epochs_done(folder) < newest.epoch):
        for name in (folder.previous, folder.best, folder.last):
            take_file(Path(newest.checkpoint) / name.name, name)
    write_json(record, rows)
    note_stages(log, newest.changes, rows, record)


def take_file(source, target):
    """`target` becomes a copy of `source`, whole or not at all, or goes away where that does not exist."""
    if not source.exists():
        target.unlink(missing_ok=True)
        return
    with replacing(target) as file, source.open("rb") as copied:
        shutil.copyfileobj(copied, file, 1 << 20)


def parts(config, stages, folder):
    """What is left to train: (Config, its last epoch) one after another."""
    if not stages:
        return [(config, config.train.epochs)]
    done = epochs_done(folder)
    ends = [*(stage.epoch for stage in stages[1:]), config.train.epochs]
    return [
        (config.changed(stage.changes), end)
        for stage, end in zip(stages, ends, strict=True)
        if end > done or end == config.train.epochs
    ]


def epochs_done(folder):
    """Of the checkpoint that training would go on from."""
    state, _ = resume_state([folder.last, folder.previous], "cpu")
    return state["epoch"] if state else 0


def report_epoch(metrics, folder, round_every):
    """Tell Ray of an epoch; at a round, with the checkpoint that others may copy."""
    if not round_every or metrics["epoch"] % round_every:
        tune.report(metrics)
        return
    with tempfile.TemporaryDirectory(dir=folder.root) as copy:
        for path in (folder.last, folder.best):
            if path.exists():
                shutil.copy(path, copy)
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(copy))


def report_again(folder, joined, round_every, config):
    """The epoch that this member had come to before it was started again, where it may wait for a round there."""
    history = folder.read_history(config.train.epochs)
    done = epochs_done(folder)
    if done > joined and done % round_every == 0 and done < config.train.epochs:
        report_epoch({"epochs": config.train.epochs} | history[done - 1], folder, round_every)
