"""Checkpoints that are written behind the run: what is in them, and when the run waits."""

import threading
from collections import OrderedDict

import pytest
import torch

from segmamba.errors import RunStopped
from segmamba.models.weights import load_checkpoint
from segmamba.training import run as run_module
from segmamba.training.checkpoint import save_checkpoint, weights_digest
from segmamba.training.run import train_run
from segmamba.training.run_folder import RunFolder
from segmamba.training.saving import AtOnce, Behind, saver_for, settled
from tests.tiny import CPU, TINY

CUDA_ONLY = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


def test_what_is_written_is_what_was_saved_whatever_the_next_step_does(tmp_path):
    may_write, saver = threading.Event(), Behind()
    weights = torch.arange(6.0).reshape(2, 3)
    model = OrderedDict(w=weights)
    model._metadata = {"": {"version": 2}}
    state = {"model": model, "trained": {"w": weights}, "list": [(1, torch.ones(1))], "epoch": 3}

    def write(copied):
        assert may_write.wait(30)
        save_checkpoint(copied, tmp_path / "last.pth")

    saver.save(state, write)
    weights.zero_()
    state["epoch"] = 4
    may_write.set()
    saver.settle()
    saved = load_checkpoint(tmp_path / "last.pth")
    assert torch.equal(saved["model"]["w"], torch.arange(6.0).reshape(2, 3))
    assert saved["epoch"] == 3 and saved["list"] == [(1, torch.ones(1))]
    assert saved["model"]._metadata == {"": {"version": 2}}
    assert saved["model"]["w"].data_ptr() == saved["trained"]["w"].data_ptr(), "written once"


def test_the_next_save_waits_for_the_one_before_it_and_raises_its_error():
    begun, may_end, saver, order = threading.Event(), threading.Event(), Behind(), []

    def slow(state):
        begun.set()
        assert may_end.wait(30)
        order.append(state["epoch"])
        raise OSError("no space")

    saver.save({"epoch": 1}, slow)
    assert begun.wait(30) and not order, "the run goes on meanwhile"
    may_end.set()
    with pytest.raises(OSError, match="no space"):
        saver.save({"epoch": 2}, lambda state: order.append(state["epoch"]))
    saver.settle()
    assert order == [1]


def test_a_run_that_saves_behind_leaves_the_files_of_one_that_saves_at_once(data, tmp_path):
    config = TINY.changed({"train.keep_every_epochs": 2})
    digests = []
    for name, saver in (("at once", AtOnce()), ("behind", Behind())):
        folder = RunFolder(tmp_path / name)
        list(train_run(config, data, folder, CPU, saver=saver))
        state = load_checkpoint(folder.last)
        digests.append(
            [
                weights_digest(state["model"]),
                weights_digest(load_checkpoint(folder.best)),
                weights_digest(load_checkpoint(folder.periodic(2))),
                load_checkpoint(folder.previous)["epoch"],
                state["best_rows"],
            ]
        )
    assert digests[0] == digests[1]


def test_a_run_that_is_left_while_it_saves_has_saved_and_goes_on_there(
    data, folder, monkeypatch, whole_run
):
    begun, may_write, save = threading.Event(), threading.Event(), run_module._save

    def slow(*arguments, **options):
        begun.set()
        assert may_write.wait(30)
        save(*arguments, **options)

    monkeypatch.setattr(run_module, "_save", slow)
    run = train_run(TINY, data, folder, CPU, saver=Behind())
    assert next(run).number == 1
    assert begun.wait(30) and not folder.last.exists()
    may_write.set()
    run.close()
    assert load_checkpoint(folder.last)["epoch"] == 1
    assert [epoch.number for epoch in train_run(TINY, data, folder, CPU)] == [2, 3]
    expected = weights_digest(whole_run[-1].checkpoint["model"])
    assert weights_digest(load_checkpoint(folder.last)["model"]) == expected


def test_a_run_killed_before_an_epoch_is_written_trains_it_again_to_the_same_end(
    data, folder, monkeypatch, whole_run
):
    """The history, and with it the log, then know an epoch that the checkpoint does not."""
    run = train_run(TINY, data, folder, CPU, saver=Behind())
    next(run)
    monkeypatch.setattr(run_module, "_save", lambda *arguments, **options: None)
    assert next(run).number == 2
    run.close()
    monkeypatch.undo()
    assert load_checkpoint(folder.last)["epoch"] == 1 and len(folder.read_history(3)) == 2
    assert [epoch.number for epoch in train_run(TINY, data, folder, CPU)] == [2, 3]
    expected = weights_digest(whole_run[-1].checkpoint["model"])
    assert weights_digest(load_checkpoint(folder.last)["model"]) == expected
    assert [entry["epoch"] for entry in folder.read_history(3)] == [1, 2, 3]


def test_a_disk_that_is_full_behind_the_run_stops_it_with_the_fix(data, folder, monkeypatch):
    run = train_run(TINY, data, folder, CPU, saver=Behind())
    next(run)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run_module, "_save", full)
    next(run)
    with pytest.raises(RunStopped, match=r"the disk is full .* free some space, then --resume"):
        next(run)
    assert load_checkpoint(folder.last)["epoch"] == 1


def test_the_reason_why_a_run_ends_is_not_hidden_by_a_save_that_fails():
    def fail(state):
        raise OSError("no space")

    with pytest.raises(KeyboardInterrupt), settled(Behind()) as saver:
        saver.save({"epoch": 1}, fail)
        raise KeyboardInterrupt


def test_a_cpu_saves_at_once():
    assert isinstance(saver_for(CPU), AtOnce)


@pytest.mark.gpu
@CUDA_ONLY
def test_a_checkpoint_of_a_gpu_is_copied_into_the_same_page_locked_memory_each_time(tmp_path):
    saver, path = Behind(), tmp_path / "last.pth"
    model = torch.nn.Conv3d(4, 8, 3).cuda().to(memory_format=torch.channels_last_3d)
    state = {"model": model.state_dict(), "trained": model.state_dict()}
    pinned = set()
    for _ in range(3):
        with torch.no_grad():
            model.weight.normal_()
        expected = weights_digest(model.state_dict())
        saver.save(state, lambda copied: save_checkpoint(copied, path))
        with torch.no_grad():
            model.weight.zero_()
        saver.settle()
        saved = load_checkpoint(path)
        assert weights_digest(saved["model"]) == weights_digest(saved["trained"]) == expected
        assert saved["model"]["weight"].stride() == model.weight.stride()
        pinned.add(tuple(sorted(buffer.data_ptr() for buffer in saver._buffers.values())))
        assert all(buffer.is_pinned() for buffer in saver._buffers.values())
    assert len(pinned) == 1
    assert path.stat().st_size < 2.5 * sum(p.nbytes for p in model.parameters()) + 8192


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_state_on_another_gpu_than_the_current_one_is_copied_before_it_changes():
    device, saver, found = torch.device("cuda:1"), Behind(), []
    weights, factor = torch.zeros(2**24, device=device), torch.rand(4096, 4096, device=device)
    for epoch in range(1, 4):
        for _ in range(20):
            factor = factor @ factor / factor.norm()  # keeps the GPU behind the program
        weights.fill_(epoch)
        saver.save({"w": weights}, lambda state: found.append(state["w"].unique().tolist()))
        weights.fill_(-1)
    saver.settle()
    assert found == [[1.0], [2.0], [3.0]]
