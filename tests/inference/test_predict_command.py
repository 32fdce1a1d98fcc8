"""`segmamba predict` and `segmamba export` as a user types them."""

import ast
import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import typer

from segmamba.cli import app
from segmamba.config import PostprocessConfig
from segmamba.errors import UserError
from tests.conftest import NEW_NAMES, write_case
from tests.inference.conftest import write_run


@pytest.fixture
def data(tmp_path):
    write_case(tmp_path / "data", "A", shape=(40, 44, 24), label=False)
    write_case(
        tmp_path / "data",
        "BraTS-GLI-00000-000",
        shape=(44, 40, 28),
        names=NEW_NAMES,
        label=False,
        seed=2,
    )
    return tmp_path / "data"


def predict(*options):
    """Run the command in this process and working directory; return the exit code.

    A UserError, which the command line prints in one line, comes through.
    """
    arguments = ["predict", "--checkpoint", "run", "--input", "data", "--output", "out", *options]
    return typer.main.get_command(app)(arguments, standalone_mode=False)


def test_cases_in_segmentations_out_and_the_post_processing_is_named(
    run, data, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (run / "postprocessing.json").write_text(
        PostprocessConfig(min_component_voxels=(5, 6, 7)).to_json()
    )
    assert predict("--json", "--flips", "--scales", "1,0.75", "--overlap", "0.25", "--html") == 0
    printed = capsys.readouterr()
    assert "min_component_voxels (5, 6, 7) (from run/postprocessing.json)" in printed.err
    record = json.loads(printed.out)
    (inference,) = record["inference"]
    assert inference["overlap"] == 0.25 and inference["flips"]
    assert inference["scales"] == [1.0, 0.75]
    assert record["postprocessing"]["min_component_voxels"] == [5, 6, 7]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    cases = {"A.nii.gz", "BraTS-GLI-00000-000.nii.gz"}
    assert names == cases | {"predictions.json", "predictions.html"}


def test_a_bad_case_is_reported_the_others_are_written_and_the_exit_code_is_2(
    run, data, tmp_path, monkeypatch, capsys
):
    (data / "A" / "A_t2.nii.gz").write_bytes(b"junk")
    data.rename(tmp_path / "data [old]")
    monkeypatch.chdir(tmp_path)
    assert predict("--input", "data [old]") == 2
    printed = capsys.readouterr()
    assert printed.out == "out\n" and "error: A: data [old]/A/A_t2.nii.gz" in printed.err
    written = tmp_path / "out"
    assert (written / "BraTS-GLI-00000-000.nii.gz").exists()
    assert not (written / "A.nii.gz").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--overlap", "1"], "inference.overlap = 1.0"),
        (["--scales", "0"], "inference.scales = (0.0,)"),
        (["--labels", "brats1999"], "'brats1999' is no known label convention"),
        (["--postprocess", "absent.json"], "--postprocess absent.json: no such file"),
        (["--checkpoint", "nowhere"], "nowhere: no such checkpoint"),
        (["--set", "inference.overlapp=0.5"], "did you mean inference.overlap"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--device", "gpu"], "--device gpu: no such device"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_a_wrong_option_is_one_line_and_makes_no_output(
    run, data, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        predict(*options)
    assert not (tmp_path / "out").exists()


def test_export_writes_a_bundle_and_says_where(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typer.main.get_command(app)(
        ["export", "--checkpoint", "run", "--bundle", "bundle"], standalone_mode=False
    )
    assert capsys.readouterr().out == "bundle\n"
    assert (tmp_path / "bundle" / "configs" / "inference.json").is_file()


def test_the_readmes_lines_load_weights_and_config_and_predict(tmp_path, monkeypatch):
    """Run README.md's statements as they stand, on a run and a case of the names they use."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (lines,) = [block for block in blocks if ".predict(" in block]
    assert len(ast.parse(lines).body) <= 5
    write_run(tmp_path / "run")
    write_case(tmp_path / "data", "X", shape=(40, 44, 24), label=False)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(lines, "README.md", "exec"), names)
    predict("--labels", "brats2023")
    written = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out" / "X.nii.gz"))
    assert np.array_equal(names["classes"], np.asanyarray(written.dataobj))
