import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from segmamba import leftovers
from segmamba.config import DataConfig
from segmamba.data import parallel, preprocess, source_files
from segmamba.data.cases import find_cases
from segmamba.data.preprocess import check_patch_fits, prepare_again, prepare_cases
from segmamba.data.source_files import read_digests, stamps_of
from segmamba.data.volumes import read_scan
from segmamba.data.working_grid import zscore
from segmamba.errors import UserError
from tests.conftest import write_case


def test_zscore_uses_non_zero_voxels_and_leaves_the_background_at_zero():
    image = np.zeros((4, 4, 4, 4), np.float32)
    image[:, 1:3] = np.random.default_rng(0).uniform(50, 200, (4, 2, 4, 4))
    out = zscore(image)
    assert (out[image == 0] == 0).all()
    for channel, source in zip(out, image, strict=True):
        assert (
            abs(channel[source != 0].mean()) < 1e-6 and abs(channel[source != 0].std() - 1) < 1e-6
        )


def test_a_case_at_the_wanted_spacing_is_not_resampled(cases_folder, tmp_path):
    case = find_cases(cases_folder)[0]
    (prepared,) = prepare_cases([case], tmp_path / "cache", DataConfig())
    scan = read_scan(case)
    assert prepared.working_shape == prepared.source_shape == scan.label.shape
    assert (prepared.whole(prepared.label()) == scan.label).all() and (
        prepared.source_label() == scan.label
    ).all()


def test_the_cache_gives_the_volume_back_in_the_sources_grid(cases_folder, tmp_path):
    case = find_cases(cases_folder)[0]
    (prepared,) = prepare_cases([case], tmp_path / "cache", DataConfig())
    scan = read_scan(case)
    assert prepared.offset == (2, 2, 2) and prepared.shape == tuple(
        n - 4 for n in scan.label.shape
    ), "the brain leaves 2 voxels all around"
    whole = prepared.whole(prepared.image())
    assert whole.shape == scan.image.shape and np.allclose(whole, zscore(scan.image), atol=2e-3), (
        "float16 keeps z-scores to 0.05 %"
    )
    assert (np.array(prepared.source_affine) == scan.affine).all()


def test_tumour_outside_the_brain_is_kept_by_the_cut(tmp_path):
    path = write_case(tmp_path / "data", "X") / "X_seg.nii.gz"
    image = nibabel.load(path)
    array = image.get_fdata().astype(np.uint8)
    array[0, 24, 16] = 4
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)
    (prepared,) = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())
    assert (prepared.source_label() > 0).sum() == (array > 0).sum()
    assert (
        prepared.whole(prepared.label()) == read_scan(find_cases(tmp_path / "data")[0]).label
    ).all()


def test_resampling_keeps_the_tumour_in_place_and_the_source_label(tmp_path):
    write_case(tmp_path / "data", "X", shape=(48, 56, 64))
    (prepared,) = prepare_cases(
        find_cases(tmp_path / "data"),
        tmp_path / "cache",
        DataConfig(spacing_mm=2.0, patch_size=(16, 16, 16)),
    )
    assert prepared.working_shape == (24, 28, 32) and prepared.source_shape == (48, 56, 64)
    coarse, fine = (
        np.argwhere(label > 0).mean(0)
        for label in (prepared.whole(prepared.label()), prepared.source_label())
    )
    assert np.allclose((coarse + 0.5) * 2, fine + 0.5, atol=0.6)
    assert set(np.unique(prepared.label())) <= {0, 1, 2, 3}


def test_anisotropic_voxels_become_isotropic(tmp_path):
    write_case(tmp_path / "data", "X", shape=(32, 32, 16), affine=np.diag([-1.0, -1.0, 3.0, 1.0]))
    (prepared,) = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())
    assert prepared.working_shape == (32, 32, 48) and prepared.source_spacing_mm == (1.0, 1.0, 3.0)


def test_centres_are_tumour_and_brain_voxels(cases_folder, tmp_path):
    (prepared, *_) = prepare_cases(find_cases(cases_folder), tmp_path / "cache", DataConfig())
    label, brain = prepared.label().ravel(), prepared.image().any(0).ravel()
    assert (label[prepared.voxels("tumour")] > 0).all() and prepared.classes == (1, 2, 3)
    assert all(
        (label[prepared.voxels(f"class{c}")] == c).all() and len(prepared.voxels(f"class{c}"))
        for c in prepared.classes
    )
    assert (label[prepared.voxels("brain")] == 0).all() and brain[prepared.voxels("brain")].all()


def test_the_second_start_reads_nothing_again(cases_folder, tmp_path):
    cases = find_cases(cases_folder)
    first = prepare_cases(cases, tmp_path / "cache", DataConfig())
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/image.npy")}
    steps = []
    assert (
        prepare_cases(cases, tmp_path / "cache", DataConfig(), progress=lambda *a: steps.append(a))
        == first
    )
    assert steps == [] and written == {
        p: p.stat().st_mtime_ns for p in (tmp_path / "cache").glob("*/image.npy")
    }


def test_a_changed_file_or_setting_is_never_served_stale(cases_folder, tmp_path):
    before = prepare_cases(find_cases(cases_folder), tmp_path / "cache", DataConfig())
    path = find_cases(cases_folder)[0].label
    image = nibabel.load(path)
    array = image.get_fdata().astype(np.uint8)
    array[5, 5, 5] = 4
    nibabel.save(nibabel.Nifti1Image(array, image.affine), path)
    after = prepare_cases(find_cases(cases_folder), tmp_path / "cache", DataConfig())
    assert after[0].folder != before[0].folder and after[1:] == before[1:]
    assert after[0].label().sum() != before[0].label().sum()
    for labels, config in (("brats2018", DataConfig(spacing_mm=2.0)), ("brats2024", DataConfig())):
        other = prepare_cases(find_cases(cases_folder, labels)[1:], tmp_path / "cache", config)
        assert {c.folder for c in other}.isdisjoint({c.folder for c in after}), (
            f"{labels} at {config.spacing_mm} mm"
        )


def test_a_file_that_was_replaced_by_one_of_the_same_size_and_time_is_not_served_stale(tmp_path):
    folder = write_case(tmp_path / "data", "X", ending=".nii", seed=0)
    (before,) = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())
    path, other = (
        folder / "X_t1.nii",
        write_case(tmp_path / "other", "X", ending=".nii", seed=1) / "X_t1.nii",
    )
    was = path.stat()
    os.replace(other, path)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (was.st_size, was.st_mtime_ns)
    (after,) = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())
    assert after.folder != before.folder and (after.image() != before.image()).any()


def hard_linked(folder, other):
    """As `cp -al` and `rsync --link-dest` do it."""
    shutil.copytree(folder, other, copy_function=os.link)


TOUCHES = {
    "chmod": lambda path, other: path.chmod(0o600),
    "touch": lambda path, other: path.touch(),
    "an old time": lambda path, other: os.utime(path, (0, 0)),
    "a hard link": lambda path, other: os.link(path, other),
    "a copy in its place": lambda path, other: os.replace(shutil.copy(path, other), path),
}


@pytest.mark.parametrize("name", TOUCHES)
def test_what_leaves_the_contents_of_a_file_alone_leaves_its_case(
    cases_folder, tmp_path, monkeypatch, name
):
    """Between two starts, and in the midst of one: before a case is looked for and after."""
    cases = find_cases(cases_folder)
    before = prepare_cases(cases, tmp_path / "cache", DataConfig())
    others = iter(range(100))

    def disturb():
        other = tmp_path / f"other{next(others)}"
        other.mkdir()
        for case in cases:
            TOUCHES[name](case.images["T1"], other / case.images["T1"].name)

    disturb()
    assert prepare_cases(cases, tmp_path / "cache", DataConfig()) == before
    for step in ("stamps_of", "read_digests"):
        original = getattr(preprocess, step)

        def then_disturbed(case, original=original):
            result = original(case)
            disturb()
            return result

        monkeypatch.setattr(preprocess, step, then_disturbed)
        assert prepare_cases(cases, tmp_path / "cache", DataConfig()) == before
    assert len(list((tmp_path / "cache").iterdir())) == len(cases)
    anew = prepare_cases(cases, tmp_path / "anew", DataConfig())
    assert [case.folder.name for case in anew] == [case.folder.name for case in before]


def test_a_case_is_named_by_its_voxels_where_these_lie_beside_the_header(tmp_path):
    folder = write_case(tmp_path / "data", "X")
    path = folder / "X_t1.nii.gz"
    stored = nibabel.load(path)
    pair = nibabel.Nifti1Pair(np.asanyarray(stored.dataobj), stored.affine)
    nibabel.save(pair, folder / "X_t1.hdr")
    path.unlink()
    (before,) = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())
    raw = bytearray((folder / "X_t1.img").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "X_t1.img").write_bytes(raw)
    (after,) = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())
    assert after.folder != before.folder


def test_a_linked_or_moved_data_set_is_not_prepared_again(cases_folder, tmp_path):
    before = prepare_cases(find_cases(cases_folder), tmp_path / "cache", DataConfig())
    hard_linked(cases_folder, tmp_path / "linked")
    cases_folder.rename(tmp_path / "moved")
    for folder in ("linked", "moved"):
        assert (
            prepare_cases(find_cases(tmp_path / folder), tmp_path / "cache", DataConfig()) == before
        )


def test_files_that_stay_the_same_are_digested_once(cases_folder, tmp_path, monkeypatch):
    cases = find_cases(cases_folder)
    for case in cases:
        for path in case.files:
            os.utime(path, (0, 0))
    monkeypatch.setattr(source_files, "TICK_S", 0)  # else only what is two seconds old counts
    before = prepare_cases(cases, tmp_path / "cache", DataConfig())
    read = []
    monkeypatch.setattr(
        preprocess, "read_digests", lambda case: read.append(case.id) or read_digests(case)
    )
    assert prepare_cases(cases, tmp_path / "cache", DataConfig()) == before and read == []
    cases[1].images["T2"].chmod(0o600)
    for expected in ([cases[1].id], [cases[1].id]):
        assert prepare_cases(cases, tmp_path / "cache", DataConfig()) == before
        assert read == expected


def test_a_file_written_again_within_a_tick_of_the_clock_is_not_served_stale(tmp_path):
    folder = write_case(tmp_path / "data", "X", ending=".nii", seed=0)
    cases = find_cases(tmp_path / "data")
    (before,) = prepare_cases(cases, tmp_path / "cache", DataConfig())
    record = before.folder / preprocess.SOURCES
    path = folder / "X_t1.nii"
    raw = bytearray(path.read_bytes())
    raw[-1 - 2 * (48 * 48 * 4 + 48 * 20 + 20)] ^= 1
    path.write_bytes(raw)
    # The times are those of the first version, as a coarse clock would give them.
    known = json.loads(record.read_text())
    known["stamps"] = stamps_of(cases[0])
    record.write_text(json.dumps(known))
    (after,) = prepare_cases(cases, tmp_path / "cache", DataConfig())
    assert after.folder != before.folder


def test_files_that_change_while_they_are_read_are_refused(tmp_path, monkeypatch):
    folder = write_case(tmp_path / "data", "X")
    other = write_case(tmp_path / "other", "X", seed=1)

    def read_and_replace(case):
        scan = read_scan(case)
        os.replace(other / "X_t1.nii.gz", folder / "X_t1.nii.gz")
        return scan

    monkeypatch.setattr(preprocess, "read_scan", read_and_replace)
    with pytest.raises(UserError, match="X: its files changed while they were read"):
        prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_run_keeps_the_cases_that_it_began_with(cases_folder, tmp_path):
    cases = find_cases(cases_folder)
    prepared = prepare_cases(cases, tmp_path / "cache", DataConfig())
    path = cases[0].images["T1"]
    path.write_bytes(cases[2].images["T1"].read_bytes())
    cases[1].images["T1"].unlink()
    assert prepare_again(prepared, cases, tmp_path / "cache", DataConfig()) == prepared
    with pytest.raises(UserError, match=r"000: its files or settings have changed since the run"):
        prepare_again(prepared[:1], cases[:1], tmp_path / "other", DataConfig())


def test_the_patient_is_that_of_the_case_and_not_of_the_cache(cases_folder, tmp_path):
    cases = find_cases(cases_folder)
    prepare_cases(cases, tmp_path / "cache", DataConfig())
    grouped = [replace(case, patient="one") for case in cases]
    prepared = prepare_cases(grouped, tmp_path / "cache", DataConfig())
    assert {case.patient for case in prepared} == {"one"}


def test_bad_cases_are_counted_and_good_ones_kept(cases_folder, tmp_path):
    for number in (0, 2):
        case_id = f"BraTS20_Training_{number:03d}"
        path = cases_folder / case_id / f"{case_id}_t1.nii.gz"
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        UserError, match=r"BraTS20_Training_000_t1\.nii\.gz: damaged.*and 1 more cases fail"
    ):
        prepare_cases(find_cases(cases_folder), tmp_path / "cache", DataConfig())
    assert [p.name.split("-")[0] for p in (tmp_path / "cache").iterdir()] == [
        "BraTS20_Training_001"
    ]


def test_no_more_processes_build_than_were_allowed(cases_folder, tmp_path, monkeypatch):
    pools = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, processes, mp_context, **options):
            pools.append(processes)
            super().__init__(processes)

    monkeypatch.setattr(parallel, "SERIAL_BYTES", -1)
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(parallel.os, "cpu_count", lambda: 3)
    cases = find_cases(cases_folder)
    for workers in (1, 2, 0):
        cache = tmp_path / f"cache{workers}"
        assert len(prepare_cases(cases, cache, DataConfig(), workers=workers)) == 3
    assert pools == [2, 3], "one process is this one; 0 is all cores"


def test_a_builder_that_is_killed_is_one_line_with_its_case(cases_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        preprocess,
        "map_cases",
        lambda function, cases, *, lost, **options: [lost(cases[0]), *map(function, cases[1:])],
    )
    with pytest.raises(
        UserError, match=r"^BraTS20_Training_000: not prepared, the process.*killed \(memory\?\)"
    ):
        prepare_cases(find_cases(cases_folder), tmp_path / "cache", DataConfig())
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_file_that_is_gone_is_named_with_its_case(cases_folder, tmp_path):
    cases = find_cases(cases_folder)
    cases[1].images["T2"].unlink()
    with pytest.raises(UserError, match=r"BraTS20_Training_001: .*_001_t2\.nii\.gz: No such file"):
        prepare_cases(cases, tmp_path / "cache", DataConfig())


def test_builders_share_the_work_a_case_that_another_has_built_meanwhile_is_not_built_again(
    cases_folder, tmp_path, monkeypatch
):
    cases, read = find_cases(cases_folder), []
    monkeypatch.setattr(
        preprocess, "read_scan", lambda case: read.append(case.id) or read_scan(case)
    )

    def slowly(function, cases, **options):
        # What another study does while this one is at its first case.
        prepare_cases(cases[1:], tmp_path / "cache", DataConfig())
        return [function(case) for case in cases]

    first = iter([slowly])
    monkeypatch.setattr(
        preprocess,
        "map_cases",
        lambda *args, **options: next(first, parallel.map_cases)(*args, **options),
    )
    prepare_cases(cases, tmp_path / "cache", DataConfig())
    assert sorted(read) == [case.id for case in cases]


def test_two_builders_at_once_leave_one_good_cache(cases_folder, tmp_path):
    cases = find_cases(cases_folder)
    with ThreadPoolExecutor(4) as pool:
        results = list(
            pool.map(lambda _: prepare_cases(cases, tmp_path / "cache", DataConfig()), range(4))
        )
    assert all(result == results[0] for result in results)
    assert len(list((tmp_path / "cache").iterdir())) == len(cases), "no unfinished folder is left"


BUILD = """
import sys
from segmamba.config import DataConfig
from segmamba.data import parallel, preprocess, source_files
from segmamba.data.cases import find_cases
save = preprocess.np.save
def slow_save(path, array):
    print("saving", flush=True)
    __import__("time").sleep(0.1)
    save(path, array)
preprocess.np.save = slow_save
preprocess.prepare_cases(find_cases(sys.argv[1]), sys.argv[2], DataConfig())
"""


def test_two_processes_that_build_at_once_leave_one_good_cache(cases_folder, tmp_path):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, cases_folder, tmp_path / "cache"],
            stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    assert [child.wait() for child in children] == [0, 0]
    cases = find_cases(cases_folder)
    assert len(list((tmp_path / "cache").iterdir())) == len(cases), "no unfinished folder is left"
    for case, prepared in zip(
        cases, prepare_cases(cases, tmp_path / "cache", DataConfig()), strict=True
    ):
        assert np.allclose(
            prepared.whole(prepared.image()), zscore(read_scan(case).image), atol=2e-3
        )


def test_a_builder_killed_half_way_leaves_nothing_that_looks_finished(cases_folder, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", BUILD, cases_folder, tmp_path / "cache"],
        stdout=subprocess.PIPE,
        text=True,
    )
    child.stdout.readline()
    time.sleep(0.1)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    finished = [p for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")]
    assert all(
        (p / "brain_voxels.npy").exists() and json.loads((p / "case.json").read_text())
        for p in finished
    )
    assert len(prepare_cases(find_cases(cases_folder), tmp_path / "cache", DataConfig())) == 3


def test_what_a_killed_builder_left_is_cleared_and_what_a_running_one_writes_is_not(
    cases_folder, tmp_path
):
    abandoned, running = tmp_path / "cache" / ".building-old", tmp_path / "cache" / ".building-new"
    for folder in (abandoned, running):
        folder.mkdir(parents=True)
        (folder / "image.npy").write_bytes(b"half")
    os.utime(abandoned, (time.time() - 7200,) * 2)
    code = "import sys; from segmamba.leftovers import temporary_beside; from pathlib import Path; "
    code += "folder = temporary_beside(Path(sys.argv[1]) / 'case'); folder.mkdir(); print(folder)"
    command = [sys.executable, "-c", code, tmp_path / "cache"]
    killed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    prepare_cases(find_cases(cases_folder), tmp_path / "cache", DataConfig())
    assert not abandoned.exists() and (running / "image.npy").exists()
    assert not leftovers.SYSTEM or not os.path.exists(killed)


def test_a_full_disk_is_named_with_the_case_and_leaves_nothing_behind(
    cases_folder, tmp_path, monkeypatch
):
    def no_space(path, array):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(preprocess.np, "save", no_space)
    with pytest.raises(
        UserError,
        match=r"BraTS20_Training_000: cannot be written to the cache.*No space left.*free space",
    ):
        prepare_cases(find_cases(cases_folder), tmp_path / "cache", DataConfig())
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_case_without_a_segmentation_is_prepared_with_its_brain_voxels(tmp_path):
    write_case(tmp_path / "data", "X", label=False)
    (prepared,) = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())
    assert (
        prepared.classes == ()
        and len(prepared.voxels("tumour")) == 0
        and len(prepared.voxels("brain")) == preprocess.CENTRES < 44 * 44 * 28
    )


def test_a_patch_larger_than_a_volume_is_refused_unless_padded(cases_folder, tmp_path):
    prepared = prepare_cases(find_cases(cases_folder), tmp_path / "cache", DataConfig())
    with pytest.raises(
        UserError,
        match=r"BraTS20_Training_000: 32 voxels along z at 1 mm are fewer than the patch's 64"
        r".*pad_to_patch=true",
    ):
        check_patch_fits(prepared, DataConfig(patch_size=(48, 48, 64)))
    check_patch_fits(prepared, DataConfig(patch_size=(48, 48, 64), pad_to_patch=True))
    check_patch_fits(prepared, DataConfig(patch_size=(48, 48, 32)))


def test_a_volume_that_only_the_cut_made_smaller_than_the_patch_is_no_error(cases_folder, tmp_path):
    (prepared, *_) = prepare_cases(find_cases(cases_folder), tmp_path / "cache", DataConfig())
    assert prepared.shape[2] < 32 == prepared.working_shape[2]
    check_patch_fits([prepared], DataConfig(patch_size=(48, 48, 32)))
