"""Every kind of fault, made on purpose in a good case, is named; a good case is silent."""

import csv
import gzip
import json
import os
import re
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from rich.console import Console

from segmamba.data import check as checking
from segmamba.data.case import ERROR, WARNING, Case, patient_of
from segmamba.data.cases import find_cases, notes_on_labels
from segmamba.data.check import (
    as_rows,
    check,
    check_case,
    notes_on_classes,
    render,
    would_fail,
    write_csv,
)
from segmamba.data.common_classes import read_as
from segmamba.data.labels import CONVENTIONS
from segmamba.data.parallel import map_cases
from segmamba.data.summary import summarise
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from tests import warm
from tests.conftest import BRATS_AFFINE, NEW_NAMES, write_case
from tests.small_disks import PRIVATE_MOUNTS, needs_private_mounts

SHAPE = (48, 48, 32)


def save(path, array, affine=BRATS_AFFINE):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def voxels(folder, part):
    return np.asanyarray(nibabel.load(folder / f"X_{part}.nii.gz").dataobj).copy()


def edit(part, change):
    """A spoiler that passes the voxels of one file through `change`."""
    return lambda folder: save(folder / f"X_{part}.nii.gz", change(voxels(folder, part)))


def cut(part, keep):
    """A spoiler that keeps a share of one file's bytes."""

    def spoil(folder):
        path = folder / f"X_{part}.nii.gz"
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])

    return spoil


def cut_plain(folder):
    whole = gzip.decompress((folder / "X_t2.nii.gz").read_bytes())
    (folder / "X_t2.nii.gz").unlink()
    (folder / "X_t2.nii").write_bytes(whole[:-1000])


def with_affine(affine, *parts):
    def spoil(folder):
        for part in parts:
            save(folder / f"X_{part}.nii.gz", voxels(folder, part), np.asarray(affine, float))

    return spoil


def turned(codes, *parts):
    """Store files along other axes, the content staying where it is in the patient."""

    def spoil(folder):
        for part in parts:
            image = nibabel.load(folder / f"X_{part}.nii.gz")
            now, wanted = (
                nibabel.io_orientation(image.affine),
                nibabel.orientations.axcodes2ornt(codes),
            )
            out = image.as_reoriented(nibabel.orientations.ornt_transform(now, wanted))
            save(folder / f"X_{part}.nii.gz", np.asarray(out.dataobj).copy(), out.affine)

    return spoil


def flatten(folder):
    """Set the z axis of the affine to nothing, in the header's bytes.

    In the NIfTI-1 standard qform_code is at byte 252 and srow_z at byte 312.
    """
    raw = bytearray(gzip.decompress((folder / "X_t2.nii.gz").read_bytes()))
    raw[252:254], raw[312:328] = bytes(2), bytes(16)
    (folder / "X_t2.nii.gz").write_bytes(gzip.compress(raw))


def with_nan(array):
    array = array.astype(np.float32)
    array[20, 20, 20] = np.nan
    return array


def with_stray_tumour(array):
    array[0, 0, :5] = 2
    return array


def with_value(value):
    def change(array):
        array[4, 4, 4] = value
        return array

    return change


ALL = ("t1", "t1ce", "t2", "flair", "seg")
ANGLE = np.deg2rad(5)
OBLIQUE = [
    [-np.cos(ANGLE), np.sin(ANGLE), 0, 0],
    [-np.sin(ANGLE), -np.cos(ANGLE), 0, 0],
    [0, 0, 1, 0],
    [0, 0, 0, 1],
]
FAULTS = {
    "missing": (
        lambda f: (f / "X_t2.nii.gz").unlink(),
        {(ERROR, "missing modality", "X_t2.nii.gz")},
    ),
    "duplicate": (
        lambda f: shutil.copy(f / "X_t2.nii.gz", f.parent),
        {(ERROR, "duplicate modality", "two files for T2")},
    ),
    "two labels": (
        lambda f: shutil.copy(f / "X_seg.nii.gz", f.parent),
        {(ERROR, "duplicate segmentation", "X_seg.nii.gz")},
    ),
    "truncated": (cut("t2", 0.6), {(ERROR, "unreadable file", "X_t2.nii.gz")}),
    "truncated in its header": (cut("t2", 0.001), {(ERROR, "unreadable file", "X_t2.nii.gz")}),
    "no bytes": (cut("t2", 0), {(ERROR, "unreadable file", "X_t2.nii.gz")}),
    "truncated without compression": (cut_plain, {(ERROR, "unreadable file", "X_t2.nii")}),
    "no nifti": (
        lambda f: (f / "X_t2.nii.gz").write_bytes(gzip.compress(b"no header " * 100)),
        {(ERROR, "unreadable file", "X_t2.nii.gz")},
    ),
    "truncated label": (cut("seg", 0.6), {(ERROR, "unreadable file", "X_seg.nii.gz")}),
    "shape": (edit("t2", lambda a: a[:, :, :-1]), {(ERROR, "shape", "48x48x31")}),
    "label shape": (
        edit("seg", lambda a: a[:, :, :-1]),
        {(ERROR, "shape", "X_seg.nii.gz is 48x48x31")},
    ),
    "affine": (with_affine(np.diag([-1, -1, 2, 1]), "t2"), {(ERROR, "affine", "31.00 mm away")}),
    "no affine": (flatten, {(ERROR, "unreadable file", "X_t2.nii.gz")}),
    "4-D": (
        edit("t2", lambda a: np.stack([a, a], axis=-1)),
        {(ERROR, "unreadable file", "has 4 dimensions")},
    ),
    "not finite": (edit("t2", with_nan), {(ERROR, "not finite", "1 voxels that are not finite")}),
    "empty image": (edit("t2", np.zeros_like), {(ERROR, "empty image", "X_t2.nii.gz is empty")}),
    "unknown label": (
        edit("seg", with_value(3)),
        {(ERROR, "unknown label", "label value 3 is not in convention brats2018")},
    ),
    "fractional label": (
        edit("seg", lambda a: with_value(0.5)(a.astype(np.float32))),
        {(ERROR, "unknown label", "label value 0.5")},
    ),
    "empty segmentation": (
        edit("seg", np.zeros_like),
        {(WARNING, "empty segmentation", "X_seg.nii.gz holds no tumour")},
    ),
    "outside": (
        edit("seg", with_stray_tumour),
        {(WARNING, "tumour outside brain", "5 tumour voxels")},
    ),
    "spacing": (
        with_affine(np.diag([-2, -2, 2, 1]), *ALL),
        {(WARNING, "spacing", "2 x 2 x 2 mm instead of 1 mm")},
    ),
    "anisotropic": (
        with_affine(np.diag([-1, -1, 5, 1]), *ALL),
        {(WARNING, "anisotropic spacing", "1 x 1 x 5 mm")},
    ),
    "turned": (
        turned("SRA", *ALL),
        {(WARNING, "orientation", f"X_{part}.nii.gz is stored along SRA") for part in ALL},
    ),
    "one flipped": (turned("RAS", "t2"), {(WARNING, "orientation", "X_t2.nii.gz RAS")}),
    "oblique": (with_affine(OBLIQUE, *ALL), {(WARNING, "orientation", "turned 5.0 degrees")}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_alone_and_errors_are_what_stops_a_training_run(tmp_path, name):
    spoil, expected = FAULTS[name]
    spoil(write_case(tmp_path, "X", shape=SHAPE))
    (checked,) = check(tmp_path)
    texts = {(f.severity, f.kind): [] for f in checked.findings}
    for finding in checked.findings:
        texts[finding.severity, finding.kind].append(finding.text)
    assert set(texts) == {(severity, kind) for severity, kind, _ in expected}
    assert all(
        any(part in text for text in texts[severity, kind]) for severity, kind, part in expected
    ), texts
    assert all(
        text.startswith("X: ") and "\n" not in text for group in texts.values() for text in group
    )

    stops = False
    try:
        read_scan(find_cases(tmp_path)[0])
    except UserError:
        stops = True
    assert would_fail([checked]) == stops


def test_a_good_case_has_no_findings_and_a_missing_label_is_information(tmp_path):
    write_case(tmp_path, "X")
    write_case(tmp_path, "Y", label=False)
    good, unlabelled = check(tmp_path)
    assert good.findings == ()
    assert [(f.severity, f.kind) for f in unlabelled.findings] == [
        ("information", "no segmentation")
    ]
    assert not would_fail([good, unlabelled])


def test_all_faults_of_all_cases_are_reported_and_a_good_case_among_them_stays_good(tmp_path):
    first = write_case(tmp_path, "X")
    for name in ("missing", "unknown label"):
        FAULTS[name][0](first)
    edit("flair", np.zeros_like)(first)
    write_case(tmp_path, "Y")
    (write_case(tmp_path, "Z") / "Z_seg.nii.gz").write_bytes(b"")
    kinds = {case.id: sorted(f.kind for f in case.findings) for case in check(tmp_path)}
    assert kinds == {
        "X": ["empty image", "missing modality", "unknown label"],
        "Y": [],
        "Z": ["unreadable file"],
    }


def test_a_case_of_another_convention_is_an_error_until_mixing_is_asked_for(tmp_path):
    for name in ("BraTS-GLI-00001-000", "BraTS-GLI-00002-000", "BraTS-GLI-00003-100"):
        write_case(tmp_path, name, names=NEW_NAMES, et_value=3)
    assert [[f.kind for f in case.findings] for case in check(tmp_path)] == [
        [],
        [],
        ["mixed conventions"],
    ]
    assert not any(case.findings for case in check(tmp_path, "mixed"))


@pytest.mark.parametrize("seed", range(60))
def test_no_damage_to_a_header_gets_past_as_an_exception(tmp_path, seed):
    rng = np.random.default_rng(seed)
    folder = write_case(tmp_path, "X", shape=SHAPE, ending=".nii")
    path = folder / "X_t1ce.nii"
    whole = bytearray(path.read_bytes())
    for place in rng.integers(0, 352, 12):
        whole[place] = rng.integers(256)
    path.write_bytes(whole)
    check_case(find_cases(tmp_path)[0])


def only_the_label(folder):
    for part in ALL[:4]:
        (folder / f"X_{part}.nii.gz").unlink()


def a_folder_for_a_label(folder):
    (folder / "X_seg.nii.gz").unlink()
    (folder / "X_seg.nii.gz").mkdir()


def a_link_to_nothing(folder):
    (folder / "X_t1.nii.gz").unlink()
    (folder / "X_t1.nii.gz").symlink_to("absent.nii.gz")


PARTIAL = {
    "a label without images": (only_the_label, {"missing modality"}),
    "four truncated images": (
        lambda folder: [cut(part, 0.3)(folder) for part in ALL[:4]],
        {"unreadable file"},
    ),
    "all truncated": (
        lambda folder: [cut(part, 0.3)(folder) for part in ALL],
        {"unreadable file"},
    ),
    "four 4-D images": (
        lambda folder: [edit(part, lambda a: np.stack([a, a], -1))(folder) for part in ALL[:4]],
        {"unreadable file"},
    ),
    "one image left, of another shape": (
        lambda folder: [
            *(cut(part, 0.3)(folder) for part in ALL[:3]),
            edit("flair", lambda a: a[:, :, :-1])(folder),
        ],
        {"unreadable file", "shape"},
    ),
    "a label of another kind": (
        lambda folder: [only_the_label(folder), edit("seg", with_value(3))(folder)],
        {"missing modality", "unknown label"},
    ),
    "a link to nothing": (a_link_to_nothing, {"unreadable file"}),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_a_case_that_is_read_in_part_is_findings_and_left_out_of_the_summary(tmp_path, name):
    spoil, kinds = PARTIAL[name]
    spoil(write_case(tmp_path, "X", shape=SHAPE))
    write_case(tmp_path, "Y", shape=SHAPE)
    checked, good = check(tmp_path)
    assert {f.kind for f in checked.findings if f.severity == ERROR} == kinds
    assert good.findings == ()
    fingerprint, measured = summarise(tmp_path)
    assert fingerprint["unreadable"] == ["X"] and [case.id for case in measured] == ["Y"]


def test_a_folder_in_place_of_a_file_is_no_traceback(tmp_path):
    a_folder_for_a_label(write_case(tmp_path, "X", shape=SHAPE))
    assert not would_fail(check(tmp_path))


def nnunet_folder(folder, names, image):
    """An nnU-Net raw folder with these files in imagesTr, and a label for P."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    for name in names:
        save(folder / "imagesTr" / f"{name}.nii.gz", image)
    save(folder / "labelsTr" / "P.nii.gz", np.zeros(SHAPE, np.uint8))
    channels = {"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}
    labels = {"background": 0, "NCR": 1, "ED": 2, "ET": 3}
    text = {"channel_names": channels, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(text))


@pytest.mark.parametrize(
    ("names", "image"),
    [
        ([*(f"P_{n:04d}" for n in range(4)), "stray"], np.ones(SHAPE, np.int16)),
        ([*(f"P_{n:04d}" for n in range(4)), "stray_0007"], np.ones(SHAPE, np.int16)),
        (["P_0001"], np.ones((*SHAPE, 4), np.int16)),
        (["P"], np.ones((*SHAPE, 2), np.int16)),
        (["P"], np.ones(SHAPE, np.int16)),
    ],
    ids=["a stray file", "a stray channel", "4-D with a channel's name", "two channels", "3-D"],
)
def test_files_that_fit_no_layout_are_findings(tmp_path, names, image):
    nnunet_folder(tmp_path, names, image)
    checked = check(tmp_path)
    assert would_fail(checked) and len({case.id for case in checked}) == len(checked)
    for case in checked:
        assert all("\n" not in finding.text for finding in case.findings)


def test_the_csv_has_a_row_for_each_finding_and_each_good_case(tmp_path):
    FAULTS["unknown label"][0](write_case(tmp_path / "data", "X"))
    write_case(tmp_path / "data", "Y")
    checked = check(tmp_path / "data")
    with open(write_csv(tmp_path / "deep" / "check.csv", checked), newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == list(as_rows(checked))
    assert [(row["case"], row["severity"], row["problem"]) for row in rows] == [
        ("X", "error", "unknown label"),
        ("Y", "ok", ""),
    ]


def _die_on_the_second(case):
    if case.id == "second":
        os._exit(9)
    return case.id


def test_a_killed_reader_is_an_error_of_its_case_and_not_of_the_program(tmp_path, monkeypatch):
    monkeypatch.setattr("segmamba.data.parallel.SERIAL_BYTES", -1)
    cases = [Case(name, name, {}, None, "brats2018") for name in ("first", "second")]
    results = map_cases(_die_on_the_second, cases, lost=checking._lost)
    assert results[1].findings[0].kind == "not checked" and results[1].id == "second"


def _stumble_on_the_second(case):
    if case.id == "second":
        raise IndexError("index 0 is out of bounds")
    return case.id


@pytest.mark.parametrize("serial_bytes", [-1, None], ids=["processes", "this process"])
def test_an_exception_that_nobody_expected_names_its_case(serial_bytes):
    cases = [Case(name, name, {}, None, "brats2018") for name in ("first", "second")]
    with pytest.raises(RuntimeError, match=r"^second: IndexError: index 0 is out of bounds"):
        map_cases(_stumble_on_the_second, cases, lost=checking._lost, serial_bytes=serial_bytes)


def test_processes_and_one_process_find_the_same_in_the_same_order(tmp_path, monkeypatch):
    for number in range(3):
        write_case(tmp_path, f"BraTS20_Training_{number:03d}", label=number != 1)
    alone = check(tmp_path)
    monkeypatch.setattr("segmamba.data.parallel.SERIAL_BYTES", -1)
    steps = []
    assert check(tmp_path, progress=lambda *step: steps.append(step)) == alone
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_what_a_convention_leaves_open_is_printed_with_the_findings(tmp_path, capsys):
    from rich.console import Console

    note = "BraTS-PED's 2023 release has the same file names and other values"
    write_case(tmp_path, "BraTS-PED-00005-000", names=NEW_NAMES, et_value=3)
    checked = check(tmp_path)
    assert any(note in line for line in notes_on_labels(checked)) and {
        row["labels"] for row in as_rows(checked)
    } == {checked[0].convention}
    render(checked, Console(width=200))
    assert f"note     labels {checked[0].convention}: {note}" in capsys.readouterr().out


def segmamba(*arguments, cwd):
    command = [
        sys.executable,
        "-c",
        "from segmamba.cli import main; main()",
        "data",
        *arguments,
    ]
    return warm.run(command, cwd=cwd)


def test_the_command_exits_2_on_errors_and_0_on_warnings_and_writes_what_it_prints(tmp_path):
    folder = write_case(tmp_path / "data", "X")
    FAULTS["outside"][0](folder)
    warned = segmamba("check", "data", "--output", "check.csv", cwd=tmp_path)
    assert warned.returncode == 0 and "warning  X: 5 tumour voxels" in warned.stdout, warned.stderr
    assert "tumour outside brain" in (tmp_path / "check.csv").read_text()
    FAULTS["missing"][0](folder)
    failed = segmamba("check", "data", "--json", cwd=tmp_path)
    result = json.loads(failed.stdout)
    assert failed.returncode == 2 and result["training_would_fail"]
    assert {row["problem"] for row in result["findings"]} == {
        "missing modality",
        "tumour outside brain",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["absent"], "no such folder"), ([".", "--labels", "x"], "choose one of brats2018")],
)
def test_a_wrong_folder_or_convention_is_one_line_and_code_2(tmp_path, arguments, message):
    result = segmamba("check", *arguments, cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: ")
    assert message in result.stderr


def test_cases_with_different_classes_are_not_said_to_train_as_they_are(tmp_path, capsys):
    write_case(tmp_path, "BraTS20_Training_000")
    write_case(tmp_path, "BraTS-GLI-00001-100", names=NEW_NAMES, et_value=3)
    checked = check(tmp_path, "mixed")
    (note,) = notes_on_classes(checked)
    assert "post_treatment as in BraTS-GLI-00001-100" in note
    render(checked, Console(width=1000))
    said = capsys.readouterr().out
    assert "can read them all" not in said and "--set model.classes=glioma." in said
    with pytest.raises(UserError, match=r"--set model\.classes=glioma"):
        read_as(find_cases(tmp_path, "mixed"), "auto")


REAL = os.environ.get("SEGMAMBA_BRATS")


@pytest.mark.skipif(not REAL, reason="SEGMAMBA_BRATS names no folder of real cases")
def test_the_real_cases_pass_with_what_is_known_of_them_and_nothing_else():
    texts = {}
    for folder in ("brats2018", "brats2021", "brats2023", "unlabelled"):
        checked = check(Path(REAL) / folder)
        assert not would_fail(checked)
        texts |= {
            case.id: [re.sub(r"\S*/", "", finding.text) for finding in case.findings]
            for case in checked
        }
    outside = (
        "Brats18_2013_21_1: 14 tumour voxels of Brats18_2013_21_1_seg.nii.gz lie outside the brain"
    )
    each = "all 4 images are 0 there; each on its own is 0 in more or as many tumour voxels"
    assert texts == {
        "Brats18_2013_21_1": [f"{outside} ({each}: T1 in 20, T1ce in 21, T2 in 20, FLAIR in 14)"],
        "Brats18_2013_2_1": [],
        "Brats18_TCIA02_607_1": [],
        "Brats18_TCIA05_396_1": [],
        **{f"BraTS2021_{n:05d}": [] for n in (6, 495, *range(1657, 1662))},
        "BraTS-GLI-00000-000": [],
        "BraTS-GLI-00001-000": [
            "BraTS-GLI-00001-000: no segmentation; usable for prediction and pretraining"
        ],
    }


@pytest.mark.skipif(not REAL, reason="SEGMAMBA_BRATS names no folder of real cases")
def test_real_cases_know_their_patients_and_conventions():
    cases = [
        case for folder in ("brats2018", "brats2023") for case in find_cases(Path(REAL) / folder)
    ]
    assert {case.convention for case in cases} == {"brats2018", "brats2023"} <= set(CONVENTIONS)
    assert patient_of("Brats18_2013_2_1") in {case.patient for case in cases}


FULL_SHARED_MEMORY = (
    PRIVATE_MOUNTS
    + """
import sys
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", "/dev/shm"], check=True)
open("/dev/shm/ballast", "wb").write(bytes(4096))
from segmamba.data import parallel
from segmamba.data.cases import find_cases
parallel.SERIAL_BYTES = 0
print(parallel.map_cases(lambda case: case.id, find_cases(sys.argv[1]), lost=None, workers=2))
"""
)


def test_cases_are_read_one_after_the_other_where_shared_memory_has_no_room_for_a_lock(
    cases_folder,
):
    needs_private_mounts()
    ended = warm.run([sys.executable, "-c", FULL_SHARED_MEMORY, cases_folder])
    ids = [f"BraTS20_Training_{number:03d}" for number in range(3)]
    assert ended.stdout == f"{ids}\n", ended.stderr
