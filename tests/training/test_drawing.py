"""The process that draws beside a GPU."""

import os
import subprocess
import sys
import time

import pytest
import torch

from segmamba.training.drawing import Pictures, draw, prepare_to_draw
from segmamba.training.run_folder import RunFolder

GPU, CPU = torch.device("cuda"), torch.device("cpu")


def write_process(path):
    path.write_text(str(os.getpid()))


def test_pictures_beside_a_gpu_are_drawn_by_one_process_which_is_replaced_if_it_dies(tmp_path):
    prepare_to_draw(GPU)
    drawn = []
    for number in range(2):
        draw(GPU, write_process, tmp_path / f"{number}")
        drawn.append(int((tmp_path / f"{number}").read_text()))
    assert drawn[0] == drawn[1] != os.getpid()
    draw(GPU, die_elsewhere, tmp_path / "2", os.getpid())
    draw(GPU, write_process, tmp_path / "3")
    drawn += [int((tmp_path / f"{number}").read_text()) for number in (2, 3)]
    assert drawn[2] == os.getpid() and drawn[3] not in (drawn[0], os.getpid())


def die_elsewhere(path, run):
    if os.getpid() != run:
        os._exit(1)
    write_process(path)


def test_a_picture_is_drawn_by_the_run_where_the_process_dies_over_it(tmp_path):
    draw(GPU, die_elsewhere, tmp_path / "drawn", os.getpid())
    assert (tmp_path / "drawn").read_text() == str(os.getpid())


def test_a_picture_that_cannot_be_drawn_is_an_error_but_stops_no_training(tmp_path):
    with pytest.raises(FileNotFoundError):
        draw(GPU, write_process, tmp_path / "no folder" / "drawn")
    pictures = Pictures(RunFolder(tmp_path / "run"))
    pictures.order(["not a view"], tmp_path / "drawn.png")
    with pytest.warns(UserWarning, match=r"drawn.png is not drawn \(AttributeError: "):
        assert pictures.close() == []


def test_a_cpu_draws_at_once_in_the_process_of_the_run(tmp_path):
    draw(CPU, write_process, tmp_path / "drawn")
    assert (tmp_path / "drawn").read_text() == str(os.getpid())


def test_the_process_that_draws_ends_with_the_run_even_if_that_is_killed(tmp_path):
    code = (
        "import pathlib, sys, time, torch\n"
        "from segmamba.training.drawing import draw\n"
        "from tests.training.test_drawing import GPU, write_process\n"
        "draw(GPU, write_process, pathlib.Path(sys.argv[1]))\n"
        "print('drawn', flush=True)\n"
        "time.sleep(600)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "drawn")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.stdout and run.stdout.readline() == "drawn\n"
    process = int((tmp_path / "drawn").read_text())
    run.kill()
    run.wait()
    run.stdout.close()
    deadline = time.monotonic() + 60
    while is_alive(process):
        assert time.monotonic() < deadline, "it outlives the run"
        time.sleep(0.05)


def is_alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
