"""What a user types on a study's command line, wrong and right, in real processes."""

import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from segmamba.commands import ensemble, study
from segmamba.commands.shared import STOPPED
from tests import warm
from tests.conftest import write_case

SCRIPT = Path(__file__).parents[2] / "experiments" / "ablate_depth.py"


def run(*options, cwd):
    return warm.run([sys.executable, SCRIPT, *options], cwd=cwd)


def assert_refused(result, *message, cwd):
    """Check that the exit code is 2, that one line holds the message, and that no study began."""
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for words in message:
        assert words in result.stderr
    assert not list(cwd.glob("Results/*_Run*")) and not (cwd / "Results" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "absent"], ["absent: no such folder"]),
        (["--data", "empty"], ["empty: no BraTS case found"]),
        (["--data", "data", "--labels", "mine"], ["--labels 'mine'", "brats2018"]),
        (["--preset", "huge"], ["unknown preset 'huge'", "demo"]),
        (["--set", "optm.lr=1"], ["unknown setting 'optm.lr'", "optim.lr"]),
        (["--set", "optim.lr=fast"], ["optim.lr = 'fast'", "must be a float"]),
        (["--set", "train.epochs=0"], ["train.epochs = 0", "must be 1 or more"]),
        (["--set", "optim.lr"], ["name=value"]),
        (
            ["--set", "model.mamba_depths=1,1,1"],
            ["varies this setting itself (arm 'depth 2' has", "leave --set model.mamba_depths out"],
        ),
        (["--arms", "depth 9"], ["no such arm", "'depth 4'"]),
        (["--arms", "depth 0"], ["the baseline 'depth 2' must be among them"]),
        (["--seeds", "0"], ["--seeds 0"]),
        (["--set", "seed=7"], ["--set seed", "--seeds"]),
        (
            ["--arms", "all", "--set", "model.name=segresnet"],
            ["varies this setting itself (arm 'control 1' has 'control')"],
        ),
        (["--set", "optim.lr={[]:1}"], ["optim.lr = '{[]:1}'", "must be a float"]),
        (
            ["--set", "train.early_stop_epochs=1"],
            ["train.early_stop_epochs = 1", "train.validate_every_epochs = 3"],
        ),
        (
            ["--set", "learning.initial_weights=no/best.pth"],
            ["learning.initial_weights=/", "/no/best.pth: there is no such file"],
        ),
        (["--gpus-per-trial", "nan"], ["--gpus-per-trial nan"]),
        (
            ["--output", "data/BraTS20_Training_000/BraTS20_Training_000_t1.nii.gz"],
            ["--output", "cannot be written"],
        ),
        (["--gpus-per-trial", "-1"], ["--gpus-per-trial -1"]),
        (["--cpus", "-1"], ["--cpus -1"]),
        (
            [
                "--data",
                "data",
                "--set",
                "data.spacing_mm=1",
                "--set",
                "data.pad_to_patch=false",
                "--set",
                "data.patch_size=64,64,64",
            ],
            ["BraTS20_Training_000", "fewer than the patch's 64", "pad_to_patch=true"],
        ),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else None,
)
def test_a_wrong_option_gets_one_line_and_code_2(cases_folder, options, message):
    cwd = cases_folder.parent
    (cwd / "empty").mkdir()
    assert_refused(run(*options, cwd=cwd), *message, cwd=cwd)


def spoil_missing(folder):
    (folder / "X_t1ce.nii.gz").unlink()


def spoil_truncated(folder):
    path = folder / "X_t2.nii.gz"
    path.write_bytes(path.read_bytes()[:-5000])


def spoil_shape(folder):
    nibabel.save(
        nibabel.Nifti1Image(np.ones((48, 48, 31), np.int16), np.diag([-1.0, -1, 1, 1])),
        folder / "X_t2.nii.gz",
    )


def spoil_nan(folder):
    nibabel.save(
        nibabel.Nifti1Image(np.full((48, 48, 32), np.nan, np.float32), np.diag([-1.0, -1, 1, 1])),
        folder / "X_t2.nii.gz",
    )


def spoil_label(folder):
    nibabel.save(
        nibabel.Nifti1Image(np.full((48, 48, 32), 3, np.uint8), np.diag([-1.0, -1, 1, 1])),
        folder / "X_seg.nii.gz",
    )


def spoil_labels_gone(folder):
    for case in folder.parent.iterdir():
        (case / f"{case.name}_seg.nii.gz").unlink()


BAD_DATA = {
    "missing modality": (spoil_missing, ["X: modality T1ce is missing", "X_t1ce.nii.gz"]),
    "truncated": (spoil_truncated, ["X_t2.nii.gz: damaged"]),
    "shape": (spoil_shape, ["X_t2.nii.gz is 48x48x31 but X_t1.nii.gz is 48x48x32"]),
    "not finite": (spoil_nan, ["X_t2.nii.gz has 73728 voxels that are not finite"]),
    "label": (
        spoil_label,
        ["X_seg.nii.gz: label value 3 is not in convention brats2018", "--labels"],
    ),
    "no labels": (spoil_labels_gone, ["none has a segmentation"]),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_gets_one_line_and_code_2(cases_folder, kind):
    spoil, message = BAD_DATA[kind]
    spoil(write_case(cases_folder, "X", seed=9))
    cwd = cases_folder.parent
    assert_refused(run("--data", cases_folder, cwd=cwd), *message, cwd=cwd)


def test_an_mlflow_address_that_cannot_be_used_is_named(cases_folder, monkeypatch):
    cwd = cases_folder.parent
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://bar")
    assert_refused(
        run("--data", cases_folder, cwd=cwd),
        "MLflow store foo://bar cannot be used",
        "MLFLOW_TRACKING_URI",
        cwd=cwd,
    )


def test_asking_for_gpus_without_one_is_refused(cases_folder):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    cwd = cases_folder.parent
    assert_refused(
        run("--data", cases_folder, "--gpus-per-trial", "0.5", cwd=cwd), "sees no GPU", cwd=cwd
    )


def test_help_explains_every_option_and_settings_can_be_listed(tmp_path):
    shown = run("--help", cwd=tmp_path)
    assert shown.returncode == 0
    for option in (
        "--data",
        "--labels",
        "--preset",
        "--seeds",
        "--set",
        "--arms",
        "--gpus-per-trial",
        "--cpus",
        "--output",
        "--json",
    ):
        assert option in shown.stdout
    listed = run("--list-settings", "--preset", "paper", cwd=tmp_path).stdout
    assert "data.patch_size = (128, 128, 64)" in listed and "Voxels along NIfTI x, y, z" in listed


@pytest.mark.parametrize(("command", "entry"), [(study, "run_study"), (ensemble, "open_study")])
def test_ctrl_c_outside_the_trials_says_how_to_go_on(monkeypatch, capsys, command, entry):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"segmamba.orchestration.study.{entry}", interrupted)
    given = (None, None) if command is study else (None, None, (0.02, 0.03))
    run = command.run_declared if command is study else command._run
    assert run(*given, as_json=False) == 130
    assert capsys.readouterr().out == f"{STOPPED}\n"
