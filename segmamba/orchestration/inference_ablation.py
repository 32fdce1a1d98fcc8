"""The inference ablation: arms that need no training, scored on trained checkpoints, as a study in MLflow with a report."""

import dataclasses
import json
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from segmamba.data.case import patient_of
from segmamba.data.cases import notes_on
from segmamba.data.preprocess import prepare_cases
from segmamba.data.source import labelled_cases, source_changes
from segmamba.data.splits import split_cases
from segmamba.device import choose_device
from segmamba.environment import describe_environment
from segmamba.errors import UserError
from segmamba.evaluation.inference_arms import score_arms
from segmamba.evaluation.intervals import paired_interval
from segmamba.files import check_writable, locked
from segmamba.inference.predictor import load_predictor
from segmamba.orchestration.tracking.run_log import FOLDER_TAG
from segmamba.orchestration.tracking.runs import PARENT_TAG, TRIAL_TAG
from segmamba.orchestration.tracking.store import end_run, open_store, store_uri
from segmamba.reports.inference_report import write_inference_report
from segmamba.studies.anova import crossed
from segmamba.studies.results import StudyData, study_data_from
from segmamba.training.run_folder import next_run_folder

NAME = "ablate_inference"


@dataclass(frozen=True, kw_only=True)
class InferenceAblation:
    """What came of it."""

    name: str
    baseline: str
    arms: dict
    """Name to dotted changes."""
    checkpoints: tuple
    rows: dict
    """{arm: [rows of checkpoint 1, of checkpoint 2 ..]}; see `score_arms`."""
    data: StudyData
    """Only its test set is used."""
    environment: dict
    command: str
    mlflow_uri: str
    run_id: str
    seconds: float

    def table(self, arm, column):
        """(checkpoints, cases) of one column of the rows."""
        return np.array([[row[column] for row in rows] for rows in self.rows[arm]], float)

    def mean(self, arm, column):
        return float(self.table(arm, column).mean())

    def difference(self, arm, column):
        """(mean, low, high) of the arm minus the baseline: one checkpoint, over patients; several, over training runs and cases."""
        d = self.table(arm, column) - self.table(self.baseline, column)
        if len(d) == 1:
            return paired_interval(d[0], [patient_of(case) for case in self.data.test])
        layout = crossed(d)
        half = float(layout.half_width())
        return float(d.mean()), float(d.mean()) - half, float(d.mean()) + half


def run_inference_ablation(
    checkpoints,
    arms,
    baseline,
    *,
    data=None,
    labels=None,
    output=Path("Results"),
    device="auto",
    progress,
):
    """Score, log and report: (InferenceAblation, path of the report). progress: a StudyProgress or its null object."""
    started, device = time.time(), choose_device(device)
    check_writable(output)
    configs = [load_predictor(path, "cpu").members[0].config for path in checkpoints]
    changes = (
        source_changes(data, labels or "auto")
        if data
        else {"data.labels": labels}
        if labels
        else {}
    )
    sources = [dataclasses.replace(config.changed(changes).data, fold=0) for config in configs]
    if any(source != sources[0] for source in sources[1:]):
        raise UserError(
            "--checkpoint: the runs were trained on different data or splits; give runs of one study"
        )
    config = configs[0].changed(changes)
    cases, source, left_out = labelled_cases(config, output, progress.steps)
    prepared = prepare_cases(
        cases,
        Path(output).resolve() / "cache",
        config.data,
        progress=progress.steps("preparing cases"),
    )
    split = split_cases(prepared, config.data)
    uri = store_uri(output)
    experiment = open_store(uri, output)
    folder = next_run_folder(Path(output).resolve(), NAME)
    told = {
        "source": source,
        "phantom": not config.data.source,
        "convention": " + ".join(sorted({case.convention for case in cases})),
        "test": [case.id for case in split.test],
        "notes": [*left_out, *notes_on(cases), *split.notes],
    }
    found = InferenceAblation(
        name=folder.name,
        baseline=baseline,
        arms=arms,
        checkpoints=tuple(str(Path(path).resolve()) for path in checkpoints),
        rows={},
        data=study_data_from(told),
        environment=describe_environment(),
        command=shlex.join([Path(sys.executable).name, *sys.argv]),
        mlflow_uri=uri,
        run_id="",
        seconds=0.0,
    )
    with locked(folder):
        found = dataclasses.replace(found, run_id=_start(found, experiment, folder))
        status = "FAILED"
        try:
            rows = {arm: [] for arm in arms}
            for number, path in enumerate(checkpoints, 1):
                steps = progress.steps(
                    f"checkpoint {number} of {len(checkpoints)}: {len(arms)} arms x {len(split.test)} cases"
                )
                for arm, scored in score_arms(
                    path, arms, split.test, device, progress=steps
                ).items():
                    rows[arm].append(scored)
            found = dataclasses.replace(found, rows=rows, seconds=time.time() - started)
            report = write_inference_report(found, folder)
            _log(found, experiment, report)
            status = "FINISHED"
            return found, report
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            end_run(uri, found.run_id, status)


def _start(found, experiment, folder):
    client = MlflowClient(found.mlflow_uri)
    tags = {
        "kind": "study",
        "study": found.name,
        "dataset": found.data.source,
        "labels_convention": found.data.convention,
        "git_commit": found.environment["git commit"],
        "mlflow.source.name": found.command,
        FOLDER_TAG: str(folder),
        "mlflow.note.content": "**What is each part of inference worth?** Test-time options and post-processing, without training.",
    }
    run_id = client.create_run(experiment, run_name=found.name, tags=tags).info.run_id
    client.log_batch(
        run_id,
        params=[
            Param("arms", ", ".join(found.arms)),
            Param("checkpoints", ", ".join(found.checkpoints)[:5000]),
        ],
    )
    return run_id


def _log(found, experiment, report):
    """A child run for each arm with its metrics and rows; the report in the parent."""
    client, now = MlflowClient(found.mlflow_uri), int(time.time() * 1000)
    for arm, changes in found.arms.items():
        tags = {
            PARENT_TAG: found.run_id,
            TRIAL_TAG: arm,
            "kind": "arm",
            "arm": arm,
            "study": found.name,
        }
        run_id = client.create_run(experiment, run_name=arm, tags=tags).info.run_id
        client.log_batch(
            run_id, params=[Param(name, str(value)) for name, value in changes.items()]
        )
        columns = [name for name in found.rows[arm][0][0] if name != "case"]
        metrics = [
            Metric("time/case_s" if c == "seconds" else f"test/{c}", found.mean(arm, c), now, 0)
            for c in columns
        ]
        client.log_batch(run_id, metrics=metrics)
        table = [
            {"checkpoint": number} | row
            for number, rows in enumerate(found.rows[arm], 1)
            for row in rows
        ]
        client.log_table(
            run_id, {name: [row[name] for row in table] for name in table[0]}, "test_cases.json"
        )
        client.set_terminated(run_id, "FINISHED")
    for path in (report, report.with_suffix(".md")):
        client.log_artifact(found.run_id, str(path))
    client.log_artifacts(found.run_id, str(report.parent / "plots"), "plots")
    best = max(found.arms, key=lambda arm: found.mean(arm, "dice_mean"))
    client.log_batch(
        found.run_id,
        tags=[RunTag("best_arm", best), RunTag("cases", json.dumps(found.data.test)[:5000])],
    )
