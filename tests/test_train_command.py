"""`segmamba train` as a user runs it, in real processes: killed, stopped, resumed, repeated."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
from mlflow import MlflowClient

from segmamba.cli import app
from segmamba.config import preset
from segmamba.errors import UserError
from segmamba.models.weights import load_checkpoint
from segmamba.orchestration import single
from segmamba.training.checkpoint import weights_digest
from tests import warm
from tests.conftest import write_case
from tests.tiny import TINY_CHANGES

SETTINGS = TINY_CHANGES | {
    "data.validation_share": 0.2,
    "train.epochs": 4,
    "train.steps_per_epoch": 3,
    "train.keep_every_epochs": 2,
}
COMMAND = [
    sys.executable,
    "-c",
    "import torch; torch.set_num_threads(1)\nfrom segmamba.cli import main; main()",
]
# The same command, which ends by SIGKILL in its n-th event: a step, a validation case, a tested
# case, a flush or a rename.
KILLED = """
import os, signal, sys
import torch; torch.set_num_threads(1)
left = int(sys.argv.pop(1))
def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
os.replace, os.fsync = counted(os.replace), counted(os.fsync)
from segmamba.commands.run_progress import RunProgress
for name in ("on_begin", "on_step", "on_validation_case", "on_test_case", "on_epoch"):
    setattr(RunProgress, name, counted(getattr(RunProgress, name)))
from segmamba.cli import main
try:
    main()
finally:
    print("events", -left)
"""

# Checkpoints are written behind the run, as on a GPU.
BEHIND = """
from segmamba.training import saving
saving.saver_for = lambda device: saving.Behind()
"""
# The writing of epoch 2 takes so long that the run is killed in epoch 3, when MLflow has epoch 2.
KILLED_WHILE_IT_WRITES = (
    BEHIND
    + """
import os, signal, sys, threading
import torch; torch.set_num_threads(1)
from segmamba.commands.run_progress import RunProgress
from segmamba.orchestration.tracking.run_log import RunLog
from segmamba.training import run
sent, never, save, send, step = (
    threading.Event(), threading.Event(), run._save, RunLog._send_epoch, RunProgress.on_step
)
def _save(checkpoint, *arguments, **options):
    if checkpoint["epoch"] == 2:
        never.wait()
    save(checkpoint, *arguments, **options)
def _send_epoch(self, batch, epoch):
    send(self, batch, epoch)
    if epoch == 2:
        sent.set()
def on_step(self, epoch, done):
    step(self, epoch, done)
    if epoch == 3:
        assert sent.wait(100)
        os.kill(os.getpid(), signal.SIGKILL)
run._save, RunLog._send_epoch, RunProgress.on_step = _save, _send_epoch, on_step
from segmamba.cli import main
main()
"""
)


def arguments(source, *more):
    return [
        "train",
        "--data",
        source,
        "--device",
        "cpu",
        *(part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")),
        *more,
    ]


def run(cwd, *arguments, command=COMMAND):
    return warm.run([*command, *arguments], cwd=cwd)


def killed_at(cwd, event, source, *more):
    return run(cwd, event, *arguments(source, *more), command=[sys.executable, "-c", KILLED])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for number in range(6):
        write_case(folder, f"BraTS20_Training_{number:03d}", seed=number, shape=(32, 32, 24))
    return folder


@pytest.fixture(scope="module")
def calm(source, tmp_path_factory):
    """Train a run that nobody disturbs, in a fresh process: (folder, number of its events)."""
    cwd = tmp_path_factory.mktemp("calm")
    command = [sys.executable, "-c", KILLED, "0", *map(str, arguments(source))]
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert process.stderr == "", "nothing but the run itself speaks"
    record = record_of(cwd)
    assert record["status"] == "FINISHED", f"MLflow lacks its end: {process.stdout}"
    dice = f"{100 * record['final']['test/dice_mean']:.1f}"
    assert ["mean", dice] in [line.split() for line in process.stdout.splitlines()]
    return cwd, int(process.stdout.split()[-1])


def untimed(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def record_of(cwd, name="SegMamba_Run01"):
    """Read all that a run's folder and MLflow say of the run, except times."""
    root = cwd / "Results" / name
    history, final = (
        json.loads((root / "metrics" / f"{which}.json").read_text())
        for which in ("history", "final_metrics")
    )
    files = ("best_metric_model", "last", "epoch_0002", "epoch_0004")
    weights = {file: load_checkpoint(root / "checkpoints" / f"{file}.pth") for file in files}
    weights["last"] = weights["last"]["model"]
    client = MlflowClient(f"sqlite:///{cwd}/Results/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("segmamba").experiment_id])
    runs = [run for run in runs if run.data.tags["folder"] == str(root)]
    assert len(runs) == 1, "one run, however often it was begun"
    steps = {}
    for metric in (name for name in runs[0].data.metrics if not name.startswith("system/")):
        entries = client.get_metric_history(runs[0].info.run_id, metric)
        steps[metric] = [(m.step, None if metric.startswith("time/") else m.value) for m in entries]
    return {
        "history": [untimed(entry) for entry in history],
        "final": untimed(final),
        "status": runs[0].info.status,
        "mlflow": steps,
        "weights": {file: weights_digest(w) for file, w in weights.items()},
    }


def assert_as_if_nothing_had_happened(cwd, calm):
    record = record_of(cwd)
    assert record["status"] == "FINISHED"
    steps = [step for step, _ in record["mlflow"]["train/loss"]]
    assert steps == [1, 2, 3, 4], "no gap, no repetition"
    assert record == record_of(calm)


def killed_often_then_finished(cwd, source, events):
    for event in events:
        process = killed_at(cwd, event, source, "--resume")
        assert process.returncode in (-signal.SIGKILL, 0), process.stderr
    process = run(cwd, *arguments(source, "--resume"))
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_a_run_killed_three_times_ends_as_if_nothing_had_happened(calm, source, tmp_path):
    folder, total = calm
    events = [random.Random(0).randrange(total // 3, total // 2), total // 4, total // 5]
    assert "resume   SegMamba_Run01" in killed_often_then_finished(tmp_path, source, events)
    assert_as_if_nothing_had_happened(tmp_path, folder)


def test_a_run_whose_results_and_data_are_moved_is_gone_on_with_and_reproduced(
    calm, source, tmp_path
):
    was, now = tmp_path / "was", tmp_path / "now"
    shutil.copytree(source, was / "data")
    assert killed_at(was, calm[1] // 3, was / "data").returncode == -signal.SIGKILL
    was.rename(now)
    resumed = run(now, *arguments(now / "data", "--resume"))
    assert resumed.returncode == 0 and "resume   SegMamba_Run01" in resumed.stdout, resumed.stderr
    assert_as_if_nothing_had_happened(now, calm[0])
    now.rename(tmp_path / "again")
    process, rows = reproduced(tmp_path / "again", "--data", tmp_path / "again" / "data")
    assert process.returncode == 0 and rows["train/loss"]["same"], process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["again"], "made where it was"


def test_a_run_killed_while_it_writes_an_epoch_that_mlflow_has_ends_as_if_nothing_had_happened(
    calm, source, tmp_path
):
    command = [sys.executable, "-c", KILLED_WHILE_IT_WRITES]
    killed = run(tmp_path, *arguments(source), command=command)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    root = tmp_path / "Results" / "SegMamba_Run01"
    assert load_checkpoint(root / "checkpoints" / "last.pth")["epoch"] == 1
    assert "epoch 2/4" in run(tmp_path, *arguments(source, "--resume")).stdout
    assert_as_if_nothing_had_happened(tmp_path, calm[0])


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_a_run_that_saves_behind_its_steps_and_is_killed_at_random_events_ends_alike(
    calm, source, tmp_path, number
):
    folder, total = calm
    rng = random.Random(number)
    for event in (rng.randrange(1, total) for _ in range(3)):
        command = [sys.executable, "-c", BEHIND + KILLED]
        process = run(tmp_path, event, *arguments(source, "--resume"), command=command)
        assert process.returncode in (-signal.SIGKILL, 0), process.stderr
    assert run(tmp_path, *arguments(source, "--resume")).returncode == 0
    assert_as_if_nothing_had_happened(tmp_path, folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(8))
def test_a_run_killed_at_random_events_ends_as_if_nothing_had_happened(
    calm, source, tmp_path, number
):
    folder, total = calm
    rng = random.Random(number)
    killed_often_then_finished(tmp_path, source, [rng.randrange(1, total) for _ in range(3)])
    assert_as_if_nothing_had_happened(tmp_path, folder)


@pytest.mark.slow
def test_a_run_killed_at_random_times_ends_as_if_nothing_had_happened(calm, source, tmp_path):
    rng = random.Random(0)
    for _ in range(8):
        process = warm.Process([*COMMAND, *arguments(source, "--resume")], cwd=tmp_path)
        try:
            process.wait(timeout=rng.uniform(0.5, 15))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    assert run(tmp_path, *arguments(source, "--resume")).returncode == 0
    first = sorted(path.name for path in (tmp_path / "Results").glob("SegMamba_Run*"))[0]
    assert record_of(tmp_path, first) == record_of(calm[0])


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_stopped_run_says_so_and_goes_on_with_resume(calm, source, tmp_path, number):
    process = warm.Process([*COMMAND, *arguments(source)], cwd=tmp_path)
    for line in process.stdout:
        if line.startswith("epoch 1/4"):
            process.send_signal(number)
            break
    output, errors = process.communicate(timeout=100)
    assert (
        process.returncode == 128 + number and "--resume goes on with it" in output and errors == ""
    )
    client = MlflowClient(f"sqlite:///{tmp_path}/Results/mlflow.db")
    (stopped,) = client.search_runs([client.get_experiment_by_name("segmamba").experiment_id])
    assert stopped.info.status == "KILLED" and "--resume" in stopped.data.tags["reason"]
    resumed = run(tmp_path, "train", "--resume", "--device", "cpu")
    assert resumed.returncode == 0 and "epoch 1/4" not in resumed.stdout, resumed.stderr
    assert_as_if_nothing_had_happened(tmp_path, calm[0])


def test_resume_with_nothing_to_resume_starts_and_says_so_and_config_alone_repeats_a_run(
    calm, source, tmp_path
):
    config = calm[0] / "Results" / "SegMamba_Run01" / "config.json"
    process = run(tmp_path, "train", "--config", config, "--resume", "--device", "cpu")
    assert process.returncode == 0 and "no unfinished SegMamba found" in process.stdout, (
        process.stderr
    )
    assert_as_if_nothing_had_happened(tmp_path, calm[0])


@pytest.mark.slow
def test_a_finished_run_is_not_gone_on_with(calm, source):
    process = run(calm[0], *arguments(source, "--resume", "--set", "optim.lr=1e-3"))
    assert process.returncode == 0 and "SegMamba_Run02" in process.stdout, process.stderr


def test_resuming_with_other_settings_is_refused(calm, source, tmp_path):
    shutil.copytree(calm[0] / "Results", tmp_path / "Results")
    state = tmp_path / "Results" / "SegMamba_Run01" / "run.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"finished": False}))
    refused = run(tmp_path, *arguments(source, "--resume", "--set", "optim.lr=1e-3"))
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "optim.lr was 0.003 and is 0.001" in refused.stderr


def reproduced(cwd, *more):
    """Run `segmamba reproduce` on the calm run: (process, rows by name)."""
    client = MlflowClient(f"sqlite:///{cwd}/Results/mlflow.db")
    runs = client.search_runs(
        [client.get_experiment_by_name("segmamba").experiment_id],
        "tags.`mlflow.runName` = 'SegMamba_Run01'",
    )
    process = run(cwd, "reproduce", runs[0].info.run_id, "--device", "cpu", "--json", *more)
    return process, {row["name"]: row for row in json.loads(process.stdout)["rows"]}


@pytest.mark.slow
def test_reproduce_gives_the_same_figures_and_weights_and_code_0(calm, source):
    process, rows = reproduced(calm[0])
    assert process.returncode == 0 and json.loads(process.stdout)["same"], process.stderr
    names = {
        "data",
        "split",
        "train/loss",
        "val/dice_mean",
        "test/dice_mean",
        "test/last_dice_mean",
        "weights, last",
        "weights, best",
    }
    assert names <= rows.keys() and all(row["same"] for row in rows.values())


def test_reproduce_finds_the_one_figure_that_is_another_and_ends_with_code_1(
    calm, source, tmp_path
):
    cwd = tmp_path / "copy"
    shutil.copytree(calm[0], cwd)
    database = sqlite3.connect(cwd / "Results" / "mlflow.db")
    with database:
        database.execute(
            "UPDATE metrics SET value = value + 1 WHERE key = 'train/loss' AND step = 2"
        )
    database.close()
    process, rows = reproduced(cwd)
    assert process.returncode == 1, process.stderr
    assert [name for name, row in rows.items() if not row["same"]] == ["train/loss"]
    assert rows["train/loss"]["difference"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "huge"], "unknown preset 'huge'"),
        (["--preset", "demo", "--config", "x.json"], "give one of the two"),
        (["--config", "absent.json"], "absent.json: cannot be read"),
        (["--data", "absent"], "absent: no such folder"),
        (["--set", "optm.lr=1"], "unknown setting 'optm.lr'"),
    ],
    ids=str,
)
def test_a_wrong_option_gets_one_line_and_code_2_and_begins_nothing(tmp_path, options, message):
    process = run(
        tmp_path,
        "train",
        *options,
        command=[sys.executable, "-c", "from segmamba.cli import main; main()"],
    )
    assert process.returncode == 2 and message in process.stderr and process.stderr.count("\n") == 1
    assert not list(tmp_path.glob("Results/SegMamba*"))


def test_resume_without_a_run_starts_what_the_command_starts_without_it(tmp_path, monkeypatch):
    chosen = []
    observer = SimpleNamespace(say=lambda line: None)

    def choose(options, callback):
        chosen.append(single._chosen(options, tmp_path, observer))
        raise UserError("nothing is trained here")

    monkeypatch.setattr(single, "run_single", choose)
    for words in (["train"], ["train", "--resume"]):
        with pytest.raises(UserError, match="nothing is trained"):
            typer.main.get_command(app)(words, standalone_mode=False)
    assert chosen == [(None, preset("demo"))] * 2
