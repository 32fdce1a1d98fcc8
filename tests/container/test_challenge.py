"""`segmamba challenge` and `segmamba infer`: prediction as programs of challenges start it."""

import shutil

import nibabel
import numpy as np
import pytest
import typer

from segmamba.cli import app
from segmamba.errors import UserError
from segmamba.inference import folder as prediction
from segmamba.models.cpu_build import build_libraries
from tests.conftest import NEW_NAMES, write_case
from tests.container.image import image
from tests.container.sandbox import needs_sandbox, run_as_container
from tests.inference.conftest import write_run

IDS = ("BraTS-GLI-00001-100", "BraTS-GLI-00002-000", "BraTS-GLI-00003-000")


@pytest.fixture
def model(tmp_path):
    return write_run(tmp_path / "model")[0]


@pytest.fixture
def cases(tmp_path):
    """Three cases as the orchestrator mounts them, one of .nii files, with stray files around."""
    folder = tmp_path / "input"
    affine = np.array([[-1.0, 0, 0, 30], [0, -1, 0, 20], [0, 0, 1, -7], [0, 0, 0, 1]])
    for number, case in enumerate(IDS):
        ending = ".nii" if number == 1 else ".nii.gz"
        shape = (40, 44, 24 + number)
        options = {"names": NEW_NAMES, "ending": ending, "affine": affine, "label": False}
        write_case(folder, case, shape=shape, **options)
    (folder / "README.txt").write_text("not a case")
    (folder / ".DS_Store").write_bytes(b"\0")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), folder / "atlas.nii.gz")
    return folder


def call(*words):
    """Run a command in this process; return the exit code."""
    return typer.main.get_command(app)([str(word) for word in words], standalone_mode=False)


def check_written(output, cases, ids=IDS):
    """Each case has its file, on the grid of its source, in BraTS 2023's values."""
    assert {path.name for path in output.iterdir()} == {f"{case}.nii.gz" for case in ids}
    for case in ids:
        written = nibabel.load(output / f"{case}.nii.gz")
        (source,) = (cases / case).glob("*-t1c.nii*")
        image = nibabel.load(source)
        values = np.asanyarray(written.dataobj)
        assert written.shape == image.shape and np.array_equal(written.affine, image.affine)
        assert values.dtype == np.uint8 and set(np.unique(values)) <= {0, 1, 2, 3}
        assert values.any()


def test_every_case_gets_a_file_and_nothing_else_is_left(model, cases, tmp_path, capsys):
    assert call("challenge", cases, tmp_path / "output", "--model", model) == 0
    check_written(tmp_path / "output", cases)
    assert "image files below" in capsys.readouterr().err  # atlas.nii.gz is named


def test_infer_writes_what_challenge_writes(model, cases, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEGMAMBA_MODEL", str(model))
    assert call("challenge", cases, tmp_path / "new") == 0
    options = (f"--data_path={cases}", f"--output_path={tmp_path / 'old'}", f"--weights={model}")
    assert call("infer", *options, "--parameters_file=parameters.yaml") == 0
    assert "parameters.yaml is not read" in capsys.readouterr().err
    for case in IDS:
        new, old = (nibabel.load(tmp_path / at / f"{case}.nii.gz") for at in ("new", "old"))
        assert np.array_equal(np.asanyarray(new.dataobj), np.asanyarray(old.dataobj))


def test_a_case_that_fails_is_one_line_and_the_others_are_written(model, cases, tmp_path, capsys):
    (cases / IDS[0] / f"{IDS[0]}-t2f.nii.gz").write_bytes(b"junk")
    (cases / IDS[2] / f"{IDS[2]}-t1n.nii.gz").unlink()
    assert call("challenge", cases, tmp_path / "output", "--model", model) == 2
    check_written(tmp_path / "output", cases, IDS[1:2])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 2 and IDS[0] in errors[0] and IDS[2] in errors[1]


def test_a_failure_of_ours_shows_its_traceback_and_leaves_no_log(
    model, cases, tmp_path, monkeypatch, capsys
):
    write = prediction.write_labels

    def fail(path, *rest):
        if IDS[1] in path.name:
            raise RuntimeError("a wheel came off")
        return write(path, *rest)

    monkeypatch.setattr(prediction, "write_labels", fail)
    assert call("challenge", cases, tmp_path / "output", "--model", model) == 1
    check_written(tmp_path / "output", cases, (IDS[0], IDS[2]))
    printed = capsys.readouterr().err
    assert f"error: {IDS[1]}: not predicted (RuntimeError: a wheel came off)\n" in printed
    assert "Traceback" in printed and "failures.log" not in printed


def test_what_an_earlier_start_left_is_no_result_of_a_case_that_fails(model, cases, tmp_path):
    output = tmp_path / "output"
    assert call("challenge", cases, output, "--model", model) == 0
    (cases / IDS[0] / f"{IDS[0]}-t2f.nii.gz").write_bytes(b"junk")
    assert call("challenge", cases, output, "--model", model) == 2
    check_written(output, cases, IDS[1:])


def test_several_runs_in_the_models_folder_vote(model, cases, tmp_path, capsys):
    both = tmp_path / "both"
    both.mkdir()
    shutil.copytree(model, both / "01")
    write_run(both / "02", seed=1)
    assert call("challenge", cases, tmp_path / "output", "--model", both) == 0
    assert "2 networks on cpu" in capsys.readouterr().err
    check_written(tmp_path / "output", cases)


def test_a_container_without_a_model_or_cases_is_one_line(model, tmp_path, monkeypatch):
    monkeypatch.delenv("SEGMAMBA_MODEL", raising=False)
    with pytest.raises(UserError, match=r"/opt/segmamba/model: no such folder; copy a run's"):
        call("challenge")
    with pytest.raises(UserError, match="no such folder; give the folder that holds"):
        call("challenge", tmp_path / "none", tmp_path / "output", "--model", model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no BraTS case found"):
        call("challenge", tmp_path / "empty", tmp_path / "output", "--model", model)


@needs_sandbox
def test_a_container_that_can_write_its_output_alone_segments_without_arguments(
    model, cases, tmp_path
):
    build_libraries(tmp_path / "kernels")
    mounted = {"model": model, "kernels": tmp_path / "kernels"}
    mounted = {f"/opt/segmamba/{name}": path for name, path in mounted.items()}
    (cases / IDS[2] / f"{IDS[2]}-t2w.nii.gz").write_bytes(b"junk")
    ended = run_as_container(
        image()["CMD"],
        scratch=tmp_path,
        read_only={"/input": cases, **mounted},
        output=tmp_path / "output",
        tmp_options="noexec",
        environment=image()["ENV"],
    )
    assert ended.returncode == 2, ended.stderr
    check_written(tmp_path / "output", cases, IDS[:2])
    told = [line for line in ended.stderr.splitlines() if line.startswith(("note", "error"))]
    assert not any("slower" in line for line in told), "the kernels that were compiled before run"
    assert [line for line in told if line.startswith("error")] == told[-1:]
    assert f"error: {IDS[2]}: /input/{IDS[2]}/{IDS[2]}-t2w.nii.gz: damaged" in told[-1]
    assert "Traceback" not in ended.stderr and "Warning" not in ended.stderr


@pytest.mark.slow
@needs_sandbox
def test_infer_runs_without_kernels_of_its_own_and_says_so(model, cases, tmp_path):
    places = {"/mlcube_io0": cases, "/mlcube_io1": model}
    words = "infer --data_path=/mlcube_io0 --output_path=/output --weights=/mlcube_io1"
    ended = run_as_container(
        words.split(),
        scratch=tmp_path,
        read_only=places,
        output=tmp_path / "output",
        tmp_mib=1,
        environment={"CC": "/nonexistent/cc"},
    )
    assert ended.returncode == 0, ended.stderr
    check_written(tmp_path / "output", cases)
    (note,) = [line for line in ended.stderr.splitlines() if "slower" in line]
    assert "/nonexistent/cc" in note
