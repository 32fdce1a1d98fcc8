"""Calls that MLflow has carried out although their answer was lost, made again."""

import requests

from segmamba.orchestration.tracking import store as store_module
from segmamba.orchestration.tracking.store import Store, open_store
from tests.orchestration.mlflow_study import begin


def test_a_study_whose_first_answer_was_lost_has_one_run(make_study, tmp_path, monkeypatch):
    store, said = open_store(tmp_path), []
    create_run, created = Store.create_run, []

    def lost(self, name, tags):
        created.append(create_run(self, name, tags))
        raise requests.ConnectionError("the connection was closed")

    monkeypatch.setattr(store_module, "PAUSE_S", 0.01)
    monkeypatch.setenv("SEGMAMBA_PATIENCE_S", "5")
    monkeypatch.setattr(Store, "create_run", lost)
    run = store.retry(lambda: begin(store, make_study(), tmp_path / "study"), said.append)
    assert created == [run.run_id] and len(said) == 1
    assert [one.info.run_id for one in store.search("tags.kind = 'study'")] == created
    assert run.folder == str(tmp_path / "study") and run.stored()
