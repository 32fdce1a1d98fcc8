"""A study that adds seeds until it knows, in real processes; killed, it takes the same looks."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import warm
from tests.conftest import write_case
from tests.orchestration.test_study_paths import COMMAND, TINY

FILE = '''"""Is one learning rate better than another?"""
from segmamba.studies import Budget, Hypothesis, StudySpec

STUDY = StudySpec(
    name="mine", question="Which learning rate?", baseline="low", budget=Budget(max_seeds=4),
    hypothesis=Hypothesis(claim="The high one is better.", better="high", than="low"),
    arms={"low": {}, "high": {"optim.lr": 1e-2}},
)
'''


def begin(folder, *options, env=None):
    """A study on one core, so that no trial begins ahead of a look."""
    settings = [part for name, value in TINY.items() for part in ("--set", f"{name}={value}")]
    fixed = ("study", "mine.py", "--data", "data", "--cpus", "1", "--no-viewer")
    command = [*COMMAND, *fixed, *settings, *options]
    return warm.Process(command, cwd=folder, env=env, stderr=subprocess.STDOUT, session=True)


def finish(study):
    output, _ = study.communicate(timeout=300)
    assert study.returncode == 0 and "Traceback" not in output, output
    return output


def data(folder):
    for number in range(9):
        write_case(folder / "data", f"BraTS20_Training_{number:03d}", seed=number)
    (folder / "mine.py").write_text(FILE)


def stored(folder):
    """(the tables of the looks by file, the tags of the study's run, its trials' keys)."""
    client = MlflowClient(f"sqlite:///{folder}/Results/mlflow.db")
    runs = client.search_runs(
        [client.get_experiment_by_name("segmamba").experiment_id], order_by=["start_time ASC"]
    )
    (study,) = (run for run in runs if run.data.tags["kind"] == "study")
    looks = {
        file.path: json.loads(
            Path(client.download_artifacts(study.info.run_id, file.path)).read_text()
        )
        for file in client.list_artifacts(study.info.run_id, "looks")
    }
    trials = {run.data.tags["trial"]: run.info.status for run in runs if "trial" in run.data.tags}
    return looks, study, trials


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The folder of a study that nobody disturbed, and what it printed.

    Its temporary folder has a name that is too long for Ray's sockets.
    """
    folder = tmp_path_factory.mktemp("calm")
    data(folder)
    long = folder / ("t" * 90)
    long.mkdir()
    return folder, finish(begin(folder, env=os.environ | {"TMPDIR": str(long)}))


def test_looks_are_taken_stored_and_shown_until_the_study_stops(calm):
    folder, output = calm
    looks, study, trials = stored(folder)
    seeds = [int(Path(file).stem.split("_")[1]) for file in looks]
    assert seeds == [3, 4], "the last look follows the last trial that there can be"
    for n in seeds:
        assert f"look     after {n} seeds: " in output
        assert output.count(f"after {n} seeds") == 1, "it is said once"
    table = looks[f"looks/after_{seeds[-1]:02d}_seeds.json"]
    assert [row[table["columns"].index("look")] for row in table["data"]] == seeds
    assert study.data.metrics["look_estimate/high - low mean"] == pytest.approx(
        table["data"][-1][table["columns"].index("mean")]
    )
    finished = {key for key, status in trials.items() if status == "FINISHED"}
    assert finished == {f"{arm}, seed {n}" for arm in ("low", "high") for n in range(seeds[-1])}
    assert study.info.status == "FINISHED" and study.data.tags["answer"]


@pytest.fixture
def temporary():
    """A folder for temporary files with a short name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_a_study_whose_driver_was_killed_takes_the_same_looks_and_gives_the_same_answer(
    calm, tmp_path, temporary
):
    data(tmp_path)
    env = os.environ | {"TMPDIR": str(temporary)}
    study = begin(tmp_path, env=env)
    looks = tmp_path / "Results" / "mlartifacts"
    while not list(looks.glob("*/artifacts/looks/after_03_seeds.json")):
        assert study.poll() is None, study.communicate()
        time.sleep(0.02)
    study.kill()
    study.communicate()
    left = list(temporary.glob(".segmamba-*"))
    assert left
    for folder in left:
        os.utime(folder, (0, 0))  # no longer taken for one that is just being made
    resumed = finish(begin(tmp_path, "--resume", env=env))
    assert not list(temporary.glob(".segmamba-*"))
    assert "look     after 3 seeds" not in resumed and "look     after 4 seeds" in resumed
    (before, calm_study, _), (after, resumed_study, _) = stored(calm[0]), stored(tmp_path)
    assert before == after
    for tag in ("answer", "verdict"):
        assert calm_study.data.tags[tag] == resumed_study.data.tags[tag]


def test_another_limit_of_seeds_is_another_study(calm):
    folder, _ = calm
    client = MlflowClient(f"sqlite:///{folder}/Results/mlflow.db")
    _, study, _ = stored(folder)
    client.set_terminated(study.info.run_id, "KILLED")
    refused = begin(folder, "--resume", "--max-seeds", "6")
    output, _ = refused.communicate(timeout=100)
    client.set_terminated(study.info.run_id, "FINISHED")
    assert refused.returncode == 2 and "max_seeds differ" in output


def test_a_claim_that_is_edited_after_its_trials_is_not_taken_for_pre_registered(calm):
    folder, output = calm
    report = (folder / "Results" / "mine_Run01" / "report.md").read_text()
    assert "Pre-registered: claim, region" in report and "pre-registered" not in output
    edited = FILE.replace('than="low"', 'than="low", margin=0.02')
    (folder / "mine.py").write_text(edited)
    output = " ".join(finish(begin(folder)).split())
    assert "reused 6 trials trained before, to the letter; --fresh trains them again" in output
    assert output.count("reused ") <= 2, "a line for the trials up to a look, not for each"
    late = (folder / "Results" / "mine_Run02" / "report.md").read_text()
    for text in (output, late):
        assert "Not pre-registered: " in text
        assert "In mine_Run01, the margin was 0.5 Dice points and is 2.0 Dice points." in text
    (folder / "mine.py").write_text(FILE)
    client = MlflowClient(f"sqlite:///{folder}/Results/mlflow.db")
    runs = client.search_runs(
        [client.get_experiment_by_name("segmamba").experiment_id],
        "tags.study = 'mine_Run02' and tags.kind = 'study'",
    )
    client.set_terminated(runs[0].info.run_id, "KILLED")
    refused = begin(folder, "--resume")
    output, _ = refused.communicate(timeout=100)
    assert refused.returncode == 2
    assert "the margin was 2.0 Dice points and is 0.5 Dice points" in " ".join(output.split())
