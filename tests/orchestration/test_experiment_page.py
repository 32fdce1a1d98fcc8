"""What the experiment tells MLflow's pages, and where they open."""

import json

from segmamba.orchestration.tracking.experiment_page import ARMS_VIEW, runs_address
from segmamba.orchestration.tracking.store import Store, open_store


def tags_of(store):
    return store.client.get_experiment(store.experiment_id).tags


def test_an_experiment_is_one_of_training_with_views_of_scores_and_of_arms(tmp_path):
    store = open_store(tmp_path)
    tags = tags_of(store)
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    views = {
        name.rpartition(".")[2]: json.loads(value)
        for name, value in tags.items()
        if name.startswith("mlflow.sharedViewState.")
    }
    assert views.keys() == {"segmamba", "segmamba-arms"}
    for view in views.values():
        assert view["name"].startswith("SegMamba: ") and isinstance(view["createdAt"], int)
        assert "metrics.`test/dice_mean`" in json.loads(view["state"])["selectedColumns"]
    assert json.loads(views["segmamba-arms"]["state"])["searchFilter"] == "tags.kind = 'arm'"


def test_what_a_reader_changed_of_an_experiment_stays_and_what_it_lacks_is_added(tmp_path):
    store = open_store(tmp_path)
    store.client.set_experiment_tag(store.experiment_id, "mlflow.experimentKind", "theirs")
    store.client.delete_experiment_tag(store.experiment_id, "mlflow.sharedViewState.segmamba")
    tags = tags_of(open_store(tmp_path))
    assert tags["mlflow.experimentKind"] == "theirs" and "mlflow.sharedViewState.segmamba" in tags


def test_the_address_is_that_of_mlflow_ui_or_of_the_server():
    query = "workflowType=machine_learning&viewStateShareKey=segmamba"
    database = Store("sqlite:////results/mlflow.db", "3")
    assert database.page == f"http://127.0.0.1:5000/#/experiments/3/runs?{query}"
    server = Store("https://mlflow.example.org/", "1")
    assert server.page == f"https://mlflow.example.org/#/experiments/1/runs?{query}"
    secret = Store("https://me:secret@mlflow.example.org", "1")
    assert secret.page == server.page, "it is printed and kept with the study"
    arms = runs_address("http://host:1", "1", ARMS_VIEW)
    assert arms.endswith("-arms") and "compareRunsMode=CHART" in arms
