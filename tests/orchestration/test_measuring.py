"""Rehearsals: what they cost, and that none is repeated."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import Split
from segmamba.errors import UserError
from segmamba.orchestration.engine.measuring import Measure
from segmamba.orchestration.engine.measuring_processes import Killed
from segmamba.training.rehearsal import Rehearsal, _Clock, _resident_bytes
from tests.conftest import write_case
from tests.tiny import TINY


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A split with one case in each set."""
    folder = tmp_path_factory.mktemp("cases")
    for number in range(3):
        write_case(folder, f"BraTS20_Training_{number:03d}", shape=(24, 24, 24), seed=number)
    cases = prepare_cases(find_cases(folder), folder / "cache", TINY.data, workers=1)
    return Split(cases[:1], cases[1:2], cases[2:], False, ())


class Processes:
    """Stands in for MeasuringProcesses: gives made-up Rehearsals, and keeps what was asked for."""

    def __init__(self):
        self.measured, self.ended = [], False

    def start(self, slot, task):
        self.measured.append(task.config)

    def result(self, job):
        return Rehearsal(
            step_s=1,
            warm_up_s=self.warm_up_s(),
            validate_case_s=0,
            test_case_s=0,
            peak_bytes=1,
            weights_bytes=1,
            resume_bytes=1,
        )

    def warm_up_s(self):
        return 0.0

    def renew(self):
        pass

    def end(self):
        self.ended = True


def test_cases_that_validations_leave_on_a_gpu_count_in_its_memory(data):
    three = Split(data.train, [*data.train, *data.validation, *data.test], data.test, False, ())
    image, label = three.validation[1].image(), three.validation[1].label()
    one = image.size * 2 + label.size
    assert _resident_bytes(three, torch.device("cuda")) == pytest.approx(2 * one, rel=0.5)
    assert _resident_bytes(data, torch.device("cuda")) == 0, "the one case was rehearsed"
    assert _resident_bytes(three, torch.device("cpu")) == 0


def test_one_pause_among_the_timed_steps_does_not_count(monkeypatch):
    steps = [0.022] * 40
    steps[39] = 0.65  # seen on a GPU: the loader's processes end
    times = iter(np.cumsum([0.0, 100.0, *steps]))
    monkeypatch.setattr(
        "segmamba.training.rehearsal.time", SimpleNamespace(perf_counter=lambda: next(times))
    )
    clock = _Clock()
    clock.start()
    for done in range(40):
        clock.on_step(2, done + 1)
    assert clock.step_s() == pytest.approx(0.022)


def test_a_true_rehearsal_in_a_fresh_process_is_kept_and_not_repeated(data, tmp_path):
    messages = []
    with Measure(data, tmp_path / "kept", ["this machine"], say=messages.append) as measure:
        first, again = measure([TINY, TINY.changed({"seed": 3})], threads=1)
        assert again == first and len(messages) == 1, "a seed changes no cost"
        assert first.step_s > 0 and first.test_case_s > 0 and first.peak_bytes > 50 * 2**20
        assert first.resume_bytes > 2.9 * first.weights_bytes
    with Measure(data, tmp_path / "kept", ["this machine"], say=messages.append) as later:
        assert later([TINY], threads=1) == [first] and len(messages) == 1, "kept"


def test_arms_are_measured_on_all_gpus_at_once_and_packed_ones_on_the_first(data, tmp_path):
    class Placed(Processes):
        def start(self, slot, task):
            self.measured.append((slot, task.gpu, task.others, task.compiler))

    processes, arms = Placed(), [TINY.changed({"model.d_state": n}) for n in (2, 3, 4)]
    with Measure(
        data, tmp_path / "kept", [], at_once=2, compiler="there", processes=processes
    ) as measure:
        measure(arms, threads=1, compile="always")
        assert processes.measured == [(0, 0, 0, "there"), (1, 1, 0, "there"), (0, 0, 0, "there")]
        processes.measured.clear()
        measure(arms[:2], threads=1, together=True)
        assert processes.measured == [(0, 0, 1, "there"), (1, 0, 1, "there")]


def test_a_rehearsal_says_how_long_a_compiled_network_took_to_warm(data, tmp_path):
    messages = []
    with Measure(
        data, tmp_path / "kept", [], processes=Processes(), say=messages.append
    ) as measure:
        measure([TINY], threads=1, compile="always")
    assert messages == ["measured 1: 1000 ms a step, compiled, warm after 0 s"]


def test_what_a_step_costs_does_not_depend_on_how_many_there_will_be(data, tmp_path):
    processes = Processes()
    with Measure(data, tmp_path / "kept", [], processes=processes) as measure:
        longer = TINY.changed(
            {"train.epochs": 99, "train.steps_per_epoch": 7, "optim.warmup_epochs": 3}
        )
        assert len(measure([TINY, longer], threads=1)) == 2 and len(processes.measured) == 1
        measure([TINY.changed({"train.batch_size": 4})], threads=1)
        assert len(processes.measured) == 2


def test_a_process_that_is_killed_while_it_measures_is_told_with_the_way_out(data, tmp_path):
    class Dies(Processes):
        def result(self, job):
            raise Killed

    with (
        Measure(data, tmp_path / "kept", [], processes=Dies()) as measure,
        pytest.raises(UserError, match="probably for its memory; lower data"),
    ):
        measure([TINY], threads=1)
