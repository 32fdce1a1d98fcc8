"""MLflow's registry of models: networks saved as one model that predicts, once for a run, and fetched; the best of a study among them.

What is stored is weights, settings and the code of `pyfunc_model.py` in plain text: nothing is pickled.
"""

import importlib.metadata
import tempfile
import warnings
from pathlib import Path

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

from segmamba.config import PostprocessConfig, load_postprocess
from segmamba.errors import UserError
from segmamba.inference.checkpoint_files import postprocess_file
from segmamba.orchestration.tracking.model_folder import write_folder
from segmamba.orchestration.tracking.outbox import is_away
from segmamba.orchestration.tracking.runs import best_tested
from segmamba.orchestration.tracking.store import as_default, quiet

ALIAS = "champion"
ARTIFACT, NETWORKS = "model", "networks"  # folders: of a run's artifacts, and of the model's own
SIGNATURE = ModelSignature(  # by hand: an inferred one would freeze the sample's sides
    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 4, -1, -1, -1))]),
    outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, -1))]),
    params=ParamSchema([ParamSpec("spacing_mm", "double", [1.0, 1.0, 1.0], (-1,))]),
)
NEEDED = ("torch", "numpy", "scipy", "nibabel")


def register_best(uri, study):
    """The version of `segmamba-STUDY` that the study's best trial is, which gets the alias; None where none was tested.

    It is the trial's best_metric_model.pth with the postprocessing.json beside it, as `segmamba predict --checkpoint` takes them.
    """
    best = best_tested(study)
    if (
        not best or not (Path(best.folder) / "checkpoints" / "best_metric_model.pth").is_file()
    ):  # of another machine, or without validation
        return None
    name, file = f"segmamba-{study.name.rpartition('_Run')[0]}", postprocess_file(best.folder)
    postprocessing = load_postprocess(file) if file else PostprocessConfig()
    tags = {
        "study": study.name,
        "arm": best.arm,
        "seed": str(best.seed),
        "data": study.data["source"],
    }
    version = register_networks(
        uri, best.run_id, name, [best.folder], postprocessing, description=study.question, tags=tags
    )
    MlflowClient(uri).set_registered_model_alias(name, ALIAS, version.version)
    return version


def register_networks(uri, run_id, name, checkpoints, postprocessing, *, description, tags):
    """The version of the registered model `name` that a run stands for: its checkpoints, voting, and what is done with the vote.

    A run that was registered before it was killed has its version already. description: of the model, where it is new.
    """
    quiet()
    client = MlflowClient(uri)
    if found := client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        return found[0]
    with as_default(uri), tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", ".*input example was not provided"
        )  # the signature stands in for one
        folder = Path(scratch) / ARTIFACT
        networks = write_folder(Path(scratch) / NETWORKS, checkpoints, postprocessing)
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={NETWORKS: str(networks)},
            signature=SIGNATURE,
            pip_requirements=[
                f"{package}=={importlib.metadata.version(package)}" for package in NEEDED
            ],
        )
        client.log_artifacts(run_id, str(folder), ARTIFACT)
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = client.get_run(run_id).info.artifact_uri.rstrip("/") + f"/{ARTIFACT}"
    return client.create_model_version(name, source, run_id=run_id, tags=tags)


def champion_of(client, name):
    """The version of a registered model that has the alias, or None."""
    try:
        return client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if is_away(error):
            raise
        return None


def fetch_model(address, uri, folder):
    """Download what "models:/NAME@ALIAS" or "models:/NAME/VERSION" of the store `uri` stands for into `folder`; returns its path."""
    quiet()
    try:
        with as_default(uri):
            return Path(
                mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder))
            )
    except (MlflowException, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"--model {address}: not to be had from the MLflow store {uri} ({reason}); see its Models page, or set "
            "MLFLOW_TRACKING_URI"
        ) from error
