"""The pictures of a run whose GPU does not wait for them."""

import threading

import torch

from segmamba.evaluation.behind import Aside
from segmamba.orchestration.tracking.log import NoLog
from segmamba.orchestration.tracking.tracked_run import TrackedRun
from segmamba.training.run_folder import RunFolder


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
