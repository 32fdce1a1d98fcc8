"""What a GPU leaves to the CPU: the order of its results, how much waits, and its errors.

A device that is only named costs nothing: the functions never touch it.
"""

import threading

import numpy as np
import pytest
import torch

from segmamba.data.label_sets import GLIOMA
from segmamba.evaluation.behind import Aside, batched, behind
from segmamba.evaluation.dice import dice
from segmamba.evaluation.hausdorff import surface_scores, tumour_box
from tests.tiny import CPU

GPU = torch.device("cuda")


def test_results_come_in_the_order_of_the_items_whichever_is_ready_first():
    later = threading.Event()

    def late_first(number):
        if number == 0:
            assert later.wait(30)
        if number == torch.get_num_threads():
            later.set()
        return number

    torch_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(behind(GPU, late_first, iter(range(9)))) == list(range(9))
    finally:
        torch.set_num_threads(torch_threads)


def test_the_caller_makes_the_items_and_never_gets_far_ahead():
    made, done, caller = [], [], threading.current_thread()

    def items():
        for number in range(20):
            assert threading.current_thread() is caller
            made.append(number)
            yield number

    def work(number):
        assert threading.current_thread() is not caller
        done.append(number)

    for _ in behind(GPU, work, items()):
        assert len(made) - len(done) <= 2 * torch.get_num_threads() + 1
    assert sorted(done) == made


def test_a_cpu_does_one_thing_after_the_other():
    caller = threading.current_thread()
    assert list(behind(CPU, lambda _: threading.current_thread() is caller, range(3))) == [True] * 3
    seen = []
    Aside(CPU).do(lambda: seen.append(threading.current_thread()))
    assert seen == [caller]


@pytest.mark.parametrize("device", [GPU, CPU], ids=str)
def test_an_error_of_one_item_reaches_the_caller(device):
    def fail(number):
        if number == 2:
            raise ValueError("the third")
        return number

    with pytest.raises(ValueError, match="the third"):
        list(behind(device, fail, range(5)))


def test_work_aside_of_a_gpu_is_done_in_its_order_while_the_caller_goes_on():
    went_on, done, caller = threading.Event(), [], threading.current_thread()

    def work(number):
        assert went_on.wait(30) and threading.current_thread() is not caller
        done.append(number)

    aside = Aside(GPU, after=lambda: done.append("after"))
    for number in range(3):
        aside.do(lambda number=number: work(number))
    assert done == []
    went_on.set()
    aside.settle()
    assert done == [0, "after", 1, "after", 2, "after"]


@pytest.mark.parametrize("device", [GPU, CPU], ids=str)
def test_work_aside_that_fails_is_an_error_of_whoever_waits_for_it(device):
    def fail():
        raise OSError("no space")

    aside = Aside(device)
    with pytest.raises(OSError, match="no space"):
        aside.do(fail)
        aside.settle()


def test_batches_hold_every_item_in_order():
    assert list(batched(range(7), 3)) == [(0, 1, 2), (3, 4, 5), (6,)]
    assert list(batched([], 3)) == []


@pytest.mark.parametrize("kind", ["both", "missed", "invented", "empty"])
def test_the_scores_of_the_box_around_both_tumours_are_those_of_the_whole(kind):
    rng = np.random.default_rng(0)
    pred, truth = np.zeros((2, 24, 30, 20), np.uint8)
    if kind in ("both", "invented"):
        pred[3:9, 5:12, :6] = rng.integers(0, 4, (6, 7, 6))
    if kind in ("both", "missed"):
        truth[5:11, 4:10, 2:9] = rng.integers(0, 4, (6, 6, 7))
    box, spacing_mm = tumour_box(pred, truth), (1.0, 0.9, 1.5)
    assert kind == "empty" or pred[box].size < pred.size / 10
    assert dice(pred[box], truth[box], GLIOMA) == dice(pred, truth, GLIOMA)
    whole = surface_scores(pred, truth, spacing_mm, GLIOMA)
    assert surface_scores(pred[box], truth[box], spacing_mm, GLIOMA) == whole
