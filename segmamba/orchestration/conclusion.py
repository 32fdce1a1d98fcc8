"""The end of a study: what is read, drawn, logged and registered once its trials are over."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.studies.results import Study

if TYPE_CHECKING:
    from segmamba.orchestration.engine.options import StudyOptions
    from segmamba.orchestration.engine.progress import ProgressDisplay
    from segmamba.orchestration.tracking.study_run import StudyRun
    from segmamba.studies.spec import StudySpec


def conclude(
    spec: StudySpec, options: StudyOptions, run: StudyRun, folder: Path, progress: ProgressDisplay
) -> Study:
    """End a study: its viewer, its report, its best trial registered.

    Args:
        spec: As its file declares it.
        options: What the user chose.
        run: Its run in MLflow.
        folder: Its folder.
        progress: A StudyProgress or its null object.

    Returns:
        The Study as it stands in the end, with its report logged.
    """
    from segmamba.orchestration.study_viewer import add_viewer
    from segmamba.orchestration.tracking.arm_runs import log_arms
    from segmamba.orchestration.tracking.registry import register_best
    from segmamba.orchestration.tracking.study_answer import log_answer
    from segmamba.orchestration.tracking.study_reader import read_study
    from segmamba.reports.pareto_rows import pareto_metrics
    from segmamba.reports.report import write_report

    def read() -> Study:
        run.close_stopped_trials()
        return read_study(run)

    study = run.store.retry(read, progress.say)
    viewer = None
    if options.viewer and final_status(study) == "FINISHED":
        viewer = add_viewer(study, folder, options.output, progress)
    report = write_report(study, folder)

    def publish() -> None:
        log_answer(run, study, report, viewer)
        log_arms(run, study)
        run.store.log_metrics(run.run_id, pareto_metrics(study))
        if spec.registers_best:
            register_best(run.store, study)

    run.store.retry(publish, progress.say)
    return study


def final_status(study: Study) -> str:
    """MLflow's status of a study that has ended.

    Args:
        study: The study.

    Returns:
        KILLED while trials are missing, FAILED where none ended well, else FINISHED.
    """
    states = {trial.status for trial in (*study.trials, *study.searched)}
    if states & {"KILLED", "RUNNING", "NOT STARTED"} or study.awaits_look:
        return "KILLED"
    return "FINISHED" if "FINISHED" in states else "FAILED"
