"""What has run: studies with their answers, and a report drawn again."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from segmamba.errors import UserError
from segmamba.files import is_there
from segmamba.orchestration.tracking.database import sqlite_path
from segmamba.orchestration.tracking.store import Store, open_store, store_uri
from segmamba.orchestration.tracking.study_reader import find_study, read_study, study_runs
from segmamba.orchestration.tracking.study_run import StudyRun
from segmamba.reports.report import write_report
from segmamba.screen import Steps
from segmamba.studies.comparison import Asked, compare
from segmamba.studies.results import Study
from segmamba.training.run_folder import next_run_folder


def existing_store(output: Path) -> Store | None:
    """Open the store of a folder of results only to look at it.

    Args:
        output: The folder.

    Returns:
        The store; None where there is none yet: to look must not make one.
    """
    path = sqlite_path(store_uri(output))
    return None if path and not path.exists() else open_store(output)


def list_studies(output: Path) -> list[dict[str, Any]]:
    """Describe what has run, newest first.

    Args:
        output: The folder of results.

    Returns:
        A dict for each study: study, question, began, state, trials, finished, best_arm,
        best_dice_mean, answer, verdict.
    """
    store = existing_store(output)
    if store is None:
        return []
    return [_row(run, StudyRun(store, run.info.run_id).children()) for run in study_runs(store)]


def redraw(output: Path, name: str) -> tuple[Study, Path]:
    """Write report.html, report.md and plots of a study again, into its folder.

    Args:
        output: The folder of results.
        name: Of the study, with or without _RunNN, or its run id.

    Raises:
        UserError: There is no such study.
    """
    store = existing_store(output)
    if store is None:
        raise UserError(f"--output {output}: no study has run there")
    run = find_study(store, name)
    folder = _folder_of(run, Path(output).resolve())
    study = read_study(run)
    write_report(study, folder)
    return study, folder


def redraw_with_viewer(
    output: Path, name: str, device: str, steps: Steps
) -> tuple[Study, Path, Path]:
    """Write viewer.html of a study, and its report, which then links there.

    Args:
        output: The folder of results.
        name: Of the study, as `redraw` takes it.
        device: Where the networks predict: "auto", "cpu", "cuda" or "cuda:1".
        steps: Shows the progress.

    Returns:
        The study, its folder, and the viewer's page.

    Raises:
        UserError: There is no such study, or its weights or its data are gone; the report is
            written all the same.
    """
    from segmamba.orchestration.study_viewer import draw_viewer

    study, folder = redraw(output, name)
    page = draw_viewer(study, folder, output, device, steps)
    write_report(study, folder)
    return study, folder, page


def compare_studies(
    output: Path, names: Sequence[str], asked: Asked, command: str
) -> tuple[Study, Path]:
    """Pool studies, ask for contrasts of their arms, and write the report into a new folder.

    Args:
        output: The folder of results.
        names: Of the studies, with or without _RunNN, or their run ids.
        asked: The contrasts and what decides them.
        command: The command line, for the report.

    Returns:
        The pooled Study and the report's folder, `output`/comparison_RunNN.

    Raises:
        UserError: There is no such study, or they cannot be compared as asked.
    """
    store = existing_store(output)
    if store is None:
        raise UserError(f"--output {output}: no study has run there")
    runs = [find_study(store, name) for name in names]
    pooled = compare([read_study(run) for run in runs], asked)
    folder = next_run_folder(Path(output).resolve(), pooled.name)
    study = dataclasses.replace(pooled, name=folder.name, command=command)
    write_report(study, folder)
    return study, folder


def _folder_of(run: StudyRun, results: Path) -> Path:
    """The folder of a study: where it ran, or, where that is gone, in the results it is now."""
    recorded = run.folder
    return Path(recorded) if recorded and is_there(recorded) else results / run.name


def _best_dice(metrics: Mapping[str, float]) -> float | None:
    """The best trial's Dice; before 0.4 the parent run had it as best/test/dice_mean."""
    return metrics.get("test/dice_mean", metrics.get("best/test/dice_mean"))


def _row(run: Run, trials: list[Run]) -> dict[str, Any]:
    tags = run.data.tags
    return {
        "study": tags["study"],
        "question": run.data.params.get("question", ""),
        "began": time.strftime("%Y-%m-%d %H:%M", time.localtime(run.info.start_time / 1000)),
        "state": run.info.status.lower(),
        "trials": len(trials),
        "finished": sum(trial.info.status == "FINISHED" for trial in trials),
        "best_arm": tags.get("best_arm"),
        "best_dice_mean": _best_dice(run.data.metrics),
        "answer": tags.get("answer"),
        "verdict": tags.get("verdict", ""),
    }
