"""The numbers of a study's report as tables: plain for JSON, text for pages, and as the terminal shows them."""

import math
import statistics as stats

from segmamba.studies.hypothesis import REGIONS
from segmamba.studies.verdict import verdict

PHANTOM_NOTICE = "phantom data: no evidence about BraTS"
DASH = "\N{EN DASH}"
SCORES = {"dice_mean": "mean Dice", "dice_ET": "ET", "dice_TC": "TC", "dice_WT": "WT"}
COLOURS = {"supported": "green", "rejected": "red", "equivalent": "blue", "undecided": "yellow"}


def result_table(study):
    """One plain dict per arm, ready for JSON, None where nothing was measured.

    Each score is {"mean", "sd", "seeds"} over finished seeds: dice_mean, dice_ET, dice_TC, dice_WT (0 to 1), hd95_mm (mean of the
    regions) and last_dice_mean (the last checkpoint's, where it was tested too); beside them parameters and train_s.
    """
    rows = []
    for arm in study.arms:
        finished = [
            trial for trial in study.trials if trial.arm == arm and trial.status == "FINISHED"
        ]
        rows.append(
            {
                "arm": arm,
                "baseline": arm == study.baseline,
                "seeds_finished": len({trial.seed for trial in finished}),
                "seeds_planned": len(study.seeds),
                **{
                    name: _over_seeds(
                        finished, lambda metrics, name=name: metrics.get(f"test/{name}")
                    )
                    for name in SCORES
                },
                "hd95_mm": _over_seeds(finished, _hd95_mm),
                "last_dice_mean": _over_seeds(
                    finished, lambda metrics: metrics.get("test/last_dice_mean")
                ),
                "parameters": _mean([t.metrics.get("model/parameters") for t in finished]),
                "train_s": _mean([t.metrics.get("time/train_total_s") for t in finished]),
            }
        )
    return rows


def _hd95_mm(metrics):
    return _mean([metrics.get(f"test/hd95_mm_{region}") for region in REGIONS if region != "mean"])


def _over_seeds(trials, score):
    """Of `score(metrics)`, averaged over the folds of a seed first: folds are other patients, no other luck."""
    values = _finite(
        [
            _mean([score(t.metrics) for t in trials if t.seed == seed])
            for seed in dict.fromkeys(t.seed for t in trials)
        ]
    )
    return {
        "mean": _mean(values),
        "sd": stats.stdev(values) if len(values) > 1 else None,
        "seeds": len(values),
    }


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
    columns = [
        column
        for column in columns
        if column[1] in SCORES or any(row[column[1]]["seeds"] for row in table)
    ]
    rows = [
        [
            (
                row["arm"]
                + (" (baseline)" if row["baseline"] and row["arm"] != "baseline" else ""),
                False,
            )
        ]
        for row in table
    ]
    for _, name, best_of, scale in columns:
        means = _finite([row[name]["mean"] for row in table])
        best = best_of(means) if len(means) > 1 else None
        for cells, row in zip(rows, table, strict=True):
            cells.append(
                (
                    _plus_minus(row[name], scale),
                    row[name]["mean"] is not None and row[name]["mean"] == best,
                )
            )
    for cells, row in zip(rows, table, strict=True):
        parameters = DASH if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f} M"
        cells += [
            (parameters, False),
            (duration(row["train_s"]), False),
            (f"{row['seeds_finished']} of {row['seeds_planned']}", False),
        ]
    return ["arm", *(title for title, *_ in columns), "parameters", "training", "seeds"], rows


def _plus_minus(score, scale):
    if score["mean"] is None:
        return DASH
    return f"{scale * score['mean']:.1f}" + (
        f" ± {scale * score['sd']:.1f}" if score["sd"] is not None else ""
    )


def duration(seconds):
    """48 s, 3.2 min, 1.4 h."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.1f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )


def render_terminal(study, console):
    """The result table and the verdict on a rich Console."""
    from rich.table import Table
    from rich.text import Text

    headers, rows = _fitting(*arm_table(study), console.width)
    title = "Dice in points, mean±sd over seeds, on the test set; * is the baseline"
    table = Table(
        title=title,
        title_justify="left",
        title_style="",
        box=None,
        pad_edge=False,
        collapse_padding=True,
    )
    for header in headers:
        table.add_column(
            header, justify="left" if header == "arm" else "right", no_wrap=header != "arm"
        )
    for row in rows:
        table.add_row(*(Text(text, style="bold" if best else "") for text, best in row))
    console.print()
    console.print(table)
    console.print()
    for claim in study.claims:
        found = verdict(study, claim)
        console.print(Text(found.sentence, style=COLOURS[found.answer]))
    if study.data.get("phantom"):
        console.print(Text(PHANTOM_NOTICE, style="bold"))


def _fitting(headers, rows, width):
    """Headers and rows as a terminal of so many columns shows them: shortened, and without what it has no room for but the page has."""
    headers, rows = (
        [_compact(header) for header in headers],
        [[(_compact(text), best) for text, best in row] for row in rows],
    )
    for spare in (None, "params", "last", "time", "HD95"):
        at = headers.index(spare) if spare in headers else None
        headers, *rows = [
            [cell for place, cell in enumerate(row) if place != at] for row in (headers, *rows)
        ]
        arm = max(
            len(word) for row in rows for word in row[0][0].split()
        )  # a name is wrapped between its words
        others = [
            max(map(len, column))
            for column in zip(
                headers[1:], *([text for text, _ in row[1:]] for row in rows), strict=True
            )
        ]
        if arm + sum(1 + other for other in others) <= width:
            break
    return headers, rows


def _compact(text):
    """Cells and headers of the page, short enough for a terminal of 80 columns."""
    for long, short in (
        (" (baseline)", " *"),
        (" \N{PLUS-MINUS SIGN} ", "\N{PLUS-MINUS SIGN}"),
        (" of ", "/"),
        ("mean Dice", "mean"),
        ("HD95 (mm)", "HD95"),
        ("parameters", "params"),
        ("training", "time"),
        ("last checkpoint", "last"),
    ):
        text = text.replace(long, short)
    return text
