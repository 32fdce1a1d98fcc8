"""A study read back from MLflow: for its report, to go on with it, and to list what has run."""

import dataclasses
import json
from collections.abc import Collection
from typing import Any

from mlflow.entities import Run

from segmamba.errors import UserError
from segmamba.orchestration.tracking.run_log import FOLDER_TAG, REASON_TAG, STOPPED_TAG, TEST_TABLE
from segmamba.orchestration.tracking.store import Store
from segmamba.orchestration.tracking.study_looks import stored_looks
from segmamba.orchestration.tracking.study_run import (
    CHANGES_TAG,
    COPIED_TAG,
    FOUND_TAG,
    IMPORTANCE_TAG,
    INFEASIBLE_TAG,
    SCHEDULE_FILE,
    STARTS_TAG,
    TRIAL_TAG,
    StudyRun,
)
from segmamba.studies.looks import FIRST_LOOK, Look
from segmamba.studies.results import Study, Trial, study_from
from segmamba.studies.spec import FOUND, TrialPlan

MAX_STUDIES = 1000


def read_study(run: StudyRun, *, histories: bool = True) -> Study:
    """Return the Study as MLflow holds it.

    Every planned trial is in it, in the order arm, seed, fold; one that never started is
    NOT STARTED. The trials of a sequential study are those of its first look, those that its looks
    asked for, and those that had begun ahead of a look.

    Args:
        run: The study's parent run.
        histories: Whether to read the course of every metric, which takes most of the time.
    """
    store = run.store
    parent = store.client.get_run(run.run_id)
    stored, tags = run.stored(), parent.data.tags
    if FOUND_TAG in tags:
        stored["arms"] = stored["arms"] | {FOUND: json.loads(tags[FOUND_TAG])}
    children = run.children()
    by_key = {child.data.tags[TRIAL_TAG]: child for child in children}
    now = {
        "seconds": run.seconds(),
        "starts": int(tags.get(STARTS_TAG, 1)),
        "parent_run_id": run.run_id,
        "mlflow_uri": store.uri,
        "importance": json.loads(tags.get(IMPORTANCE_TAG, "{}")),
    }
    if FOUND_TAG in tags and stored.get("round_every"):
        now["schedule"] = json.loads(store.artifact_text(run.run_id, SCHEDULE_FILE))
    study = study_from(stored, trials=(), **now)
    if study.max_seeds:
        study = _with_looks(study, stored_looks(run), by_key)

    def trial(run: Run | None, arm: str, seed: int, fold: int | None) -> Trial:
        return _trial(store, run, arm, seed, fold, histories=histories)

    trials = [trial(by_key.get(plan.key), plan.arm, plan.seed, plan.fold) for plan in study.plans]
    searched = sorted(
        (child for child in children if CHANGES_TAG in child.data.tags),
        key=lambda child: child.data.tags["arm"],
    )
    searched_trials = [
        trial(child, child.data.tags["arm"], int(child.data.tags["seed"]), None)
        for child in searched
    ]
    return dataclasses.replace(study, trials=tuple(trials), searched=tuple(searched_trials))


def unfinished_study(store: Store, name: str) -> Study | None:
    """Return the newest Study called `name`_RunNN whose parent run is not FINISHED."""
    condition = (
        f"tags.kind = 'study' and tags.study LIKE '{name}_Run%' and attributes.status != 'FINISHED'"
    )
    runs = store.search(condition, order_by="attributes.start_time DESC", limit=1)
    return read_study(StudyRun(store, runs[0].info.run_id)) if runs else None


def find_study(store: Store, name: str) -> StudyRun:
    """Return the study with this name or run id; a name without _RunNN is its newest run.

    Raises:
        UserError: There is none.
    """
    runs = study_runs(store)
    for run in runs:
        study = run.data.tags["study"]
        if name in (run.info.run_id, study, study.rpartition("_Run")[0]):
            return StudyRun(store, run.info.run_id)
    known = list(dict.fromkeys(run.data.tags["study"] for run in runs))
    hint = f"there are {', '.join(known[:8])}" if known else "nothing has run there yet"
    raise UserError(f"no study {name!r} in {store.uri}; {hint}")


def study_runs(store: Store) -> list[Run]:
    """Return the parent runs of all studies, newest first."""
    return store.search(
        "tags.kind = 'study'", order_by="attributes.start_time DESC", limit=MAX_STUDIES
    )


def _with_looks(study: Study, looks: tuple[Look, ...], begun: Collection[str]) -> Study:
    """A sequential study with its looks and the seeds that each arm trains so far."""
    seeds_of = {}
    for arm in study.arms:
        after = [look.seeds for look in looks if arm in look.arms]
        seeds_of[arm] = tuple(
            seed
            for place, seed in enumerate(study.seed_range)
            if place < FIRST_LOOK
            or place in after
            or any(TrialPlan(arm=arm, seed=seed, fold=f).key in begun for f in study.folds or [None])
        )
    seeds = tuple(sorted({seed for seeds in seeds_of.values() for seed in seeds}))
    return dataclasses.replace(study, looks=looks, arm_seeds=seeds_of, seeds=seeds)


def _trial(
    store: Store,
    run: Run | None,
    arm: str,
    seed: int,
    fold: int | None,
    *,
    histories: bool,
) -> Trial:
    if run is None:
        return Trial(
            run_id="", arm=arm, seed=seed, fold=fold, status="NOT STARTED", reason="never started"
        )
    run_id, data, tags = run.info.run_id, run.data, run.data.tags
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
        history={
            name: _series(store, run_id, name)
            for name in data.metrics
            if name.startswith(("train/", "val/"))
        }
        if histories
        else {},
        test_cases=_test_cases(store, run_id),
    )


def _series(store: Store, run_id: str, name: str) -> list[tuple[int, float]]:
    history = store.client.get_metric_history(run_id, name)
    return [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)]


def _test_cases(store: Store, run_id: str) -> list[dict[str, Any]]:
    """One dict a case, none where the trial was not tested."""
    if not store.has_artifact(run_id, TEST_TABLE):
        return []
    table = json.loads(store.artifact_text(run_id, TEST_TABLE))
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def _status(run: Run) -> str:
    if INFEASIBLE_TAG in run.data.tags:
        return "INFEASIBLE"
    if STOPPED_TAG in run.data.tags and run.info.status == "FINISHED":
        return "STOPPED"
    return run.info.status


def _changes(tags: dict[str, str]) -> dict[str, Any] | None:
    """A search's settings; tuples were made lists by JSON."""
    if CHANGES_TAG not in tags:
        return None
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in json.loads(tags[CHANGES_TAG]).items()
    }
