"""What the test of a finished run measured, as an object and as the file final_metrics.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import NotRequired, TypedDict

from segmamba.errors import UserError
from segmamba.evaluation.patients import NAMES
from segmamba.files import write_json
from segmamba.json_files import fault, read_json

if TYPE_CHECKING:
    from segmamba.evaluation.cases import CaseScores


AGAIN = "remove it, and --resume tests the run again"
"""What to do about a damaged file."""


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


class FinalMetricsJson(TypedDict):
    """What final_metrics.json holds beside the metrics under their own names."""

    tested_checkpoint: Literal["best", "last"]
    tested_epoch: int
    epochs: int
    weights_sha256: dict[str, str]
    cases: list[dict[str, str | int | float | None]]
    last_cases: NotRequired[list[dict[str, str | int | float | None]] | None]


def read_final_metrics(path: Path) -> FinalMetrics | None:
    """Read a final_metrics.json.

    Args:
        path: `RunFolder.final_metrics`.

    Returns:
        What `evaluate_run` returned when it wrote the file, or None where there is no file.

    Raises:
        UserError: The file is damaged.
    """
    if not path.exists():
        return None
    record = read_json(path, FinalMetricsJson, fix=AGAIN)
    everything = read_json(path, dict[str, Any], fix=AGAIN)
    metrics = {name: value for name, value in everything.items() if "/" in name}
    for name, value in metrics.items():
        if not isinstance(value, (int, float)):
            raise UserError(f"{path}: {fault(f'$.{name}', 'a number', value)}; {AGAIN}")
    for number, row in enumerate([*record["cases"], *(record.get("last_cases") or ())]):
        if not isinstance(row.get("case"), str):
            raise UserError(f'{path}: row {number} of its cases names no "case"; {AGAIN}')
    return FinalMetrics(
        tested_checkpoint=record["tested_checkpoint"],
        tested_epoch=record["tested_epoch"],
        epochs=record["epochs"],
        weights_sha256=record["weights_sha256"],
        metrics=metrics,
        cases=record["cases"],
        last_cases=record.get("last_cases"),
    )
