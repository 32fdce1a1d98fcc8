"""The report of a study: a page for reading, Markdown for pasting, and pictures for papers.

Everything is computed from a Study, that is from what MLflow holds; so drawing a report again
gives the same report.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmamba.files import write_text
from segmamba.reports.difference_rows import difference_table
from segmamba.reports.exports import TABLE_FILES, write_tables
from segmamba.reports.look_rows import look_rows
from segmamba.reports.pages import VIEWER, html_page, plain, run_address, shown_store, template
from segmamba.reports.pareto_rows import pareto_table
from segmamba.reports.patient_rows import patient_table
from segmamba.reports.reading import reading_of, standing_rows
from segmamba.reports.study_rows import (
    last_checkpoint_rows,
    planned_rows,
    set_ids,
    varied_settings,
)
from segmamba.reports.study_words import background_of, decided_by, size_of, summary, test_size
from segmamba.reports.subset_figures import subset_table
from segmamba.reports.tables import (
    EXPLORATORY,
    PHANTOM_NOTICE,
    arm_table,
    dropped_rows,
)
from segmamba.reports.trial_rows import searched_row, stage_row, trial_row
from segmamba.studies.champion import champion_words
from segmamba.studies.results import Study
from segmamba.studies.verdict import verdict
from segmamba.studies.words import DASH


@dataclass(frozen=True, kw_only=True)
class Live:
    """What a study's page says beside its results while the study runs."""

    state: str
    """Running, or why it does not any more."""
    sentence: str
    """How many trials have ended and what is left."""
    written: str
    """When the page was written and when it will be again."""
    ended: int = 0
    total: int = 0
    """Trials that have ended, and all that are planned; 0 where that is not known."""
    refresh_s: int = 0
    """How often a browser loads the page again; 0 does not."""


def write_report(study: Study, folder: Path | str) -> Path:
    """Write a study's report.html, report.md, plots/ and tables/, each file whole or not at all.

    Args:
        study: The study, finished or not.
        folder: The folder that they are written into.

    Returns:
        The path of report.html.
    """
    from segmamba.reports.figures import draw_all, draw_narrow
    from segmamba.reports.images import save_figure, to_svg

    folder = Path(folder)
    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    figures = {name: save_figure(figure, plots, name) for name, figure in draw_all(study).items()}
    figures |= {name: to_svg(figure, name) for name, figure in draw_narrow(study).items()}
    content = _content(study, folder, figures)
    write_tables(study, folder / "tables")
    write_text(folder / "report.md", template("report.md.j2", autoescape=False).render(content))
    return write_text(folder / "report.html", html_page("report.html.j2", content))


def write_live_page(study: Study, folder: Path | str, live: Live) -> Path:
    """Write report.html of a study that runs, as far as it has come, whole or not at all.

    Args:
        study: The study as it stands.
        folder: The folder that the page is written into.
        live: What it says of the study's course.

    Returns:
        The path of report.html, which `write_report` replaces in the end.
    """
    from segmamba.reports.figures import draw_all, draw_narrow
    from segmamba.reports.images import to_svg

    folder, drawn = Path(folder), draw_all(study) | draw_narrow(study)
    content = _content(study, folder, {name: to_svg(drawn[name], name) for name in drawn}, live)
    return write_text(folder / "report.html", html_page("report.html.j2", content))


def _content(
    study: Study, folder: Path, figures: Mapping[str, str], live: Live | None = None
) -> dict[str, Any]:
    """What both templates show, as text and lists; figures: the elements of a page, by name."""
    headers, rows = arm_table(study)
    content: dict[str, Any] = {
        "study": study,
        "figures": figures,
        "verdict": verdict(study),
        "notice": PHANTOM_NOTICE if study.data.phantom else "",
        "decided_by": decided_by(study.hypothesis, study.max_seeds),
        "reading": reading_of(study),
        "background": background_of(study),
        "live": live,
        "champion": "" if live else champion_words(study),
        "standing": standing_rows(study),
        "exploratory": EXPLORATORY,
        "test_size": test_size(study),
        "sizes": {name: size_of(study.data, ids) for name, ids in study.data.by_name.items()},
        "last_checkpoint": last_checkpoint_rows(study),
        "secondary": [
            {
                "claim": claim.claim,
                "decided_by": decided_by(claim, study.max_seeds),
                "verdict": verdict(study, claim),
            }
            for claim in study.secondary
        ],
        "summary": summary(study, "so far" if live else "from plan to report"),
        "tested": "last" if study.data.test_is_validation else "best on the validation set",
        "headers": headers,
        "dropped": dropped_rows(study),
        "rows": rows,
        "subsets": subset_table(study),
        **difference_table(study),
        "looks": look_rows(study),
        "pareto": pareto_table(study),
        "patients": patient_table(study, folder),
        "tables": list(TABLE_FILES),
        "trials": [trial_row(trial, folder) for trial in study.trials],
        "planned": planned_rows(study),
        "searched": [searched_row(trial, folder) for trial in study.searched],
        "space": study.space,
        "importance": {name: f"{100 * share:.0f} %" for name, share in study.importance.items()},
        "schedule": [stage_row(stage) for stage in study.schedule],
        "varied": varied_settings(study),
        "config": {name: plain(value) for name, value in study.config.items()},
        "sets": set_ids(study.data),
        "viewer": VIEWER if (folder / VIEWER).exists() else "",
        "store": shown_store(study.mlflow_uri),
        "run_address": functools.partial(run_address, uri=study.mlflow_uri, page=study.mlflow_page),
        "served": study.mlflow_uri.startswith("http"),
        "dash": DASH,
    }
    return content | {"contents": _contents(content)}


def _contents(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The id and the title of every part that the page has."""
    parts = (
        ("arms", "Arms", True),
        ("by-subset", "Subsets", content["subsets"]),
        ("paired", "Differences", True),
        ("the-looks", "Looks", content["looks"]),
        ("pareto-front", "Cost", content["pareto"]),
        ("patients", "Patients", content["patients"]),
        ("learning", "Curves", "curves" in content["figures"]),
        ("the-search", "Search", content["searched"]),
        ("planned", "Plan", content["planned"]),
        ("trials", "Trials", True),
        ("configuration", "Configuration", True),
        ("data", "Data", True),
        ("versions", "Versions", True),
    )
    return [(id, title) for id, title, there in parts if there]
