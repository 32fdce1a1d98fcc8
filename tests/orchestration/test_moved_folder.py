"""A folder of results that was moved or copied: nothing in it names where it was."""

import contextlib
import dataclasses
import shutil
import sqlite3
from pathlib import Path

import pytest
import torch

from segmamba.config import PostprocessConfig, preset
from segmamba.errors import UserError
from segmamba.files import LOCK, is_abandoned, locked
from segmamba.models import build_model
from segmamba.orchestration import listing
from segmamba.orchestration.listing import list_studies, redraw
from segmamba.orchestration.tracking import store as store_module
from segmamba.orchestration.tracking.registry import Networks, fetch_model, register_networks
from segmamba.orchestration.tracking.relocation import ROOT_TAG
from segmamba.orchestration.tracking.store import open_store, store_to_read
from segmamba.orchestration.tracking.study_reader import find_study, read_study
from segmamba.orchestration.tracking.study_run import close_abandoned
from segmamba.training.run_folder import RunFolder
from tests.orchestration.mlflow_study import add_trials, begin
from tests.studies.synthetic import synthetic_study
from tests.tiny import TINY_CHANGES

STUDY = "ablate_depth_Run01"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Results with a study of two trials, each with its folder, and a model of one of them."""
    results = tmp_path_factory.mktemp("made") / "Results"
    study = synthetic_study({"a": 0.0, "b": 0.1}, seeds=1, cases=3, epochs=1)
    folders = [RunFolder(results / STUDY / "trials" / trial.arm) for trial in study.trials]
    trials = [
        dataclasses.replace(trial, folder=str(folder.root))
        for trial, folder in zip(study.trials, folders, strict=True)
    ]
    store = open_store(results)
    run = begin(store, dataclasses.replace(study, name=STUDY), results / STUDY)
    add_trials(run, trials)
    run.end("FINISHED")
    config = preset("demo").changed(TINY_CHANGES)
    folders[0].write_config(config)
    torch.save(build_model(config.model).state_dict(), folders[0].best)
    networks = Networks([folders[0].root], PostprocessConfig())
    trial = run.children()[0].info.run_id
    register_networks(store, trial, "segmamba-depth", networks, description="", tags={})
    return results


@pytest.fixture
def was(made, tmp_path):
    """Results of one test, which know where they are."""
    shutil.copytree(made, tmp_path / "Results")
    open_store(tmp_path / "Results")
    assert not named_in(tmp_path / "Results" / "mlflow.db", made)
    return tmp_path / "Results"


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """A report is drawn as a line: what it says is not what is tested."""

    def write_report(study, folder):
        (folder / "report.html").write_text(study.name)

    monkeypatch.setattr(listing, "write_report", write_report)


def named_in(database, folder):
    """The tables and columns that name a folder."""
    found = []
    with contextlib.closing(sqlite3.connect(database)) as opened:
        tables = [n for (n,) in opened.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        for table in tables:
            for _, column, *_ in opened.execute(f'PRAGMA table_info("{table}")').fetchall():
                for form in (str(folder), folder.as_uri()):
                    query = f'SELECT count(*) FROM "{table}" WHERE instr("{column}" || \'/\', ?)'
                    if opened.execute(query, (f"{form}/",)).fetchone()[0]:
                        found.append(f"{table}.{column}")
    return sorted(set(found))


@pytest.mark.parametrize("name", ["Elsewhere", "a b#c+é'", "Results2"])
def test_all_of_a_moved_folder_is_found_and_nothing_is_made_where_it_was(was, tmp_path, name):
    now = was.rename(tmp_path / name)
    (tmp_path / "weights").mkdir()
    model = fetch_model("models:/segmamba-depth/1", store_to_read(now), tmp_path / "weights")
    assert list(model.rglob("*.pth"))

    study, folder = redraw(now, "ablate_depth")
    assert folder == now / STUDY and (folder / "report.html").is_file()
    assert all(Path(trial.folder).parent == now / STUDY / "trials" for trial in study.trials)
    assert all(trial.test_cases for trial in study.trials), "the artifacts are read"
    assert [row["study"] for row in list_studies(now)] == [STUDY]

    store = open_store(now)
    new = store.create_run("new", {})
    store.client.log_dict(new, {}, "config.json")
    assert (now / "mlartifacts" / new / "artifacts" / "config.json").is_file()
    assert not was.exists(), "made again"
    assert named_in(now / "mlflow.db", was) == []


def test_a_copy_names_its_own_files_and_the_original_stays_as_it_is(was, tmp_path):
    now = shutil.copytree(was, tmp_path / "Copy")
    before = (was / "mlflow.db").read_bytes()
    study, folder = redraw(now, STUDY)
    assert folder == now / STUDY and str(was) not in {trial.folder for trial in study.trials}
    store = open_store(now)
    store.client.log_dict(store.create_run("new", {}), {}, "config.json")
    assert named_in(now / "mlflow.db", was) == [] and (was / "mlflow.db").read_bytes() == before
    before, after = (len(list((of / "mlartifacts").iterdir())) for of in (was, now))
    assert after == before + 1


def test_a_running_study_of_a_copy_is_closed_by_what_lies_in_the_copy(was, tmp_path):
    store = open_store(was)
    store.reopen_run(find_study(store, STUDY).run_id)
    with locked(was / STUDY):
        now = shutil.copytree(was, tmp_path / "Copy")
        assert close_abandoned(open_store(now), is_abandoned) == [STUDY]
        assert close_abandoned(open_store(was), is_abandoned) == []


def test_a_folder_in_which_a_process_works_is_not_rewritten_under_another_name(was, tmp_path):
    with locked(was / STUDY):
        now = was.rename(tmp_path / "Elsewhere")
        with pytest.raises(UserError, match=f"{STUDY} is still running in it"):
            open_store(now)
    assert "tags.value" in named_in(now / "mlflow.db", was)
    open_store(now)
    assert named_in(now / "mlflow.db", was) == [] and (now / STUDY / LOCK).exists()


def test_a_store_of_a_version_that_did_not_say_where_it_lay_is_followed_too(was, tmp_path):
    with contextlib.closing(sqlite3.connect(was / "mlflow.db")) as opened, opened:
        opened.execute("DELETE FROM experiment_tags WHERE key = ?", (ROOT_TAG,))
    now = was.rename(tmp_path / "Elsewhere")
    redraw(now, STUDY)
    assert named_in(now / "mlflow.db", was) == [] and not was.exists()


def test_what_lies_elsewhere_stays_named(was, tmp_path):
    store, other = open_store(was), tmp_path / "Results-other"
    beside = store.create_run("beside", {"folder": str(other / "x_Run01")})
    below = store.create_run("below", {"folder": f"{other}{was}"})
    client = open_store(was.rename(tmp_path / "Elsewhere")).client
    assert client.get_run(beside).data.tags["folder"] == str(other / "x_Run01")
    assert client.get_run(below).data.tags["folder"] == f"{other}{was}"


def test_a_database_copied_alone_still_names_where_the_artifacts_are(was, tmp_path, monkeypatch):
    copy = tmp_path / "backup"
    copy.mkdir()
    shutil.copy(was / "mlflow.db", copy)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}/mlflow.db")
    run = find_study(open_store(tmp_path / "other"), STUDY)
    assert all(trial.test_cases for trial in read_study(run).trials)
    assert run.folder == str(was / STUDY)


@pytest.mark.parametrize("copied", [False, True])
def test_results_are_followed_where_the_database_lies_apart_unless_they_are_a_copy(
    was, tmp_path, monkeypatch, copied
):
    database, now = tmp_path / "db" / "runs.db", tmp_path / "Elsewhere"
    database.parent.mkdir()
    (was / "mlflow.db").rename(database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    open_store(tmp_path / "third")
    assert named_in(database, was), "another folder of results changes nothing"
    shutil.copytree(was, now)
    if not copied:
        shutil.rmtree(was)
    redraw(now, STUDY)
    assert bool(named_in(database, was)) == copied and was.exists() == copied


def test_a_report_of_a_study_whose_store_cannot_be_rewritten_lies_where_the_study_is_now(
    was, tmp_path, monkeypatch
):
    """As a server's: its database is out of reach."""
    monkeypatch.setattr(store_module, "follow", lambda database, results: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{was}/mlflow.db")
    now = tmp_path / "Elsewhere"
    now.mkdir()
    (was / STUDY).rename(now / STUDY)
    _, folder = redraw(now, STUDY)
    assert folder == now / STUDY
    assert find_study(open_store(now), STUDY).folder == str(was / STUDY), "a report changes nothing"
