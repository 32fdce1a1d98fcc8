"""A study read back from MLflow: for its report, to go on with it, and to list what has run."""

import dataclasses
import functools
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mlflow.entities import Run
from typing_extensions import TypedDict

from segmamba.errors import UserError
from segmamba.files import was_moved
from segmamba.json_files import parse_json
from segmamba.orchestration.tracking.bulk import Histories, histories_of
from segmamba.orchestration.tracking.database import sqlite_path
from segmamba.orchestration.tracking.registration import registration_of
from segmamba.orchestration.tracking.reuse import DIGEST_TAG, MADE_WITH_TAG
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
    STUDY_FILE,
    TRIAL_TAG,
    StudyRun,
)
from segmamba.studies.alpha_spending import FIRST_LOOK
from segmamba.studies.hypothesis import Hypothesis, hypothesis_from
from segmamba.studies.looks import Look
from segmamba.studies.results import Study, Trial, study_from
from segmamba.studies.spec import FOUND, TrialPlan

MAX_STUDIES = 1000
RESTORE = "restore it in the artifacts of the run"
T = TypeVar("T")


class _Table(TypedDict):
    """MLflow's form of a table; the columns of a test table have "case" among them."""

    columns: list[str]
    data: list[list[str | int | float | None]]


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
    found = {FOUND: _tag(parent, FOUND_TAG, dict[str, Any])} if FOUND_TAG in tags else {}
    children = run.children()
    by_key = {child.data.tags[TRIAL_TAG]: child for child in children}
    now = {
        "seconds": run.seconds(),
        "starts": _tag(parent, STARTS_TAG, int) if STARTS_TAG in tags else 1,
        "parent_run_id": run.run_id,
        "mlflow_uri": store.uri,
        "mlflow_page": store.page,
        "importance": (
            _tag(parent, IMPORTANCE_TAG, dict[str, float]) if IMPORTANCE_TAG in tags else {}
        ),
    }
    if FOUND_TAG in tags and stored.get("round_every"):
        now["schedule"] = store.artifact_json(run.run_id, SCHEDULE_FILE, list[dict[str, Any]])
    study = _restored(stored, found, run, now)
    if study.max_seeds:
        study = _with_looks(study, stored_looks(run), by_key)

    courses = histories_of(store, children) if histories else {}

    def trial(run: Run | None, arm: str, seed: int, fold: int | None) -> Trial:
        return _trial(store, run, arm, seed, fold, courses)

    trials = [trial(by_key.get(plan.key), plan.arm, plan.seed, plan.fold) for plan in study.plans]
    searched = sorted(
        (child for child in children if CHANGES_TAG in child.data.tags),
        key=lambda child: child.data.tags["arm"],
    )
    searched_trials = [
        trial(child, child.data.tags["arm"], _tag(child, "seed", int), None) for child in searched
    ]
    return dataclasses.replace(
        study,
        trials=tuple(trials),
        searched=tuple(searched_trials),
        registration=registration_of(
            store, parent, study, children, claim_of=functools.partial(_claim_of, store)
        ),
    )


def unfinished_study(store: Store, name: str, results: Path) -> Study | None:
    """Return the newest Study called `name`_RunNN in a folder that a start can go on with.

    It is one whose parent run is not FINISHED; without any, the newest one if a trial of it has
    failed that may run again.

    Args:
        store: The store.
        name: Of the study, without _RunNN.
        results: The folder of results, absolute. Studies that were moved there count.
    """
    runs = _studies_in(store, name, results)
    begun = _newest([run for run in runs if run.info.status != "FINISHED"])
    newest = begun or _newest(runs)
    if newest is None:
        return None
    study = read_study(StudyRun(store, newest.info.run_id))
    return study if begun or study.to_run_again else None


def newest_study(store: Store, name: str, results: Path) -> StudyRun | None:
    """Return the newest study called `name`_RunNN in a folder of results, absolute, if any."""
    newest = _newest(_studies_in(store, name, results))
    return StudyRun(store, newest.info.run_id) if newest else None


def _studies_in(store: Store, name: str, results: Path) -> list[Run]:
    """The studies of a name in a folder of results, newest first.

    A server's store holds those of other folders too. A database in the folder is moved and copied
    with it, so that all of its studies are there.
    """
    database = sqlite_path(store.uri)
    has_its_own = database is not None and database.parent.resolve() == results
    return [
        run
        for run in study_runs(store)
        if _without_number(run.data.tags["study"]) == name
        and (has_its_own or _is_in(results, run.data.tags))
    ]


def _is_in(results: Path, tags: Mapping[str, str]) -> bool:
    began_in = tags.get(FOLDER_TAG, "")
    return Path(began_in).parent == results or was_moved(began_in, str(results / tags["study"]))


def find_study(store: Store, name: str) -> StudyRun:
    """Return the study with this name or run id; a name without _RunNN is its newest run.

    Raises:
        UserError: There is none.
    """
    runs = study_runs(store)
    exact = [run for run in runs if name in (run.info.run_id, run.data.tags["study"])]
    newest = _newest(
        exact[:1] or [run for run in runs if _without_number(run.data.tags["study"]) == name]
    )
    if newest:
        return StudyRun(store, newest.info.run_id)
    known = list(dict.fromkeys(run.data.tags["study"] for run in runs))
    hint = f"there are {', '.join(known[:8])}" if known else "nothing has run there yet"
    raise UserError(f"no study {name!r} in {store.uri}; {hint}")


def study_runs(store: Store, condition: str = "") -> list[Run]:
    """Return the parent runs of all studies, newest first.

    Args:
        store: The store.
        condition: In MLflow's language of filters: only those of which it holds.
    """
    conditions = " and ".join(filter(None, ("tags.kind = 'study'", condition)))
    return store.search(conditions, order_by="attributes.start_time DESC", limit=MAX_STUDIES)


def _newest(runs: Sequence[Run]) -> Run | None:
    """The newest of the studies of one name, or None without any.

    Where the machine's clock was set back between two of one folder, their numbers tell.

    Args:
        runs: By the clock, newest first.
    """
    if not runs:
        return None
    results = _results(runs[0])
    beside = [run for run in runs if _results(run) == results]
    return max(beside, key=lambda run: int(run.data.tags["study"].rpartition("_Run")[2] or 0))


def _results(run: Run) -> Path:
    """The folder of results that a study lies in."""
    return Path(run.data.tags.get(FOLDER_TAG, "")).parent


def _without_number(study: str) -> str:
    """The declared name of a study that is called so_RunNN."""
    return study.rpartition("_Run")[0]


def _claim_of(store: Store, run: Run) -> Hypothesis:
    """The first claim of a study, as it was written when the study was first started."""
    return hypothesis_from(StudyRun(store, run.info.run_id).stored()["hypothesis"])


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
            or any(
                TrialPlan(arm=arm, seed=seed, fold=f).key in begun for f in study.folds or [None]
            )
        )
    seeds = tuple(sorted({seed for seeds in seeds_of.values() for seed in seeds}))
    return dataclasses.replace(study, looks=looks, arm_seeds=seeds_of, seeds=seeds)


def _trial(
    store: Store,
    run: Run | None,
    arm: str,
    seed: int,
    fold: int | None,
    courses: Mapping[str, Histories],
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
        changes=_changes(run),
        copied=tags.get(COPIED_TAG, ""),
        folder=tags.get(FOLDER_TAG, ""),
        params=data.params,
        metrics=data.metrics,
        history=courses.get(run_id, {}),
        test_cases=_test_cases(store, run),
        digest=tags.get(DIGEST_TAG, ""),
        made_with=_tag(run, MADE_WITH_TAG, dict[str, str]) if MADE_WITH_TAG in tags else {},
    )


def _test_cases(store: Store, run: Run) -> list[dict[str, Any]]:
    """One dict a case, none where the trial was not tested."""
    table, run_id = store.json_of(run, TEST_TABLE, _Table), run.info.run_id
    if table is None:
        return []
    columns = table["columns"]
    for number, row in enumerate(table["data"]):
        if len(row) != len(columns) or not isinstance(dict(zip(columns, row)).get("case"), str):  # noqa: B905
            raise UserError(
                f"{TEST_TABLE} of run {run_id}: $.data[{number}]: expected {len(columns)} values "
                'with the name of a "case"; restore it in the artifacts of the run'
            )
    return [dict(zip(columns, row, strict=True)) for row in table["data"]]


def _status(run: Run) -> str:
    if INFEASIBLE_TAG in run.data.tags:
        return "INFEASIBLE"
    if STOPPED_TAG in run.data.tags and run.info.status == "FINISHED":
        return "STOPPED"
    return run.info.status


def _changes(run: Run) -> dict[str, Any] | None:
    """A search's settings; tuples were made lists by JSON."""
    if CHANGES_TAG not in run.data.tags:
        return None
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in _tag(run, CHANGES_TAG, dict[str, Any]).items()
    }


def _restored(
    stored: dict[str, Any], found: dict[str, Any], run: StudyRun, now: dict[str, Any]
) -> Study:
    """The Study that `start_study` kept and the arm that was found, all values of their types."""
    source = f"{STUDY_FILE} of run {run.run_id}"
    try:
        study = study_from(stored | {"arms": stored["arms"] | found}, trials=(), **now)
        kept = json.dumps(dataclasses.asdict(study))
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{source}: cannot be read as a study ({reason}); {RESTORE}") from error
    parse_json(kept, Study, source=source, fix=RESTORE)
    return study


def _tag(run: Run, name: str, expected: type[T]) -> T:
    """The JSON in a tag of a run."""
    source = f"tag {name} of run {run.info.run_id}"
    return parse_json(
        run.data.tags.get(name, ""), expected, source=source, fix="set the tag right in MLflow"
    )
