"""Runs that a dead driver left RUNNING are closed by the next study; those of a living one are not."""

from segmamba.orchestration.tracking.store import open_store
from segmamba.orchestration.tracking.study_run import STOPPED_REASON, close_abandoned


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
