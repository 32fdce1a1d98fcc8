"""What `data check` passes, `predict` and `train` read; what they write states its grid plainly."""

import gzip

import nibabel
import numpy as np
import pytest
import typer

from segmamba.cli import app
from segmamba.data.cases import find_cases
from segmamba.data.source import prepare_split, source_changes
from segmamba.data.volumes import read_scan, read_volume
from segmamba.errors import UserError
from tests.conftest import BRATS_AFFINE, write_case
from tests.data.test_headers import METRES, PARTS, SHAPE, THICK, THIN, bare, pad, placed, unpack
from tests.inference.conftest import CONFIG, write_run

MM = np.diag([-1.0, -1, 2, 1])


def rename(folder):
    for part in PARTS:
        (folder / f"X_{part}.nii.gz").rename(folder / f"X_{part}.nii")


def flat(folder):
    """One slice of each file."""
    for part in PARTS:
        path = folder / f"X_{part}.nii.gz"
        array = np.asarray(nibabel.load(path).dataobj)[:, :, 10:11]
        nibabel.save(nibabel.Nifti1Image(array, BRATS_AFFINE), path)


def single(folder):
    """One voxel of each file."""
    for part in PARTS:
        path = folder / f"X_{part}.nii.gz"
        array = np.full((1, 1, 1), 2, np.uint8)
        nibabel.save(nibabel.Nifti1Image(array, BRATS_AFFINE), path)


READ = {
    "no orientation, stated": (bare, ["--orientation", "LPS"], BRATS_AFFINE),
    "sform of two": (placed(THICK, THIN), ["--set", "data.header=sform"], THICK),
    "qform of two": (placed(THICK, THIN), ["--set", "data.header=qform"], THIN),
    "metres": (placed(METRES, unit="meter"), [], MM),
    "gzip under .nii": (rename, [], BRATS_AFFINE),
    "plain under .nii.gz": (unpack, [], BRATS_AFFINE),
    "padding": (pad, [], BRATS_AFFINE),
    "one slice": (flat, [], BRATS_AFFINE),
}


def command(*arguments):
    """Run a command in this process; return its exit code."""
    return typer.main.get_command(app)(list(map(str, arguments)), standalone_mode=False)


def check(folder, *options):
    return command("data", "check", folder, *options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run")[0]


@pytest.mark.parametrize("name", READ)
def test_what_check_passes_is_predicted_scored_and_prepared(tmp_path, capsys, run, name):
    spoil, options, affine = READ[name]
    data, out = tmp_path / "data", tmp_path / "out"
    spoil(write_case(data, "X", shape=SHAPE))
    assert check(data, *options) == 0
    predict = ("predict", "--checkpoint", run, "--input", data, "--output", out)
    drawn = ["--overlay", "--html"] if name == "one slice" else []
    assert command(*predict, "--probabilities", *drawn, *options) == 0
    for path in (out / "X.nii.gz", out / "probabilities" / "X.nii.gz"):
        written = nibabel.load(path)
        sform, qform = written.get_sform(coded=True), written.get_qform(coded=True)
        assert sform[1] > 0 or qform[1] > 0
        for stated, code in (sform, qform):
            assert code == 0 or np.allclose(stated, affine, atol=1e-5)
        assert np.allclose(written.affine, affine, atol=1e-5)
    assert np.allclose(read_volume(out / "X.nii.gz")[2], nibabel.affines.voxel_sizes(affine))
    score = ("evaluate", "--predictions", out, "--truth", data, "--output", tmp_path / "scores")
    assert command(*score, *options) in (0, None)
    if name in ("one slice", "no orientation, stated"):
        summary = ("data", "summary", data, "--output", tmp_path / "drawn")
        assert command(*summary, *options) in (0, None)
    names = [o.removeprefix("data.") for o in options if "=" in o]
    changes = {f"data.{n.partition('=')[0]}": n.partition("=")[2] for n in names}
    if "--orientation" in options:
        changes["data.orientation"] = "LPS"
    config = CONFIG.changed(source_changes(data, "auto") | {"data.pad_to_patch": True} | changes)
    prepared = prepare_split(
        config, tmp_path / "results", steps=lambda label: lambda *step: None, learners=[config]
    )
    assert [case.id for case in prepared.prepared] == ["X"]


@pytest.mark.parametrize("name", ["no orientation, stated", "sform of two"])
def test_without_the_option_every_command_names_it(tmp_path, capsys, run, name):
    spoil, options, _ = READ[name]
    data, out = tmp_path / "data", tmp_path / "out"
    write_case(data, "Y", shape=SHAPE)
    spoil(write_case(data, "X", shape=SHAPE))
    assert check(data) == 2
    assert " ".join(options) in " ".join(capsys.readouterr().out.split())
    predict = ("predict", "--checkpoint", run, "--input", data, "--output", out)
    assert command(*predict) in (1, 2)
    assert " ".join(options) in " ".join(capsys.readouterr().err.split())
    assert (out / "Y.nii.gz").exists() and not (out / "X.nii.gz").exists()
    with pytest.raises(UserError, match=" ".join(options)):
        command("data", "splits", data, "--folds", "2", "--output", tmp_path / "splits.json")
    train = ("train", "--data", data, "--output", tmp_path / "results", "--device", "cpu")
    with pytest.raises(UserError, match=" ".join(options)):
        command(*train)


def test_a_single_voxel_is_refused_by_one_line_or_predicted(tmp_path, run, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    single(write_case(data, "X", shape=SHAPE))
    write_case(data, "Y", shape=SHAPE)
    code = command("predict", "--checkpoint", run, "--input", data, "--output", out)
    assert "Traceback" not in capsys.readouterr().err
    assert (out / "Y.nii.gz").exists() and (out / "X.nii.gz").exists() == (code == 0)


def test_a_plain_header_is_written_as_it_was_read_byte_for_byte(tmp_path, run):
    data, out = tmp_path / "data", tmp_path / "out"
    folder = write_case(data, "X", shape=SHAPE, label=False)
    assert command("predict", "--checkpoint", run, "--input", data, "--output", out) == 0
    stored, written = (
        nibabel.Nifti1Header(gzip.decompress(path.read_bytes())[:348])
        for path in (folder / "X_t1ce.nii.gz", out / "X.nii.gz")
    )
    changed = {name for name in stored if stored[name].tobytes() != written[name].tobytes()}
    assert changed <= {"datatype", "bitpix", "scl_slope", "scl_inter"}


def test_a_command_that_only_reads_refuses_settings_of_training(tmp_path):
    write_case(tmp_path, "X", shape=SHAPE)
    with pytest.raises(UserError, match=r"--set optim\.lr: this command only reads files"):
        check(tmp_path, "--set", "optim.lr=1")
    (case,) = find_cases(tmp_path)
    assert read_scan(case).max_volume_mib == 512
