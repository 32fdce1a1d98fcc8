"""A run and what can go wrong with it.

Every fault stops it with one line, and what it saved is good.
"""

import errno
import json
import shutil

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segmamba.errors import RunStopped
from segmamba.models.weights import load_checkpoint
from segmamba.training import checkpoint as checkpoint_module
from segmamba.training import record
from segmamba.training import run as run_module
from segmamba.training import step as step_module
from segmamba.training.advice import advice
from segmamba.training.callback import Callback
from segmamba.training.checkpoint import weights_digest
from segmamba.training.drawing import Pictures
from segmamba.training.memory import estimate_training_memory
from segmamba.training.record import data_digest
from segmamba.training.run import train_run
from segmamba.training.run_folder import RunFolder
from tests.small_disks import small_disk
from tests.tiny import CPU, TINY
from tests.training.conftest import copy_of


class Notes(Callback):
    def __init__(self):
        self.lines = []

    def on_note(self, text):
        self.lines.append(text)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def last_epoch(folder):
    return load_checkpoint(folder.last)["epoch"]


def test_a_non_finite_loss_stops_with_the_cases_and_keeps_the_last_good_checkpoint(
    data,
    folder,
    monkeypatch,
):
    run = train_run(TINY, data, folder, CPU)
    next(run)
    monkeypatch.setattr(step_module, "training_loss", broken(step_module.training_loss))
    with pytest.raises(
        RunStopped,
        match=r"epoch 2, step 1: the loss is nan; "
        r"the batch held BraTS20_Training_\d+, BraTS20_Training_\d+",
    ):
        next(run)
    assert last_epoch(folder) == 1


def broken(loss):
    return lambda *arguments: loss(*arguments) * float("nan")


def test_a_full_disk_stops_with_the_fix_and_keeps_the_last_good_checkpoint(
    data,
    folder,
    monkeypatch,
):
    run = train_run(TINY, data, folder, CPU)
    next(run)
    before = weights_digest(load_checkpoint(folder.last)["model"])

    def full(self, content):
        self.error = OSError(errno.ENOSPC, "No space left on device")
        raise self.error

    monkeypatch.setattr(checkpoint_module._Hashed, "write", full)
    with pytest.raises(
        RunStopped,
        match=r"last.pth: the disk is full .* free some space, then --resume goes on from the last",
    ):
        next(run)
    assert (
        last_epoch(folder) == 1 and weights_digest(load_checkpoint(folder.last)["model"]) == before
    )
    monkeypatch.undo()
    assert [epoch.number for epoch in train_run(TINY, data, folder, CPU)] == [2, 3]


def test_a_real_full_disk_stops_and_the_run_goes_on_to_the_same_weights(data, folder, tmp_path):
    list(train_run(TINY, data, folder, CPU))
    expected = weights_digest(load_checkpoint(folder.last)["model"])
    with small_disk(tmp_path / "disk", "40m") as disk:
        small = RunFolder(disk.folder / "run")
        run = train_run(TINY, data, small, CPU)
        next(run)
        before = small.last.read_bytes()
        ballast = disk.fill()
        with pytest.raises(RunStopped, match=rf"^{small.root}/.*: the disk is full \(0.0 of 40.0"):
            next(run)
        assert small.last.read_bytes() == before
        assert not list(disk.folder.rglob("*.part"))
        ballast.unlink()
        assert [epoch.number for epoch in train_run(TINY, data, small, CPU)] == [2, 3]
        assert weights_digest(load_checkpoint(small.last)["model"]) == expected


@pytest.mark.parametrize("how", [shutil.rmtree, lambda root: root.rename(root.with_name("there"))])
def test_a_folder_that_is_removed_or_renamed_stops_the_run_and_is_not_made_again(data, folder, how):
    run = train_run(TINY, data, folder, CPU)
    next(run)
    how(folder.root)
    with pytest.raises(RunStopped, match=rf"^{folder.root}: was removed or renamed while"):
        next(run)
    assert not folder.root.exists()


def test_too_small_a_memory_stops_with_what_would_fit(data, folder, monkeypatch):
    def too_much(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step_module, "training_loss", too_much)
    monkeypatch.setattr(
        run_module, "memory_advice", lambda config, device: advice(config, "cuda:0", 2**40, None)
    )
    with pytest.raises(
        RunStopped,
        match=r"^out of memory on cuda:0: a step takes about .* "
        r"--set train.batch_size=1 --set train.accumulation=2 \(",
    ):
        next(train_run(TINY.changed({"data.patch_size": (32, 32, 32)}), data, folder, CPU))


def test_advice_names_the_mildest_change_of_each_kind_that_fits():
    config = TINY.changed(
        {"train.batch_size": 8, "data.patch_size": (64, 32, 32), "model.mamba_depths": (0, 0, 0)}
    )
    whole, half = (
        estimate(config.changed(changes))
        for changes in ({}, {"train.batch_size": 4, "train.accumulation": 2})
    )
    line = advice(config, "cuda:0", (whole + half) / 2, None)
    assert (
        "--set train.batch_size=4 --set train.accumulation=2 (" in line
        and "train.batch_size=2 " not in line
    )
    assert "--set data.patch_size=" in line or "--set model.checkpoint_stages=1,2,3,4,5" in line
    assert "no smaller batch or patch would fit" in advice(config, "cuda:0", 1, None)


def estimate(config):
    return estimate_training_memory(config, device_type="cuda").total


@pytest.mark.parametrize("damaged", [1, 2])
def test_damaged_checkpoints_are_named_and_the_end_is_the_same_all_the_same(
    data,
    whole_run,
    folder,
    damaged,
):
    run = train_run(TINY, data, folder, CPU)
    next(run), next(run)
    run.close()
    for path in (folder.last, folder.previous)[:damaged]:
        path.write_bytes(path.read_bytes()[:-100])
    callback = Notes()
    epochs = [e.number for e in train_run(TINY, data, folder, CPU, callback)]
    assert epochs == ([2, 3] if damaged == 1 else [1, 2, 3])
    assert len(callback.lines) == damaged and "last.pth: damaged" in callback.lines[0]
    assert ("from the epoch before" if damaged == 1 else "from the start") in callback.lines[0]
    expected = weights_digest(whole_run[-1].checkpoint["model"])
    assert weights_digest(load_checkpoint(folder.last)["model"]) == expected
    assert [entry["epoch"] for entry in folder.read_history(3)] == [1, 2, 3]


def test_what_a_kill_kept_from_being_copied_out_of_the_last_checkpoint_is_copied_on_resume(
    data,
    folder,
    monkeypatch,
):
    config = TINY.changed({"train.keep_every_epochs": 1, "train.epochs": 1})
    list(train_run(config, data, folder, CPU))
    digests = {
        path: weights_digest(load_checkpoint(path)) for path in (folder.best, folder.periodic(1))
    }
    for path in digests:
        path.unlink()
    assert list(train_run(config, data, folder, CPU)) == []
    assert {path: weights_digest(load_checkpoint(path)) for path in digests} == digests


def test_pictures_are_drawn_beside_the_run_and_reach_tensorboard(data, folder):
    list(
        train_run(
            TINY.changed({"train.keep_every_epochs": 2}),
            data,
            folder,
            CPU,
            pictures=Pictures(folder),
        )
    )
    drawn = {path.name for path in folder.plots.iterdir()}
    assert {
        "val_predictions_epoch_0002.png",
        "val_predictions_epoch_0003.png",
        "training_curves.png",
    } <= drawn
    assert all(name.endswith(".png") for name in drawn)
    events = EventAccumulator(str(folder.logs), size_guidance={"images": 0})
    events.Reload()
    assert len(events.Images("val/predictions")) == len(
        [name for name in drawn if name.startswith("val_")]
    )
    assert {"train/loss", "train/lr", "val/dice_ET", "time/patches_per_s"} <= set(
        events.Tags()["scalars"]
    )


def test_the_environment_is_written_once_and_what_changes_is_added(data, folder, monkeypatch):
    first = record.record_environment(folder, data, CPU, 0)
    named = {"torch", "python", "cpu", "gpu", "git commit", "threads", "device"}
    assert named <= first["environment"].keys()
    assert (
        first["split"]["train"] == [case.id for case in data.train]
        and len(first["data_sha256"]) == 64
        and first["packages"]["numpy"]
    )
    record.record_environment(folder, data, CPU, 1)
    assert json.loads(folder.environment.read_text()) == first, "nothing has changed"
    monkeypatch.setattr(record, "describe_environment", lambda: {"torch": "99"})
    record.record_environment(folder, data, CPU, 2)
    (later,) = json.loads(folder.environment.read_text())["resumed"]
    assert later["after_epoch"] == 2 and later["environment"]["torch"] == "99"


def test_the_data_digest_follows_the_values_and_not_the_times_of_files(data, tmp_path):
    data = copy_of(data, tmp_path)
    before = data_digest(data)
    path = data.train[0].folder / "label.npy"
    label = np.load(path)
    np.save(path, label)
    assert data_digest(data) == before
    label[0, 0, 0] ^= 1
    np.save(path, label)
    assert data_digest(data) != before
