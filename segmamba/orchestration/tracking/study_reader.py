"""A study read back from MLflow: for its report, to go on with it, and to list what has run."""

import dataclasses
import json

from mlflow import MlflowClient

from segmamba.errors import UserError
from segmamba.orchestration.tracking.run_log import FOLDER_TAG, REASON_TAG, TEST_TABLE
from segmamba.orchestration.tracking.runs import (
    CHANGES_TAG,
    COPIED_TAG,
    FOUND_TAG,
    IMPORTANCE_TAG,
    INFEASIBLE_TAG,
    SCHEDULE_FILE,
    STOPPED_TAG,
    TRIAL_TAG,
    children,
    stored_study,
)
from segmamba.orchestration.tracking.store import artifact_text
from segmamba.studies.results import Trial, study_from
from segmamba.studies.spec import FOUND

MAX_STUDIES = 1000


def read_study(uri, parent_id, *, seconds=None):
    """The Study as MLflow holds it: every planned trial, in the order arm, seed, fold; one that never started is NOT STARTED.

    seconds: the wall time so far; None takes that between the parent's start and end.
    """
    client = MlflowClient(uri)
    parent = client.get_run(parent_id)
    stored, tags = stored_study(client, parent_id), parent.data.tags
    if FOUND_TAG in tags:
        stored["arms"] = stored["arms"] | {FOUND: json.loads(tags[FOUND_TAG])}
    if seconds is None:
        seconds = ((parent.info.end_time or parent.info.start_time) - parent.info.start_time) / 1000
    runs = children(client, parent.info.experiment_id, parent_id)
    by_key = {run.data.tags[TRIAL_TAG]: run for run in runs}
    now = {
        "seconds": seconds,
        "parent_run_id": parent_id,
        "mlflow_uri": uri,
        "importance": json.loads(tags.get(IMPORTANCE_TAG, "{}")),
    }
    if FOUND_TAG in tags and stored.get("round_every"):
        now["schedule"] = json.loads(artifact_text(client, parent_id, SCHEDULE_FILE))
    study = study_from(stored, trials=(), **now)
    trials = [
        _trial(client, by_key.get(plan.key), plan.arm, plan.seed, plan.fold) for plan in study.plans
    ]
    searched = sorted(
        (run for run in runs if CHANGES_TAG in run.data.tags), key=lambda run: run.data.tags["arm"]
    )
    searched = [
        _trial(client, run, run.data.tags["arm"], int(run.data.tags["seed"]), None)
        for run in searched
    ]
    return dataclasses.replace(study, trials=tuple(trials), searched=tuple(searched))


def unfinished_study(uri, experiment_id, name):
    """The newest Study called `name`_RunNN whose parent run is not FINISHED, or None."""
    client = MlflowClient(uri)
    wanted = (
        f"tags.kind = 'study' and tags.study LIKE '{name}_Run%' and attributes.status != 'FINISHED'"
    )
    found = client.search_runs(
        [experiment_id], wanted, order_by=["attributes.start_time DESC"], max_results=1
    )
    return read_study(uri, found[0].info.run_id, seconds=0.0) if found else None


def find_study(uri, experiment_id, name):
    """(run id, folder) of the study with this name or run id; a name without _RunNN is its newest run. UserError where there is none."""
    found = [run for run in study_runs(uri, experiment_id) if _is_called(run, name)]
    if not found:
        known = list(
            dict.fromkeys(run.data.tags["study"] for run in study_runs(uri, experiment_id))
        )
        raise UserError(
            f"no study {name!r} in {uri}"
            + (f"; there are {', '.join(known[:8])}" if known else "; nothing has run there yet")
        )
    return found[0].info.run_id, found[0].data.tags.get(FOLDER_TAG, "")


def _is_called(run, name):
    study = run.data.tags["study"]
    return name in (run.info.run_id, study, study.rpartition("_Run")[0])


def study_runs(uri, experiment_id):
    """The parent runs of all studies, newest first."""
    return MlflowClient(uri).search_runs(
        [experiment_id],
        "tags.kind = 'study'",
        order_by=["attributes.start_time DESC"],
        max_results=MAX_STUDIES,
    )


def _trial(client, run, arm, seed, fold):
    if run is None:
        return Trial(
            run_id="", arm=arm, seed=seed, fold=fold, status="NOT STARTED", reason="never started"
        )
    run_id, data, tags = run.info.run_id, run.data, run.data.tags
    series = [name for name in data.metrics if name.startswith(("train/", "val/"))]
    history = {
        name: [
            (m.step, m.value)
            for m in sorted(client.get_metric_history(run_id, name), key=lambda m: m.step)
        ]
        for name in series
    }
    tested = any(file.path == TEST_TABLE for file in client.list_artifacts(run_id))
    table = (
        json.loads(artifact_text(client, run_id, TEST_TABLE))
        if tested
        else {"columns": [], "data": []}
    )
    return Trial(
        run_id=run_id,
        arm=arm,
        seed=seed,
        fold=fold,
        status=_status(run),
        reason=tags.get(REASON_TAG, ""),
        changes=_changes(tags),
        copied=tags.get(COPIED_TAG, ""),
        folder=tags.get(FOLDER_TAG, ""),
        params=data.params,
        metrics=data.metrics,
        history=history,
        test_cases=[dict(zip(table["columns"], row, strict=True)) for row in table["data"]],
    )


def _status(run):
    if INFEASIBLE_TAG in run.data.tags:
        return "INFEASIBLE"
    return (
        "STOPPED"
        if STOPPED_TAG in run.data.tags and run.info.status == "FINISHED"
        else run.info.status
    )


def _changes(tags):
    """A search's settings; tuples were made lists by JSON."""
    if CHANGES_TAG not in tags:
        return None
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in json.loads(tags[CHANGES_TAG]).items()
    }
