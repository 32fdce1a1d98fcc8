"""What `tune` chose, as files and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.config import PostprocessConfig
from segmamba.data.case import Case
from segmamba.evaluation.tune import LEAST_GAIN, Step
from segmamba.files import write_json, write_text
from segmamba.screen import points

if TYPE_CHECKING:
    from rich.console import Console


def write_choice(
    path: str | Path,
    settings: PostprocessConfig,
    steps: Sequence[Step],
    cases: Sequence[Case],
    rule: str,
) -> list[Path]:
    """Write the chosen settings, and beside them how they were chosen.

    Args:
        path: Where postprocessing.json goes.
        settings: The chosen settings.
        steps: What was tried.
        cases: The validation set.
        rule: The name of the rule whose Dice counted.

    Returns:
        Both files.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "rule": rule,
        "validation": [case.id for case in cases],
        "least_gain": LEAST_GAIN,
        "steps": [vars(step) for step in steps],
    }
    return [
        write_text(path, settings.to_json()),
        write_json(path.with_name(f"{path.stem}_choice.json"), record),
    ]


def render(steps: Sequence[Step], console: Console) -> None:
    """Print a line for each setting: what was tried, what it scored and what stays."""
    from rich.table import Table

    table = Table("setting", "mean Dice on the validation set by value", "chosen", box=None)
    for step in steps:
        scores = "  ".join(
            f"{value}: {points(score, decimals=2)}" for value, score in step.scores.items()
        )
        table.add_row(step.setting, scores, step.chosen)
    console.print(table)
    console.print(
        "These scores flatter: the settings were chosen on the same cases. "
        "The test set has not been read.",
        highlight=False,
    )
