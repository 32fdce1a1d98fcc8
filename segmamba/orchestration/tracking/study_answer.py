"""What a study's parent run holds once the study has an answer."""

import math
from pathlib import Path

from segmamba.orchestration.tracking.experiment_page import SUMMARY_TAG
from segmamba.orchestration.tracking.store import prose
from segmamba.orchestration.tracking.study_run import StudyRun
from segmamba.orchestration.tracking.study_text import NOTE_TAG, answered
from segmamba.studies.champion import best_tested
from segmamba.studies.results import Study
from segmamba.studies.verdict import Verdict, verdict

VIEWER_BYTES = 30_000_000
"""Of a larger page of cases, MLflow has the place alone."""


def log_answer(run: StudyRun, study: Study, report: Path, viewer: Path | None = None) -> None:
    """Log the report, its pictures, the answer, and the figures of the best trial.

    Repeated, as after a resume, it says what is so now.

    Args:
        run: The study's run.
        study: As it stands; the best trial is the one that the validation set chooses.
        report: Path of report.html, with report.md, plots/ and tables/ beside it.
        viewer: The page of the study's cases; None without one of what the study is now.
    """
    store, answer = run.store, verdict(study)
    for path in (report.with_suffix(".md"), report):
        store.client.log_artifact(run.run_id, str(path))
    for folder in ("plots", "tables"):
        if (report.parent / folder).is_dir():
            store.client.log_artifacts(run.run_id, str(report.parent / folder), folder)
    tags = {
        "answer": answer.answer,
        "verdict": prose(answer.sentence),
        NOTE_TAG: prose(answered(study, _log_viewer(run, viewer))),
    }
    best, metrics = best_tested(study), _figures(answer)
    if best:
        # The names of the trials' own metrics, so that one column of MLflow's holds them all.
        chosen = {
            name: value
            for name, value in best.metrics.items()
            if name.startswith(("test/", "val/best_"))
        }
        metrics |= chosen
        # A resumed study may change them, so they cannot be parameters.
        tags |= {"best_arm": best.arm, "best_seed": str(best.seed)}
        # MLflow's charts of arms show the run above them too: by this name, not as "Unassigned".
        tags[SUMMARY_TAG] = f"best trial of {study.name}"
    store.log_metrics(run.run_id, metrics)
    store.set_tags(run.run_id, tags)


def _log_viewer(run: StudyRun, page: Path | None) -> str:
    """Log the page of the study's cases; the sentence on where it is, empty where there is none."""
    if page is None:
        return ""
    shows = "the worst, the median and the best case of each arm"
    if page.stat().st_size > VIEWER_BYTES:
        return f"{page.name} in the study's folder, too large for an artifact, shows {shows}."
    run.store.client.log_artifact(run.run_id, str(page))
    return f"{page.name} beside it shows {shows}; download it to open it."


def _figures(answer: Verdict) -> dict[str, float]:
    """The difference that the verdict leads with, in the unit of the per-case tables."""
    difference = answer.difference
    column = f"{difference.score}_{difference.region}"
    named = {
        f"verdict/difference_{column}": difference.mean,
        f"verdict/low_{column}": difference.low,
        f"verdict/high_{column}": difference.high,
    }
    return {name: value for name, value in named.items() if math.isfinite(value)}
