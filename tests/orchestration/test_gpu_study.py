"""A study of two seeds on one GPU, compiled, in one process: undisturbed, killed, stopped, failing.

What a process took over from the trial before must not show. Kernels of a GPU add in another order
each time, so that numbers agree to TOLERANCE and not to the last bit.
"""

import json
import os
import signal

import pytest
import torch
from mlflow import MlflowClient

from tests.orchestration.faults import STUDY, finish, start, trial_processes, wait_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
TOLERANCE = 0.02
"""Of the training loss of each epoch, relative: three epochs of six steps."""


@pytest.fixture(scope="module")
def empty_cache(tmp_path_factory):
    """The environment with a compiler's cache for all studies of this module."""
    folder = tmp_path_factory.mktemp("compiler")
    return {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder)}


@pytest.fixture(scope="module")
def calm(tmp_path_factory, empty_cache):
    """The folder of a study that nobody disturbed; the first one that used the cache."""
    cwd = tmp_path_factory.mktemp("calm")
    output = finish(begun(cwd, empty_cache))
    assert "compile  1 network new to the compiler" in output
    return cwd


@pytest.fixture(scope="module")
def compiler(calm, empty_cache):
    """The environment with the cache that the undisturbed study has filled."""
    return empty_cache


def begun(cwd, env, *options, **changes):
    return start(
        cwd, "--seeds", "2", "--cpus", "4", *options, env=env, train__compile="always", **changes
    )


def histories(cwd):
    """The training losses of each trial, by its folder."""
    return {
        path.parents[1].name: [epoch["train/loss"] for epoch in json.loads(path.read_text())]
        for path in cwd.glob(f"Results/{STUDY}/trials/*/metrics/history.json")
    }


def processes(cwd):
    """The processes that wrote TensorBoard's events."""
    found = cwd.glob(f"Results/{STUDY}/trials/*/logs/events.out.tfevents.*")
    return {path.name.split(".")[-2] for path in found}


def trials(cwd):
    client = MlflowClient(f"sqlite:///{cwd}/Results/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("segmamba").experiment_id])
    return [run for run in found if run.data.tags["kind"] == "trial"]


def statuses(cwd):
    return [run.info.status for run in trials(cwd)]


def assert_alike(cwd, calm):
    """All trials ended, and trained as those of the undisturbed study."""
    assert statuses(cwd) == ["FINISHED"] * 2
    got, want = histories(cwd), histories(calm)
    assert got.keys() == want.keys()
    for trial, losses in want.items():
        assert len(losses) == 3
        assert got[trial] == pytest.approx(losses, rel=TOLERANCE), trial


def test_a_trial_finds_what_was_compiled_ahead(calm):
    assert {run.data.tags["compiler"] for run in trials(calm)} == {
        "networks found 1, passes found 2"
    }


def test_both_trials_run_in_one_process_and_a_second_study_finds_the_graph(calm, compiler):
    assert len(processes(calm)) == 1
    output = finish(begun(calm, compiler, "--fresh"))
    assert "new to the compiler" not in output


def test_arms_with_graphs_of_their_own_take_turns_in_one_process(compiler, tmp_path):
    output = finish(begun(tmp_path, compiler, "--arms", "depth 0"))
    assert statuses(tmp_path) == ["FINISHED"] * 4 and len(processes(tmp_path)) == 1, output[-3000:]


def test_fresh_processes_give_the_same_numbers(calm, compiler, tmp_path):
    """A scheduler gives each trial a process of its own; here it stops none."""
    finish(begun(tmp_path, compiler, "--scheduler", "asha", optim__warmup_epochs="2"))
    other = tmp_path / "one process"
    other.mkdir()
    finish(begun(other, compiler, optim__warmup_epochs="2"))
    assert len(processes(tmp_path)) == 2 and len(processes(other)) == 1
    assert_alike(tmp_path, other)


def test_a_killed_process_costs_its_own_trial_an_epoch_at_most(calm, compiler, tmp_path):
    study = begun(tmp_path, compiler)
    wait_for(lambda: list(tmp_path.glob("Results/*/trials/*/checkpoints/last.pth")), study, "epoch")
    for victim in trial_processes(study):
        victim.kill()
    finish(study)
    assert_alike(tmp_path, calm)


def test_a_stopped_study_goes_on_with_resume(calm, compiler, tmp_path):
    study = begun(tmp_path, compiler)
    wait_for(lambda: list(tmp_path.glob("Results/*/trials/*/checkpoints/last.pth")), study, "epoch")
    os.kill(study.pid, signal.SIGINT)
    output, _ = study.communicate(timeout=200)
    assert study.returncode == 130 and "--resume goes on with it" in output
    finish(begun(tmp_path, compiler, "--resume"))
    assert_alike(tmp_path, calm)


def test_a_failed_trial_leaves_its_process_fit_for_the_next(compiler, tmp_path):
    study = begun(tmp_path, compiler, optim__lr="1e30", optim__min_lr="0")
    output, _ = study.communicate(timeout=400)
    assert "Traceback" not in output and output.count("the loss is nan") >= 2, output[-3000:]
    assert statuses(tmp_path) == ["FAILED"] * 2 and len(processes(tmp_path)) == 1
