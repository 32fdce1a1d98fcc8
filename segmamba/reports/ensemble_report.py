"""The report of an ensemble: one page for reading, Markdown for pasting, pictures for papers."""

from pathlib import Path

import numpy as np

from segmamba.data.labels import REGIONS, REGIONS_AND_MEAN
from segmamba.evaluation.ensemble_scores import ENSEMBLE, VARIANTS, difference
from segmamba.files import write_text
from segmamba.reports.figures import (
    ARM_COLOURS,
    BAND,
    BASELINE_COLOUR,
    INK,
    MUTED,
    STYLE,
    WIDTH_IN,
    save_png,
    to_svg,
)
from segmamba.reports.pages import plain, template
from segmamba.reports.tables import DASH, PHANTOM_NOTICE, duration
from segmamba.studies.contrasts import points
from segmamba.studies.ensemble_verdict import answer, gain, verdict_sentence

COLUMNS = ("mean", *REGIONS)
HD95 = tuple(f"hd95_mm_{region}" for region in REGIONS)


def write_ensemble_report(found, folder):
    """Write ensemble.html, ensemble.md and their pictures in plots/ into `folder`; returns the path of ensemble.html."""
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    figures = draw(found)
    for name, figure in figures.items():
        save_png(figure, folder / "plots" / f"{name}.png")
    content = content_of(found) | {
        "figures": {name: to_svg(figure, name) for name, figure in figures.items()}
    }
    write_text(folder / "ensemble.md", template("ensemble.md.j2", autoescape=False).render(content))
    return write_text(
        folder / "ensemble.html", template("ensemble.html.j2", autoescape=True).render(content)
    )


def content_of(found):
    """What both templates show, as text and lists."""
    study = found.study
    return {
        "study": study,
        "answer": answer(found),
        "sentence": verdict_sentence(found),
        "expected": [points(value) for value in found.expected_gain],
        "notice": PHANTOM_NOTICE if study.data.get("phantom") else "",
        "registered": found.registered,
        "notes": [
            note for note in study.data["notes"] if not note.startswith("one seed")
        ],  # true of arms, but these are members
        "predict": _predict_command(found),
        "test_is_validation": bool(study.data.get("test_is_validation")),
        "test_cases": len(study.data["test"]),
        "summary": f"{len(study.trials)} members trained; preset {study.preset}; {duration(study.seconds)} of training and "
        f"{duration(found.seconds)} of scoring",
        "members": [_members(group, study) for group in found.groups],
        "pairs": [row for group in found.groups for row in _pairs(found, group)] + _between(found),
        "variants": [
            {"group": group.name, "rows": [_variant(group, *variant) for variant in VARIANTS]}
            for group in found.groups
        ],
        "postprocessing": {group.name: group.postprocessing.summary for group in found.groups},
        "sizes": [{"group": group.name, "rows": _sizes(group)} for group in found.groups],
        "cost": [_cost(group, study) for group in found.groups],
        "varied": {
            name: {
                arm: plain(changes.get(name, study.config.get(name, DASH)))
                for arm, changes in study.arms.items()
            }
            for name in dict.fromkeys(name for changes in study.arms.values() for name in changes)
        },
        "config": {name: plain(value) for name, value in study.config.items()},
        "sets": {
            name: list(study.data.get(name) or []) for name in ("train", "validation", "test")
        },
    }


def _predict_command(found):
    uri = found.study.mlflow_uri
    store = (
        f" --results {Path(uri.removeprefix('sqlite:///')).parent}"
        if uri.startswith("sqlite:///")
        else ""
    )
    return f"segmamba predict --model {found.registered.partition(' ')[0]}{store} --input DIR --output DIR"


def _members(group, study):
    """The table of one group: every member, their mean, and the vote."""
    val = {trial.arm: trial.metrics.get("val/best_dice_mean") for trial in study.trials}
    rows = []
    for place, member in enumerate(group.members):
        name = f"{member} (best on the validation set)" if place == group.best else member
        rows.append(
            {
                "name": name,
                "validation": points(val[member]),
                "cells": _score_cells(group, member),
                "strong": False,
            }
        )
    means = [
        np.mean(list(group.member_mean(score).values())) for score in [f"dice_{s}" for s in COLUMNS]
    ]
    hd95_mm = np.mean([np.mean(list(group.member_mean(score).values())) for score in HD95])
    rows.append(
        {
            "name": "mean of the members",
            "validation": DASH,
            "cells": [*(points(m) for m in means), f"{hd95_mm:.1f}"],
            "strong": False,
        }
    )
    rows.append(
        {
            "name": f"{group.name} ensemble",
            "validation": DASH,
            "cells": _score_cells(group, ENSEMBLE),
            "strong": True,
        }
    )
    return {"group": group.name, "headers": ["mean Dice", *COLUMNS[1:], "HD95 (mm)"], "rows": rows}


def _score_cells(group, who):
    cells = [
        points(np.mean(list(group.scores(who, f"dice_{score}").values()))) for score in COLUMNS
    ]
    return [
        *cells,
        f"{np.mean([np.mean(list(group.scores(who, score).values())) for score in HD95]):.1f}",
    ]


def _pairs(found, group):
    best = group.members[group.best]
    cells = [_cell(gain(found, group, f"dice_{s}")) for s in COLUMNS]
    yield {"contrast": f"{group.name} ensemble \N{MINUS SIGN} mean of its members", "cells": cells}
    cells = [
        _cell(difference(group.scores(ENSEMBLE, f"dice_{s}"), group.scores(best, f"dice_{s}")))
        for s in COLUMNS
    ]
    yield {
        "contrast": f"{group.name} ensemble \N{MINUS SIGN} its best member on the validation set",
        "cells": cells,
    }


def _between(found):
    """The diverse ensemble against as many plain seeds."""
    if len(found.groups) < 2:
        return []
    plain, diverse = found.groups
    cells = [
        _cell(
            difference(diverse.scores(ENSEMBLE, f"dice_{s}"), plain.scores(ENSEMBLE, f"dice_{s}"))
        )
        for s in COLUMNS
    ]
    means = [
        _cell(difference(diverse.member_mean(f"dice_{s}"), plain.member_mean(f"dice_{s}")))
        for s in COLUMNS
    ]
    names = f"{diverse.name} {{}} \N{MINUS SIGN} {plain.name} {{}}"
    return [
        {"contrast": names.format("ensemble", "ensemble"), "cells": cells},
        {"contrast": names.format("members", "members"), "cells": means},
    ]


def _variant(group, flips, post):
    """The vote and its members' mean with test-time options, and what the options add to the vote."""
    options = {"flips": flips, "postprocessed": post}
    name = (
        " + ".join(
            [text for text, on in (("8 mirror images", flips), ("post-processing", post)) if on]
        )
        or "as it is"
    )
    dice = [
        points(np.mean(list(group.scores(ENSEMBLE, f"dice_{s}", **options).values())))
        for s in COLUMNS
    ]
    hd95_mm = np.mean(
        [np.mean(list(group.scores(ENSEMBLE, score, **options).values())) for score in HD95]
    )
    added = difference(
        group.scores(ENSEMBLE, "dice_mean", **options), group.scores(ENSEMBLE, "dice_mean")
    )
    return {
        "name": name,
        "members": points(np.mean(list(group.member_mean("dice_mean", **options).values()))),
        "dice": dice,
        "hd95": f"{hd95_mm:.1f}",
        "added": _cell(added) if flips or post else (DASH, ""),
        "over_members": _cell(
            difference(
                group.scores(ENSEMBLE, "dice_mean", **options),
                group.member_mean("dice_mean", **options),
            )
        ),
    }


def _cell(found):
    mean, low, high = found
    return points(
        mean, True
    ), f"[{points(low, True)}, {points(high, True)}]" if low is not None else ""


def _sizes(group):
    before, rows = None, []
    for size, means in group.by_size().items():
        mean = float(np.mean(means))
        rows.append(
            {
                "size": size,
                "subsets": len(means),
                "mean": points(mean),
                "range": f"{points(min(means))} to {points(max(means))}",
                "gain": points(mean - before, True) if before is not None else DASH,
            }
        )
        before = mean
    return rows


def _cost(group, study):
    training = [
        trial.metrics.get("time/train_total_s")
        for trial in study.trials
        if trial.arm in group.members
    ]
    known = [seconds for seconds in training if seconds is not None]
    one = duration(sum(known) / len(known)) if known else DASH
    return {
        "group": group.name,
        "train_one": one,
        "train_all": duration(sum(known)) if known else DASH,
        "seconds": {name: f"{seconds:.2f} s" for name, seconds in group.seconds.items()},
    }


def draw(found):
    """{name: Figure}: the gain per added member, and the paired differences."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figures = {"members": draw_sizes(found), "gains": draw_gains(found)}
        for figure in figures.values():
            figure.draw_without_rendering()  # makes the ticks while the style holds
        return figures


def draw_sizes(found):
    """Mean Dice of every subset of members over its size, and its mean."""
    figure = _figure(3.0)
    panel = figure.subplots()
    for number, group in enumerate(found.groups):
        colour, sizes = ARM_COLOURS[number], group.by_size()
        shift = 0.06 * (number - (len(found.groups) - 1) / 2)
        for size, means in sizes.items():
            panel.plot(
                [size + shift] * len(means),
                100 * np.array(means),
                "o",
                ms=3.5,
                color=colour,
                alpha=0.35,
                mew=0,
            )
        panel.plot(
            np.array(list(sizes)) + shift,
            [100 * np.mean(means) for means in sizes.values()],
            "-",
            lw=1.8,
            color=colour,
            label=group.name,
        )
    best = found.groups[0].members[found.groups[0].best]
    panel.axhline(
        100 * np.mean(list(found.groups[0].scores(best, "dice_mean").values())),
        color=BASELINE_COLOUR,
        ls="--",
        lw=1,
        label=f"{best}, the best on the validation set",
    )
    panel.set(xlabel="members that vote", ylabel="mean Dice on the test set, points")
    panel.xaxis.get_major_locator().set_params(integer=True)
    panel.grid(axis="y", color="#dbdcdd", lw=0.5)
    panel.legend(frameon=False, loc="lower right")
    return figure


def draw_gains(found):
    """The vote minus its members' mean, per region, with the interval over patients; the band is what is expected of mean Dice."""
    figure = _figure(0.9 + 0.42 * len(found.groups) * 2)
    panels = figure.subplots(1, len(COLUMNS), sharey=True)
    rows = [
        (group, against)
        for group in found.groups
        for against in ("mean of its members", "its best member")
    ]
    for panel, score in zip(panels, COLUMNS, strict=True):
        panel.axvline(0, color=MUTED, lw=0.8)
        if score == "mean":
            panel.axvspan(
                *(100 * value for value in found.expected_gain), color=BAND, lw=0, zorder=0
            )
        for y, (group, against) in enumerate(rows):
            name = f"dice_{score}"
            mean, low, high = (
                gain(found, group, name)
                if against.startswith("mean")
                else difference(
                    group.scores(ENSEMBLE, name), group.scores(group.members[group.best], name)
                )
            )
            if low is not None:
                panel.plot([100 * low, 100 * high], [-y, -y], color=INK, lw=1.4)
            panel.plot(100 * mean, -y, "o", color=ARM_COLOURS[found.groups.index(group)], ms=5)
        panel.set_title("mean of regions" if score == "mean" else score)
        panel.tick_params(axis="y", length=0)
        panel.set_ylim(0.5 - len(rows), 0.5)
    panels[0].set_yticks(
        [-y for y in range(len(rows))],
        [f"{group.name} ensemble \N{MINUS SIGN}\n{against}" for group, against in rows],
    )
    figure.supxlabel(
        "difference in Dice points; bars: 95 % interval over patients; band: the expected gain",
        fontsize=8,
    )
    return figure


def _figure(height_in):
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def as_dict(found):
    """What the terminal shows, for --json: Dice from 0 to 1."""
    groups = {}
    for group in found.groups:
        means = {
            who: {s: float(np.mean(list(group.scores(who, f"dice_{s}").values()))) for s in REGIONS_AND_MEAN}
            for who in (*group.members, ENSEMBLE)
        }
        mean, low, high = gain(found, group)
        sizes = {size: float(np.mean(values)) for size, values in group.by_size().items()}
        groups[group.name] = {
            "dice": means,
            "gain": {"mean": mean, "low": low, "high": high},
            "by_size": sizes,
            "seconds": group.seconds,
        }
    return {
        "study": found.study.name,
        "answer": answer(found),
        "verdict": verdict_sentence(found),
        "registered": found.registered,
        "groups": groups,
    }


def render_terminal(found, console):
    """The members, the vote and the verdict on a rich Console."""
    from rich.table import Table
    from rich.text import Text

    for table in content_of(found)["members"]:
        shown = Table(
            table["group"],
            "validation",
            *table["headers"],
            title="Dice in points on the test set",
            title_justify="left",
            box=None,
        )
        for row in table["rows"]:
            shown.add_row(
                *(
                    Text(text, style="bold" if row["strong"] else "")
                    for text in (row["name"], row["validation"], *row["cells"])
                )
            )
        console.print()
        console.print(shown)
    console.print()
    console.print(Text(verdict_sentence(found)))
    if found.study.data.get("phantom"):
        console.print(Text(PHANTOM_NOTICE, style="bold"))
