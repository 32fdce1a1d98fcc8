"""The rows of a report that list trials: those of the arms, those of a search, and a schedule."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

from segmamba.files import seen_from
from segmamba.reports.pages import plain
from segmamba.reports.tables import DASH, duration
from segmamba.studies.results import Trial
from segmamba.studies.words import points

Row: TypeAlias = dict[str, Any]


def trial_row(trial: Trial, folder: Path) -> Row:
    """One trial of an arm, as text.

    Args:
        trial: The trial.
        folder: The report's folder; paths below it are shown relative to it.

    Returns:
        What the templates show.
    """
    epochs = max((step for steps in trial.history.values() for step, _ in steps), default=0)
    return {
        "arm": trial.arm,
        "seed": trial.seed if trial.fold is None else f"{trial.seed}, fold {trial.fold}",
        "status": trial.status.lower(),
        "dice": points(trial.metrics.get("test/dice_mean")),
        "epochs": epochs,
        "time": duration(trial.metrics.get("time/train_total_s")),
        "reason": seen_from(folder, trial.reason),
        "run_id": trial.run_id or DASH,
        "folder": _below(trial.folder, folder),
        "folder_link": _link(trial.folder, folder),
    }


def searched_row(trial: Trial, folder: Path) -> Row:
    """One trial of a search, as text.

    Args:
        trial: The trial.
        folder: The report's folder.

    Returns:
        What the templates show: validation Dice, and the settings that were tried.
    """
    return trial_row(trial, folder) | {
        "dice": points(trial.metrics.get("val/best_dice_mean")),
        "settings": settings_as_text(trial.changes or {}),
        "copied": f"copied {trial.copied}" if trial.copied else "",
    }


def stage_row(stage: Mapping[str, Any]) -> Row:
    """One stage of a schedule, as text.

    Args:
        stage: The stage as a dict: "epoch", "changes" and "donor".

    Returns:
        The epoch from which on it holds, its settings, and whose copy began it.
    """
    return {
        "epoch": stage["epoch"] + 1,
        "settings": settings_as_text(stage["changes"]),
        "donor": stage["donor"],
    }


def settings_as_text(settings: Mapping[str, Any]) -> dict[str, str]:
    """The values of settings as text.

    Args:
        settings: Dotted names and values.

    Returns:
        The texts by name: three significant digits of a number.
    """
    return {
        name: f"{value:.3g}" if isinstance(value, float) else plain(value)
        for name, value in settings.items()
    }


def _below(path: str, folder: Path) -> str:
    """A path as seen from the report's folder, where it lies below it."""
    root = folder.resolve()
    if path and Path(path).is_absolute() and Path(path).is_relative_to(root):
        return os.path.relpath(path, root)
    return path or DASH


def _link(path: str, folder: Path) -> str:
    """A link from the report's page to a folder on this machine; empty where there is none."""
    if not path or not Path(path).is_dir():
        return ""
    shown = _below(path, folder)
    return quote(shown) + "/" if not Path(shown).is_absolute() else Path(shown).as_uri() + "/"
