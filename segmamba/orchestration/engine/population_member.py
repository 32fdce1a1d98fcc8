"""A training whose settings change on the way.

It is that of a population's member, or of a network that trains again along the schedule that a
population found.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from segmamba.files import replacing, write_json
from segmamba.json_files import read_json
from segmamba.leftovers import folder_beside
from segmamba.orchestration.tracking.study_run import CHANGES_TAG, COPIED_TAG
from segmamba.training.checkpoint import resume_state

if TYPE_CHECKING:
    from segmamba.config import Config
    from segmamba.orchestration.tracking.run_log import RunLog
    from segmamba.studies.spec import Stage, TrialPlan
    from segmamba.training.run_folder import RunFolder


def join_population(plan: TrialPlan, folder: RunFolder, log: RunLog) -> None:
    """Take over the checkpoint that a round gave a member, unless it has it already.

    A member that is killed in between does it once more at its next start: the copy stays until the
    member has come to another round. Nothing happens for a trial that is no member.

    Args:
        plan: The trial.
        folder: The member's folder.
        log: The member's MLflow run, which records what it copied.
    """
    if not plan.stages:
        return
    record, newest = folder.metrics / "stages.json", plan.stages[-1]
    rows = [
        {"epoch": stage.epoch, "from": stage.donor, "old": before.changes, "new": stage.changes}
        for before, stage in zip(plan.stages, plan.stages[1:], strict=False)
    ]
    known = (
        read_json(record, list[dict[str, Any]], fix="remove it, and the member copies once more")
        if record.exists()
        else []
    )
    if newest.donor and (len(known) < len(rows) or epochs_done(folder) < newest.epoch):
        if not (copy := Path(newest.checkpoint) / folder.last.name).exists():
            raise FileNotFoundError(f"{copy}, which {plan.arm} takes from {newest.donor}, is gone")
        for target in (folder.previous, folder.best, folder.last):
            take_file(Path(newest.checkpoint) / target.name, target)
    write_json(record, rows)
    log.log_tags({CHANGES_TAG: json.dumps(newest.changes)})
    if rows:
        copies = "; ".join(f"{row['from']} after epoch {row['epoch']}" for row in rows)
        log.log_tags({COPIED_TAG: copies})
        log.log_files([record], None)


def take_file(source: Path, target: Path) -> None:
    """Make `target` a copy of `source`, whole or not at all; remove it where there is none."""
    if not source.exists():
        target.unlink(missing_ok=True)
        return
    with replacing(target) as file, source.open("rb") as copied:
        shutil.copyfileobj(copied, file, 1 << 20)


def parts(config: Config, stages: Sequence[Stage], folder: RunFolder) -> list[tuple[Config, int]]:
    """The parts of a training that are left.

    Args:
        config: The configuration of the whole training.
        stages: Its Stages; empty where its settings never change.
        folder: The run's folder, whose checkpoint tells what is done.

    Returns:
        The configuration of each part and its last epoch.
    """
    if not stages:
        return [(config, config.train.epochs)]
    done = epochs_done(folder)
    ends = [*(stage.epoch for stage in stages[1:]), config.train.epochs]
    return [
        (config.changed(stage.changes), end)
        for stage, end in zip(stages, ends, strict=True)
        if end > done or end == config.train.epochs
    ]


def epochs_done(folder: RunFolder) -> int:
    """The epoch of the checkpoint from which training would go on; 0 without one."""
    state, _ = resume_state([folder.last, folder.previous], "cpu")
    return state["epoch"] if state else 0


def report_epoch(metrics: Mapping[str, float], folder: RunFolder, round_every: int) -> None:
    """Tell Ray of an epoch; at a round, with the checkpoint that other members may copy.

    Args:
        metrics: Of the epoch, with its number as "epoch".
        folder: The run's folder.
        round_every: Epochs between rounds; 0 without rounds.
    """
    if not round_every or metrics["epoch"] % round_every:
        tune.report(dict(metrics))
        return
    with folder_beside(folder.root / "copy") as copy:
        for path in (folder.last, folder.best):
            if path.exists():
                shutil.copy(path, copy)
        tune.report(dict(metrics), checkpoint=tune.Checkpoint.from_directory(str(copy)))


def report_again(folder: RunFolder, joined: int, round_every: int, config: Config) -> None:
    """Report the last epoch of a member that was started again while it waited for a round.

    Args:
        folder: The run's folder.
        joined: The epoch of the member's newest Stage.
        round_every: Epochs between rounds.
        config: The configuration of the whole training.
    """
    history = folder.read_history(config.train.epochs)
    done = epochs_done(folder)
    if done > joined and done % round_every == 0 and done < config.train.epochs:
        report_epoch({"epochs": config.train.epochs} | history[done - 1], folder, round_every)
