"""A study in MLflow: one parent run, and below it one child run for each trial.

The driver makes the store, the experiment and the parent. A trial finds or makes its own child by
the tag `trial`, so that a restarted trial goes on in the same run. The driver alone gives final
statuses. study_reader.py reads it all back.
"""

import json
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from segmamba.clock import steady_s
from segmamba.data.splits import Split
from segmamba.json_files import parse_json
from segmamba.orchestration.tracking.bulk import PARENT_TAG, runs_below, runs_with
from segmamba.orchestration.tracking.registration import registration_tags
from segmamba.orchestration.tracking.reuse import finished_runs, take_over
from segmamba.orchestration.tracking.run_log import (
    FOLDER_TAG,
    REASON_TAG,
    STOPPED_TAG,
    TEST_TABLE,
    RunLog,
    dataset_inputs,
)
from segmamba.orchestration.tracking.store import Store, prose
from segmamba.orchestration.tracking.study_text import NOTE_TAG, begun
from segmamba.redaction import redacted
from segmamba.studies.results import Study, Trial
from segmamba.studies.spec import Stage

STUDY_FILE = "study.json"
TRIAL_TAG, FOUND_TAG, CHANGES_TAG = "trial", "found", "changes"
START_TAG = "start_key"
INFEASIBLE_TAG, IMPORTANCE_TAG = "infeasible", "importance"
COPIED_TAG, SCHEDULE_FILE = "copied", "schedule.json"
STARTS_TAG, EARLIER_S_TAG, BEGAN_TAG = "starts", "earlier_s", "start_began"
"""How often the study was started, its seconds of work in starts that have ended, and when, in
seconds since 1970, the one began that has not."""
STOPPED_REASON = "stopped before it ended; --resume goes on with it"


@dataclass(frozen=True)
class StudyRun:
    """The parent run of a study. It is plain values, and travels to every trial's process."""

    store: Store
    run_id: str

    @property
    def name(self) -> str:
        """What the study is called, with its _RunNN."""
        return self.store.client.get_run(self.run_id).data.tags["study"]

    @property
    def folder(self) -> str:
        """Where the study keeps its trials; empty where its run does not say."""
        return self.store.client.get_run(self.run_id).data.tags.get(FOLDER_TAG, "")

    def moved_to(self, folder: Path) -> None:
        """Note that the folder of results with the study was moved.

        A store beside the results does this for all studies when it is opened; a server's cannot.

        Args:
            folder: The study's folder now.
        """
        before = Path(self.folder).parent
        runs = [self.store.client.get_run(self.run_id), *self.children()]
        for run in runs:
            was = Path(run.data.tags.get(FOLDER_TAG, ""))
            if was.is_relative_to(before):
                now = folder.parent / was.relative_to(before)
                self.store.set_tags(run.info.run_id, {FOLDER_TAG: now})

    def stored(self) -> dict[str, Any]:
        """Return what `start_study` kept, as plain JSON."""
        return self.store.artifact_json(self.run_id, STUDY_FILE, dict[str, Any])

    def begin(self, now: float) -> None:
        """Set the run RUNNING, and count a start and the seconds of the starts before it.

        Args:
            now: When the start began, in seconds since 1970. Repeated with the same, as a call is
                whose answer was lost, nothing is counted twice.
        """
        tags, began = self.store.client.get_run(self.run_id).data.tags, f"{now:.3f}"
        if tags.get(BEGAN_TAG) == began:
            return
        earlier_s = self.killed_after_s() if tags.get(BEGAN_TAG) else tags.get(EARLIER_S_TAG, 0.0)
        self.store.reopen_run(self.run_id)
        self.store.set_tags(
            self.run_id,
            {
                STARTS_TAG: int(tags.get(STARTS_TAG, 0)) + 1,
                EARLIER_S_TAG: f"{float(earlier_s):.1f}",
                BEGAN_TAG: began,
            },
        )

    def killed_after_s(self) -> float:
        """Return the seconds of work where the last start was killed: until its last ended trial.

        A trial that was running then is KILLED later, which is no sign of work.
        """
        tags = self.store.client.get_run(self.run_id).data.tags
        ended = [run for run in self.children() if run.info.status in ("FINISHED", "FAILED")]
        last_s = max((run.info.end_time or 0 for run in ended), default=0) / 1000
        this_start_s = max(0.0, last_s - (self._number(tags, BEGAN_TAG) or last_s))
        return self._number(tags, EARLIER_S_TAG) + this_start_s

    def children(self) -> list[Run]:
        """Return the runs of all trials that have begun, however many.

        The runs of arms are below the study's too, but are no trials.
        """
        runs = runs_below(self.store, self.run_id)
        return [run for run in runs if TRIAL_TAG in run.data.tags]

    def child(self, key: str) -> Run | None:
        """Return the run of the trial with this key, or None where it has not begun."""
        searchable = not {"'", '"'} <= set(key)  # MLflow's filters know no escape
        wanted = {TRIAL_TAG: key} if searchable else {}
        runs = runs_with(self.store, wanted | {PARENT_TAG: self.run_id})
        return next((run for run in runs if run.data.tags.get(TRIAL_TAG) == key), None)

    def start_trial(self, key: str, tags: Mapping[str, str]) -> str:
        """Return the id of a trial's run: the one it has, set RUNNING again, or a new one."""
        run = self.child(key)
        if run is None:
            return self.store.create_run(
                key, {**tags, PARENT_TAG: self.run_id, TRIAL_TAG: key, "kind": "trial"}
            )
        self.store.reopen_run(run.info.run_id)
        for tag in (REASON_TAG, STOPPED_TAG, INFEASIBLE_TAG):  # of an earlier start
            if tag in run.data.tags:
                self.store.client.delete_tag(run.info.run_id, tag)
        return run.info.run_id

    def trial_log(self, key: str, tags: Mapping[str, str]) -> RunLog:
        """Return the log of a trial for the process that trains it; the driver ends the run."""
        return RunLog(
            self.store, lambda: self.start_trial(key, tags), tags["dataset"], system_metrics=True
        )

    def reusable(self, digests: Collection[str]) -> dict[str, Run]:
        """Find the finished runs of other studies whose results trials can take.

        Args:
            digests: Of the trials: of their configuration, data, code and seed.

        Returns:
            Digest to the run that was trained with it.
        """
        return {
            digest: run
            for digest, run in finished_runs(self.store, digests).items()
            if run.data.tags.get(PARENT_TAG) != self.run_id
        }

    def reuse_trial(self, key: str, tags: Mapping[str, str], source: Run) -> None:
        """Take a trial's results from a finished run of the same digest.

        Args:
            key: Of the trial.
            tags: Of its run.
            source: The finished run.
        """
        run_id = self.start_trial(key, tags)
        take_over(self.store, source, run_id, TEST_TABLE)
        self.store.end_run(run_id, "FINISHED")

    def end_trial(
        self,
        key: str,
        status: str,
        *,
        tags: Callable[[], Mapping[str, str]],
        reason: str = "",
        marks: Mapping[str, str] | None = None,
    ) -> None:
        """Give a trial's run its final status.

        Args:
            key: Of the trial.
            status: FINISHED, FAILED or KILLED.
            tags: Gives the tags of the trial's run where that has not begun.
            reason: Why it did not finish; a reason that the trial gave itself stays.
            marks: Further tags.
        """
        run = self.child(key)
        run_id = run.info.run_id if run else self.start_trial(key, tags())
        if reason and not (run and REASON_TAG in run.data.tags):
            self.store.set_tags(run_id, {REASON_TAG: prose(reason)})
        self.store.set_tags(run_id, marks or {})
        self.store.end_run(run_id, status)

    def close_stopped_trials(self) -> None:
        """Set every trial KILLED that is still RUNNING although nothing runs any more."""
        for run in self.children():
            if run.info.status == "RUNNING":
                self.store.set_tags(run.info.run_id, {REASON_TAG: STOPPED_REASON})
                self.store.end_run(run.info.run_id, "KILLED")

    def end(self, status: str) -> None:
        """End the parent run and add this start's seconds to those before."""
        self.store.set_tags(self.run_id, {EARLIER_S_TAG: f"{self.seconds():.1f}", BEGAN_TAG: ""})
        self.store.end_run(self.run_id, status)

    def seconds(self) -> float:
        """Return the seconds of work of all starts, this one's until now.

        The process that began the start counts what has passed, though the clock was set meanwhile;
        another one goes by the clock, and never below the starts before.
        """
        tags = self.store.client.get_run(self.run_id).data.tags
        began = self._number(tags, BEGAN_TAG)
        this_start_s = max(0.0, steady_s() - began) if began else 0.0
        return self._number(tags, EARLIER_S_TAG) + this_start_s

    def _number(self, tags: Mapping[str, str], name: str) -> float:
        """The number in a tag of the run; 0 where the tag is absent or empty."""
        source = f"tag {name} of run {self.run_id}"
        return parse_json(tags.get(name) or "0", float, source=source, fix="set it right in MLflow")

    def log_search_result(
        self, trial: Trial, importance: Mapping[str, float], schedule: Sequence[Stage] = ()
    ) -> None:
        """Log what a search chose and how much each setting mattered.

        Args:
            trial: The chosen one.
            importance: Setting to its share, 0 to 1, in what the trials' Dice varies with.
            schedule: Of a population, the Stages that led to the chosen weights.
        """
        if schedule:
            # The copies are gone by now.
            stages = [asdict(stage) | {"checkpoint": ""} for stage in schedule]
            self.store.client.log_dict(self.run_id, stages, SCHEDULE_FILE)  # type: ignore[arg-type]  # any JSON
        self.store.set_tags(
            self.run_id,
            {
                FOUND_TAG: json.dumps(trial.changes),
                "found_trial": trial.arm,
                IMPORTANCE_TAG: json.dumps(importance),
            },
        )


def start_study(
    store: Store,
    study: Study,
    splits: Mapping[int | None, Split],
    folder: Path,
    start: str = "",
) -> StudyRun:
    """Make the parent run of a study; again, after a call whose answer was lost, the same.

    Args:
        store: Where to.
        study: Without trials; it is kept as an artifact of the run.
        splits: Fold to Split; the first is logged as the run's data.
        folder: Where the study keeps its trials.
        start: A text that no other start has, by which the run is found again after such a call.
    """
    tags = {
        "kind": "study",
        "study": study.name,
        "preset": study.preset,
        "dataset": study.data.source,
        "labels_convention": study.data.convention,
        "git_commit": study.environment["git commit"],
        "mlflow.source.name": study.command,
        NOTE_TAG: begun(study),
        FOLDER_TAG: str(folder),
        **registration_tags(study.claims),
    }
    tags[START_TAG] = start or uuid.uuid4().hex
    same = store.search(f"tags.{START_TAG} = '{tags[START_TAG]}'")
    run = StudyRun(store, same[0].info.run_id if same else store.create_run(study.name, tags))
    params = {
        "question": study.question,
        "arms": ", ".join(study.arms),
        "seeds": len(study.seeds),
        "preset": study.preset,
    }
    store.log_params(run.run_id, params)
    inputs = dataset_inputs(study.data.source, next(iter(splits.values())))
    store.client.log_inputs(run.run_id, inputs)
    record = asdict(study) | {"mlflow_uri": redacted(study.mlflow_uri)}
    for name in (
        "trials",
        "searched",
        "importance",
        "schedule",
        "looks",
        "arm_seeds",
        "registration",
    ):
        del record[name]
    store.client.log_dict(run.run_id, record, STUDY_FILE)
    return run


def close_abandoned(store: Store, is_abandoned: Callable[[str], bool]) -> list[str]:
    """Set studies KILLED, and their trials, whose driver is gone.

    Args:
        store: Where they are RUNNING.
        is_abandoned: Tells from a study's folder whether no process drives it.

    Returns:
        The names of those studies.
    """
    closed = []
    for run in store.search("tags.kind = 'study' and attributes.status = 'RUNNING'"):
        if is_abandoned(run.data.tags.get(FOLDER_TAG, "")):
            study = StudyRun(store, run.info.run_id)
            seconds = study.killed_after_s()
            study.close_stopped_trials()
            store.set_tags(study.run_id, {EARLIER_S_TAG: f"{seconds:.1f}", BEGAN_TAG: ""})
            store.end_run(study.run_id, "KILLED")
            closed.append(run.data.tags["study"])
    return closed
