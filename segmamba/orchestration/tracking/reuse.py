"""A trial whose configuration, data, code and seed have a finished run is taken from there."""

import functools
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import torch
from mlflow.entities import Metric, Run

import segmamba
from segmamba.config import Config
from segmamba.data.splits import Split
from segmamba.device import choose_device, device_kind
from segmamba.environment import digest_of_code
from segmamba.models.cpu_library import find_library
from segmamba.orchestration.tracking.bulk import oldest_finished
from segmamba.orchestration.tracking.log import NEUTRAL, WEIGHTS_TAG
from segmamba.orchestration.tracking.run_log import FOLDER_TAG, REASON_TAG, STOPPED_TAG
from segmamba.orchestration.tracking.store import Store

DIGEST_TAG, REUSED_TAG, MADE_WITH_TAG = "trial_digest", "reused_from", "made_with"
ROOMS = ("config", "data", "models", "inference", "evaluation", "training", "device.py")
"""The code that decides what a trial's result is."""


def trial_digest(config: Config, split: Split) -> str:
    """Return a name for all that a trial's result depends on.

    That is its configuration with its seed, the cases of its sets, the code, torch and the device.
    Where the cases lie and how they are named does not matter: their own digests are part of it.
    Nor does what `data.patients` says: the sets are what it decides. Nor do the loader's processes.
    """
    sets = {
        name: [case.folder.name for case in getattr(split, name)]
        for name in ("train", "validation", "test", "unlabelled")
    }
    parts = {
        "config": config.to_flat_dict() | NEUTRAL,
        "data": sets,
        "code": code_digest(),
        "torch": torch.__version__,
        "device": _device(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def made_with(split: Split) -> dict[str, str]:
    """Return what a trial's result depends on beside its configuration and the ids of its cases.

    Studies are pooled where it is the same: the code, torch, the device, and the prepared cases,
    whatever set each is in.
    """
    sets = (split.train, split.validation, split.test, split.unlabelled)
    cases = sorted(case.folder.name for of in sets for case in of)
    return {
        "code": code_digest()[:32],
        "torch": torch.__version__,
        "device": _device(),
        "cases": hashlib.sha256("\0".join(cases).encode()).hexdigest()[:32],
    }


@functools.cache
def code_digest() -> str:
    """Return a digest of the code that trains and tests, as it is now, committed or not."""
    return digest_of_code(Path(segmamba.__file__).parent, ROOMS)


def _device() -> str:
    """The kind of the device, and whether a CPU's own kernels run: they change the last bits."""
    kind = device_kind(choose_device())
    return f"{kind}, own kernels" if kind == "cpu" and find_library()[0] else kind


def finished_runs(store: Store, digests: Collection[str]) -> dict[str, Run]:
    """Find the oldest FINISHED run that trained with each of some digests.

    Runs that were taken from it do not count, nor do runs that a scheduler ended early.

    Args:
        store: Where they are.
        digests: As `trial_digest` makes them.

    Returns:
        Digest to its run; digests that no run has are missing.
    """
    return oldest_finished(store, DIGEST_TAG, digests, without=(REUSED_TAG, STOPPED_TAG))


def take_over(store: Store, source: Run, target_id: str, table: str) -> None:
    """Copy a run's parameters, metrics with their history, weights' digests and cases.

    Args:
        store: Of both runs.
        source: The run that was trained.
        target_id: The run that is to stand for it.
        table: Name of the artifact with the test cases.
    """
    store.log_params(target_id, source.data.params)
    entities = [
        Metric(m.key, m.value, m.timestamp, m.step)
        for name in source.data.metrics
        if not name.startswith("system/")
        for m in store.client.get_metric_history(source.info.run_id, name)
    ]
    store.log_metric_entities(target_id, entities)
    if store.has_artifact(source.info.run_id, table):
        with store.artifact(source.info.run_id, table) as path:
            store.client.log_artifact(target_id, str(path))
    study = source.data.tags.get("study", "another study")
    weights = {k: v for k, v in source.data.tags.items() if k.startswith(WEIGHTS_TAG)}
    store.set_tags(
        target_id,
        weights
        | {
            REASON_TAG: f"reused from {study} (run {source.info.run_id})",
            REUSED_TAG: source.info.run_id,
            FOLDER_TAG: source.data.tags.get(FOLDER_TAG, ""),
        },
    )
