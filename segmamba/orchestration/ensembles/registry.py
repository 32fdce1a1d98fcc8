"""The ensemble that minival likes best, as the registered model's champion."""

from mlflow import MlflowClient

from segmamba.orchestration.tracking.registry import ALIAS, champion_of, register_networks

NAME = "segmamba-ensemble"
DESCRIPTION = f"Networks that vote softly; `segmamba predict --model models:/{NAME}@{ALIAS}`"


def register_ensemble(uri, run_id, checkpoints, postprocessing, minival, *, tags=None):
    """(version, whether it is the champion): the members of a run as the newest version of NAME, or the one that the run has already.

    minival: (case ids, mean Dice of the vote). The alias moves to it unless its present holder scored higher on the same minival cases.
    """
    cases, score = minival
    told = (tags or {}) | {"members": str(len(checkpoints)), "minival_dice_mean": f"{score:.6f}", "minival_cases": ", ".join(sorted(cases))[:4900]}
    version = register_networks(uri, run_id, NAME, checkpoints, postprocessing, description=DESCRIPTION, tags=told)
    client = MlflowClient(uri)
    champion = champion_of(client, NAME)
    rival = champion.tags if champion else {}
    wins = rival.get("minival_cases") != told["minival_cases"] or float(told["minival_dice_mean"]) >= float(rival["minival_dice_mean"])
    if wins:
        client.set_registered_model_alias(NAME, ALIAS, version.version)
    return version.version, wins
