"""What a training run tells a tracker, and the tracker that nobody reads. Needs no MLflow."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from segmamba.data.splits import Split

WEIGHTS_TAG = "weights_sha256_"
"""With "best" or "last" behind it: the tag that holds the digest of a checkpoint's weights."""

NEUTRAL = {
    "data.source": "",
    "data.names": (),
    "data.patients": "",
    "data.max_volume_mib": 0,
    "data.workers": 0,
}
"""Settings that no result depends on, each with what stands for all its values."""


class Log(Protocol):
    """Takes what a training run has to say. No call waits for a server, but for `close`."""

    @property
    def away_because(self) -> str:
        """Why the tracker does not answer; empty where it does."""

    def log_config(self, flat: Mapping[str, object]) -> None:
        """Log the full flat configuration; logging the same values again is harmless.

        A run that goes on keeps what it says of NEUTRAL settings.
        """

    def log_data(self, data: Split) -> None:
        """Log the three sets of a Split; logging the same ones again is harmless."""

    def log_history(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Log those epochs, metrics with "epoch", that the tracker does not have yet."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log those of a run's final figures that the tracker does not have yet."""

    def log_test_cases(self, rows: list[dict[str, Any]]) -> None:
        """Log the table of test cases, once."""

    def log_files(self, paths: Iterable[Path], folder: str | None) -> None:
        """Keep files, in a folder of the run's."""

    def log_picture(self, path: Path, series: str, step: int) -> None:
        """Keep a picture as one of a series, which is looked through by step."""

    def log_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags."""

    def log_reason(self, reason: str) -> None:
        """Say why the run did not finish."""

    def end(self, status: str) -> None:
        """Give the run its final status: FINISHED, FAILED or KILLED."""

    def close(self, seconds: float = 0.0) -> bool:
        """Return whether the tracker has everything, after at most about `seconds`."""


class NoLog:
    """The tracker where MLflow is not installed; the run's folder has everything."""

    away_because = ""

    def _ignore(self, *values: object) -> None:
        """Keep nothing."""

    log_config = log_data = log_history = log_metrics = log_test_cases = _ignore
    log_files = log_picture = log_tags = log_reason = end = _ignore

    def close(self, seconds: float = 0.0) -> bool:
        """There is nothing to wait for."""
        return True
