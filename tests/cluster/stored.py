"""What a study has left, in a form in which two studies can be compared."""

import json

from mlflow import MlflowClient
from mlflow.entities import Run

EXPERIMENT = "segmamba"
OF_TIME = ("time/", "system/")
"""What the names of metrics begin with that no two runs have in common."""


def runs_of(client: MlflowClient) -> list[Run]:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def statuses(client: MlflowClient) -> set[str]:
    return {run.info.status for run in runs_of(client)}


def histories(client: MlflowClient) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Each trial's metrics: its key to names to (step, value), every entry that there is."""
    return {
        run.data.tags["trial"]: {
            name: sorted(
                (metric.step, metric.value)
                for metric in client.get_metric_history(run.info.run_id, name)
            )
            for name in run.data.metrics
            if not name.startswith(OF_TIME)
        }
        for run in runs_of(client)
        if run.data.tags["kind"] == "trial"
    }


def final_metrics(study: object) -> dict[str, dict[str, float]]:
    """Each trial's final_metrics.json below the folder of a study, times left out."""
    return {
        path.parent.parent.name: {
            name: value
            for name, value in json.loads(path.read_text()).items()
            if not name.startswith(OF_TIME)
        }
        for path in study.glob("trials/*/metrics/final_metrics.json")
    }
