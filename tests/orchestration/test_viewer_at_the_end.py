"""The viewer at the end of a study: made by default, and never a reason for the study to fail."""

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from segmamba.errors import UserError
from segmamba.orchestration import conclusion, study_viewer
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.orchestration.engine.progress import StudyProgress
from segmamba.orchestration.study_viewer import add_viewer
from segmamba.orchestration.tracking import arm_runs, registry, study_answer, study_reader
from tests.studies.synthetic import synthetic_study


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def progress(screen):
    return StudyProgress(Console(file=screen, width=200))


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (UserError("weights are gone"), "viewer   left out: weights are gone"),
        (OSError("disk\nfull"), "viewer   left out: disk full"),
        (MemoryError(), "viewer   left out: MemoryError"),
        (KeyboardInterrupt(), "viewer   left out: stopped; segmamba report --viewer makes it"),
    ],
)
def test_a_viewer_that_cannot_be_made_is_said_in_one_line(
    raised, said, progress, screen, monkeypatch
):
    def fail(*arguments):
        raise raised

    monkeypatch.setattr(study_viewer, "niivue_is_installed", lambda: True)
    monkeypatch.setattr(study_viewer, "draw_viewer", fail)
    assert add_viewer(synthetic_study(seeds=1), Path(), Path(), progress) is None
    assert screen.getvalue().splitlines() == [said]


def test_without_the_extra_nothing_is_predicted_and_nothing_said(progress, screen, monkeypatch):
    monkeypatch.setattr(study_viewer, "niivue_is_installed", lambda: False)
    assert add_viewer(synthetic_study(seeds=1), Path(), Path(), progress) is None
    assert screen.getvalue() == ""


class Run:
    """The run of a study, of which only the calls are of interest."""

    run_id = "run"

    def __init__(self):
        self.store, self.logged = self, []

    def retry(self, action, say):
        return action()

    def close_stopped_trials(self):
        self.logged.append("closed")

    def log_metrics(self, run_id, metrics):
        self.logged.append(sorted(metrics)[0])


class Spec:
    registers_best = False


@pytest.mark.parametrize(
    ("viewer", "status", "made"),
    [(True, "FINISHED", 1), (False, "FINISHED", 0), (True, "KILLED", 0)],
    ids=["by default", "--no-viewer", "stopped"],
)
def test_the_viewer_comes_before_the_report_that_links_to_it(
    viewer, status, made, progress, tmp_path, monkeypatch
):
    study = synthetic_study({"a": 0.0, "b": 0.01}, seeds=1, cases=3, epochs=1)
    last = dataclasses.replace(study.trials[-1], status=status)
    study = dataclasses.replace(study, trials=(*study.trials[:-1], last))
    calls = []

    def add(study, folder, output, progress):
        calls.append(folder)
        (folder / "viewer.html").touch()
        return folder / "viewer.html"

    monkeypatch.setattr(study_viewer, "add_viewer", add)
    monkeypatch.setattr(study_reader, "read_study", lambda run: study)
    monkeypatch.setattr(registry, "register_best", None)
    monkeypatch.setattr(
        study_answer,
        "log_answer",
        lambda run, study, report, viewer: run.logged.append((report.name, bool(viewer))),
    )
    monkeypatch.setattr(arm_runs, "log_arms", lambda run, study: run.logged.append("arms"))
    run, options = Run(), StudyOptions(viewer=viewer)
    assert conclusion.conclude(Spec, options, run, tmp_path, progress) is study
    assert len(calls) == made
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert ('href="viewer.html"' in page) == bool(made)
    assert run.logged == ["closed", ("report.html", bool(made)), "arms", "pareto/parameters/a"]
