"""The looks of a sequential study in MLflow: as a table, to go on from, and as metrics by look."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from segmamba.errors import UserError
from segmamba.studies.looks import Look, looks_as_rows, looks_from_rows

if TYPE_CHECKING:
    from segmamba.orchestration.tracking.study_run import StudyRun

FOLDER = "looks"
TABLES_TAG = "mlflow.loggedArtifacts"  # by which MLflow's pages find tables
NOT_IN_METRIC = re.compile(r"[^A-Za-z0-9_\-. :]")
"""What MLflow does not take in the name of a metric; "/" would open a section."""


class _Table(TypedDict):
    """MLflow's form of a table."""

    columns: list[str]
    data: list[list[Any]]


def log_look(run: StudyRun, looks: Sequence[Look]) -> None:
    """Log the last look of a study: the table of all looks, and its own metrics.

    Each look has a file of its own, so that a kill damages none that was there before.

    Args:
        run: The study's run.
        looks: All looks so far. The last one is the one to log.
    """
    last, rows = looks[-1], looks_as_rows(looks)
    columns = list(rows[0]) if rows else []
    table = _Table(columns=columns, data=[[row[name] for name in columns] for row in rows])
    file = f"{FOLDER}/after_{last.seeds:02d}_seeds.json"
    run.store.client.log_dict(run.run_id, dict(table), file)
    run.store.set_tags(run.run_id, {TABLES_TAG: json.dumps([{"path": file, "type": "table"}])})
    run.store.log_metrics(run.run_id, _metrics(last), step=last.seeds)


def stored_looks(run: StudyRun) -> tuple[Look, ...]:
    """Return the looks that a study has taken.

    A file that a kill left half-written is passed over; that look is taken again.

    Args:
        run: The study's run.
    """
    files = sorted(file.path for file in run.store.client.list_artifacts(run.run_id, FOLDER))
    for file in reversed(files):
        try:
            table = run.store.artifact_json(run.run_id, file, _Table)
            rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
            return looks_from_rows(rows)
        except (UserError, ValueError, KeyError):
            continue
    return ()


def _metrics(look: Look) -> dict[str, float]:
    """Estimate, interval and boundary of each contrast at a look; those that are known."""
    named: dict[str, float] = {}
    for contrast in look.contrasts:
        versus = f" - {contrast.versus}" if contrast.versus else ""
        label = NOT_IN_METRIC.sub("_", f"{contrast.arm}{versus} {contrast.region}")
        named |= {
            f"look_estimate/{label}": contrast.mean,
            f"look_low/{label}": contrast.low,
            f"look_high/{label}": contrast.high,
            f"look_boundary/{label}": contrast.boundary,
        }
    return {name: value for name, value in named.items() if math.isfinite(value)}
