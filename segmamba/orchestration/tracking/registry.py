"""MLflow's registry of models: networks saved as one model that predicts, and fetched again.

What is stored is weights, settings and the code of `pyfunc_model.py` in plain text. Nothing is
pickled.
"""

import importlib.metadata
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ParamSchema, ParamSpec

from segmamba.config import PostprocessConfig, load_postprocess
from segmamba.errors import UserError
from segmamba.inference.checkpoint_files import postprocess_file
from segmamba.leftovers import folder_beside
from segmamba.orchestration.tracking.model_folder import write_folder
from segmamba.orchestration.tracking.outbox import is_away
from segmamba.orchestration.tracking.store import Store, as_default, prose, quiet
from segmamba.orchestration.tracking.study_text import described_model, described_version
from segmamba.studies.champion import best_tested
from segmamba.studies.results import Study

ALIAS = "champion"
ARTIFACT, NETWORKS = "model", "networks"  # folders: of a run's artifacts, and of the model's own
USE = {
    "input": "an array, float32 (B, 4, x, y, z) or (4, x, y, z): T1, T1ce, T2, FLAIR; or the path "
    "of a folder of cases, of a case or of one of its files, or several paths",
    "output": "of an array uint8 (B, x, y, z); of paths a dict of case id to uint8 (x, y, z)",
}
"""What `predict` takes and returns, kept with the model."""
SIGNATURE = ModelSignature(  # of parameters alone: a schema of arrays would refuse paths
    params=ParamSchema([ParamSpec("spacing_mm", "double", [1.0, 1.0, 1.0], (-1,))]),
)
NEEDED = ("torch", "numpy", "scipy", "nibabel")


def register_best(store: Store, study: Study) -> ModelVersion | None:
    """Register a study's best trial as the newest version of `segmamba-STUDY`, with the alias.

    The version is the trial's best_metric_model.pth with the postprocessing.json beside it, as
    `segmamba predict --checkpoint` takes them.

    Returns:
        The version; None where no trial was tested or the weights are on another machine.
    """
    best = best_tested(study)
    if not best or not (Path(best.folder) / "checkpoints" / "best_metric_model.pth").is_file():
        return None
    name, file = f"segmamba-{study.name.rpartition('_Run')[0]}", postprocess_file(best.folder)
    postprocessing = load_postprocess(file) if file else PostprocessConfig()
    tags = {
        "study": study.name,
        "arm": best.arm,
        "seed": str(best.seed),
        "data": study.data.source,
    }
    version = register_networks(
        store,
        best.run_id,
        name,
        Networks([Path(best.folder)], postprocessing),
        description=described_model(study),
        tags=tags,
    )
    store.client.update_model_version(name, version.version, prose(described_version(study)))
    store.client.set_registered_model_alias(name, ALIAS, version.version)
    return version


@dataclass(frozen=True)
class Networks:
    """What a registered model is: networks that vote, and what is done with their vote."""

    checkpoints: Sequence[Path]
    """As `load_predictor` takes them."""
    postprocessing: PostprocessConfig


def register_networks(
    store: Store,
    run_id: str,
    name: str,
    networks: Networks,
    *,
    description: str,
    tags: dict[str, str],
) -> ModelVersion:
    """Register networks as a version of a model.

    Args:
        store: Of the run and the model.
        run_id: The run that the version stands for; one that was registered before it was killed
            has its version already.
        name: Of the registered model.
        networks: What predicts.
        description: Of the model, where it is new.
        tags: Of the version.
    """
    quiet()
    client = store.client
    if versions := client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        return versions[0]
    place = Path(tempfile.gettempdir()) / "segmamba-model"
    with as_default(store.uri), folder_beside(place) as scratch, warnings.catch_warnings():
        # The signature stands in for an example.
        warnings.filterwarnings("ignore", ".*input example was not provided")
        folder = scratch / ARTIFACT
        written = write_folder(scratch / NETWORKS, networks.checkpoints, networks.postprocessing)
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={NETWORKS: str(written)},
            signature=SIGNATURE,
            metadata=USE,
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


def champion_of(store: Store, name: str) -> ModelVersion | None:
    """Return the version of a registered model that has the alias, or None."""
    try:
        return store.client.get_model_version_by_alias(name, ALIAS)
    except MlflowException as error:
        if is_away(error):
            raise
        return None


def fetch_model(address: str, uri: str, folder: Path) -> Path:
    """Download a registered model.

    Args:
        address: "models:/NAME@ALIAS" or "models:/NAME/VERSION".
        uri: Of the MLflow store.
        folder: Where to.

    Returns:
        The folder that holds the model, as `load_folder` takes it.

    Raises:
        UserError: The store has no such model, or cannot be used.
    """
    quiet()
    try:
        with as_default(uri):
            return Path(
                mlflow.artifacts.download_artifacts(artifact_uri=address, dst_path=str(folder))
            )
    except (MlflowException, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"--model {address}: not to be had from the MLflow store {uri} ({reason}); see "
            "its Models page, or set MLFLOW_TRACKING_URI"
        ) from error
