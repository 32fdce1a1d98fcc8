"""A run's log and an MLflow server that is unreachable, killed, started again."""

import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from PIL import Image

from segmamba.orchestration.tracking.run_log import RunLog, keyed_run
from segmamba.orchestration.tracking.store import open_store
from tests import warm

EPOCHS = [
    {"epoch": number, "train/loss": 1 / number, "val/dice_mean": number / 10}
    for number in range(1, 6)
]


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path)


def open_log(store, key="k", **options):
    return RunLog(
        store,
        lambda: keyed_run(store, key, "SegMamba_Run01", {"dataset": "d"}),
        "d",
        **options,
    )


def steps(store, run_id, name="train/loss"):
    return [metric.step for metric in store.client.get_metric_history(run_id, name)]


def test_an_epoch_is_sent_once_however_often_it_is_told_and_a_second_start_adds_what_is_missing(
    store,
):
    first = open_log(store)
    first.log_history(EPOCHS[:3])
    first.log_history(EPOCHS[:3])
    assert first.close()
    second = open_log(store)
    second.log_history(EPOCHS)
    second.log_config({"optim.lr": 1e-4})
    second.log_config({"optim.lr": 1e-4})
    second.end("FINISHED")
    assert second.close() and second.run_id == first.run_id
    assert (
        steps(store, first.run_id) == steps(store, first.run_id, "val/dice_mean") == [1, 2, 3, 4, 5]
    )
    assert store.client.get_run(first.run_id).info.status == "FINISHED"


def test_a_run_goes_on_where_its_data_were_moved_and_with_no_other_setting(store):
    first = open_log(store)
    first.log_config({"optim.lr": 1e-4, "data.source": "/was", "data.workers": 2})
    assert first.close()
    second = open_log(store)
    second.log_config({"optim.lr": 1e-4, "data.source": "/now", "data.workers": 0, "seed": 1})
    assert second.close()
    kept = {"optim.lr": "0.0001", "data.source": "/was", "data.workers": "2", "seed": "1"}
    assert store.client.get_run(first.run_id).data.params == kept
    third = open_log(store)
    third.log_config({"optim.lr": 1e-3})
    assert not third.close() and "Changing param values is not allowed" in third.away_because


def test_a_file_that_is_gone_when_its_turn_comes_holds_up_nothing(store, tmp_path):
    kept = tmp_path / "kept.png"
    kept.write_bytes(b"a picture")
    log = open_log(store)
    log.log_files([tmp_path / ".being_drawn.png", kept], "plots")
    log.log_history(EPOCHS)
    log.end("FINISHED")
    assert log.close(20), log.away_because
    client = store.client
    assert client.get_run(log.run_id).info.status == "FINISHED" and steps(store, log.run_id) == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert [file.path for file in client.list_artifacts(log.run_id, "plots")] == ["plots/kept.png"]


def test_one_batch_sent_twice_is_one_entry(store):
    log = open_log(store)
    log.log_metrics({"test/dice_mean": 0.5}, 3)
    assert log.close()
    client = store.client
    (entry,) = client.get_metric_history(log.run_id, "test/dice_mean")
    client.log_batch(log.run_id, metrics=[entry])  # what a retry after a lost answer does
    assert len(client.get_metric_history(log.run_id, "test/dice_mean")) == 1


def test_an_unreachable_server_holds_nobody_up_and_is_named_at_the_end():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    log = open_log(f"http://127.0.0.1:{port}", "1")
    began = time.perf_counter()
    log.log_config({"optim.lr": 1e-4})
    log.log_history(EPOCHS)
    log.end("FINISHED")
    told = time.perf_counter() - began
    assert not log.close(0.5) and log.away_because
    assert told < 1, "no call waits for the network"


def test_final_figures_are_there_once_after_a_second_start(store):
    for _ in range(2):
        log = open_log(store)
        log.log_metrics({"test/dice_mean": 0.5}, 5)
        assert log.close()
    assert steps(store, log.run_id, "test/dice_mean") == [5]


@pytest.mark.slow
def test_machine_metrics_are_sampled(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "1")
    log = open_log(store, system_metrics=True)
    deadline = time.monotonic() + 60
    client = store.client
    while time.monotonic() < deadline:
        found = [
            name
            for name in (client.get_run(log.run_id).data.metrics if log.run_id else ())
            if name.startswith("system/")
        ]
        if found:
            break
        time.sleep(0.2)
    assert log.close() and "system/cpu_utilization_percentage" in found


class Server:
    """A real MLflow server on this machine."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder, self.uri, self.process = folder, f"http://127.0.0.1:{self.port}", None

    def start(self):
        stores = [
            "--backend-store-uri",
            f"store:///{self.folder}/server.db",
            "--artifacts-destination",
            str(self.folder / "artifacts"),
        ]
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
            *stores,
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            except requests.RequestException:
                time.sleep(0.3)
        raise AssertionError("the server did not start")

    def kill(self):
        os.killpg(self.process.pid, 9)
        self.process.wait()


@pytest.fixture
def server(tmp_path):
    one = Server(tmp_path)
    one.start()
    yield one
    one.kill()


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_has_every_epoch_once(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    store = open_store(tmp_path)
    log = open_log(server.store)
    log.log_history([{"epoch": 1} | {"train/loss": 1.0}])
    while log._logged != {1}:
        time.sleep(0.1)
    server.kill()
    began = time.perf_counter()
    for epoch in (2, 3):
        log.log_history([{"epoch": epoch} | {"train/loss": 1.0 / epoch}])
    assert time.perf_counter() - began < 1
    server.start()
    log.log_history([{"epoch": 4} | {"train/loss": 0.25}])
    log.end("FINISHED")
    assert log.close(90), log.away_because
    assert steps(store, log.run_id) == [1, 2, 3, 4]
    assert store.client.get_run(log.run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_that_ended_while_the_server_was_away_is_completed_by_the_next_start(
    server, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    store = open_store(tmp_path)
    log = open_log(server.store)
    log.log_history(EPOCHS[:2])
    while log._logged != {1, 2}:
        time.sleep(0.1)
    server.kill()
    log.log_history(EPOCHS)
    assert not log.close(2) and "onnection" in log.away_because
    server.start()
    again = open_log(server.store)
    again.log_history(EPOCHS)
    assert again.close(60) and again.run_id == log.run_id
    assert steps(store, again.run_id) == [1, 2, 3, 4, 5]


def test_a_picture_of_an_epoch_is_one_of_a_series_and_logged_once(store, tmp_path):
    pictures = []
    for epoch in (1, 2):
        path = tmp_path / f"val_predictions_epoch_{epoch:04d}.png"
        Image.new("RGB", (40, 30), (10 * epoch, 0, 0)).save(path)
        pictures.append((path, epoch))
    broken = tmp_path / "val_predictions_epoch_0003.png"
    broken.write_bytes(b"no picture")
    for _ in range(2):  # a process, and the one that goes on with its run
        log = open_log(store)
        for path, epoch in [*pictures, (broken, 3), (tmp_path / "gone.png", 4)]:
            log.log_picture(path, "val_predictions", epoch)
        assert log.close(20), log.away_because
    files = [Path(file.path).name for file in store.client.list_artifacts(log.run_id, "images")]
    assert sorted(name.partition("+timestamp")[0] for name in files if name.endswith(".png")) == [
        "val_predictions+step+1",
        "val_predictions+step+2",
    ]
    assert len([name for name in files if name.endswith(".webp")]) == 2
    full = next(name for name in files if "+step+2+" in name and name.endswith(".png"))
    with Image.open(store.client.download_artifacts(log.run_id, f"images/{full}")) as picture:
        assert picture.size == (40, 30) and picture.getpixel((0, 0)) == (20, 0, 0)
    plots = [file.path for file in store.client.list_artifacts(log.run_id, "plots")]
    assert plots == [f"plots/{broken.name}"]


WRITES = """
import sys, threading
from segmamba.orchestration.tracking.run_log import RunLog, keyed_run
from segmamba.orchestration.tracking.store import open_store
results, key = sys.argv[1:]
store = open_store(results)
log = RunLog(store, lambda: keyed_run(store, key, f"Run{key}", {"dataset": "d"}), "d")
away = []
for number in range(1, 7):
    log.log_config({f"setting.{number}": number})
    log.log_history([{"epoch": n, "train/loss": 1 / n} for n in range(1, number + 1)])
    away.append(log.away_because)
log.end("FINISHED")
print(log.close(120), sorted(set(away)))
"""


def test_eight_processes_that_write_to_one_sqlite_file_lose_nothing(tmp_path):
    command = [sys.executable, "-c", WRITES, str(tmp_path)]
    writers = [warm.Process([*command, str(number)], cwd=tmp_path) for number in range(8)]
    for writer in writers:
        printed, errors = writer.communicate(timeout=300)
        assert printed == "True ['']\n", errors
    store = open_store(tmp_path)
    runs = store.search("")
    assert {run.info.status for run in runs} == {"FINISHED"} and len(runs) == 8
    for run in runs:
        assert steps(store, run.info.run_id) == list(range(1, 7))
        assert len(run.data.params) == 6


@pytest.mark.slow
def test_a_database_that_another_process_holds_for_long_is_waited_for(store, tmp_path):
    run = store.create_run("a", {})
    holder = sqlite3.connect(tmp_path / "mlflow.db", check_same_thread=False)
    holder.execute("begin immediate")
    threading.Timer(6, holder.commit).start()  # sqlite3's own patience is 5 s
    store.log_metrics(run, {"x": 1.0})
    assert steps(store, run, "x") == [0]
