"""The report of a study: one page for reading, Markdown for pasting, pictures for papers, a table for the terminal.

Everything is computed from a Study, that is from what MLflow holds; drawing it again gives the same report.
"""

import math
import os
import statistics as stats
from pathlib import Path

from segmamba.files import write_text
from segmamba.orchestration.crossed import LEVEL
from segmamba.orchestration.statistics import REGIONS, compare_arms, count, points, verdict

PHANTOM_NOTICE = "phantom data: no evidence about BraTS"
DASH = "\N{EN DASH}"
SCORES = {"dice_mean": "mean Dice", "dice_ET": "ET", "dice_TC": "TC", "dice_WT": "WT"}


def write_report(study, folder):
    """Write report.html, report.md and plots/*.png into `folder`, each whole or not at all; returns the path of report.html."""
    from segmamba.orchestration.report_figures import draw_all, save_png, to_svg

    folder = Path(folder)
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    figures = draw_all(study)
    for name, figure in figures.items():
        save_png(figure, folder / "plots" / f"{name}.png")
    content = _content(study, folder) | {"figures": {name: to_svg(figure, name) for name, figure in figures.items()}}
    write_text(folder / "report.md", _template("report.md.j2", autoescape=False).render(content))
    return write_text(folder / "report.html", _template("report.html.j2", autoescape=True).render(content))


def result_table(study):
    """One plain dict per arm, ready for JSON, None where nothing was measured.

    Each score is {"mean", "sd", "seeds"} over finished seeds: dice_mean, dice_ET, dice_TC, dice_WT (0 to 1), hd95_mm (mean of the
    regions) and last_dice_mean (the last checkpoint's, where it was judged too); beside them parameters and train_s.
    """
    rows = []
    for arm in study.arms:
        finished = [trial for trial in study.trials if trial.arm == arm and trial.status == "FINISHED"]
        rows.append({
            "arm": arm,
            "baseline": arm == study.baseline,
            "seeds_finished": len({trial.seed for trial in finished}),
            "seeds_planned": len(study.seeds),
            **{name: _over_seeds([t.metrics.get(f"judge/{name}") for t in finished]) for name in SCORES},
            "hd95_mm": _over_seeds([_hd95_mm(t.metrics) for t in finished]),
            "last_dice_mean": _over_seeds([t.metrics.get("last/judge_dice_mean") for t in finished]),
            "parameters": _mean([t.metrics.get("model/parameters") for t in finished]),
            "train_s": _mean([t.metrics.get("time/train_total_s") for t in finished]),
        })  # fmt: skip
    return rows


def _hd95_mm(metrics):
    return _mean([metrics.get(f"judge/hd95_mm_{region}") for region in REGIONS if region != "mean"])


def _over_seeds(values):
    values = _finite(values)
    return {"mean": _mean(values), "sd": stats.stdev(values) if len(values) > 1 else None, "seeds": len(values)}


def _mean(values):
    values = _finite(values)
    return stats.fmean(values) if values else None


def _finite(values):
    return [v for v in values if v is not None and math.isfinite(v)]


def arm_table(study):
    """(headers, rows) of the result table as text; a row is a list of (text, whether it is the column's best)."""
    table = result_table(study)
    columns = [(title, name, max, 100) for name, title in SCORES.items()]
    columns += [("last checkpoint", "last_dice_mean", max, 100), ("HD95 (mm)", "hd95_mm", min, 1)]
    columns = [column for column in columns if column[1] in SCORES or any(row[column[1]]["seeds"] for row in table)]
    rows = [[(row["arm"] + (" (baseline)" if row["baseline"] else ""), False)] for row in table]
    for _, name, best_of, scale in columns:
        means = _finite([row[name]["mean"] for row in table])
        best = best_of(means) if len(means) > 1 else None
        for cells, row in zip(rows, table, strict=True):
            cells.append((_plus_minus(row[name], scale), row[name]["mean"] is not None and row[name]["mean"] == best))
    for cells, row in zip(rows, table, strict=True):
        parameters = DASH if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f} M"
        cells += [(parameters, False), (duration(row["train_s"]), False), (f"{row['seeds_finished']} of {row['seeds_planned']}", False)]
    return ["arm", *(title for title, *_ in columns), "parameters", "training", "seeds"], rows


def _plus_minus(score, scale):
    if score["mean"] is None:
        return DASH
    return f"{scale * score['mean']:.1f}" + (f" ± {scale * score['sd']:.1f}" if score["sd"] is not None else "")


def duration(seconds):
    """48 s, 3.2 min, 1.4 h."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def render_terminal(study, console):
    """The result table and the verdict on a rich Console."""
    from rich.table import Table
    from rich.text import Text

    headers, rows = arm_table(study)
    title = "Dice in points, mean±sd over seeds, on the judge set; * is the baseline"
    table = Table(title=title, title_justify="left", title_style="", box=None, pad_edge=False, collapse_padding=True)
    for header in headers:
        table.add_column(_compact(header), justify="left" if header == "arm" else "right", no_wrap=header != "arm")
    for row in rows:
        table.add_row(*(Text(_compact(text), style="bold" if best else "") for text, best in row))
    found = verdict(study)
    colour = {"supported": "green", "rejected": "red", "equivalent": "blue", "undecided": "yellow"}[found.answer]
    console.print()
    console.print(table)
    console.print()
    console.print(Text(found.sentence, style=colour))
    if study.data.get("phantom"):
        console.print(Text(PHANTOM_NOTICE, style="bold"))


def _compact(text):
    """Cells and headers of the page, short enough for a terminal of 80 columns."""
    for long, short in ((" (baseline)", " *"), (" \N{PLUS-MINUS SIGN} ", "\N{PLUS-MINUS SIGN}"), (" of ", "/"), ("mean Dice", "mean"),
                        ("HD95 (mm)", "HD95"), ("parameters", "params"), ("training", "time"), ("last checkpoint", "last")):  # fmt: skip
        text = text.replace(long, short)
    return text


def _content(study, folder):
    """What both templates show, as text and lists."""
    found, claim = verdict(study), study.hypothesis
    headers, rows = arm_table(study)
    finished = sum(trial.status == "FINISHED" for trial in study.trials)
    return {
        "study": study,
        "verdict": found,
        "notice": PHANTOM_NOTICE if study.data.get("phantom") else "",
        "decided_by": f"{'mean' if claim.region == 'mean' else claim.region} Dice on the judge set, {claim.better} minus {claim.than}; "
        f"smallest difference that matters: {points(claim.margin)} Dice points; {100 * LEVEL:.0f} % interval",
        "summary": f"{finished} of {count(len(study.trials), 'trial')} finished; {count(len(study.seeds), 'seed')} per arm; "
        f"preset {study.preset}; {duration(study.seconds)} in all",
        "judged": "last" if study.data.get("judge_is_minival") else "best on minival",
        "headers": headers,
        "rows": rows,
        **_pairs(study),
        "trials": [_trial_row(trial, folder) for trial in study.trials],
        "varied": _varied(study),
        "config": {name: _plain(value) for name, value in study.config.items()},
        "sets": {name: list(study.data.get(name) or []) for name in ("train", "minival", "judge")},
    }


def _pairs(study):
    decides = study.hypothesis.region
    regions = [decides, *(region for region in REGIONS if region != decides)]
    comparisons = compare_arms(study)
    rows = [
        {
            "contrast": f"{c.arm} \N{MINUS SIGN} {c.versus}",
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
    interval = f"[{points(found.low, True)}, {points(found.high, True)}]" if math.isfinite(found.low) else ""
    return points(found.mean, True), interval


def _p(p):
    return DASH if not math.isfinite(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _trial_row(trial, folder):
    epochs = max((step for steps in trial.history.values() for step, _ in steps), default=0)
    return {
        "arm": trial.arm,
        "seed": trial.seed,
        "status": trial.status.lower(),
        "dice": points(trial.metrics.get("judge/dice_mean")),
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
    params = {arm: next((t.params for t in study.trials if t.arm == arm and t.params), {}) for arm in study.arms}
    declared = dict.fromkeys(name for changes in study.arms.values() for name in changes)
    logged = dict.fromkeys(name for p in params.values() for name in p if name != "seed")
    differing = [name for name in logged if len({p[name] for p in params.values() if name in p}) > 1]
    return {
        name: {arm: _plain(changes.get(name, params[arm].get(name, study.config.get(name, DASH)))) for arm, changes in study.arms.items()}
        for name in dict.fromkeys([*declared, *differing])
    }


def _plain(value):
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value).strip("()[]")


def _template(name, *, autoescape):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, autoescape=autoescape, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["cell"] = _markdown_cell
    return environment.get_template(name)


def _markdown_cell(value):
    """Text that can break neither a Markdown table nor the page around it."""
    text = " ".join(str(value).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
