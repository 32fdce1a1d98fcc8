"""Runs that a dead driver left RUNNING are closed by the next study, a living one's are not."""

import json
import time

import pytest
from mlflow.entities import RunStatus

from segmamba.clock import steady_s
from segmamba.orchestration.tracking.registration import registration_of, registration_tags
from segmamba.orchestration.tracking.store import open_store
from segmamba.orchestration.tracking.study_reader import find_study
from segmamba.orchestration.tracking.study_run import STOPPED_REASON, StudyRun, close_abandoned
from segmamba.studies.results import Trial


def test_only_the_studies_whose_driver_is_gone_are_closed_with_their_trials(tmp_path):
    store = open_store(tmp_path)
    client, experiment = store.client, store.experiment_id

    def study(name):
        parent = client.create_run(
            experiment, tags={"kind": "study", "study": name, "folder": f"/results/{name}"}
        ).info.run_id
        tags = {"kind": "trial", "trial": "a, seed 0", "mlflow.parentRunId": parent}
        running, done = (client.create_run(experiment, tags=tags).info.run_id for _ in range(2))
        client.set_terminated(done, "FINISHED")
        return parent, running, done

    dead, alive = study("dead_Run01"), study("alive_Run01")
    assert close_abandoned(store, lambda folder: "dead" in folder) == ["dead_Run01"]
    assert [client.get_run(run_id).info.status for run_id in dead] == [
        "KILLED",
        "KILLED",
        "FINISHED",
    ]
    assert client.get_run(dead[1]).data.tags["reason"] == STOPPED_REASON
    assert [client.get_run(run_id).info.status for run_id in alive] == [
        "RUNNING",
        "RUNNING",
        "FINISHED",
    ]
    assert close_abandoned(store, lambda folder: "dead" in folder) == []


def test_a_killed_start_worked_until_its_last_ended_trial_and_is_counted_once(tmp_path):
    store = open_store(tmp_path)
    tags = {"kind": "study", "study": "dead_Run01", "folder": "/results/dead"}
    run = StudyRun(store, store.create_run("dead_Run01", tags))
    began = time.time() - 8 * 3600
    for _ in range(2):  # the answer to the first call was lost
        run.begin(began)
    done, _ = (run.start_trial(f"a, seed {seed}", {}) for seed in range(2))
    store.client._tracking_client.store.update_run_info(
        done, RunStatus.FINISHED, int(1000 * (began + 90)), "a, seed 0"
    )
    close_abandoned(store, lambda folder: True)
    assert run.seconds() == pytest.approx(90, abs=0.2), "the night does not count"
    run.begin(time.time())
    assert store.client.get_run(run.run_id).data.tags["starts"] == "2"
    assert 90 <= run.seconds() + 0.2 < 100


def test_what_a_tag_holds_as_json_is_whole(tmp_path):
    store = open_store(tmp_path)
    run = StudyRun(store, store.create_run("search", {}))
    shares = {f"optim.setting_{number}": 1 / 3 for number in range(150)}
    run.log_search_result(Trial(run_id="", arm="t", seed=0, status="FINISHED"), shares)
    stored = store.client.get_run(run.run_id).data.tags["importance"]
    assert len(stored) > 5000 and json.loads(stored) == shares


def test_a_clock_that_is_set_while_a_study_runs_changes_no_duration(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    run = StudyRun(store, store.create_run("a_Run01", {"kind": "study", "study": "a_Run01"}))
    real = time.time
    run.begin(steady_s())
    for hours in (-1, 1):
        monkeypatch.setattr(time, "time", lambda shift=hours: real() + shift * 3600)
        assert 0 <= run.seconds() < 100
    run.end("FINISHED")
    assert 0 <= float(store.client.get_run(run.run_id).data.tags["earlier_s"]) < 100


def test_a_study_that_began_in_another_process_s_future_has_worked_no_negative_time(tmp_path):
    store = open_store(tmp_path)
    run = StudyRun(store, store.create_run("a_Run01", {"kind": "study", "study": "a_Run01"}))
    run.begin(time.time() + 3600)
    assert run.seconds() == 0


def test_the_newest_study_is_that_of_the_highest_number_though_the_clock_was_set_back(tmp_path):
    store = open_store(tmp_path)
    for number, folder in ((1, "here"), (2, "here"), (1, "other")):
        name = f"a_Run{number:02d}"
        tags = {"kind": "study", "study": name, "folder": str(tmp_path / folder / name)}
        at_ms = 10**12 * (4 - number) if folder == "here" else 10**12
        store.client.create_run(store.experiment_id, start_time=at_ms, tags=tags, run_name=name)
    assert find_study(store, "a").name == "a_Run02"
    assert find_study(store, "a_Run01").folder == str(tmp_path / "here" / "a_Run01")


def test_a_trial_of_its_own_never_ended_before_the_claims_of_its_study(
    tmp_path, make_study, monkeypatch
):
    store, study = open_store(tmp_path), make_study()
    ahead = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: ahead)
    tags = {"kind": "study", "study": study.name, **registration_tags(study.claims)}
    run = StudyRun(store, store.create_run(study.name, tags))
    monkeypatch.undo()  # the clock was an hour ahead, and is set right
    trial = run.start_trial("a, seed 0", {})
    store.end_run(trial, "FINISHED")
    registered = registration_of(
        store,
        store.client.get_run(run.run_id),
        study,
        run.children(),
        claim_of=lambda run: study.hypothesis,
    )
    assert registered is not None and (registered.trials, registered.ended_before) == (1, 0)
