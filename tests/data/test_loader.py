import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from segmamba.data import loader, prefetch
from segmamba.data.cases import find_cases
from segmamba.data.loader import batches, unlabelled_batches
from segmamba.data.preprocess import prepare_cases
from segmamba.data.sampling import PatchId, draw, patch_slices
from tests import warm
from tests.conftest import write_case
from tests.small_disks import PRIVATE_MOUNTS, needs_private_mounts
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
from segmamba.data.prefetch import _end_without
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
        prefetch, "DataLoader", lambda dataset, **options: given.update(options) or []
    )
    assert list(batches(*prepared, first_epoch=1, pin_memory=False)) == []
    assert given["worker_init_fn"].func is prefetch._end_without and given[
        "worker_init_fn"
    ].args == (os.getpid(),)
    monkeypatch.setattr(prefetch, "get_start_method", lambda: "forkserver")
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


@pytest.fixture(scope="module")
def undisturbed(prepared):
    """Every batch of a run, as this process alone makes them."""
    return list(batches(*prepared, first_epoch=1, pin_memory=False))


def with_two_workers(prepared, lines):
    cases, config = prepared
    config = config.changed({"data.workers": 2})
    return batches(cases, config, first_epoch=1, pin_memory=False, say=lines.append)


def assert_same(stream, expected):
    for batch, other in zip(stream, expected, strict=True):
        assert torch.equal(batch.image, other.image) and torch.equal(batch.label, other.label)
        assert batch.cases == other.cases and (batch.index == other.index).all()


def test_threads_read_the_same_patches_where_shared_memory_is_too_small(
    prepared, undisturbed, monkeypatch
):
    free = SimpleNamespace(free=2**20)
    monkeypatch.setattr(prefetch.shutil, "disk_usage", lambda path: free)
    lines, before = [], workers_of(os.getpid())
    stream = with_two_workers(prepared, lines)
    first = next(stream)
    assert workers_of(os.getpid()) == before, "no process reads"
    assert_same([first, *stream], undisturbed)
    assert len(lines) == 1 and re.fullmatch(
        r"data\.workers = 2: their batches take .* MiB of shared memory and /dev/shm has 1 MiB "
        r"free \(docker run --shm-size=2g gives more\); threads of one process read .*",
        lines[0],
    )


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGBUS], ids=["memory", "shared memory"])
def test_threads_go_on_where_a_worker_is_killed_and_no_patch_is_another(prepared, undisturbed, how):
    lines, before = [], set(workers_of(os.getpid()))
    stream = with_two_workers(prepared, lines)
    read = [next(stream) for _ in range(3)]
    for worker in set(workers_of(os.getpid())) - before:
        os.kill(worker, how)
    time.sleep(0.2)  # torch would raise it here, in the midst of a step
    assert_same([*read, *stream], undisturbed)
    assert len(lines) == 1 and "one of the processes was killed" in lines[0]


def test_an_error_in_a_worker_is_raised_as_it_is(prepared, monkeypatch):
    def broken(self, number):
        raise RuntimeError("the file is damaged")

    monkeypatch.setattr(loader.Batches, "__getitem__", broken)
    lines = []
    with pytest.raises(RuntimeError, match="the file is damaged"):
        next(with_two_workers(prepared, lines))
    assert not lines


SHARED_MEMORY = (
    PRIVATE_MOUNTS
    + """
import json, sys
size, cases_folder, cache = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"], check=True)
import hashlib
from segmamba.data.cases import find_cases
from segmamba.data.loader import batches
from segmamba.data.preprocess import prepare_cases
from tests.tiny import TINY
changes = {"data.workers": 2, "data.patch_size": (48, 48, 32), "train.batch_size": 8}
config = TINY.changed(changes | {"train.steps_per_epoch": 8})
cases = prepare_cases(find_cases(cases_folder), cache, config.data)
lines, sha256 = [], hashlib.sha256()
stream = batches(cases, config, first_epoch=1, pin_memory=False, say=lines.append)
held = []
for batch in stream:
    held.append(batch if "held" in cache else None)  # then no page becomes free
    sha256.update(batch.image.numpy().tobytes() + batch.label.numpy().tobytes())
print(json.dumps({"sha256": sha256.hexdigest(), "lines": lines}))
"""
)


def test_a_run_in_a_small_or_full_dev_shm_reads_the_same_patches(cases_folder, tmp_path):
    needs_private_mounts()
    found = {}
    for name, size in (("large", "256m"), ("held", "64m"), ("docker", "8m"), ("full", "4k")):
        command = [sys.executable, "-c", SHARED_MEMORY, size, cases_folder, tmp_path / name]
        ended = warm.run(command)
        assert ended.returncode == 0, ended.stderr
        found[name] = json.loads(ended.stdout.splitlines()[-1])
    assert len({one["sha256"] for one in found.values()}) == 1
    assert {name: len(one["lines"]) for name, one in found.items()} == {
        "large": 0,
        "held": 1,
        "docker": 1,
        "full": 1,
    }


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
