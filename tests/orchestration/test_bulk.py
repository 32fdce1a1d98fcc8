"""Reading many runs at once gives what MLflow gives run by run."""

import math

import pytest

from segmamba.orchestration.tracking import bulk
from segmamba.orchestration.tracking.bulk import (
    PARENT_TAG,
    histories_of,
    oldest_finished,
    runs_below,
    runs_with,
)
from segmamba.orchestration.tracking.store import open_store


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A store and the id of a run with three below it, one of them deleted, and one beside it."""
    store = open_store(tmp_path_factory.mktemp("results"))
    parent, other = (store.create_run(name, {"kind": "study"}) for name in ("mine", "other"))
    for number, above in enumerate((parent, parent, parent, other)):
        run_id = store.create_run(f"trial {number}", {PARENT_TAG: above, "trial": f"it's {number}"})
        store.log_params(run_id, {f"p{n}": n / 7 for n in range(120)})
        for step in (2, 1, 3):
            store.log_metrics(run_id, {"train/loss": 1 / step, "val/dice_mean": math.nan}, step)
        store.log_metrics(run_id, {"train/loss": 9.0, "test/dice": math.inf}, 3)  # once more
        store.end_run(run_id, "FINISHED")
    deleted = store.create_run("deleted", {PARENT_TAG: parent})
    store.client.delete_run(deleted)
    return store, parent


@pytest.fixture(params=[1, 500])
def runs_at_once(request, monkeypatch):
    monkeypatch.setattr(bulk, "RUNS_AT_ONCE", request.param)


def plain(run):
    """A run as data; NaN, which equals nothing, as a text."""
    shown = run.to_dictionary()
    shown["inputs"] = shown["outputs"] = None
    return (
        repr(sorted(shown["data"]["metrics"].items())),
        shown["info"],
        {name: sorted(shown["data"][name].items()) for name in ("params", "tags")},
    )


def test_the_runs_below_a_study_are_those_that_mlflow_finds(study, runs_at_once):
    store, parent = study
    wanted = store.search(f"tags.`{PARENT_TAG}` = '{parent}'")
    found = runs_below(store, parent)
    assert len(found) == 3
    assert list(map(plain, found)) == list(map(plain, wanted))


@pytest.mark.parametrize("number", [0, 3, 7])
def test_the_runs_with_some_tags_are_those_that_mlflow_finds(study, runs_at_once, number):
    store, parent = study
    tags = {"trial": f"it's {number}", PARENT_TAG: parent}
    found = runs_with(store, tags)
    assert len(found) == (number == 0), "the third is another study's"
    wanted = store.search(f"tags.trial = \"it's {number}\" and tags.`{PARENT_TAG}` = '{parent}'")
    assert list(map(plain, found)) == list(map(plain, wanted))


def test_the_oldest_finished_run_with_each_value_is_found_at_once(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    for at, (name, digest, status, tags) in enumerate(
        (
            ("broken", "a", "FAILED", {}),
            ("taken over", "a", "FINISHED", {"reused_from": "an older one"}),
            ("stopped early", "b", "FINISHED", {"stopped": ""}),
            ("the oldest", "a", "FINISHED", {}),
            ("later", "a", "FINISHED", {}),
            ("its only one", "c", "FINISHED", {}),
            ("deleted", "d", "FINISHED", {}),
            ("still running", "e", "RUNNING", {}),
        )
    ):
        run = store.client.create_run(
            store.experiment_id, start_time=1000 + at, run_name=name, tags={"digest": digest} | tags
        )
        if status != "RUNNING":
            store.end_run(run.info.run_id, status)
        if name == "deleted":
            store.client.delete_run(run.info.run_id)
    elsewhere = store.client.create_run(
        store.client.create_experiment("another"), start_time=1, tags={"digest": "a"}
    )
    store.end_run(elsewhere.info.run_id, "FINISHED")
    asked = {"values": ["a", "b", "c", "d", "e", "none"], "without": ("reused_from", "stopped")}
    found = oldest_finished(store, "digest", **asked)
    assert {digest: run.info.run_name for digest, run in found.items()} == {
        "a": "the oldest",
        "c": "its only one",
    }
    monkeypatch.setattr(bulk, "sqlite_path", lambda uri: None)  # as a server's store is asked
    one_by_one = oldest_finished(store, "digest", **asked)
    assert {digest: plain(run) for digest, run in found.items()} == {
        digest: plain(run) for digest, run in one_by_one.items()
    }


def test_the_courses_of_their_metrics_are_those_that_mlflow_gives(study, runs_at_once):
    store, parent = study
    runs = runs_below(store, parent)
    found = histories_of(store, runs)
    for run in runs:
        mine = found[run.info.run_id]
        assert repr(sorted(mine.items())) == repr(sorted(bulk._history(store, run).items()))
        assert [step for step, _ in mine["train/loss"]] == [1, 2, 3, 3]
    assert set(mine) == {"train/loss", "val/dice_mean"}
