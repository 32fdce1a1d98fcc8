"""The report of an ensemble: a page for reading, Markdown for pasting, and pictures for papers."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np

from segmamba.evaluation.ensemble_scores import ENSEMBLE, VARIANTS
from segmamba.evaluation.patients import counted, row_patient
from segmamba.files import write_text
from segmamba.reports.ensemble_figures import draw_ensemble
from segmamba.reports.ensemble_tables import (
    cost_row,
    mean_score,
    member_table,
    pair_rows,
    size_rows,
    variant_row,
)
from segmamba.reports.images import save_figure
from segmamba.reports.pages import html_page, plain, shown_store, template
from segmamba.reports.reading import ENSEMBLE as ENSEMBLE_READING
from segmamba.reports.tables import DASH, PHANTOM_NOTICE, duration
from segmamba.studies.ensemble_verdict import Ensemble, answer, gain, verdict_sentence
from segmamba.studies.words import points

if TYPE_CHECKING:
    from rich.console import Console


def write_ensemble_report(ensemble: Ensemble, folder: Path) -> Path:
    """Write ensemble.html, ensemble.md and their pictures in plots/.

    Args:
        ensemble: The results.
        folder: The folder that they are written into.

    Returns:
        The path of ensemble.html.
    """
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    figures = draw_ensemble(ensemble).items()
    drawn = {name: save_figure(figure, folder / "plots", name) for name, figure in figures}
    content = _content(ensemble) | {"figures": drawn}
    write_text(folder / "ensemble.md", template("ensemble.md.j2", autoescape=False).render(content))
    return write_text(folder / "ensemble.html", html_page("ensemble.html.j2", content))


def _content(ensemble: Ensemble) -> dict[str, Any]:
    """What both templates show, as text and lists."""
    study = ensemble.study
    starts = f" over {study.starts} starts" if study.starts > 1 else ""
    varied = dict.fromkeys(name for changes in study.arms.values() for name in changes)
    return {
        "study": study,
        "answer": answer(ensemble),
        "sentence": verdict_sentence(ensemble),
        "expected": [points(value) for value in ensemble.expected_gain],
        "notice": PHANTOM_NOTICE if study.data.phantom else "",
        "registered": ensemble.registered,
        # The note on one seed is about arms, but these are members.
        "notes": [note for note in study.data.notes if not note.startswith("one seed")],
        "predict": _predict_command(ensemble),
        "store": shown_store(study.mlflow_uri),
        "test_is_validation": study.data.test_is_validation,
        "tested": _tested(ensemble),
        "reading": ENSEMBLE_READING,
        "summary": (
            f"{len(study.trials)} members trained; preset {study.preset}; "
            f"{duration(study.seconds)} of training{starts} and "
            f"{duration(ensemble.seconds)} of scoring"
        ),
        "members": [member_table(group, study) for group in ensemble.groups],
        "pairs": list(pair_rows(ensemble)),
        "variants": [
            {
                "group": group.name,
                "rows": [
                    variant_row(group, study.data, flips=flips, postprocessed=postprocessed)
                    for flips, postprocessed in VARIANTS
                ],
            }
            for group in ensemble.groups
        ],
        "postprocessing": {group.name: group.postprocessing.summary for group in ensemble.groups},
        "sizes": [{"group": group.name, "rows": size_rows(group)} for group in ensemble.groups],
        "cost": [cost_row(group, study) for group in ensemble.groups],
        "varied": {
            name: {
                arm: plain(changes.get(name, study.config.get(name, DASH)))
                for arm, changes in study.arms.items()
            }
            for name in varied
        },
        "config": {name: plain(value) for name, value in study.config.items()},
        "sets": {name: list(cases) for name, cases in study.data.by_name.items()},
    }


def _tested(ensemble: Ensemble) -> str:
    """The tested cases and their patients, in words."""
    rows = ensemble.groups[0].rows
    return counted((row["case"] for row in rows), map(row_patient, rows))


def _predict_command(ensemble: Ensemble) -> str:
    uri, address = ensemble.study.mlflow_uri, ensemble.registered.partition(" ")[0]
    store = (
        f" --store {shlex.quote(str(Path(unquote(uri.removeprefix('sqlite:///'))).parent))}"
        if uri.startswith("sqlite:///")
        else ""
    )
    return f"segmamba predict --model {address}{store} --input DIR --output DIR"


def as_dict(ensemble: Ensemble) -> dict[str, Any]:
    """What the terminal shows, for `--json`.

    Args:
        ensemble: The results.

    Returns:
        Plain values; Dice is from 0 to 1.
    """
    groups = {}
    for group in ensemble.groups:
        mean, low, high = gain(group)
        groups[group.name] = {
            "dice": {
                who: {s: mean_score(group, who, f"dice_{s}") for s in ensemble.study.data.scores}
                for who in (*group.members, ENSEMBLE)
            },
            "gain": {"mean": mean, "low": low, "high": high},
            "by_size": {size: float(np.mean(means)) for size, means in group.by_size().items()},
            "seconds": group.seconds,
        }
    return {
        "study": ensemble.study.name,
        "answer": answer(ensemble),
        "verdict": verdict_sentence(ensemble),
        "registered": ensemble.registered,
        "groups": groups,
    }


def render_terminal(ensemble: Ensemble, console: Console) -> None:
    """Show the members, the vote and the verdict at the terminal.

    Args:
        ensemble: The results.
        console: The terminal.
    """
    from rich.table import Column, Table
    from rich.text import Text

    for group in ensemble.groups:
        members = member_table(group, ensemble.study)
        shown = Table(
            Column(Text(members["group"])),
            "validation",
            *members["headers"],
            title="Dice in points on the test set",
            title_justify="left",
            box=None,
        )
        for row in members["rows"]:
            style = "bold" if row["strong"] else ""
            texts = (row["name"], row["validation"], *row["cells"])
            shown.add_row(*(Text(text, style=style) for text in texts))
        console.print()
        console.print(shown)
    console.print()
    console.print(Text(verdict_sentence(ensemble)))
    if ensemble.study.data.phantom:
        console.print(Text(PHANTOM_NOTICE, style="bold"))
