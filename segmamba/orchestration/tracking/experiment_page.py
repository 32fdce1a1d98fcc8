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
from segmamba.reports.pages import server_of

KIND_TAG, TRAINING = "mlflow.experimentKind", "custom_model_development"
PRIMARY_TAG, PRIMARY = "mlflow.experiment.primaryMetric.name", "test/dice_mean"
"""The score that MLflow's charts begin with."""
VIEW, ARMS_VIEW = "segmamba", "segmamba-arms"
VIEW_TAG = "mlflow.sharedViewState."
"""With the key of a view behind it: the tag that holds the view."""
SUMMARY_TAG = "summary"
"""The tag that names the run of an arm, and that of a study, among those of all studies."""
COLUMNS = (
    "tags.`answer`",
    "tags.`arm`",
    "tags.`seed`",
    "metrics.`test/dice_mean`",
    "metrics.`test_sd/dice_mean`",
    "metrics.`val/best_dice_mean`",
    "metrics.`test/hd95_mm_mean`",
)


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


def runs_address(uri: str, experiment_id: str, view: str = VIEW) -> str:
    """Return the address of the page that lists an experiment's runs.

    Args:
        uri: Of the store: a server's, or a database's, which `mlflow ui` serves.
        experiment_id: The experiment.
        view: VIEW lists studies with what is below them, ARMS_VIEW draws the runs of arms alone.
    """
    words = {"workflowType": "machine_learning", "viewStateShareKey": view}
    if view == ARMS_VIEW:
        words = {"compareRunsMode": "CHART", **words}
    return f"{server_of(uri)}/#/experiments/{experiment_id}/runs?{urlencode(words)}"


def _tags() -> Mapping[str, str]:
    columns = {"selectedColumns": COLUMNS, "runsHiddenMode": "FIRST_20_RUNS"}
    # MLflow folds away the runs below a study's, but for those that are grouped: here one a group.
    by_arm = {"mode": "tag", "groupByData": SUMMARY_TAG}
    arms = columns | {
        "searchFilter": "tags.kind = 'arm'",
        "chartsSearchFilter": "^(test|val)/",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [by_arm]},
    }
    return {
        KIND_TAG: TRAINING,
        PRIMARY_TAG: PRIMARY,
        f"{VIEW_TAG}{VIEW}": _view("SegMamba: studies and their runs", columns),
        f"{VIEW_TAG}{ARMS_VIEW}": _view("SegMamba: arms", arms),
    }


def _view(name: str, state: Mapping[str, object]) -> str:
    """A view as MLflow's pages write and read it."""
    created_ms = int(time.time() * 1000)
    return json.dumps({"name": name, "createdAt": created_ms, "state": json.dumps(state)})
