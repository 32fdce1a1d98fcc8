"""The pictures of one run: its curves, and its worst and median case beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from segmamba.data.label_sets import LabelSet
from segmamba.data.labels import MODALITIES
from segmamba.evaluation.dice import dice
from segmamba.pictures.figures import new_figure, save_figure
from segmamba.pictures.overlay import draw_cases
from segmamba.pictures.palette import COLOURS_ON_WHITE
from segmamba.pictures.view import CaseView, surroundings

if TYPE_CHECKING:
    from segmamba.data.preprocess import PreparedCase
    from segmamba.evaluation.cases import CaseScores

SHOWN_MODALITIES = ("T1ce", "FLAIR")
VAL_DICE = "val/dice_"


def draw_training_curves(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss, validation Dice per region and learning rate over epochs.

    Args:
        history: The metrics of each epoch, with "epoch".
        path: The picture's file.
    """
    figure = new_figure(figsize=(12, 3.2))
    # A computed layout would take half of the drawing's time. The right margin holds half of the
    # last tick's label.
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.155, top=0.9, wspace=0.21)
    loss, val, rate = figure.subplots(1, 3)
    epochs = [e["epoch"] for e in history]
    loss.plot(epochs, [e["train/loss"] for e in history], marker=".", color="#333333")
    loss.set(title="training loss", xlabel="epoch")
    loss.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.5g}"))
    validated = [e for e in history if "val/dice_mean" in e]
    when = [e["epoch"] for e in validated]
    for region in _regions(validated):
        val.plot(
            when,
            [100 * e[f"val/dice_{region}"] for e in validated],
            marker=".",
            color=COLOURS_ON_WHITE[region],
            label=region,
        )
    val.plot(
        when,
        [100 * e["val/dice_mean"] for e in validated],
        marker=".",
        color="black",
        linewidth=2,
        label="mean",
    )
    val.set(title="validation Dice, points", xlabel="epoch", ylim=(0, 100))
    val.legend(frameon=False, fontsize=8)
    rate.plot(epochs, [e["train/lr"] for e in history], marker=".", color="#333333")
    rate.set(title="learning rate", xlabel="epoch")
    rate.ticklabel_format(axis="y", scilimits=(-2, 2))
    for axis in (loss, val, rate):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)  # a single epoch is visible too
    save_figure(figure, path)


def _regions(history: Sequence[dict[str, Any]]) -> list[str]:
    """Name the regions of validated epochs, in their order."""
    named = [name.removeprefix(VAL_DICE) for name in history[0]] if history else []
    return [name for name in named if name in COLOURS_ON_WHITE]


def worst_and_median(rows: Sequence[CaseScores]) -> dict[str, str]:
    """Name the worst and the median case by mean Dice.

    Args:
        rows: The scores of each case; at least one.

    Returns:
        {"worst": case id, "median": case id}; a single row is the worst alone.
    """
    ordered = [row["case"] for row in sorted(rows, key=lambda row: row["dice_mean"])]
    named = {"worst": ordered[0]}
    if len(ordered) > 1:
        named["median"] = ordered[len(ordered) // 2]
    return named


@dataclass(frozen=True)
class PredictedCase:
    """A case of a picture, as a network predicts it."""

    case: PreparedCase
    classes: np.ndarray
    """Class numbers, uint8 (x, y, z), on the source's grid."""
    name: str
    """What the picture calls the case, "worst" for example."""
    labels: LabelSet


def draw_predicted(path: Path, predicted: Sequence[PredictedCase]) -> None:
    """Draw predicted cases to a file, beside the truth."""
    draw_cases(path, [show(each) for each in predicted])


def show(predicted: PredictedCase) -> CaseView:
    """Cut a case and its prediction to what a picture shows.

    Truth and prediction lie on the grid of the case's files; images of another working grid are
    interpolated to it.

    Args:
        predicted: The case.

    Returns:
        The surroundings of the tumour, with a heading.
    """
    case, prediction, labels = predicted.case, predicted.classes, predicted.labels
    truth = np.array(case.source_label())
    score = dice(prediction, truth, labels)["mean"]
    image = case.whole(
        np.asarray(case.image()[[MODALITIES.index(m) for m in SHOWN_MODALITIES]], np.float32)
    )
    heading = f"{predicted.name} case {case.id}, Dice {score:.2f}"
    if image.shape[1:] != truth.shape:
        working_mm = case.source_spacing_mm[0] * truth.shape[0] / image.shape[1]
        heading += f"; images interpolated from {working_mm:.2g} mm"
    images = dict(
        zip(SHOWN_MODALITIES, _on_grid(image, truth.shape).astype(np.float16), strict=True)
    )
    view = CaseView(
        heading,
        {modality: channel for modality, channel in images.items() if channel.any()},
        np.array(case.source_affine),
        labels,
        truth,
        np.asarray(prediction),
    )
    return view.cut(surroundings(view.tumour()))


def _on_grid(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Interpolate (channels, x, y, z) to `shape`, for showing only."""
    if image.shape[1:] == shape:
        return image
    from segmamba.data.working_grid import resample

    zooms = [n / s for n, s in zip(shape, image.shape[1:], strict=True)]
    return np.stack([resample(channel, zooms, order=1) for channel in image])
