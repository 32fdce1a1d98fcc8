"""What has run: studies with their answers, and a report drawn again."""

import time
from pathlib import Path

from mlflow import MlflowClient

from segmamba.errors import UserError
from segmamba.orchestration.tracking.runs import children
from segmamba.orchestration.tracking.store import open_store, store_uri
from segmamba.orchestration.tracking.study_reader import find_study, read_study, study_runs
from segmamba.reports.report import write_report


def list_studies(output):
    """One plain dict per study, newest first: study, question, began, state, trials, finished, best_arm, best_dice_mean, answer, verdict."""
    store = _existing(output)
    if store is None:
        return []
    uri, experiment = store
    client = MlflowClient(uri)
    return [
        _row(run, children(client, experiment, run.info.run_id))
        for run in study_runs(uri, experiment)
    ]


def redraw(output, name):
    """(Study, folder) of a study whose report.html, report.md and plots are written again, into its folder below `output`."""
    store = _existing(output)
    if store is None:
        raise UserError(f"--output {output}: no study has run there")
    run_id, folder = find_study(*store, name)
    study = read_study(store[0], run_id)
    folder = (
        Path(folder) if folder and Path(folder).is_dir() else Path(output).resolve() / study.name
    )
    write_report(study, folder)
    return study, folder


def _existing(output):
    """(uri, experiment id), or None where there is no store yet: to look must not make one."""
    uri = store_uri(output)
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        return None
    return uri, open_store(uri, output)


def _row(run, trials):
    tags = run.data.tags
    return {
        "study": tags["study"],
        "question": run.data.params.get("question", ""),
        "began": time.strftime("%Y-%m-%d %H:%M", time.localtime(run.info.start_time / 1000)),
        "state": run.info.status.lower(),
        "trials": len(trials),
        "finished": sum(trial.info.status == "FINISHED" for trial in trials),
        "best_arm": tags.get("best_arm"),
        "best_dice_mean": run.data.metrics.get("best/test/dice_mean"),
        "answer": tags.get("answer"),
        "verdict": tags.get("verdict", ""),
    }
