import contextlib
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from segmamba.data import loader
from segmamba.data.cases import find_cases
from segmamba.data.loader import batches, unlabelled_batches
from segmamba.data.preprocess import prepare_cases
from segmamba.data.sampling import PatchId, draw, patch_slices
from segmamba.errors import UserError
from tests.conftest import write_case
from tests.tiny import TINY

CONFIG = TINY.changed(
    {"data.patch_size": (32, 32, 16), "train.steps_per_epoch": 6, "train.epochs": 4}
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """(three prepared cases, their configuration); nothing here changes them."""
    folder = tmp_path_factory.mktemp("loader")
    for number in range(3):
        write_case(folder / "data", f"BraTS20_Training_{number:03d}", seed=number)
    return prepare_cases(find_cases(folder / "data"), folder / "cache", CONFIG.data), CONFIG


def workers_of(process):
    return [child.pid for child in psutil.Process(process).children(recursive=True)]


def all_gone_within(pids, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(
            psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
            for pid in pids
        ):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_workers_and_a_resumed_start_give_the_same_patches(prepared, workers):
    cases, config = prepared
    with_workers = config.changed({"data.workers": workers})
    stream = list(batches(cases, with_workers, first_epoch=3, pin_memory=False))
    whole = list(batches(cases, config, first_epoch=1, pin_memory=False))
    assert len(whole) == 24 and len(stream) == 12
    for a, b in zip(stream, whole[12:], strict=True):
        assert (
            a.cases == b.cases
            and (a.image == b.image).all()
            and (a.label == b.label).all()
            and (a.index == b.index).all()
        )


def test_a_volume_smaller_than_the_patch_is_zero_padded_behind(prepared):
    cases, config = prepared
    batch = next(
        batches(
            cases,
            config.changed({"data.patch_size": (64, 64, 48)}),
            first_epoch=1,
            pin_memory=False,
        )
    )
    assert batch.image.shape == (2, 4, 64, 64, 48)
    assert (
        batch.image[..., 48:, :, :].abs().sum() == 0
        and batch.image[..., 32:].abs().sum() == 0
        and batch.image.abs().sum() > 0
    )


def test_room_behind_a_small_patch_is_cleared_whatever_it_held():
    target = np.full((4, 6, 6, 6), 7, np.float16)
    loader._fill(target, np.ones((4, 6, 3, 2), np.float16))
    assert (target[:, :, :3, :2] == 1).all() and target.sum() == 4 * 6 * 3 * 2


def test_a_batch_holds_the_voxels_of_its_draws(prepared):
    cases, config = prepared
    batch = next(batches(cases, config, first_epoch=2, pin_memory=False))
    for row in range(2):
        patch = PatchId(config.seed, 2, row, per_epoch=12)
        chosen = draw(cases, patch, config.data.tumour_centre_share)
        case = cases[chosen.case]
        window = patch_slices(case.shape, chosen.centre, config.data.patch_size)
        assert batch.cases[row] == case.id and bool(batch.on_tumour[row]) == chosen.on_tumour
        assert (batch.image[row].numpy() == case.image()[(slice(None), *window)]).all() and (
            batch.label[row].numpy() == case.label()[window]
        ).all()
    assert batch.epoch.tolist() == [2, 2] and batch.index.tolist() == [0, 1]


def test_balanced_classes_reach_the_patches(prepared):
    cases, config = prepared
    plain, balanced = (
        next(
            batches(
                cases,
                config.changed({"data.balance_classes": on, "data.tumour_centre_share": 1.0}),
                first_epoch=1,
                pin_memory=False,
            )
        )
        for on in (False, True)
    )
    assert plain.cases == balanced.cases and (plain.image != balanced.image).any()


def test_closing_the_stream_ends_its_workers(prepared):
    cases, config = prepared
    before = set(workers_of(os.getpid()))
    stream = batches(cases, config.changed({"data.workers": 2}), first_epoch=1, pin_memory=False)
    next(stream)
    started = set(workers_of(os.getpid())) - before
    assert len(started) >= 2
    stream.close()
    assert all_gone_within(started, 10)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"),
    reason="only Linux tells which signals a process holds back",
)
def test_workers_hold_interrupts_back_and_the_parent_does_not(prepared):
    def held_back(pid):
        with open(f"/proc/{pid}/status") as file:
            blocked = next(int(line.split()[1], 16) for line in file if line.startswith("SigBlk"))
        return bool(blocked & 1 << signal.SIGINT - 1)

    cases, config = prepared
    before = set(workers_of(os.getpid()))
    stream = batches(cases, config.changed({"data.workers": 2}), first_epoch=1, pin_memory=False)
    next(stream)
    started = set(workers_of(os.getpid())) - before
    workers = [
        pid for pid in started if "resource_tracker" not in " ".join(psutil.Process(pid).cmdline())
    ]
    assert len(workers) == 2 and all(map(held_back, workers)) and not held_back(os.getpid())
    stream.close()


def kill_a_worker(before):
    victim = next(
        child
        for child in psutil.Process().children()
        if child.pid not in before and child.name() == "pt_data_worker"
    )
    victim.kill()
    return victim


def test_a_killed_worker_costs_no_batch_and_disturbs_nothing_where_the_program_is(prepared):
    cases, config = prepared
    whole = list(batches(cases, config, first_epoch=1, pin_memory=False))
    before, handler = set(workers_of(os.getpid())), signal.getsignal(signal.SIGCHLD)
    stream = batches(cases, config.changed({"data.workers": 2}), first_epoch=1, pin_memory=False)
    found = [next(stream)]
    for _ in range(2):
        assert all_gone_within([kill_a_worker(before).pid], 10)  # in the middle of a step, perhaps
        with pytest.warns(UserWarning, match="has died, .*; new ones go on from the same patch"):
            found += [next(stream) for _ in range(10)]
    found += stream
    assert len(found) == len(whole)
    for a, b in zip(found, whole, strict=True):
        assert (a.image == b.image).all() and (a.label == b.label).all() and a.cases == b.cases
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_workers_that_die_again_and_again_end_the_stream(prepared, monkeypatch):
    def dies(*arguments, **options):
        raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
        yield

    monkeypatch.setattr(loader, "_loaded", dies)
    stream = batches(*prepared, first_epoch=1, pin_memory=False)
    with pytest.warns(UserWarning) as warned, pytest.raises(RuntimeError, match="exited unexpec"):
        next(stream)
    assert len(warned) == loader.MOST_DEATHS - 1


def test_a_batch_that_cannot_be_read_ends_the_stream_at_once(prepared, monkeypatch, recwarn):
    cases, config = prepared

    def unreadable(*_):
        raise RuntimeError("unreadable")

    monkeypatch.setattr(loader.Batches, "__getitem__", unreadable)
    for workers in (0, 1):
        changed = config.changed({"data.workers": workers})
        with pytest.raises(RuntimeError, match="unreadable"):
            next(batches(cases, changed, first_epoch=1, pin_memory=False))
    assert not recwarn


TRAIN = """
import signal, sys, time
# A shell starts what runs in the background with interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from segmamba.data.cases import find_cases
from segmamba.data.loader import batches
from segmamba.data.preprocess import prepare_cases
from tests.tiny import TINY
config = TINY.changed({"data.workers": 2, "train.epochs": 100})
cases = prepare_cases(find_cases(sys.argv[1]), sys.argv[2], config.data)
for batch in batches(cases, config, first_epoch=1, pin_memory=False):
    print("batch", flush=True)
    time.sleep(0.2)
"""


LATE = """
import os, time
from segmamba.data.loader import _end_without
parent = os.getpid()
child = os.fork()
if child:
    print(child, flush=True)
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
_end_without(parent, 0)
time.sleep(600)
"""


def test_a_worker_whose_parent_is_gone_before_it_looks_ends_as_well():
    started = subprocess.Popen([sys.executable, "-c", LATE], stdout=subprocess.PIPE, text=True)
    worker = int(started.stdout.readline())
    try:
        assert all_gone_within([worker], 30)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        started.communicate()


def test_workers_learn_whose_end_is_theirs(prepared, monkeypatch):
    given = {}
    monkeypatch.setattr(
        loader, "DataLoader", lambda dataset, **options: given.update(options) or []
    )
    assert list(batches(*prepared, first_epoch=1, pin_memory=False)) == []
    assert given["worker_init_fn"].func is loader._end_without and given["worker_init_fn"].args == (
        os.getpid(),
    )
    monkeypatch.setattr(loader, "get_start_method", lambda: "forkserver")
    list(batches(*prepared, first_epoch=1, pin_memory=False))
    assert given["worker_init_fn"] is None, "a fork server starts them, and lives on"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
def test_workers_end_with_their_trial_and_say_nothing(cases_folder, tmp_path, how):
    trial = subprocess.Popen(
        [sys.executable, "-c", TRAIN, cases_folder, tmp_path / "cache"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert trial.stdout.readline() == "batch\n"
    workers = workers_of(trial.pid)
    assert len(workers) >= 2
    if how == signal.SIGINT:
        os.killpg(trial.pid, how)  # as a terminal does: to the workers too
    else:
        trial.kill()
    _, errors = trial.communicate(timeout=30)
    assert all_gone_within(workers, 15)
    if how == signal.SIGINT:
        assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")


def test_a_worker_stays_small_however_many_cases_there_are(prepared):
    cases, config = prepared
    many = [cases[i % 3] for i in range(2000)]
    before = set(workers_of(os.getpid()))
    stream = batches(
        many,
        config.changed({"data.workers": 1, "train.steps_per_epoch": 40}),
        first_epoch=1,
        pin_memory=False,
    )
    for _ in range(30):
        next(stream)
    started = set(workers_of(os.getpid())) - before
    assert max(psutil.Process(pid).memory_full_info().pss for pid in started) < 2**30
    stream.close()


def test_shared_memory_too_small_for_the_workers_is_refused_before_the_kernel_kills(
    prepared, monkeypatch
):
    cases, config = prepared
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda path: SimpleNamespace(free=64 * 2**20))
    stream = batches(
        cases,
        config.changed({"data.workers": 4, "data.patch_size": (128, 128, 64)}),
        first_epoch=1,
        pin_memory=False,
    )
    with pytest.raises(
        UserError, match=r"data\.workers = 4: their batches take 216 MiB.*64 MiB free.*--shm-size"
    ):
        next(stream)


def test_a_stream_may_end_before_the_run_does(prepared):
    cases, config = prepared
    whole = list(batches(cases, config, first_epoch=1, pin_memory=False))
    second = list(batches(cases, config, first_epoch=2, last_epoch=2, pin_memory=False))
    assert len(second) == 6 and all(
        (a.image == b.image).all() for a, b in zip(second, whole[6:12], strict=True)
    )


def test_unlabelled_batches_hold_images_and_no_labels_even_where_the_patch_exceeds_the_volume(
    prepared,
):
    cases, config = prepared
    for size in ((32, 32, 16), (64, 64, 48)):
        batch = next(
            unlabelled_batches(
                cases, config.changed({"data.patch_size": size}), first_epoch=1, pin_memory=False
            )
        )
        assert (
            batch.image.abs().sum() > 0
            and batch.label.shape == (2, *size)
            and not batch.label.any()
            and not batch.on_tumour.any()
        )
