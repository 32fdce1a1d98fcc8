"""The looks of a sequential study in MLflow: to go on with, as a table, and as metrics by look."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from segmamba.studies.looks import Look, looks_as_rows, looks_from_rows

if TYPE_CHECKING:
    from segmamba.orchestration.tracking.study_run import StudyRun

FOLDER, TABLE = "looks", "looks_table.json"
TABLES_TAG = "mlflow.loggedArtifacts"  # by which MLflow's pages find tables
NOT_IN_METRIC = re.compile(r"[^A-Za-z0-9_\-. :]")
"""What MLflow does not take in the name of a metric; "/" would open a section."""


def log_look(run: StudyRun, looks: Sequence[Look]) -> None:
    """Log the last look of a study: what it decided, the table of all, and its metrics.

    Args:
        run: The study's run.
        looks: All looks so far. The last one is the one to log.
    """
    client, last = run.store.client, looks[-1]
    client.log_dict(run.run_id, looks_as_rows(looks), f"{FOLDER}/after_{last.seeds:02d}_seeds.json")  # type: ignore[arg-type]  # any JSON
    client.log_dict(run.run_id, _table(looks), TABLE)
    run.store.set_tags(run.run_id, {TABLES_TAG: json.dumps([{"path": TABLE, "type": "table"}])})
    run.store.log_metrics(run.run_id, _metrics(last), step=last.seeds)


def stored_looks(run: StudyRun) -> tuple[Look, ...]:
    """Return the looks that a study has taken.

    A file that a kill left half-written is passed over; that look is taken again.

    Args:
        run: The study's run.
    """
    files = sorted((file.path for file in run.store.client.list_artifacts(run.run_id, FOLDER)))
    for file in reversed(files):
        try:
            return looks_from_rows(json.loads(run.store.artifact_text(run.run_id, file)))
        except ValueError:
            continue
    return ()


def _table(looks: Sequence[Look]) -> dict[str, Any]:
    """The looks as MLflow shows a table: a row for each look and contrast."""
    rows = [
        {"seeds": look.seeds}
        | {name: value for name, value in contrast.items() if name != "seeds"}
        | {"paired_seeds": contrast["seeds"]}
        for look, row in zip(looks, looks_as_rows(looks), strict=True)
        for contrast in row["contrasts"]
    ]
    columns = list(rows[0]) if rows else []
    return {"columns": columns, "data": [[row[name] for name in columns] for row in rows]}


def _metrics(look: Look) -> dict[str, float]:
    """Estimate, interval and boundary of each contrast at a look; those that are known."""
    named = {}
    for contrast in look.contrasts:
        label = f"{contrast.arm} - {contrast.versus}" if contrast.versus else contrast.arm
        label = NOT_IN_METRIC.sub("_", f"{label} {contrast.region}")
        named |= {
            f"look_estimate/{label}": contrast.mean,
            f"look_low/{label}": contrast.low,
            f"look_high/{label}": contrast.high,
            f"look_boundary/{label}": contrast.level,
        }
    return {name: value for name, value in named.items() if math.isfinite(value)}
