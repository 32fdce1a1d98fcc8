"""The report of a study: a page for reading, Markdown for pasting, and pictures for papers.

Everything is computed from a Study, that is from what MLflow holds; so drawing a report again
gives the same report.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmamba.config import CONFIDENCE_LEVEL
from segmamba.data.case import patient_of
from segmamba.evaluation.patients import counted
from segmamba.files import write_text
from segmamba.reports.difference_rows import difference_table, estimate_and_interval
from segmamba.reports.exports import TABLE_FILES, write_tables
from segmamba.reports.look_rows import look_rows
from segmamba.reports.pages import VIEWER, html_page, plain, runs_page, shown_store, template
from segmamba.reports.pareto_rows import pareto_table
from segmamba.reports.patient_rows import patient_table
from segmamba.reports.reading import reading_of, standing_rows
from segmamba.reports.subset_figures import subset_table
from segmamba.reports.tables import (
    EXPLORATORY,
    PHANTOM_NOTICE,
    arm_table,
    dropped_rows,
    duration,
)
from segmamba.reports.trial_rows import searched_row, settings_as_text, stage_row, trial_row
from segmamba.studies.alpha_spending import FIRST_LOOK
from segmamba.studies.caveats import background
from segmamba.studies.champion import champion_words
from segmamba.studies.comparisons import differences_of
from segmamba.studies.contrasts import contrast_difference
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.metrics import METRICS
from segmamba.studies.results import Study, StudyData
from segmamba.studies.scores import case_patients
from segmamba.studies.spec import FOUND, Changes
from segmamba.studies.verdict import decide, verdict
from segmamba.studies.words import DASH, amount, count


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
        "decided_by": _decided_by(study.hypothesis, study.max_seeds),
        "reading": reading_of(study),
        "background": _background(study),
        "live": live,
        "champion": "" if live else champion_words(study),
        "standing": standing_rows(study),
        "exploratory": EXPLORATORY,
        "test_size": _test_size(study),
        "sizes": {name: _size(study.data, ids) for name, ids in study.data.by_name.items()},
        "last_checkpoint": _last_checkpoint(study),
        "secondary": [
            {
                "claim": claim.claim,
                "decided_by": _decided_by(claim, study.max_seeds),
                "verdict": verdict(study, claim),
            }
            for claim in study.secondary
        ],
        "summary": _summary(study, "so far" if live else "from plan to report"),
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
        "planned": _planned(study),
        "searched": [searched_row(trial, folder) for trial in study.searched],
        "space": study.space,
        "importance": {name: f"{100 * share:.0f} %" for name, share in study.importance.items()},
        "schedule": [stage_row(stage) for stage in study.schedule],
        "varied": _varied(study),
        "config": {name: plain(value) for name, value in study.config.items()},
        "sets": _sets(study.data),
        "viewer": VIEWER if (folder / VIEWER).exists() else "",
        "store": shown_store(study.mlflow_uri),
        "runs_page": runs_page(study.mlflow_uri),
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


def _background(study: Study) -> list[str]:
    """What the answer to the question rests on."""
    claim = study.hypothesis
    if not claim.contrasts:
        return []
    return list(background(study, decide(differences_of(study, claim), claim)))


def _test_size(study: Study) -> str:
    """The tested cases and their patients; those that are planned where nothing was tested."""
    patients = case_patients(study)
    if patients:
        return counted(patients, patients.values())
    return _size(study.data, study.data.test)


def _size(data: StudyData, cases: Sequence[str]) -> str:
    """How many cases a set holds, and of how many patients."""
    return counted(cases, (data.patients.get(case) or patient_of(case) for case in cases))


def _summary(study: Study, until: str) -> str:
    finished = sum(trial.status == "FINISHED" for trial in study.trials)
    if study.pooled_from:
        seeds = sorted({len(of) for of in study.arm_seeds.values()})
        each = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
        return (
            f"pooled from {', '.join(study.pooled_from)}; "
            f"{finished} of {count(len(study.trials), 'trial')} finished; {each} seeds per arm; "
            f"preset {study.preset}; {duration(study.seconds)} for all studies"
        )
    folds = f" x {count(len(study.folds), 'fold')}" if study.folds else ""
    starts = f" over {study.starts} starts" if study.starts > 1 else ""
    return (
        f"{finished} of {count(len(study.trials), 'trial')} finished; "
        f"{_seeds(study)}{folds} per arm; preset {study.preset}; "
        f"{duration(study.seconds)} {until}{starts}"
    )


def _seeds(study: Study) -> str:
    """How many seeds the arms have, and the limit of a sequential study."""
    numbers = sorted({len(study.seeds_of(arm)) for arm in study.arms})
    fewest = f"{numbers[0]} to " if len(numbers) > 1 else ""
    limit = f" (of at most {study.max_seeds})" if study.max_seeds else ""
    return f"{fewest}{count(numbers[-1], 'seed')}{limit}"


def _decided_by(claim: Hypothesis, max_seeds: int) -> str:
    """The estimand in words; max_seeds: the limit of a sequential study, else 0."""
    contrasts = (
        "; ".join(f"{c.arm} minus {c.versus}" if c.versus else c.label for c in claim.contrasts)
        or "nothing in this run"
    )
    test = {
        "better": "",
        "no better": ", all to lie below the margin",
        "alike": ", all to lie within the margin",
    }[claim.direction]
    metric = METRICS[claim.metric]
    several = len(claim.contrasts) * len(claim.regions) > 1
    holm = ", adjusted by Holm over all" if several and claim.direction == "better" else ""
    looks = (
        f", repeated after {FIRST_LOOK} seeds and each further one, up to {max_seeds}"
        if max_seeds
        else ""
    )
    return (
        f"{' and '.join(claim.regions)} {metric.words} on the test set, {contrasts}{test}; "
        f"smallest difference that matters: {amount(claim.margin, metric)} {metric.unit}; "
        f"{100 * CONFIDENCE_LEVEL:.0f} % interval over seeds and patients{holm}{looks}"
    )


def _planned(study: Study) -> dict[str, Any]:
    """The time that was planned beside the time it took; {} where nothing was measured before.

    The rows are the study and, for each arm, the training of a trial.
    """
    plan = study.resource_plan
    if not plan.get("study_s"):
        return {}
    rows = [
        {
            "what": "the study",
            "planned": duration(plan["study_s"]),
            "took": duration(study.seconds),
        }
    ]
    for arm, cost in plan["arms"].items():
        took = [
            t.metrics["time/train_total_s"]
            for t in study.trials
            if t.arm == arm and "time/train_total_s" in t.metrics
        ]
        rows.append(
            {
                "what": f"{arm}, training a trial",
                "planned": duration(cost["train_s"]),
                "took": duration(sum(took) / len(took) if took else None),
            }
        )
    return {"why": plan["why"], "rows": rows}


def _last_checkpoint(study: Study) -> list[dict[str, Any]]:
    """The question's contrasts with the last epoch's weights, where these were tested."""
    claim = study.hypothesis
    differences = [
        contrast_difference(study, contrast, claim.regions[0], f"last_{claim.score}")
        for contrast in claim.contrasts
    ]
    return [{"contrast": d.label, "cell": estimate_and_interval(d)} for d in differences if d.cases]


def _sets(data: StudyData) -> dict[str, list[str]]:
    """The case ids of the study's sets, for each fold where there are folds."""
    if data.folds:
        return {
            f"fold {number}, {name}": list(cases)
            for number, sets in enumerate(data.folds)
            for name, cases in sets.by_name.items()
        }
    return {name: list(cases) for name, cases in data.by_name.items()}


def _varied(study: Study) -> dict[str, dict[str, str]]:
    """What differs between arms: the value of each setting in each arm.

    These are the settings that the arms declare, and those that differ in their trials' parameters.
    """
    params: dict[str, dict[str, str]] = {
        arm: next((t.params for t in study.trials if t.arm == arm and t.params), {})
        for arm in study.arms
    }
    declared = dict.fromkeys(name for changes in study.arms.values() for name in changes)
    logged = dict.fromkeys(name for p in params.values() for name in p if name != "seed")
    differing = [
        name for name in logged if len({p[name] for p in params.values() if name in p}) > 1
    ]
    stages = [settings_as_text(stage["changes"]) for stage in study.schedule]
    scheduled = {
        (FOUND, name): " then ".join(dict.fromkeys(stage[name] for stage in stages))
        for name in study.space
        if stages
    }

    def value(name: str, arm: str, changes: Changes) -> str:
        return scheduled.get((arm, name)) or plain(
            changes.get(name, params[arm].get(name, study.config.get(name, DASH)))
        )

    return {
        name: {arm: value(name, arm, changes) for arm, changes in study.arms.items()}
        for name in dict.fromkeys([*declared, *differing])
    }
