"""The fingerprint of a data set: grids, intensities, volumes of the regions; numbers as JSON, and three pictures.

Cases with errors are left out and counted; `segmamba data check` says what is wrong with them.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segmamba.data.case import ERROR
from segmamba.data.cases import list_cases, notes_on
from segmamba.data.labels import MODALITIES, REGIONS, region_masks
from segmamba.data.parallel import map_cases
from segmamba.data.volumes import read_case
from segmamba.errors import UserError
from segmamba.files import replacing, write_json
from segmamba.screen import print_line

QUANTILES = {
    "p0.5": 0.005,
    "median": 0.5,
    "p99.5": 0.995,
}  # nnU-Net's fingerprint takes these (Isensee et al. 2021)
REGION_COLOURS = {
    "ET": "#d55e00",
    "TC": "#c9a800",
    "WT": "#56b4e9",
}  # after Okabe & Ito 2008: told apart by colour-blind readers


@dataclass(frozen=True)
class Measured:
    """What one case adds to the fingerprint."""

    id: str
    shape: tuple
    """Voxels x, y, z in canonical orientation."""
    spacing_mm: tuple
    brain_mm: tuple
    """Sides of the box around all voxels where some image is not 0."""
    intensities: dict
    """{modality: {"mean", "std", "p0.5", "median", "p99.5"}} over the voxels that are not 0."""
    volumes_ml: dict | None
    """{region: millilitres}; None without a segmentation."""


def summarise(source, labels="auto", *, progress=lambda done, total: None):
    """(fingerprint dict, list of Measured) of a data set; see `find_cases` for source and labels."""
    cases = list_cases(source, labels)
    measured = map_cases(measure_case, cases, lost=lambda case: None, progress=progress)
    faulty = [case.id for case, result in zip(cases, measured, strict=True) if result is None]
    measured = [result for result in measured if result]
    if not measured:
        raise UserError(
            f"{source}: none of its {len(cases)} cases can be read; `segmamba data check {source}` says why"
        )
    return _fingerprint(cases, measured, faulty), measured


def measure_case(case):
    """A Case as Measured; None if a training run could not read it."""
    reading = read_case(case)
    if any(finding.severity == ERROR for finding in (*case.findings, *reading.findings)):
        return None
    brain = np.logical_or.reduce([channel != 0 for channel in reading.channels.values()])
    sides = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    voxel_ml = float(np.prod(reading.spacing_mm)) / 1000
    volumes = None
    if reading.label is not None:
        masks = region_masks(reading.label)
        volumes = {
            region: float(np.count_nonzero(mask) * voxel_ml)
            for region, mask in zip(REGIONS, masks, strict=True)
        }
    return Measured(
        case.id,
        brain.shape,
        reading.spacing_mm,
        tuple(
            float((side[-1] - side[0] + 1) * mm)
            for side, mm in zip(sides, reading.spacing_mm, strict=True)
        ),
        {modality: _intensities(reading.channels[modality]) for modality in MODALITIES},
        volumes,
    )


def _intensities(channel):
    values = channel[channel != 0]
    quantiles = np.quantile(values, list(QUANTILES.values()))
    mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    return {"mean": float(mean), "std": float(std)} | dict(
        zip(QUANTILES, map(float, quantiles), strict=True)
    )


def _fingerprint(cases, measured, faulty):
    labelled = [case for case in measured if case.volumes_ml is not None]
    return {
        "cases": len(cases),
        "patients": len({case.patient for case in cases}),
        "labelled": len(labelled),
        "unreadable": faulty,
        "labels": dict(Counter(case.convention for case in cases)),
        "notes": notes_on(cases),
        "shapes": _counted(tuple(case.shape) for case in measured),
        "spacings_mm": _counted(tuple(round(s, 4) for s in case.spacing_mm) for case in measured),
        "brain_mm": {
            axis: _spread([case.brain_mm[place] for case in measured])
            for place, axis in enumerate("xyz")
        },
        "intensities": {
            modality: {
                name: _spread([case.intensities[modality][name] for case in measured])
                for name in ("mean", "std", *QUANTILES)
            }
            for modality in MODALITIES
        },
        "volumes_ml": {
            region: _spread([case.volumes_ml[region] for case in labelled]) for region in REGIONS
        },
        "cases_without": {
            region: [case.id for case in labelled if case.volumes_ml[region] == 0]
            for region in REGIONS
        },
    }


def _counted(keys):
    return {
        " x ".join(f"{number:g}" for number in key): count
        for key, count in Counter(keys).most_common()
    }


def _spread(values):
    """{"min", "median", "max"} over cases; None for no cases."""
    return (
        {"min": min(values), "median": float(np.median(values)), "max": max(values)}
        if values
        else None
    )


def write_summary(folder, fingerprint, measured):
    """summary.json and the pictures volumes.png (where there is a tumour), intensities.png and grids.png in `folder`; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [write_json(folder / "summary.json", fingerprint)]
    labelled = [case for case in measured if case.volumes_ml is not None]
    pictures = {
        "intensities.png": (_draw_intensities, measured),
        "grids.png": (_draw_grids, measured),
    }
    pictures |= (
        {"volumes.png": (_draw_volumes, labelled)}
        if any(case.volumes_ml["WT"] for case in labelled)
        else {}
    )
    return written + [
        _picture(folder / name, draw, cases) for name, (draw, cases) in pictures.items()
    ]


def _picture(path, draw, cases):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure, cases)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    with replacing(path) as file:
        figure.savefig(file, dpi=130, format="png")
    return path


def _draw_volumes(figure, cases):
    """Left: the volume of each region, a dot for a case, on a log scale; right: how ET's share of the core is spread."""
    from matplotlib.ticker import LogFormatter

    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(cases))
    for place, region in enumerate(REGIONS):
        volumes = np.array([case.volumes_ml[region] for case in cases])
        some = volumes > 0
        left.scatter(
            place + jitter[some],
            volumes[some],
            s=12,
            alpha=0.6,
            color=REGION_COLOURS[region],
            linewidths=0,
        )
        if some.any():
            left.hlines(
                np.median(volumes[some]), place - 0.35, place + 0.35, color="black", linewidth=1.5
            )
    without = {region: sum(case.volumes_ml[region] == 0 for case in cases) for region in REGIONS}
    left.set_xticks(
        range(len(REGIONS)),
        [f"{region}\n{without[region]} of {len(cases)} cases without" for region in REGIONS],
        fontsize=8,
    )
    left.set(
        yscale="log",
        ylabel="volume (ml)",
        title="regions, a dot for a case; line: median",
        xlim=(-0.6, len(REGIONS) - 0.4),
    )
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    shares = [
        case.volumes_ml["ET"] / case.volumes_ml["TC"] for case in cases if case.volumes_ml["TC"] > 0
    ]
    right.hist(shares, bins=np.linspace(0, 1, 21), color=REGION_COLOURS["ET"])
    right.set(xlabel="ET / TC", ylabel="cases", title="enhancing share of the core", xlim=(0, 1))
    right.yaxis.get_major_locator().set_params(integer=True)


def _draw_intensities(figure, cases):
    """A panel for each modality, a line for each case from its 0.5th to its 99.5th percentile with a dot at the median."""
    for panel, modality in zip(figure.subplots(1, len(MODALITIES)), MODALITIES, strict=True):
        rows = sorted((case.intensities[modality] for case in cases), key=lambda row: row["median"])
        places = np.arange(len(rows))
        panel.hlines(
            places,
            [r["p0.5"] for r in rows],
            [r["p99.5"] for r in rows],
            color="#9ecae1",
            linewidth=max(0.5, min(6, 150 / len(rows))),
        )
        panel.plot([r["median"] for r in rows], places, ".", color="black", markersize=4)
        panel.set(
            title=modality, xlabel="intensity in the brain", yticks=[], ylim=(-0.8, len(rows) - 0.2)
        )
    figure.axes[0].set_ylabel(f"{len(cases)} cases, 0.5 % - median - 99.5 %", fontsize=9)


def _draw_grids(figure, cases):
    """A panel for each axis: how long the volume and the brain in it are."""
    for place, (panel, axis) in enumerate(
        zip(
            figure.subplots(1, 3),
            ("x, left to right", "y, back to front", "z, bottom to top"),
            strict=True,
        )
    ):
        volume = [case.shape[place] * case.spacing_mm[place] for case in cases]
        brain = [case.brain_mm[place] for case in cases]
        bins = np.linspace(0.9 * min(brain), 1.02 * max(volume), 40)
        panel.hist(volume, bins=bins, color="0.75", label="volume")
        panel.hist(brain, bins=bins, color="#56b4e9", alpha=0.8, label="brain in it")
        panel.set(title=axis, xlabel="mm")
        panel.yaxis.get_major_locator().set_params(integer=True)
    figure.axes[0].set_ylabel("cases")
    figure.axes[0].legend(frameon=False, fontsize=8)


def render(fingerprint, console):
    """The fingerprint as a few lines and two tables."""
    from rich.table import Table

    told = fingerprint
    lines = [
        f"{told['cases']} cases of {told['patients']} patients, {told['labelled']} labelled; labels {', '.join(told['labels'])}",
        f"shapes    {_listing(told['shapes'])}",
        f"spacings  {_listing(told['spacings_mm'])} (mm)",
    ]
    lines += [f"note      {note}" for note in told["notes"]]
    lines += (
        [
            f"left out  {len(told['unreadable'])} cases that cannot be read, {told['unreadable'][0]} for one"
        ]
        if told["unreadable"]
        else []
    )
    for line in lines:
        print_line(console, line)
    intensities = Table(
        "modality",
        "mean",
        "std",
        *QUANTILES,
        title="intensity in the brain, median over cases",
        box=None,
    )
    for modality, spreads in told["intensities"].items():
        intensities.add_row(
            modality, *(f"{spreads[name]['median']:.4g}" for name in ("mean", "std", *QUANTILES))
        )
    console.print(intensities)
    if told["labelled"]:
        volumes = Table(
            "region", "min", "median", "max", "cases without", title="volume (ml)", box=None
        )
        for region, spread in told["volumes_ml"].items():
            volumes.add_row(
                region,
                *(f"{spread[name]:.2f}" for name in ("min", "median", "max")),
                str(len(told["cases_without"][region])),
            )
        console.print(volumes)


def _listing(counted, most=4):
    shown = [f"{name} ({count})" for name, count in list(counted.items())[:most]]
    return ", ".join(shown) + (f" and {len(counted) - most} more" if len(counted) > most else "")
