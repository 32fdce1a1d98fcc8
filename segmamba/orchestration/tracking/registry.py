"""The model of a study that minival likes best, as a registered version with an alias: plain weights and a config.json, no code."""

from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from segmamba.orchestration.tracking.runs import best_judged

ALIAS = "champion"
FOLDER = "model"


def register_best(uri, study):
    """Register the weights of the study's best trial as the newest version of `segmamba-STUDY` and give it the alias; None where none judged.

    Its artifacts are best_metric_model.pth, which `torch.load(weights_only=True)` reads, and config.json, which builds its network.
    """
    best = best_judged(study)
    checkpoint = best and Path(best.folder) / "checkpoints" / "best_metric_model.pth"
    if not best or not checkpoint.is_file():  # of another machine, or a run without an evaluation of minival
        return None
    client, name = MlflowClient(uri), f"segmamba-{study.name.rpartition('_Run')[0]}"
    for path in (checkpoint, Path(best.folder) / "config.json"):
        client.log_artifact(best.run_id, str(path), FOLDER)
    tags = {"study": study.name, "arm": best.arm, "seed": str(best.seed), "data": study.data["source"]}
    version = version_of(client, name, best.run_id, FOLDER, description=study.question, tags=tags)
    client.set_registered_model_alias(name, ALIAS, version.version)
    return version


def version_of(client, name, run_id, folder, *, description, tags):
    """The version of the registered model `name` that a run's artifacts below `folder` are; made where a resumed study has not made it before."""
    try:
        client.create_registered_model(name, description=description)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if found := client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        return found[0]
    source = client.get_run(run_id).info.artifact_uri.rstrip("/") + f"/{folder}"
    return client.create_model_version(name, source, run_id=run_id, tags=tags)
