"""A finished study in MLflow, with all that a real one leaves there, without training anything."""

import dataclasses
from pathlib import Path

from segmamba.data.splits import Split
from segmamba.orchestration.tracking.arm_runs import log_arms
from segmamba.orchestration.tracking.run_log import TEST_TABLE
from segmamba.orchestration.tracking.study_answer import log_answer
from segmamba.orchestration.tracking.study_reader import read_study
from segmamba.orchestration.tracking.study_run import StudyRun, start_study

NOTHING = Split([], [], [], test_is_validation=False, notes=())


def begin(store, study, folder, start=""):
    """The StudyRun of a study as it starts."""
    environment = study.environment | {"git commit": "0123abc"}
    bare = dataclasses.replace(study, trials=(), environment=environment)
    return start_study(store, bare, {None: NOTHING}, Path(folder), start)


def add_trials(run, trials):
    """Log trials as the processes that train and the driver do."""
    store = run.store
    for trial in trials:
        tags = {"arm": trial.arm, "seed": str(trial.seed), "study": "ablate_depth_Run01"}
        tags |= {"dataset": "phantom", "folder": trial.folder}
        run_id = run.start_trial(trial.key, tags)
        store.log_params(run_id, trial.params)
        for name, course in trial.history.items():
            for epoch, value in course:
                store.log_metrics(run_id, {name: value}, epoch)
        store.log_metrics(run_id, trial.metrics, 20)
        if trial.test_cases:
            table = {name: [row[name] for row in trial.test_cases] for name in trial.test_cases[0]}
            store.client.log_table(run_id, table, TEST_TABLE)
        run.end_trial(trial.key, trial.status, tags=dict, reason=trial.reason)


def conclude(run, folder, status="FINISHED"):
    """Do what ends every start of a study but for the report; return the Study as it is read."""
    study, report = read_study(run), Path(folder) / "report.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    for page in (report, report.with_suffix(".md")):
        page.write_text("the report")
    log_answer(run, study, report)
    log_arms(run, study)
    run.end(status)
    return study


def arm_runs(store, run):
    """Arm to its run; an arm with two fails here."""
    condition = f"tags.kind = 'arm' and tags.`mlflow.parentRunId` = '{run.run_id}'"
    found = store.search(condition)
    assert len({one.data.tags["arm"] for one in found}) == len(found)
    return {one.data.tags["arm"]: one for one in found}


def concluded(store, study, folder) -> tuple[StudyRun, object]:
    """(StudyRun, Study) of a whole study."""
    run = begin(store, study, folder)
    add_trials(run, study.trials)
    return run, conclude(run, folder)
