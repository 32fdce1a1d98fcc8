"""An ensemble as one registered model that predicts, and models of the registry as folders."""

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

from segmamba.errors import UserError
from segmamba.orchestration.ensembles.folder import write_folder
from segmamba.orchestration.tracking.registry import version_of
from segmamba.orchestration.tracking.store import as_default, quiet

NAME, ALIAS = "segmamba-ensemble", "champion"
ARTIFACT = "ensemble"
SIGNATURE = ModelSignature(  # by hand: an inferred one would freeze the sample's sides
    inputs=Schema([TensorSpec(np.dtype(np.float32), (-1, 4, -1, -1, -1))]),
    outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, -1))]),
    params=ParamSchema([ParamSpec("spacing_mm", "double", [1.0, 1.0, 1.0], (-1,))]),
)
NEEDED = ("torch", "numpy", "scipy", "nibabel")


def register_ensemble(uri, run_id, checkpoints, postprocessing, minival, *, tags=None):
    """(version, whether it is the champion): the members of a run as the newest version of NAME, or the one that the run has already.

    minival: (case ids, mean Dice of the vote). The alias moves to it unless its present holder scored higher on the same minival cases.
    """
    quiet()
    cases, score = minival
    with as_default(uri), tempfile.TemporaryDirectory() as scratch:
        members = write_folder(Path(scratch) / ARTIFACT, checkpoints, postprocessing)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # wants type hints and an example, which the signature stands in for
            mlflow.pyfunc.save_model(
                Path(scratch) / "model", python_model=str(Path(__file__).with_name("model.py")), artifacts={ARTIFACT: str(members)},
                signature=SIGNATURE, pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in NEEDED],
            )  # fmt: skip
        client = MlflowClient(uri)
        client.log_artifacts(run_id, str(Path(scratch) / "model"), ARTIFACT)
    told = (tags or {}) | {"members": str(len(checkpoints)), "minival_dice_mean": f"{score:.6f}", "minival_cases": ", ".join(sorted(cases))[:4900]}
    described = "Networks that vote softly; `segmamba predict --model models:/segmamba-ensemble@champion`"
    version = version_of(client, NAME, run_id, ARTIFACT, description=described, tags=told)
    champion = _champion(client)
    rival = champion.tags if champion else {}
    wins = rival.get("minival_cases") != told["minival_cases"] or float(told["minival_dice_mean"]) >= float(rival["minival_dice_mean"])
    if wins:
        client.set_registered_model_alias(NAME, ALIAS, version.version)
    return version.version, wins


def _champion(client):
    try:
        return client.get_model_version_by_alias(NAME, ALIAS)
    except MlflowException:  # no version has it yet
        return None


def fetch_model(address, uri, folder):
    """Download what "models:/NAME@ALIAS" or "models:/NAME/VERSION" of the store `uri` stands for into `folder`; returns its path."""
    quiet()
    try:
        with as_default(uri):
            return Path(mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(f"--model {address}: not to be had from the MLflow store {uri} ({reason}); see its Models page, or set "
                        "MLFLOW_TRACKING_URI") from error  # fmt: skip
