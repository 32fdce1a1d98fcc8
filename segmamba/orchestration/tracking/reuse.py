"""A trial whose configuration, data, code and seed have a finished run already is taken from there and not trained again."""

import functools
import hashlib
import json
from pathlib import Path

import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

import segmamba
from segmamba.device import choose_device

DIGEST_TAG, REUSED_TAG = "trial_digest", "reused_from"
ROOMS = ("config", "data", "models", "inference", "evaluation", "training", "device.py")
"""The code that decides what a trial's result is."""
BATCH_METRICS, BATCH_PARAMS = 1000, 100  # MLflow's largest log_batch


def trial_digest(config, split):
    """A name for all that a trial's result depends on: configuration with its seed, the cases of its three sets, code, torch, device."""
    sets = {
        name: [case.folder.name for case in getattr(split, name)]
        for name in ("train", "validation", "test", "unlabelled")
    }
    settings = config.to_flat_dict() | {
        "data.source": ""
    }  # where the cases lie is no matter: their own digests are told
    told = {
        "config": settings,
        "data": sets,
        "code": code_digest(),
        "torch": torch.__version__,
        "device": _device(),
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def code_digest():
    """Of the source files that train and test, as they are now, committed or not."""
    root, digest = Path(segmamba.__file__).parent, hashlib.sha256()
    for room in ROOMS:
        for path in (
            sorted((root / room).rglob("*.py")) if (root / room).is_dir() else [root / room]
        ):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _device():
    device = choose_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def finished_run(client, experiment_id, digest):
    """The oldest FINISHED run that trained with this digest, or None. Runs that were taken from it do not count."""
    found = client.search_runs(
        [experiment_id],
        f"tags.{DIGEST_TAG} = '{digest}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time ASC"],
        max_results=100,
    )
    return next(
        (
            run
            for run in found
            if REUSED_TAG not in run.data.tags and "stopped_by" not in run.data.tags
        ),
        None,
    )


def take_over(uri, source, target_id, table):
    """Copy parameters, metrics with their history and the artifact `table` of the run `source` into the run `target_id`."""
    client = MlflowClient(uri)
    study = source.data.tags.get("study", "another study")
    params = [Param(name, value) for name, value in source.data.params.items()]
    for at in range(0, len(params), BATCH_PARAMS):
        client.log_batch(target_id, params=params[at : at + BATCH_PARAMS])
    metrics = [
        Metric(m.key, m.value, m.timestamp, m.step)
        for name in source.data.metrics
        if not name.startswith("system/")
        for m in client.get_metric_history(source.info.run_id, name)
    ]
    for at in range(0, len(metrics), BATCH_METRICS):
        client.log_batch(target_id, metrics=metrics[at : at + BATCH_METRICS])
    if any(file.path == table for file in client.list_artifacts(source.info.run_id)):
        client.log_artifact(target_id, client.download_artifacts(source.info.run_id, table))
    tags = {
        "reason": f"reused from {study} (run {source.info.run_id})",
        REUSED_TAG: source.info.run_id,
        "folder": source.data.tags.get("folder", ""),
    }
    client.log_batch(target_id, tags=[RunTag(name, value) for name, value in tags.items()])
