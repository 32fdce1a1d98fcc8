"""The pictures of a run whose GPU does not wait for them."""

import threading

import torch

from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import Split
from segmamba.evaluation.behind import Aside
from segmamba.orchestration.tracking.log import NoLog
from segmamba.orchestration.tracking.tracked_run import TrackedRun
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


def test_a_run_that_does_its_last_things_aside_ends_as_one_that_waits_for_each(tmp_path):
    for number in range(3):
        write_case(tmp_path / "cases", f"BraTS20_Training_{number:03d}", shape=(24, 24, 24))
    cases = prepare_cases(find_cases(tmp_path / "cases"), tmp_path / "cache", TINY.data, workers=1)
    data = Split(cases[:1], cases[1:2], cases[2:], False, ())
    finals, files, logs = [], [], []
    for aside, saver in ((CPU, AtOnce()), (torch.device("cuda"), Behind())):
        folder, log = RunFolder(tmp_path / aside.type), Log()
        run = TrackedRun(data, folder, CPU, log)
        run._aside = Aside(aside, after=run._log_pictures)
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
