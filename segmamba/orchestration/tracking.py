"""MLflow: one parent run for a study, one child run for each trial, written by the trial and read back for the report.

The driver makes the store, the experiment and the parent; a trial finds or makes its own child by the tag `trial`, so that a
restarted trial goes on in the same run; the driver alone gives final statuses.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from segmamba.orchestration.results import Hypothesis, Study, Trial
from segmamba.orchestration.run_log import FOLDER_TAG, JUDGE_TABLE, REASON_TAG, RunLog, dataset_inputs
from segmamba.orchestration.spec import TrialPlan
from segmamba.orchestration.store import artifact_text

STUDY_FILE = "study.json"
PARENT_TAG, TRIAL_TAG = "mlflow.parentRunId", "trial"


def start_study(uri, experiment_id, study, data):
    """The parent run's id. `study` is a Study without trials, kept as an artifact of the parent; `data` is its Split."""
    client = MlflowClient(uri)
    tags = {
        "kind": "study",
        "study": study.name,
        "preset": study.preset,
        "dataset": study.data["source"],
        "labels_convention": study.data["convention"],
        "git_commit": study.environment["git commit"],
        "mlflow.source.name": study.command,
        "mlflow.note.content": f"**{study.question}**\n\n{study.hypothesis.claim}",
    }
    run_id = client.create_run(experiment_id, run_name=study.name, tags=tags).info.run_id
    params = {"question": study.question, "arms": ", ".join(study.arms), "seeds": len(study.seeds), "preset": study.preset}
    client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])
    client.log_inputs(run_id, dataset_inputs(study.data["source"], data))
    stored = asdict(study)
    del stored["trials"]
    client.log_dict(run_id, stored, STUDY_FILE)
    return run_id


def unfinished_study(uri, experiment_id, name):
    """The newest Study called `name`_RunNN whose parent run is not FINISHED, or None."""
    client = MlflowClient(uri)
    wanted = f"tags.kind = 'study' and tags.study LIKE '{name}_Run%' and attributes.status != 'FINISHED'"
    found = client.search_runs([experiment_id], wanted, order_by=["attributes.start_time DESC"], max_results=1)
    return read_study(uri, found[0].info.run_id, seconds=0.0) if found else None


def child_run(client, experiment_id, parent_id, key, tags):
    """The id of the trial's run below the parent: the one that carries the tag, set RUNNING again, or a new one."""
    found = client.search_runs([experiment_id], f"tags.`{PARENT_TAG}` = '{parent_id}' and tags.{TRIAL_TAG} = '{key}'")
    if found:
        run = found[0]
        client.update_run(run.info.run_id, status="RUNNING")
        if REASON_TAG in run.data.tags:
            client.delete_tag(run.info.run_id, REASON_TAG)  # of an earlier, failed start
        return run.info.run_id
    tags = {**tags, PARENT_TAG: parent_id, TRIAL_TAG: key, "kind": "trial"}
    return client.create_run(experiment_id, run_name=key, tags=tags).info.run_id


def trial_log(uri, experiment_id, parent_id, key, tags):
    """The RunLog of a trial's child run, for the trial's own process; nothing but the driver ends the run."""
    return RunLog(uri, lambda client: child_run(client, experiment_id, parent_id, key, tags), tags["dataset"])


def log_report(uri, study, report):
    """The report, its pictures and the figures of the trial that minival likes best, in the parent run. `report`: path of report.html."""
    client, folder = MlflowClient(uri), Path(report).parent
    for name in ("report.md", "report.html"):
        client.log_artifact(study.parent_run_id, str(folder / name))
    if (folder / "plots").is_dir():
        client.log_artifacts(study.parent_run_id, str(folder / "plots"), "plots")
    judged = [trial for trial in study.trials if "judge/dice_mean" in trial.metrics]
    if judged:
        best = max(judged, key=lambda trial: trial.metrics["val/best_dice_mean"])  # never chosen by the judge set
        figures = {f"best/{name}": value for name, value in best.metrics.items() if name.startswith("judge/")}
        now = int(time.time() * 1000)
        client.log_batch(
            study.parent_run_id,
            metrics=[Metric(name, value, now, 0) for name, value in figures.items()],
            tags=[RunTag("best_arm", best.arm), RunTag("best_seed", str(best.seed))],  # a resumed study may change them: no parameters
        )


def end_trial(uri, experiment_id, parent_id, key, status, tags, reason=""):
    """Give the trial's run its final status, and `reason` unless the trial itself gave one. `tags` are for a trial that never began."""
    client = MlflowClient(uri)
    found = [run for run in _children(client, experiment_id, parent_id) if run.data.tags[TRIAL_TAG] == key]
    run_id = found[0].info.run_id if found else child_run(client, experiment_id, parent_id, key, tags)
    if reason and not (found and REASON_TAG in found[0].data.tags):
        client.set_tag(run_id, REASON_TAG, reason[:5000])
    client.set_terminated(run_id, status)


def close_stopped_trials(uri, experiment_id, parent_id):
    """KILLED for every trial that is still RUNNING although nothing runs any more."""
    client = MlflowClient(uri)
    for run in _children(client, experiment_id, parent_id):
        if run.info.status == "RUNNING":
            client.set_tag(run.info.run_id, REASON_TAG, "stopped before it ended; --resume goes on with it")
            client.set_terminated(run.info.run_id, "KILLED")


def _children(client, experiment_id, parent_id):
    return client.search_runs([experiment_id], f"tags.`{PARENT_TAG}` = '{parent_id}'", max_results=5000)


def read_study(uri, parent_id, *, seconds):
    """The Study as MLflow holds it: every planned trial, in the order arm, seed; one that never started is NOT STARTED."""
    client = MlflowClient(uri)
    parent = client.get_run(parent_id)
    stored = json.loads(artifact_text(client, parent_id, STUDY_FILE))
    by_key = {run.data.tags[TRIAL_TAG]: run for run in _children(client, parent.info.experiment_id, parent_id)}
    trials = []
    for arm in stored["arms"]:
        for seed in stored["seeds"]:
            run = by_key.get(TrialPlan(arm=arm, seed=seed).key)
            missing = Trial(run_id="", arm=arm, seed=seed, status="NOT STARTED", reason="never started")
            trials.append(_trial(client, run, arm, seed) if run else missing)
    stored |= {"hypothesis": Hypothesis(**stored["hypothesis"]), "seeds": tuple(stored["seeds"]), "trials": tuple(trials)}
    return Study(**stored | {"seconds": seconds, "parent_run_id": parent_id})


def _trial(client, run, arm, seed):
    run_id, data = run.info.run_id, run.data
    series = [name for name in data.metrics if name.startswith(("train/", "val/"))]
    history = {name: [(m.step, m.value) for m in sorted(client.get_metric_history(run_id, name), key=lambda m: m.step)] for name in series}
    judged = any(file.path == JUDGE_TABLE for file in client.list_artifacts(run_id))
    table = json.loads(artifact_text(client, run_id, JUDGE_TABLE)) if judged else {"columns": [], "data": []}
    return Trial(
        run_id=run_id, arm=arm, seed=seed, status=run.info.status, reason=data.tags.get(REASON_TAG, ""),
        folder=data.tags.get(FOLDER_TAG, ""), params=data.params, metrics=data.metrics, history=history,
        judge_cases=[dict(zip(table["columns"], row, strict=True)) for row in table["data"]],
    )  # fmt: skip
