"""The batch script of docs/how-to/cluster.md on a Slurm of two nodes."""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.cluster import slurm as slurm_module
from tests.cluster.slurm import ROOT, SHARED, Slurm, script_of_the_page
from tests.cluster.stored import final_metrics, histories, statuses
from tests.conftest import write_case
from tests.orchestration.faults import SETTINGS, STUDY, finish, start

DONE = "trials/*/checkpoints/last.pth"
SETTINGS_HERE = SETTINGS | {"data.spacing_mm": "1", "train.epochs": "10"}


@pytest.fixture
def slurm():
    """A cluster in a folder whose name is short enough for Ray's sockets."""
    if reason := slurm_module.why_not():
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        cluster = Slurm(folder)
        try:
            yield cluster
        finally:
            cluster.end()
    finally:
        shutil.rmtree(folder)


def script_here(script):
    """The page's script without GPUs, with this checkout, these paths and a tiny study."""
    settings = " ".join(f"--set {name}={value}" for name, value in SETTINGS_HERE.items())
    for shown, here in {
        "--gpus-per-node=4 --cpus-per-task=32 --time=24:00:00": "--cpus-per-task=1 --time=01:00:00",
        "--num-gpus=4 ": "",
        "/shared/segmamba/.venv": sys.prefix,
        "/shared/segmamba": str(ROOT),
        "/shared": SHARED,
        "--preset paper": f"--preset demo --seeds 2 --arms 'depth 2' --no-viewer {settings}",
    }.items():
        assert shown in script, f"{shown} is no longer in the page"
        script = script.replace(shown, here)
    return script


def start_mlflow(slurm):
    """Start the page's MLflow server on the head and wait until it answers."""
    database, artifacts = f"sqlite:///{SHARED}/mlflow.db", f"{SHARED}/mlartifacts"
    log = slurm.folder / "log" / "mlflow.log"
    slurm.start(
        *["env", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"],  # a dozen idle processes
        *[sys.executable, "-m", "mlflow", "server", "--host=10.77.0.1", "--port=5000"],
        *["--workers=1", "--allowed-hosts=mlflow.example.org:5000"],
        *[f"--backend-store-uri={database}", f"--artifacts-destination={artifacts}"],
        log=log,
    )
    asked = "import urllib.request as r; r.urlopen('http://mlflow.example.org:5000/health')"
    deadline = time.monotonic() + 300
    while subprocess.run(
        [*slurm.enter, sys.executable, "-c", asked], capture_output=True
    ).returncode:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.5)


def wait_for(condition, what, slurm, job):
    deadline = time.monotonic() + 600
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what}\n{slurm.output(job)}\n{slurm.logs()}"
        assert slurm.state(job) in ("PENDING", "RUNNING"), slurm.output(job) + slurm.logs()
        time.sleep(0.2)
    return found


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_job_that_meets_its_time_limit_is_submitted_again_and_ends_as_if_undisturbed(
    slurm, tmp_path
):
    for number in range(6):
        write_case(slurm.shared / "brats", f"BraTS20_Training_{number:03d}", seed=number)
    script = script_here(script_of_the_page())
    (slurm.shared / "study.sbatch").write_text(script)
    (slurm.shared / "home").mkdir()
    study = slurm.shared / "Results" / STUDY
    start_mlflow(slurm)

    first = slurm.submit("study.sbatch")
    wait_for(lambda: len(list(study.glob(DONE))) == 2, "first epochs", slurm, first)
    trials = slurm.processes("ImplicitFunc")
    for trial in trials:
        trial.suspend()  # the study is not to end before its time
    assert len(trials) == 2
    on_nodes = {trial.environ()["SLURMD_NODENAME"] for trial in trials}
    # The end is now two to three minutes away.
    minutes = (time.time() - (slurm.shared / "study.sbatch").stat().st_mtime) // 60 + 3
    slurm.run("scontrol", "update", f"JobId={first}", f"TimeLimit={minutes:.0f}")
    log = slurm.folder / "log" / "slurmctld.log"
    wait_for(lambda: "arning signal 15" in log.read_text(), "TERM before the end", slurm, first)
    for trial in trials:
        trial.resume()
    assert slurm.ended(first) == "FAILED"
    output = slurm.output(first)
    assert "--resume goes on with it" in output and "Traceback" not in output, output
    assert on_nodes == {"node1", "node2"}
    client = MlflowClient(f"sqlite:///{slurm.shared}/mlflow.db")
    assert statuses(client) == {"KILLED"} and "0 of 2 are done" in output

    second = slurm.submit("study.sbatch")
    assert slurm.ended(second, 1200) == "COMPLETED", slurm.output(second)
    assert "0 of 2 trials are done" in slurm.output(second)

    options = ["--seeds", "2", "--data", slurm.shared / "brats"]
    finish(start(tmp_path, *options, data__spacing_mm="1", train__epochs="10"))
    calm = MlflowClient(f"sqlite:///{tmp_path}/Results/mlflow.db")
    assert statuses(client) == {"FINISHED"}
    assert histories(client) == histories(calm)
    assert final_metrics(study) == final_metrics(tmp_path / "Results" / STUDY)
    assert len(final_metrics(study)) == 2 and (study / "report.html").exists()
