"""The report of a study: one page for reading, Markdown for pasting, pictures for papers, a table for the terminal.

Everything is computed from a Study, that is from what MLflow holds; drawing it again gives the same report.
"""

import math
import os
from pathlib import Path

from segmamba.files import write_text
from segmamba.reports.pages import plain, template
from segmamba.reports.tables import DASH, PHANTOM_NOTICE, arm_table, duration
from segmamba.studies.anova import LEVEL
from segmamba.studies.contrasts import compare_arms, contrast_difference, count, points
from segmamba.studies.hypothesis import REGIONS
from segmamba.studies.spec import FOUND
from segmamba.studies.verdict import verdict


def write_report(study, folder):
    """Write report.html, report.md and plots/*.png into `folder`, each whole or not at all; returns the path of report.html."""
    from segmamba.reports.figures import draw_all, save_png, to_svg

    folder = Path(folder)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    figures = draw_all(study)
    for name, figure in figures.items():
        save_png(figure, folder / "plots" / f"{name}.png")
    content = _content(study, folder) | {
        "figures": {name: to_svg(figure, name) for name, figure in figures.items()}
    }
    write_text(folder / "report.md", template("report.md.j2", autoescape=False).render(content))
    return write_text(
        folder / "report.html", template("report.html.j2", autoescape=True).render(content)
    )


def _content(study, folder):
    """What both templates show, as text and lists."""
    headers, rows = arm_table(study)
    finished = sum(trial.status == "FINISHED" for trial in study.trials)
    per_arm = count(len(study.seeds), "seed") + (
        f" x {count(len(study.folds), 'fold')}" if study.folds else ""
    )
    return {
        "study": study,
        "verdict": verdict(study),
        "notice": PHANTOM_NOTICE if study.data.get("phantom") else "",
        "decided_by": _decided_by(study.hypothesis),
        "last_checkpoint": _last_checkpoint(study),
        "secondary": [
            {
                "claim": claim.claim,
                "decided_by": _decided_by(claim),
                "verdict": verdict(study, claim),
            }
            for claim in study.secondary
        ],
        "summary": f"{finished} of {count(len(study.trials), 'trial')} finished; {per_arm} per arm; "
        f"preset {study.preset}; {duration(study.seconds)} from plan to report",
        "tested": "last" if study.data.get("test_is_validation") else "best on the validation set",
        "headers": headers,
        "rows": rows,
        **_pairs(study),
        "trials": [_trial_row(trial, folder) for trial in study.trials],
        "planned": _planned(study),
        "searched": [_searched_row(trial, folder) for trial in study.searched],
        "space": study.space,
        "importance": {name: f"{100 * share:.0f} %" for name, share in study.importance.items()},
        "schedule": [_stage_row(stage) for stage in study.schedule],
        "varied": _varied(study),
        "config": {name: plain(value) for name, value in study.config.items()},
        "sets": _sets(study.data),
    }


def _decided_by(claim):
    """The estimand in words."""
    region = " and ".join("mean" if region == "mean" else region for region in claim.regions)
    contrasts = (
        "; ".join(f"{c.arm} minus {c.versus}" if c.versus else c.label for c in claim.contrasts)
        or "nothing in this run"
    )
    test = {
        "better": "",
        "no better": ", all to lie below the margin",
        "alike": ", all to lie within the margin",
    }[claim.direction]
    many = len(claim.contrasts) * len(claim.regions) > 1 and claim.direction == "better"
    return (
        f"{region} Dice on the test set, {contrasts}{test}; smallest difference that matters: {points(claim.margin)} Dice points; "
        f"{100 * LEVEL:.0f} % interval{'; Holm over all' if many else ''}"
    )


def _planned(study):
    """{"why", "rows"}: the time that was planned beside the time it took, for the study and a trial's training in each arm; {} unmeasured."""
    if not study.budget.get("study_s"):
        return {}
    rows = [
        {
            "what": "the study",
            "planned": duration(study.budget["study_s"]),
            "took": duration(study.seconds),
        }
    ]
    for arm, cost in study.budget["arms"].items():
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
    return {"why": study.budget["why"], "rows": rows}


def _last_checkpoint(study):
    """The question's contrasts with the last epoch's weights in place of those that the validation set chose; empty where these were not tested."""
    claim = study.hypothesis
    found = [
        contrast_difference(study, contrast, claim.regions[0], f"last_{claim.score}")
        for contrast in claim.contrasts
    ]
    return [{"contrast": f.label, "cell": _interval(f)} for f in found if f.cases]


def _sets(data):
    """{name: case ids} of the study's sets, for each fold where there are folds."""
    if data.get("folds"):
        return {
            f"fold {number}, {name}": cases
            for number, sets in enumerate(data["folds"])
            for name, cases in sets.items()
        }
    return {name: list(data.get(name) or []) for name in ("train", "validation", "test")}


def _pairs(study):
    decides = study.hypothesis.regions[0]
    regions = [decides, *(region for region in REGIONS if region != decides)]
    comparisons = compare_arms(study)
    rows = [
        {
            "contrast": c.label,
            "decides": c.decides,
            "cells": [_interval(c.regions[region]) for region in regions],
            "p": _p(c.regions[decides].p_value),
            "p_holm": _p(c.p_holm),
            "seeds": len(c.regions[decides].seeds),
            "cases": len(c.regions[decides].cases),
        }
        for c in comparisons
    ]
    notes = dict.fromkeys(note for c in comparisons for note in c.regions[decides].notes)
    return {"pair_regions": regions, "pairs": rows, "pair_notes": list(notes)}


def _interval(found):
    """(estimate, interval) as text; the second is empty where there is none."""
    interval = (
        f"[{points(found.low, True)}, {points(found.high, True)}]"
        if math.isfinite(found.low)
        else ""
    )
    return points(found.mean, True), interval


def _p(p):
    return DASH if not math.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _searched_row(trial, folder):
    copied = f"copied {trial.copied}" if trial.copied else ""
    return _trial_row(trial, folder) | {
        "dice": points(trial.metrics.get("val/best_dice_mean")),
        "settings": _shown(trial.changes or {}),
        "copied": copied,
    }


def _shown(settings):
    return {
        name: f"{value:.3g}" if isinstance(value, float) else plain(value)
        for name, value in settings.items()
    }


def _stage_row(stage):
    """Of a schedule: from which epoch on, with which settings, and whose copy that began."""
    return {
        "epoch": stage["epoch"] + 1,
        "settings": _shown(stage["changes"]),
        "donor": stage["donor"],
    }


def _trial_row(trial, folder):
    epochs = max((step for steps in trial.history.values() for step, _ in steps), default=0)
    return {
        "arm": trial.arm,
        "seed": trial.seed if trial.fold is None else f"{trial.seed}, fold {trial.fold}",
        "status": trial.status.lower(),
        "dice": points(trial.metrics.get("test/dice_mean")),
        "epochs": epochs,
        "time": duration(trial.metrics.get("time/train_total_s")),
        "reason": trial.reason,
        "run_id": trial.run_id or DASH,
        "folder": _below(trial.folder, folder),
    }


def _below(path, folder):
    """`path` as seen from the report, where it lies below it."""
    inside = path and Path(path).is_absolute() and Path(path).is_relative_to(Path(folder).resolve())
    return os.path.relpath(path, Path(folder).resolve()) if inside else path or DASH


def _varied(study):
    """{setting: {arm: value}} of what differs between arms: what they declare, and what their trials' parameters show."""
    params = {
        arm: next((t.params for t in study.trials if t.arm == arm and t.params), {})
        for arm in study.arms
    }
    declared = dict.fromkeys(name for changes in study.arms.values() for name in changes)
    logged = dict.fromkeys(name for p in params.values() for name in p if name != "seed")
    differing = [
        name for name in logged if len({p[name] for p in params.values() if name in p}) > 1
    ]
    stages = [_shown(stage["changes"]) for stage in study.schedule]
    scheduled = {
        (FOUND, name): " then ".join(dict.fromkeys(stage[name] for stage in stages))
        for name in study.space
        if stages
    }

    def value(name, arm, changes):
        return scheduled.get((arm, name)) or plain(
            changes.get(name, params[arm].get(name, study.config.get(name, DASH)))
        )

    return {
        name: {arm: value(name, arm, changes) for arm, changes in study.arms.items()}
        for name in dict.fromkeys([*declared, *differing])
    }
