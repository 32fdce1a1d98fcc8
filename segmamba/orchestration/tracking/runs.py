"""MLflow: one parent run for a study, one child run for each trial, written by the trial, ended by the driver.

The driver makes the store, the experiment and the parent; a trial finds or makes its own child by the tag `trial`, so that a
restarted trial goes on in the same run; the driver alone gives final statuses. `read_study` in study_reader.py reads it all back.
"""

import json
import time
from dataclasses import asdict
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from segmamba.orchestration.tracking.reuse import DIGEST_TAG, finished_run, take_over, trial_digest
from segmamba.orchestration.tracking.run_log import (
    FOLDER_TAG,
    REASON_TAG,
    TEST_TABLE,
    RunLog,
    dataset_inputs,
)
from segmamba.orchestration.tracking.store import artifact_text

STUDY_FILE = "study.json"
PARENT_TAG, TRIAL_TAG, FOUND_TAG, CHANGES_TAG = "mlflow.parentRunId", "trial", "found", "changes"
STOPPED_TAG, INFEASIBLE_TAG, IMPORTANCE_TAG = "stopped_by", "infeasible", "importance"
COPIED_TAG, SCHEDULE_FILE = "copied", "schedule.json"
STOPPED_REASON = "stopped before it ended; --resume goes on with it"


def start_study(uri, experiment_id, study, splits, folder):
    """The parent run's id. `study` is a Study without trials, kept as an artifact of the parent; `splits` are {fold: Split}."""
    client = MlflowClient(uri)
    tags = {
        "kind": "study",
        "study": study.name,
        "preset": study.preset,
        "dataset": study.data.source,
        "labels_convention": study.data.convention,
        "git_commit": study.environment["git commit"],
        "mlflow.source.name": study.command,
        "mlflow.note.content": f"**{study.question}**\n\n{study.hypothesis.claim}",
        FOLDER_TAG: str(folder),
    }
    run_id = client.create_run(experiment_id, run_name=study.name, tags=tags).info.run_id
    params = {
        "question": study.question,
        "arms": ", ".join(study.arms),
        "seeds": len(study.seeds),
        "preset": study.preset,
    }
    client.log_batch(run_id, params=[Param(k, str(v)) for k, v in params.items()])
    client.log_inputs(run_id, dataset_inputs(study.data.source, next(iter(splits.values()))))
    stored = asdict(study)
    for name in ("trials", "searched", "importance", "schedule"):
        del stored[name]
    client.log_dict(run_id, stored, STUDY_FILE)
    return run_id


def child_run(client, experiment_id, parent_id, key, tags):
    """The id of the trial's run below the parent: the one that carries the tag, set RUNNING again, or a new one."""
    run = _trial_run(client, experiment_id, parent_id, key)
    if run:
        client.update_run(run.info.run_id, status="RUNNING")
        for tag in (REASON_TAG, STOPPED_TAG, INFEASIBLE_TAG):  # of an earlier start
            if tag in run.data.tags:
                client.delete_tag(run.info.run_id, tag)
        return run.info.run_id
    tags = {**tags, PARENT_TAG: parent_id, TRIAL_TAG: key, "kind": "trial"}
    return client.create_run(experiment_id, run_name=key, tags=tags).info.run_id


def _trial_run(client, experiment_id, parent_id, key):
    """The trial's run below the parent, or None."""
    found = client.search_runs(
        [experiment_id],
        f"tags.`{PARENT_TAG}` = '{parent_id}' and tags.{TRIAL_TAG} = '{key}'",
        max_results=1,
    )
    return found[0] if found else None


def trial_tags(context, plan):
    """What a trial's run can be filtered by. `context`: a StudyContext."""
    config = context.config(plan)
    tags = context.tags | {"arm": plan.arm, "seed": str(config.seed)}
    if plan.changes is None and not context.stages(
        plan
    ):  # a search's trial is not tested, and a schedule is more than its configuration
        tags[DIGEST_TAG] = trial_digest(config, context.split(plan))
    if plan.fold is not None:
        tags["fold"] = str(plan.fold)
    if plan.changes is not None:
        tags |= {"stage": "search", CHANGES_TAG: json.dumps(plan.changes)}
    return tags


def trial_log(context, plan, tags):
    """The RunLog of a trial's child run, for the process that trains; nothing but the driver ends the run."""
    c = context
    return RunLog(
        c.mlflow_uri,
        lambda client: child_run(client, c.experiment_id, c.parent_run_id, plan.key, tags),
        tags["dataset"],
        system_metrics=True,
    )


def note_stages(log, changes, rows, record):
    """What a member of a population copied so far, `rows` and the file `record` that holds them, and the settings it has now."""
    log.log_tags({CHANGES_TAG: json.dumps(changes)})
    if rows:
        log.log_tags(
            {COPIED_TAG: "; ".join(f"{row['from']} after epoch {row['epoch']}" for row in rows)}
        )
        log.log_files([record], None)


def reuse_trial(context, plan):
    """Whether a finished run had this trial's configuration, data, code and seed: then its results are the trial's."""
    client, tags = MlflowClient(context.mlflow_uri), trial_tags(context, plan)
    source = finished_run(client, context.experiment_id, tags[DIGEST_TAG])
    if source is None or source.data.tags.get(PARENT_TAG) == context.parent_run_id:
        return False
    run_id = child_run(client, context.experiment_id, context.parent_run_id, plan.key, tags)
    take_over(context.mlflow_uri, source, run_id, TEST_TABLE)
    client.set_terminated(run_id, "FINISHED")
    return True


def store_found(uri, parent_id, trial, importance, schedule=()):
    """What a search found, and how much each setting mattered, on the parent; of a population the Stages that led there."""
    if schedule:
        MlflowClient(uri).log_dict(parent_id, [asdict(stage) for stage in schedule], SCHEDULE_FILE)
    tags = {
        FOUND_TAG: json.dumps(trial.changes),
        "found_trial": trial.arm,
        IMPORTANCE_TAG: json.dumps(importance),
    }
    MlflowClient(uri).log_batch(
        parent_id, tags=[RunTag(name, value) for name, value in tags.items()]
    )


def log_report(uri, study, report):
    """The report, its pictures, the answer, and the figures of the trial that the validation set likes best, in the parent run.

    `report`: path of report.html.
    """
    from segmamba.studies.verdict import verdict

    client, folder, found = MlflowClient(uri), Path(report).parent, verdict(study)
    for name in ("report.md", "report.html"):
        client.log_artifact(study.parent_run_id, str(folder / name))
    if (folder / "plots").is_dir():
        client.log_artifacts(study.parent_run_id, str(folder / "plots"), "plots")
    client.log_batch(
        study.parent_run_id,
        tags=[RunTag("answer", found.answer), RunTag("verdict", found.sentence[:5000])],
    )
    best = best_tested(study)
    if best:
        figures = {
            f"best/{name}": value
            for name, value in best.metrics.items()
            if name.startswith("test/")
        }
        now = int(time.time() * 1000)
        client.log_batch(
            study.parent_run_id,
            metrics=[Metric(name, value, now, 0) for name, value in figures.items()],
            tags=[
                RunTag("best_arm", best.arm),
                RunTag("best_seed", str(best.seed)),
            ],  # a resumed study may change them: no parameters
        )


def best_tested(study):
    """The finished Trial that the validation set, never the test set, likes best; None where there is none."""
    tested = [
        trial
        for trial in study.trials
        if trial.status == "FINISHED" and "test/dice_mean" in trial.metrics
    ]
    return max(
        tested, key=lambda trial: trial.metrics.get("val/best_dice_mean", -1.0), default=None
    )


def end_trial(context, plan, status, *, reason="", marks=None):
    """Give the trial's run its final status, further tags (`marks`), and `reason` unless the trial itself gave one."""
    client = MlflowClient(context.mlflow_uri)
    run = _trial_run(client, context.experiment_id, context.parent_run_id, plan.key)
    begun = run is not None
    run_id = (
        run.info.run_id
        if begun
        else child_run(
            client,
            context.experiment_id,
            context.parent_run_id,
            plan.key,
            trial_tags(context, plan),
        )
    )
    if reason and not (begun and REASON_TAG in run.data.tags):
        client.set_tag(run_id, REASON_TAG, reason[:5000])
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in (marks or {}).items()])
    client.set_terminated(run_id, status)


def close_stopped_trials(uri, experiment_id, parent_id):
    """KILLED for every trial that is still RUNNING although nothing runs any more."""
    client = MlflowClient(uri)
    for run in children(client, experiment_id, parent_id):
        if run.info.status == "RUNNING":
            client.set_tag(run.info.run_id, REASON_TAG, STOPPED_REASON)
            client.set_terminated(run.info.run_id, "KILLED")


def close_stale(uri, experiment_id, is_abandoned):
    """KILLED for the RUNNING studies, and their trials, whose driver is gone: `is_abandoned(folder)`. Returns their names."""
    client, closed = MlflowClient(uri), []
    for parent in client.search_runs(
        [experiment_id], "tags.kind = 'study' and attributes.status = 'RUNNING'"
    ):
        if is_abandoned(parent.data.tags.get(FOLDER_TAG, "")):
            close_stopped_trials(uri, experiment_id, parent.info.run_id)
            client.set_terminated(parent.info.run_id, "KILLED")
            closed.append(parent.data.tags["study"])
    return closed


def children(client, experiment_id, parent_id):
    """All child runs, however many."""
    found, token = [], None
    while True:
        page = client.search_runs(
            [experiment_id],
            f"tags.`{PARENT_TAG}` = '{parent_id}'",
            max_results=1000,
            page_token=token,
        )
        found, token = found + list(page), page.token
        if not token:
            return found


def study_folder(uri, run_id):
    """Where the study keeps its trials; empty where its run does not say."""
    return MlflowClient(uri).get_run(run_id).data.tags.get(FOLDER_TAG, "")


def stored_study(client, run_id):
    """What `start_study` kept, as plain JSON."""
    return json.loads(artifact_text(client, run_id, STUDY_FILE))
