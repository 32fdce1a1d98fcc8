"""Where a user works: folders that may not be written, that are links, odd names, no HOME."""

import os
import subprocess
import sys

import pytest

from segmamba.cli import app
from segmamba.commands.shared import run_app
from segmamba.training.run_folder import RunFolder
from tests.conftest import write_case
from tests.tiny import TINY, TINY_CHANGES
from tests.unprivileged import unprivileged

WRITING = {
    "train": "train --data {data} --output {out}",
    "study": "study {study} --data {data} --output {out}",
    "study's cache": "study {study} --data {data} --output {free} --cache {out}",
    "pretrain": "pretrain --data {data} --output {out}",
    "ensemble": "ensemble --data {data} --output {out}",
    "demo": "demo --output {out}",
    "reproduce": "reproduce abc --output {out}",
    "predict": "predict --input {data} --checkpoint {run} --output {out}",
    "evaluate": "evaluate --predictions {data} --truth {data} --output {out}",
    "compare": "compare {data} {data} --truth {data} --output {out}",
    "export": "export --checkpoint {run} --output {out}/new",
    "export --onnx": "export --checkpoint {run} --onnx {out}/new.onnx",
    "export --pt2": "export --checkpoint {run} --pt2 {out}/new.pt2",
    "phantom": "phantom --output {out}",
    "data summary": "data summary {data} --output {out}",
    "data check": "data check {data} --output {out}/new.csv",
    "data splits": "data splits {data} --output {out}/new.json",
    "tune": "tune-postprocessing --checkpoint {run} --output {out}/new.json",
    "ablate-inference": "ablate-inference --checkpoint {run} --output {out}",
}
STUDY = """
from segmamba.studies import Budget, Hypothesis, StudySpec
STUDY = StudySpec(
    name="mine", question="?", baseline="a", budget=Budget(seeds=1),
    hypothesis=Hypothesis(claim="b.", better="b", than="a"),
    arms={"a": {}, "b": {"optim.lr": 1e-2}},
)
"""


@pytest.fixture
def places(tmp_path):
    """What the commands name; `out` belongs to another user where root runs the test."""
    out, free = tmp_path / "foreign", tmp_path / "free"
    for folder in (out, free):
        folder.mkdir()
    out.chmod(0o555)
    if os.geteuid() == 0:
        os.chown(out, 65534, 65534)
    write_case(tmp_path / "data", "BraTS20_Training_000")
    (tmp_path / "study.py").write_text(STUDY)
    run = RunFolder(tmp_path / "run")
    run.write_config(TINY)
    run.best.write_bytes(b"never read")
    yield {
        "out": out,
        "free": free,
        "data": tmp_path / "data",
        "run": run.root,
        "study": tmp_path / "study.py",
    }
    out.chmod(0o755)


def ended(words, capsys):
    """(exit code, stdout, stderr) of a command."""
    with pytest.raises(SystemExit) as end:
        run_app(app, [str(word) for word in words])
    return end.value.code, *capsys.readouterr()


@pytest.mark.parametrize("beneath", [False, True], ids=["itself", "beneath"])
@pytest.mark.parametrize("command", WRITING)
def test_a_folder_of_another_user_is_refused_in_a_line_before_anything_is_computed(
    places, capsys, command, beneath
):
    if beneath:
        places["out"] /= "not/yet"
    with unprivileged():
        code, out, err = ended(WRITING[command].format(**places).split(), capsys)
    assert code == 2 and err.count("\n") == 1 and out == "", (out, err)
    assert str(places["out"]) in err, err
    if command != "reproduce":
        assert "cannot be written (Permission denied)" in err, err


def test_folders_and_files_are_told_apart(places, capsys):
    file = places["free"] / "file"
    file.write_text("")
    words = f"evaluate --predictions {places['data']} --truth {places['data']} --output {file}"
    assert ended(words.split(), capsys)[::2] == (
        2,
        f"error: --output {file}: is a file; give a folder\n",
    )
    words = f"data check {places['data']} --output {places['free']}"
    code, _, err = ended(words.split(), capsys)
    assert (code, err) == (2, f"error: --output {places['free']}: is a folder; give a file\n")


NAMES = ("train", "study", "ensemble", "demo", "reproduce", "ablate-inference")
READING = {
    "studies": "studies --output {out}",
    "report": "report mine --output {out}",
    "compare-studies": "compare-studies mine other --output {out}",
    "predict --model": "predict --input {data} --model models:/x/1 --store {out} --output {free}/p",
}


@pytest.mark.parametrize("command", [*NAMES, *READING])
@pytest.mark.parametrize("name", ["what?", "half%20done"])
def test_a_name_that_no_database_can_have_is_refused_alike_by_all_that_have_one(
    places, tmp_path, capsys, command, name
):
    places["out"] = tmp_path / name
    words = (WRITING | READING)[command].format(**places).split()
    code, out, err = ended(words, capsys)
    assert code == 2 and out == "" and err.count("\n") == 1, (out, err)
    assert "whose name has a question mark or an escape such as %20" in err
    assert not places["out"].exists()


def test_data_that_can_only_be_read_are_trained_on_through_links_and_without_a_home(
    tmp_path, capsys, monkeypatch
):
    for number in range(6):
        write_case(tmp_path / "real", f"Été_{number:03d}", seed=number, shape=(32, 32, 24))
    (tmp_path / "results").mkdir()
    (tmp_path / "home").mkdir()
    for path in (*(tmp_path / "real").rglob("*"), tmp_path / "real", tmp_path / "home"):
        path.chmod(path.stat().st_mode & ~0o222)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    os.symlink("real", "data")
    os.symlink("results", "Results")
    settings = TINY_CHANGES | {"data.validation_share": 0.2, "train.epochs": 1}
    words = [f"--set={name}={value}".replace(" ", "") for name, value in settings.items()]
    with unprivileged():
        code, out, err = ended(["train", "--data", "data", "--device", "cpu", *words], capsys)
    assert code == 0, err
    assert f"run      {tmp_path / 'results' / 'SegMamba_Run01'}" in out
    assert (tmp_path / "results" / "SegMamba_Run01" / "metrics" / "final_metrics.json").is_file()
    assert not any(path.name.endswith(".json") for path in (tmp_path / "real").rglob("*"))


@pytest.mark.parametrize("coerced", ["0", "1"])
def test_names_outside_ascii_are_read_and_shown_in_the_c_locale(tmp_path, coerced):
    write_case(tmp_path / "données", "Été_000")
    environment = os.environ | {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0"}
    command = [sys.executable, "-c", "from segmamba.cli import main; main()"]
    done = subprocess.run(
        [*command, "data", "check", "données", "--output", "trouvé.csv"],
        cwd=tmp_path,
        env=environment | {"PYTHONCOERCECLOCALE": coerced},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert "0 with errors" in done.stdout.decode() and (tmp_path / "trouvé.csv").is_file()
