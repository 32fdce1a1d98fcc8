"""What the test of a finished run measured, as an object and as the file final_metrics.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segmamba.evaluation.patients import NAMES
from segmamba.files import write_json

if TYPE_CHECKING:
    from segmamba.evaluation.cases import CaseScores


@dataclass(frozen=True, kw_only=True)
class FinalMetrics:
    """The result of testing a finished run once."""

    tested_checkpoint: Literal["best", "last"]
    """Which checkpoint gave `cases`: the best on the validation set, or the last one."""
    tested_epoch: int
    """The epoch of that checkpoint, from 1."""
    epochs: int
    """How many epochs the run trained."""
    weights_sha256: dict[str, str]
    """"last" and, where it was tested, "best" to the digest of the checkpoint's weights."""
    metrics: dict[str, float]
    """MLflow's names to values: test/..., test/last_..., time/... and model/parameters."""
    cases: list[CaseScores]
    """The scores of the tested checkpoint, a row for each test case."""
    last_cases: list[CaseScores] | None = None
    """The scores of the last checkpoint; None where it was not tested."""

    def cases_with_last(self) -> list[CaseScores]:
        """Return the rows of `cases` with the last checkpoint's scores beside them, as last_...."""
        last_rows = {row["case"]: row for row in self.last_cases or ()}
        return [
            row
            | {
                f"last_{name}": value
                for name, value in last_rows.get(row["case"], {}).items()
                if name not in NAMES
            }
            for row in self.cases
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the content of final_metrics.json, the metrics under their own names."""
        return {
            "tested_checkpoint": self.tested_checkpoint,
            "tested_epoch": self.tested_epoch,
            "epochs": self.epochs,
            "weights_sha256": self.weights_sha256,
            **self.metrics,
            "cases": self.cases,
        } | ({} if self.last_cases is None else {"last_cases": self.last_cases})

    def write(self, path: Path) -> None:
        """Write final_metrics.json at `path`."""
        write_json(path, self.as_dict())


def read_final_metrics(path: Path) -> FinalMetrics | None:
    """Read a final_metrics.json.

    Args:
        path: `RunFolder.final_metrics`.

    Returns:
        What `evaluate_run` returned when it wrote the file, or None where there is no file.
    """
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    return FinalMetrics(
        tested_checkpoint=record["tested_checkpoint"],
        tested_epoch=record["tested_epoch"],
        epochs=record["epochs"],
        weights_sha256=record["weights_sha256"],
        metrics={name: value for name, value in record.items() if "/" in name},
        cases=record["cases"],
        last_cases=record.get("last_cases"),
    )
