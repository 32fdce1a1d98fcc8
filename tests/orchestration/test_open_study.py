"""A study is unfinished until whoever opened it is done with its trials.

This process is its driver until then: scoring and registering belong to it.
"""

import contextlib
import functools
import sys

import pytest
from mlflow import MlflowClient

from search_spaces.ensemble import members
from segmamba.errors import UserError
from segmamba.orchestration import study
from segmamba.orchestration.engine.cluster import FOR_RAY
from segmamba.orchestration.engine.compile_choice import CompileChoice
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.orchestration.engine.progress import SilentProgress
from segmamba.orchestration.tracking import study_run
from segmamba.orchestration.tracking.store import StudyHalted
from tests import warm
from tests.conftest import write_case

NAME = "ensemble_Run01"
CHANGES = {
    "train.epochs": 1,
    "train.steps_per_epoch": 1,
    "train.validate_every_epochs": 1,
    "optim.warmup_epochs": 0,
    "data.spacing_mm": 4.0,
    "data.patch_size": (16, 16, 16),
    "model.base_channels": 4,
}
SCORING = """
import sys, time
from tests.orchestration.test_open_study import open_here, without_training
without_training(setattr)
with open_here(sys.argv[1]) as (done, folder):
    print("scoring", folder.name, flush=True)
    time.sleep(600)
"""


def without_training(patch):
    """Trials end well at once, without Ray; all else is a study's."""

    def run(engine):
        ended = {trial.arm for trial in engine.study.trials if trial.status == "FINISHED"}
        for plan in engine.study.plans:
            if plan.arm not in ended:
                tags = functools.partial(engine.context.trial_tags, plan)
                engine.context.run.end_trial(plan.key, "FINISHED", tags=tags)

    patch(study.StudyRunner, "run", run)
    patch(
        study,
        "_ray",
        lambda options, machine, waiting, watch: contextlib.nullcontext(study._opened(options)),
    )


def open_here(home, resume=False):
    options = StudyOptions(
        data=f"{home}/data",
        output=f"{home}/Results",
        cpus=1,
        seeds=1,
        resume=resume,
        changes=CHANGES,
    )
    return study.open_study(members(2), options, SilentProgress())


def status_of(home):
    """{study: status of its run}."""
    client = MlflowClient(f"sqlite:///{home}/Results/mlflow.db")
    found = client.search_runs(
        [client.get_experiment_by_name("segmamba").experiment_id], "tags.kind = 'study'"
    )
    return {run.data.tags["study"]: run.info.status for run in found}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with six cases, in which studies end at once."""
    without_training(monkeypatch.setattr)
    for name in (*FOR_RAY, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "0")  # put back what a study sets
    for number in range(6):
        write_case(tmp_path / "data", f"BraTS20_Training_{number:03d}", seed=number)
    return tmp_path


def test_a_study_killed_while_it_is_scored_is_gone_on_with_and_ends_as_its_scoring_does(home):
    scoring = warm.Process([sys.executable, "-c", SCORING, home])
    assert scoring.stdout.readline() == f"scoring {NAME}\n"
    assert status_of(home) == {NAME: "RUNNING"}
    with (
        pytest.raises(UserError, match=f"{NAME} is still running in another process"),
        open_here(home, resume=True),
    ):
        raise AssertionError("two drivers")
    scoring.kill()
    scoring.communicate()

    trained = set()
    for error, status in (
        (StudyHalted("full"), "RUNNING"),
        (KeyboardInterrupt(), "KILLED"),
        (ValueError("ours"), "FAILED"),
        (None, "FINISHED"),
    ):
        with (
            pytest.raises(type(error)) if error else contextlib.nullcontext(),
            open_here(home, resume=True) as (done, folder),
        ):
            trained.add(tuple(trial.run_id for trial in done.trials))
            assert folder.name == NAME and status_of(home) == {NAME: "RUNNING"}
            if error:
                raise error
        assert status_of(home) == {NAME: status}
    assert len(trained) == 1, "the trials were kept"


def test_the_time_of_a_study_begins_where_planning_ends_and_is_summed_over_its_starts(
    home, monkeypatch
):
    now = [1e9]

    def taking(seconds, function):
        def slow(*arguments):
            now[0] += seconds
            return function(*arguments)

        return slow

    for module in (study, study_run):
        monkeypatch.setattr(module, "steady_s", lambda: now[0])
    monkeypatch.setattr(study, "_begun", taking(1000.0, study._begun))
    monkeypatch.setattr(study.StudyRunner, "run", taking(60.0, study.StudyRunner.run))
    with pytest.raises(KeyboardInterrupt), open_here(home) as (done, _):
        assert (done.seconds, done.starts) == (60.0, 1)
        raise KeyboardInterrupt
    now[0] += 5000.0  # nobody works on it meanwhile
    with open_here(home, resume=True) as (done, folder):
        assert (done.seconds, done.starts) == (120.0, 2)
    assert "2:00 min from plan to report over 2 starts" in (folder / "report.md").read_text()


class FailingGraphs(contextlib.nullcontext):
    """Graphs of which the compiler turns out to make none."""

    def __init__(self):
        super().__init__(self)
        self.choice = CompileChoice(compile="always", reason="compiled")

    def settled(self, progress):
        self.choice = CompileChoice(compile="never", reason="eager: compiling failed")
        return False


def test_a_study_whose_graphs_could_not_be_compiled_is_kept_as_eager_for_a_resume(
    home, monkeypatch
):
    monkeypatch.setattr(study, "_compiling", lambda *arguments: FailingGraphs())
    with pytest.raises(KeyboardInterrupt), open_here(home):
        raise KeyboardInterrupt
    with open_here(home, resume=True) as (done, _):
        assert done.resource_plan["resources"]["compile"] == "never"
