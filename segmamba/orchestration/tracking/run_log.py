"""One MLflow run, written from the process that trains, and never waited for.

The run's folder holds every metric before MLflow gets it. A server that is away for a while gets
what it missed when it is back, and a process that was killed sends at its next start what the
store lacks: no epoch is missing there, and none is there twice.
"""

import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from segmamba.data.splits import Split
from segmamba.orchestration.tracking.log import NEUTRAL
from segmamba.orchestration.tracking.outbox import Outbox
from segmamba.orchestration.tracking.store import Store, fail_fast, metric_entities, prose, quiet

TEST_TABLE = "test_cases.json"
REASON_TAG, FOLDER_TAG, KEY_TAG, STOPPED_TAG = "reason", "folder", "run_key", "stopped_by"
IMAGES = "images"
"""The folder of a run's artifacts where MLflow keeps series of images."""
CLOSING_PATIENCE_S = 60.0
"""How long the end of a run waits for a server that is away."""


class RunLog:
    """A `Log` that writes one MLflow run."""

    def __init__(
        self,
        store: Store,
        open_run: Callable[[], str],
        source: str,
        *,
        system_metrics: bool = False,
    ) -> None:
        """Open the run in the background.

        Args:
            store: Where the run is.
            open_run: Finds or makes the run and returns its id; tried again while the store is
                away.
            source: The data set in words, for MLflow's dataset inputs.
            system_metrics: Whether MLflow samples processor, memory and GPUs meanwhile.
        """
        quiet()
        fail_fast()  # the outbox tries again by itself
        self.run_id, self.source = "", source
        self._store, self._open_run = store, open_run
        self._logged: set[int] = set()
        self._monitor: _Monitor | None = None
        self._wants_monitor = system_metrics and importlib.util.find_spec("psutil") is not None
        self._outbox = Outbox()
        self._outbox.put(self._open)

    def log_config(self, flat: Mapping[str, object]) -> None:
        """Log the full flat configuration as parameters.

        MLflow lets none be changed. A run that goes on where its data were moved keeps their first
        place, and so all NEUTRAL settings.
        """
        self._outbox.put(functools.partial(self._send_config, flat))

    def log_data(self, data: Split) -> None:
        """Log the Split's three sets as dataset inputs."""
        inputs = dataset_inputs(self.source, data)
        self._outbox.put(lambda: self._store.client.log_inputs(self.run_id, inputs))

    def log_history(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Log those epochs that the store does not have yet, each in one request."""
        for entry in entries:
            epoch = entry["epoch"]
            batch = metric_entities(
                {name: value for name, value in entry.items() if name != "epoch"}, epoch
            )
            self._outbox.put(functools.partial(self._send_epoch, batch, epoch))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log those of a run's final figures that the store does not have yet, in one request."""
        batch = metric_entities(metrics, step)
        self._outbox.put(lambda: self._send_missing(batch))

    def log_test_cases(self, rows: list[dict[str, Any]]) -> None:
        """Log the table of test cases, once: a second call would append to it."""
        table = {name: [row[name] for row in rows] for name in rows[0]}
        self._outbox.put(lambda: self._send_table(table))

    def log_files(self, paths: Iterable[Path], folder: str | None) -> None:
        """Log files as artifacts.

        One that has gone before its turn came is left out: to wait for it would hold up the rest.
        """
        for path in paths:
            self._outbox.put(functools.partial(self._send_file, path, folder))

    def log_picture(self, path: Path, series: str, step: int) -> None:
        """Log a picture to one of MLflow's series of images, which have a slider of steps.

        The same picture is logged once, also by a process that goes on with the run.
        """
        self._outbox.put(functools.partial(self._send_picture, path, series, step))

    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run."""
        texts = {name: prose(value) for name, value in tags.items()}
        self._outbox.put(lambda: self._store.set_tags(self.run_id, texts))

    def log_reason(self, reason: str) -> None:
        """Say why the run did not finish."""
        self.log_tags({REASON_TAG: reason})

    def end(self, status: str) -> None:
        """Give the run its final status: FINISHED, FAILED or KILLED."""
        self._outbox.put(self._end_monitor)
        self._outbox.put(lambda: self._store.end_run(self.run_id, status))

    def close(self, seconds: float = CLOSING_PATIENCE_S) -> bool:
        """Return whether the store has everything, after at most about `seconds` of waiting."""
        self._outbox.put(self._end_monitor)
        return self._outbox.close(seconds)

    @property
    def away_because(self) -> str:
        """Why the store does not answer; empty where it does."""
        return self._outbox.away_because

    def _open(self) -> None:
        self.run_id = self._open_run()
        history = self._store.client.get_metric_history(self.run_id, "train/loss")
        self._logged = {metric.step for metric in history}
        self._watch_machine()

    def _send_config(self, flat: Mapping[str, object]) -> None:
        known = self._store.client.get_run(self.run_id).data.params
        kept = known.keys() & NEUTRAL.keys()
        self._store.log_params(self.run_id, {n: v for n, v in flat.items() if n not in kept})

    def _send_epoch(self, batch: list[Metric], epoch: int) -> None:
        if epoch not in self._logged:
            self._store.client.log_batch(self.run_id, metrics=batch)
            self._logged.add(epoch)
        self._watch_machine()

    def _send_missing(self, batch: list[Metric]) -> None:
        known = self._store.client.get_run(self.run_id).data.metrics
        missing = [metric for metric in batch if metric.key not in known]
        if missing:
            self._store.client.log_batch(self.run_id, metrics=missing)

    def _send_file(self, path: Path, folder: str | None) -> None:
        if path.exists():
            self._store.client.log_artifact(self.run_id, str(path), folder)

    def _send_picture(self, path: Path, series: str, step: int) -> None:
        if not path.exists():
            return
        from PIL import Image

        drawn_ms = path.stat().st_mtime_ns // 1_000_000
        name = f"{IMAGES}/{series}+step+{step}+timestamp+{drawn_ms}+"
        known = self._store.client.list_artifacts(self.run_id, IMAGES)
        # A small copy of each follows the picture itself; a kill may have come between the two.
        if any(f.path.startswith(name) and f.path.endswith(".webp") for f in known):
            return
        try:
            with Image.open(path) as file:
                picture = file.convert("RGB")
        except OSError:  # no picture after all: nothing that a later call would mend
            self._send_file(path, "plots")
            return
        self._store.client.log_image(
            self.run_id, picture, key=series, step=step, timestamp=drawn_ms, synchronous=True
        )

    def _send_table(self, table: dict[str, list[Any]]) -> None:
        if not self._store.has_artifact(self.run_id, TEST_TABLE):
            self._store.client.log_table(self.run_id, table, TEST_TABLE)

    def _watch_machine(self) -> None:
        """Start MLflow's sampling of the machine, again where an absent server ended it."""
        if self._wants_monitor and (self._monitor is None or self._monitor.gave_up):
            self._monitor = _Monitor(self.run_id, resume_logging=True, tracking_uri=self._store.uri)
            self._monitor.start()

    def _end_monitor(self) -> None:
        self._wants_monitor, monitor, self._monitor = False, self._monitor, None
        if monitor:
            monitor.finish()


class _Monitor(SystemMetricsMonitor):
    """MLflow's sampler, which also says when its thread has ended."""

    gave_up = False

    def monitor(self) -> None:
        super().monitor()
        self.gave_up = True


def keyed_run(store: Store, key: str, name: str, tags: Mapping[str, str]) -> str:
    """Return the id of the run that carries `key`, set RUNNING again, or of a new one."""
    runs = store.search(f"tags.{KEY_TAG} = '{key}'", limit=1)
    if not runs:
        return store.create_run(name, {**tags, KEY_TAG: key, "kind": "train"})
    run = runs[0]
    store.reopen_run(run.info.run_id)
    if REASON_TAG in run.data.tags:  # of an earlier start
        store.client.delete_tag(run.info.run_id, REASON_TAG)
    return run.info.run_id


def dataset_inputs(source: str, data: Split) -> list[DatasetInput]:
    """Return the three sets of a Split as MLflow dataset inputs.

    The digest of a set changes with any of its files and with any preprocessing setting.
    """
    inputs = []
    sets = (("train", data.train), ("validation", data.validation), ("test", data.test))
    for context, cases in sets:
        names = "\n".join(sorted(case.folder.name for case in cases))
        profile = json.dumps({"cases": len(cases), "ids": sorted(case.id for case in cases)})
        dataset = Dataset(
            f"{context} ({len(cases)} cases)",
            hashlib.sha256(names.encode()).hexdigest()[:16],
            "local",
            json.dumps({"uri": source}),
            profile=profile[:16_000_000],
        )
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    return inputs
