"""One MLflow run, written from the process that trains, and never waited for.

The run's folder holds every metric before MLflow is told of it. So a server that is away for a while gets what it missed when it is
back, and a process that was killed sends at its next start what the store lacks: no epoch is missing there, none is there twice.
"""

import hashlib
import importlib.util
import json
import os
import time

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from segmamba.orchestration.tracking.outbox import Outbox
from segmamba.orchestration.tracking.store import quiet

TEST_TABLE = "test_cases.json"
REASON_TAG, FOLDER_TAG, KEY_TAG = "reason", "folder", "run_key"
PARAM_LIMIT = 100  # MLflow's largest number of parameters in one log_batch
PATIENCE_S = 60.0
"""How long the end of a run waits for a server that is away."""


class RunLog:
    """Writes the run that `open_run(client)`, which gives its id, finds or makes. Every method returns at once, but for `close`."""

    def __init__(self, uri, open_run, source, *, system_metrics=False):
        quiet()
        for name, value in {
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        }.items():
            os.environ.setdefault(name, value)  # the outbox tries again by itself
        self.run_id, self.source = None, source
        self._uri, self._open_run, self._client = uri, open_run, None
        self._logged, self._monitor = set(), None
        self._wants_monitor = system_metrics and importlib.util.find_spec("psutil") is not None
        self._outbox = Outbox()
        self._outbox.put(self._open)

    def log_config(self, flat):
        """The full flat configuration as parameters; logging the same values again is harmless."""
        params = [Param(name, str(value)) for name, value in flat.items()]
        for at in range(0, len(params), PARAM_LIMIT):
            self._batch(params=params[at : at + PARAM_LIMIT])

    def log_data(self, data):
        """The Split's three sets as dataset inputs; logging the same ones again is harmless."""
        inputs = dataset_inputs(self.source, data)
        self._outbox.put(lambda: self._client.log_inputs(self.run_id, inputs))

    def log_history(self, entries):
        """Those of the epochs, dicts of metrics with "epoch", that the store does not have yet."""
        for entry in entries:
            self.log_epoch(
                {name: value for name, value in entry.items() if name != "epoch"}, entry["epoch"]
            )

    def log_epoch(self, metrics, epoch):
        """The metrics of an epoch in one request, unless the store has the epoch."""
        batch = _metrics(metrics, epoch)
        self._outbox.put(lambda: self._send_epoch(batch, epoch))

    def log_metrics(self, metrics, step):
        """A run's final figures, those that the store does not have yet, in one request."""
        batch = _metrics(metrics, step)
        self._outbox.put(lambda: self._send_missing(batch))

    def log_test_cases(self, rows):
        """The per-case table, once: a second call would append to it."""
        self._outbox.put(
            lambda: self._send_table({name: [row[name] for row in rows] for name in rows[0]})
        )

    def log_files(self, paths, folder):
        """Files as artifacts. One that has gone away before its turn came is left out: to wait for it would hold up all that follows."""
        for path in paths:
            self._outbox.put(lambda path=path: self._send_file(path, folder))

    def log_tags(self, tags):
        self._batch(tags=[RunTag(name, str(value)[:5000]) for name, value in tags.items()])

    def log_reason(self, reason):
        """Why the run did not finish."""
        self.log_tags({REASON_TAG: reason})

    def end(self, status):
        """FINISHED, FAILED or KILLED."""
        self._outbox.put(self._end_monitor)
        self._outbox.put(lambda: self._client.set_terminated(self.run_id, status))

    def close(self, seconds=PATIENCE_S):
        """Whether the store has everything; waits at most about `seconds` for a server that is away."""
        self._outbox.put(self._end_monitor)
        return self._outbox.close(seconds)

    @property
    def away_because(self):
        """Why the store does not answer; empty where it does."""
        return self._outbox.away_because

    def _open(self):
        self._client = self._client or MlflowClient(self._uri)
        self.run_id = self._open_run(self._client)
        self._logged = {
            metric.step for metric in self._client.get_metric_history(self.run_id, "train/loss")
        }
        self._watch_machine()

    def _batch(self, **entities):
        self._outbox.put(lambda: self._client.log_batch(self.run_id, **entities))

    def _send_epoch(self, batch, epoch):
        if epoch not in self._logged:
            self._client.log_batch(self.run_id, metrics=batch)
            self._logged.add(epoch)
        self._watch_machine()

    def _send_missing(self, batch):
        known = self._client.get_run(self.run_id).data.metrics
        missing = [metric for metric in batch if metric.key not in known]
        if missing:
            self._client.log_batch(self.run_id, metrics=missing)

    def _send_file(self, path, folder):
        if path.exists():
            self._client.log_artifact(self.run_id, str(path), folder)

    def _send_table(self, table):
        if not any(file.path == TEST_TABLE for file in self._client.list_artifacts(self.run_id)):
            self._client.log_table(self.run_id, table, TEST_TABLE)

    def _watch_machine(self):
        """Start MLflow's own sampling of CPU, memory and GPUs, again where it gave up because the server was away."""
        if self._wants_monitor and (self._monitor is None or self._monitor.gave_up):
            self._monitor = _Monitor(self.run_id, resume_logging=True, tracking_uri=self._uri)
            self._monitor.start()

    def _end_monitor(self):
        self._wants_monitor, monitor, self._monitor = False, self._monitor, None
        if monitor:
            monitor.finish()


class _Monitor(SystemMetricsMonitor):
    """MLflow's sampler, which also tells when its thread has ended."""

    gave_up = False

    def monitor(self):
        super().monitor()
        self.gave_up = True


def keyed_run(client, experiment_id, key, name, tags):
    """The id of the run that carries `key`, set RUNNING again, or of a new one."""
    found = client.search_runs([experiment_id], f"tags.{KEY_TAG} = '{key}'")
    if not found:
        return client.create_run(
            experiment_id, run_name=name, tags={**tags, KEY_TAG: key, "kind": "train"}
        ).info.run_id
    run = found[0]
    client.update_run(run.info.run_id, status="RUNNING")
    if REASON_TAG in run.data.tags:
        client.delete_tag(run.info.run_id, REASON_TAG)  # of an earlier start
    return run.info.run_id


def dataset_inputs(source, data):
    """The three sets of a Split as MLflow dataset inputs; the digest changes with any file or preprocessing setting."""
    inputs = []
    for context, cases in (
        ("train", data.train),
        ("validation", data.validation),
        ("test", data.test),
    ):
        digest = hashlib.sha256(
            "\n".join(sorted(case.folder.name for case in cases)).encode()
        ).hexdigest()[:16]
        profile = json.dumps({"cases": len(cases), "ids": sorted(case.id for case in cases)})
        dataset = Dataset(
            f"{context} ({len(cases)} cases)",
            digest,
            "local",
            json.dumps({"uri": source}),
            profile=profile[:16_000_000],
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return inputs


def _metrics(metrics, step):
    """With their time, which stays the same however often they are sent: MLflow keeps one of two identical entries."""
    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in metrics.items()]
