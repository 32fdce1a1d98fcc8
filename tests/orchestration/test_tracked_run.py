"""The pictures of a run whose GPU does not wait for them."""

import errno
import threading

import pytest
import torch

from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import Split
from segmamba.errors import RunStopped
from segmamba.evaluation.behind import Aside
from segmamba.models.weights import load_checkpoint
from segmamba.orchestration.tracking.log import NoLog
from segmamba.orchestration.tracking.tracked_run import TrackedRun
from segmamba.training import run_evaluation
from segmamba.training.final_metrics import read_final_metrics
from segmamba.training.run_folder import RunFolder
from segmamba.training.saving import AtOnce, Behind
from tests.conftest import write_case
from tests.tiny import CPU, TINY


class Log(NoLog):
    """Remembers what it was given."""

    def __init__(self):
        self.files, self.series = [], []

    def log_files(self, paths, folder):
        self.files += [(path.name, folder) for path in paths]

    def log_picture(self, path, series, step):
        self.series.append((series, step))


def test_pictures_drawn_aside_are_logged_once_and_before_the_run_settles(tmp_path):
    log, folder, may_draw = Log(), RunFolder(tmp_path), threading.Event()
    run = TrackedRun(None, folder, torch.device("cuda"), log)
    assert isinstance(run._aside, Aside)

    def draw(name):
        assert may_draw.wait(30)
        (folder.plots / name).write_bytes(b"drawn")

    run._aside.do(lambda: draw("training_curves.png"))
    run._aside.do(lambda: draw("val_predictions_epoch_0003.png"))
    assert log.files == log.series == []  # the caller has gone on
    may_draw.set()
    run.settle()
    assert log.files == [("training_curves.png", "plots")]
    assert log.series == [("val_predictions", 3)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A split with one case in each set."""
    folder = tmp_path_factory.mktemp("cases")
    for number in range(3):
        write_case(folder, f"BraTS20_Training_{number:03d}", shape=(24, 24, 24))
    cases = prepare_cases(find_cases(folder), folder / "cache", TINY.data, workers=1)
    return Split(cases[:1], cases[1:2], cases[2:], False, ())


def beside_a_gpu(data, folder, log):
    """A run that trains on the CPU and does its last things as beside a GPU."""
    run = TrackedRun(data, folder, CPU, log)
    run._aside = Aside(torch.device("cuda"), after=run._log_pictures)
    return run


def test_a_run_that_does_its_last_things_aside_ends_as_one_that_waits_for_each(data, tmp_path):
    finals, files, logs = [], [], []
    for name, start, saver in (("cpu", TrackedRun, AtOnce()), ("gpu", beside_a_gpu, Behind())):
        folder, log = RunFolder(tmp_path / name), Log()
        run = start(data, folder, CPU, log) if start is TrackedRun else start(data, folder, log)
        list(run.train(TINY, saver=saver))
        run.test(TINY)
        finals.append(read_final_metrics(folder.final_metrics))
        logs.append((sorted(log.files), log.series))
        files.append({path.relative_to(folder.root) for path in folder.root.rglob("*.p*")})
    first, second = finals
    assert first and second
    assert first.cases == second.cases and first.weights_sha256 == second.weights_sha256
    assert first.tested_epoch == second.tested_epoch
    assert files[0] == files[1] and logs[0] == logs[1]
    assert ("training_curves.png", "plots") in logs[0][0] and logs[0][1]


class HeldBack(Behind):
    """Writes the last checkpoint of TINY only when it is allowed to, and perhaps not at all."""

    def __init__(self, error=None):
        super().__init__()
        self.may_write, self._error = threading.Event(), error

    def save(self, state, write):
        def held(state):
            if state["epoch"] == TINY.train.epochs:
                assert self.may_write.wait(60)
                if self._error:
                    raise self._error
            write(state)

        super().save(state, held)


def test_no_result_is_written_of_weights_that_a_full_disk_has_not_taken(data, tmp_path):
    folder = RunFolder(tmp_path / "run")
    saver = HeldBack(OSError(errno.ENOSPC, "No space left on device"))
    run = beside_a_gpu(data, folder, Log())
    list(run.train(TINY, saver=saver))
    saver.may_write.set()
    with pytest.raises(RunStopped, match=r"the disk is full .* free some space, then --resume"):
        run.test(TINY)
    assert not folder.final_metrics.exists()
    assert load_checkpoint(folder.last)["epoch"] == TINY.train.epochs - 1
    again = beside_a_gpu(data, folder, Log())
    assert [epoch.number for epoch in again.train(TINY)] == [TINY.train.epochs]
    assert again.test(TINY).epochs == TINY.train.epochs


def test_a_test_that_fails_leaves_no_checkpoint_half_written(data, tmp_path, monkeypatch):
    folder, saver = RunFolder(tmp_path / "run"), HeldBack()
    run = beside_a_gpu(data, folder, Log())
    list(run.train(TINY, saver=saver))

    def fail(*given):
        saver.may_write.set()
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(run_evaluation, "evaluate", fail)
    with pytest.raises(torch.OutOfMemoryError):
        run.test(TINY)
    assert load_checkpoint(folder.last)["epoch"] == TINY.train.epochs
    assert not folder.final_metrics.exists()
