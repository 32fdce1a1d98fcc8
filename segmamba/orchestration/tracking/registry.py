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
    try:
        client.create_registered_model(name, description=study.question)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"study": study.name, "arm": best.arm, "seed": str(best.seed), "data": study.data["source"]}
    source = client.get_run(best.run_id).info.artifact_uri.rstrip("/") + f"/{FOLDER}"
    version = client.create_model_version(name, source, run_id=best.run_id, tags=tags)
    client.set_registered_model_alias(name, ALIAS, version.version)
    return version
