"""How MLflow's own pages open: on training runs, with columns of scores.

MLflow 3 shows an experiment as one of generative AI or of model training. Versions before 3.9 read
the experiment's tag; later ones read the address or what the reader chose last. `runs_address`
gives an address for both, and names the view that the experiment keeps: columns that say which arm
and seed a run is and what it scored.
"""

import json
import time
from collections.abc import Container, Mapping
from urllib.parse import urlencode

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from segmamba.orchestration.tracking.outbox import is_away

KIND_TAG, TRAINING = "mlflow.experimentKind", "custom_model_development"
PRIMARY_TAG, PRIMARY = "mlflow.experiment.primaryMetric.name", "test/dice_mean"
"""The score that MLflow's charts begin with."""
VIEW = "segmamba"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
COLUMNS = (
    "tags.`answer`",
    "tags.`arm`",
    "tags.`seed`",
    "metrics.`test/dice_mean`",
    "metrics.`test_sd/dice_mean`",
    "metrics.`val/best_dice_mean`",
    "metrics.`test/hd95_mm_mean`",
    "attributes.`Dataset`",
)
UI_ADDRESS = "http://127.0.0.1:5000"
"""Where `mlflow ui` answers unless told otherwise."""


def set_up_experiment(client: MlflowClient, experiment_id: str, known: Container[str]) -> None:
    """Give an experiment the tags that its pages read, those that it lacks.

    What a reader changed stays. A store that lets nobody change experiments is used as it is.

    Args:
        client: Of the store.
        experiment_id: The experiment.
        known: Names of the tags that it has.
    """
    try:
        for name, value in _tags().items():
            if name not in known:
                client.set_experiment_tag(experiment_id, name, value)
    except MlflowException as error:
        if is_away(error):
            raise


def runs_address(uri: str, experiment_id: str) -> str:
    """Return the address of the page that lists an experiment's runs.

    Args:
        uri: Of the store: a server's, or a database's, which `mlflow ui` serves.
        experiment_id: The experiment.
    """
    server = uri.rstrip("/") if uri.startswith(("http://", "https://")) else UI_ADDRESS
    words = urlencode({"workflowType": "machine_learning", "viewStateShareKey": VIEW})
    return f"{server}/#/experiments/{experiment_id}/runs?{words}"


def _tags() -> Mapping[str, str]:
    state = json.dumps({"selectedColumns": COLUMNS, "runsHiddenMode": "FIRST_20_RUNS"})
    view = {"name": "SegMamba: arms and scores", "createdAt": int(time.time() * 1000)}
    return {
        KIND_TAG: TRAINING,
        PRIMARY_TAG: PRIMARY,
        VIEW_TAG: json.dumps(view | {"state": state}),
    }
