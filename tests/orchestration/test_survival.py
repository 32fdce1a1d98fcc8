"""Processes are killed, disks filled and servers taken away while a study runs.

It ends as if nothing had happened, or says how to go on.
"""

import os
import signal
import time

import psutil
import pytest
from mlflow import MlflowClient

from tests.orchestration.faults import (
    STUDY,
    assert_as_if_nothing_had_happened,
    final_metrics,
    finish,
    runs,
    start,
    trial_processes,
    wait_for,
    wait_for_first_epoch,
)
from tests.orchestration.mlflow_server import Server
from tests.small_disks import small_disk


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """The folder of a study that nobody disturbed."""
    cwd = tmp_path_factory.mktemp("calm")
    finish(start(cwd))
    return cwd


@pytest.mark.slow
def test_a_killed_trial_process_changes_no_result_and_leaves_no_gap(calm, tmp_path):
    study = start(tmp_path)
    for victim in wait_for_first_epoch(tmp_path, study):
        victim.kill()
    finish(study)
    assert_as_if_nothing_had_happened(tmp_path, calm)


@pytest.mark.slow
def test_a_study_whose_driver_was_killed_is_resumed_to_the_same_end(calm, tmp_path):
    study = start(tmp_path)
    for trial in wait_for_first_epoch(tmp_path, study):
        trial.suspend()  # the study is not to end before its driver is killed
    refused = start(tmp_path, "--resume")
    output, _ = refused.communicate(timeout=100)
    assert refused.returncode == 2 and "still running in another process" in output
    started = psutil.Process(study.pid).children(recursive=True)
    study.kill()
    study.communicate()
    _, alive = psutil.wait_procs(started, timeout=20)
    assert not alive, "Ray's agents would wait for a minute"
    assert "0 of 1 trials are done" in finish(start(tmp_path, "--resume"))
    assert_as_if_nothing_had_happened(tmp_path, calm)


@pytest.mark.slow
def test_a_killed_study_is_moved_and_goes_on_to_the_same_end_with_nothing_where_it_was(
    calm, tmp_path
):
    was, now = tmp_path / "was", tmp_path / "now"
    was.mkdir()
    study = start(was)
    for trial in wait_for_first_epoch(was, study):
        trial.suspend()
    study.kill()
    study.communicate()
    was.rename(now)
    assert "0 of 1 trials are done" in finish(start(now, "--resume"))
    assert_as_if_nothing_had_happened(now, calm)
    assert not was.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "sent"),
    [(signal.SIGINT, os.kill), (signal.SIGTERM, os.kill), (signal.SIGTERM, os.killpg)],
    ids=["SIGINT", "SIGTERM", "SIGTERM to all its processes"],
)
def test_a_stopped_study_says_so_closes_its_runs_and_goes_on_with_resume(
    calm, tmp_path, number, sent
):
    study = start(tmp_path)
    wait_for_first_epoch(tmp_path, study)
    sent(study.pid, number)
    output, _ = study.communicate(timeout=200)
    assert (
        study.returncode == 130
        and "--resume goes on with it" in output
        and "Traceback" not in output
    )
    by_kind, _ = runs(tmp_path)
    assert {run.info.status for run in by_kind.values()} == {"KILLED"} and "--resume" in by_kind[
        "trial"
    ].data.tags["reason"]
    finish(start(tmp_path, "--resume"))
    assert_as_if_nothing_had_happened(tmp_path, calm)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_the_death_of_ray_ends_a_study_in_a_line_and_it_goes_on_with_resume(calm, tmp_path, name):
    study = start(tmp_path)
    trials = wait_for_first_epoch(tmp_path, study)
    started = psutil.Process(study.pid).children(recursive=True)
    (victim,) = (process for process in started if process.name() == name)
    died = time.monotonic()
    victim.kill()
    output, _ = study.communicate(timeout=60)
    assert time.monotonic() - died < 30, "it is not Ray's minute"
    assert study.returncode == 1 and "Traceback" not in output, output
    (line,) = (line for line in output.splitlines() if line.startswith("error: "))
    assert line == output.splitlines()[-1] and "aylet is terminated" not in output
    assert f"Ray's process {name} has died" in line and "--resume goes on with it" in line
    by_kind, _ = runs(tmp_path)
    assert {run.info.status for run in by_kind.values()} == {"KILLED"}
    _, alive = psutil.wait_procs([*trials, *started], timeout=10)
    assert not alive, "nothing outlives the study"
    finish(start(tmp_path, "--resume"))
    assert_as_if_nothing_had_happened(tmp_path, calm)


@pytest.mark.slow
def test_a_study_that_lacks_only_its_report_gets_it_and_trains_nothing_again(calm):
    by_kind, _ = runs(calm)
    MlflowClient(f"sqlite:///{calm}/Results/mlflow.db").set_terminated(
        by_kind["study"].info.run_id, "KILLED"
    )
    report = calm / "Results" / "ablate_depth_Run01" / "report.html"
    report.unlink()
    assert "1 of 1 trials are done" in finish(start(calm, "--resume"))
    assert report.exists()
    assert_as_if_nothing_had_happened(calm, calm)


@pytest.mark.slow
def test_resume_with_nothing_to_resume_starts_and_says_so_and_refuses_another_study(calm):
    output = finish(start(calm, "--resume"))
    assert "no unfinished ablate_depth found in " in output and "starting one" in output
    assert (calm / "Results" / "ablate_depth_Run02" / "report.html").exists()


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", "40m") as made:
        yield made


@pytest.mark.slow
def test_a_full_disk_fails_the_trial_with_the_reason_and_resume_goes_on_once_there_is_space(
    calm, disk
):
    study = start(disk.folder)
    wait_for_first_epoch(disk.folder, study)
    trial_processes(study)[0].suspend()
    ballast = disk.fill()
    trial_processes(study)[0].resume()
    output = finish(study, code=2)
    assert "the disk is full" in output and "--resume goes on" in output.splitlines()[-1]
    ballast.unlink()
    finish(start(disk.folder, "--resume"))
    assert_as_if_nothing_had_happened(disk.folder, calm)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "server").mkdir()
    server = Server(tmp_path / "server")
    server.start()
    yield server
    if server.process.poll() is None:
        server.kill()


@pytest.mark.slow
def test_a_disk_that_is_full_for_the_trials_alone_ends_the_study_in_its_line_too(
    calm, disk, server
):
    study = start(disk.folder, env=server.env)
    wait_for_first_epoch(disk.folder, study)
    trial_processes(study)[0].suspend()
    ballast = disk.fill()
    trial_processes(study)[0].resume()
    output = finish(study, code=2)
    last = output.splitlines()[-1]
    assert last.startswith("error: ") and "the disk is full" in last and "--resume goes on" in last
    ballast.unlink()
    finish(start(disk.folder, "--resume", env=server.env))
    assert_as_if_nothing_had_happened(disk.folder, calm, server.uri)


@pytest.mark.slow
def test_an_mlflow_server_that_goes_away_while_a_study_runs_and_comes_back_misses_nothing(
    calm, server, tmp_path
):
    study = start(tmp_path, env=server.env)
    wait_for_first_epoch(tmp_path, study)
    server.kill()
    wait_for(
        lambda: list(tmp_path.glob(f"Results/{STUDY}/trials/*/metrics/final_metrics.json")),
        study,
        "verdict without a server",
    )
    server.start()
    finish(study)
    assert_as_if_nothing_had_happened(tmp_path, calm, server.uri)


@pytest.mark.slow
def test_one_that_stays_away_ends_the_study_with_a_line_and_resume_finishes_it_without_training(
    calm, server, tmp_path
):
    study = start(tmp_path, env={**server.env, "SEGMAMBA_PATIENCE_S": "5"})
    wait_for_first_epoch(tmp_path, study)
    server.kill()
    output = finish(study, code=2)
    assert f"MLflow store {server.uri} has not answered" in output and "--resume goes on" in output
    last = next(tmp_path.glob(f"Results/{STUDY}/trials/*/checkpoints/last.pth"))
    written, found = last.stat().st_mtime_ns, final_metrics(tmp_path)
    server.start()
    finish(start(tmp_path, "--resume", env=server.env))
    assert last.stat().st_mtime_ns == written and final_metrics(tmp_path) == found
    assert_as_if_nothing_had_happened(tmp_path, calm, server.uri)


@pytest.mark.slow
def test_a_trial_that_the_memory_monitor_kills_again_and_again_is_infeasible_and_the_study_ends(
    tmp_path,
):
    study = start(
        tmp_path,
        env={
            **os.environ,
            "RAY_memory_usage_threshold": "0.01",
            "RAY_memory_monitor_refresh_ms": "250",
        },
    )
    output = finish(study)
    assert "out of memory, also with activation checkpointing" in output
    by_kind, _ = runs(tmp_path)
    tags = by_kind["trial"].data.tags
    assert (
        by_kind["trial"].info.status == "FAILED"
        and tags["infeasible"] == "yes"
        and "low on memory" in tags["reason"]
    )
    assert by_kind["study"].info.status == "FAILED"
