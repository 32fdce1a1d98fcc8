"""The pictures of one run: its curves, and its worst and median case beside the truth."""

from dataclasses import dataclass

import numpy as np

from segmamba.data.labels import MODALITIES, REGIONS
from segmamba.evaluation.dice import dice
from segmamba.pictures import (
    REGION_COLOURS,
    add_outline_legend,
    busiest_slices,
    draw_plane,
    new_figure,
    save_figure,
    surroundings,
)

SHOWN_MODALITIES = ("T1ce", "FLAIR")


def draw_training_curves(history, path):
    """Loss, validation Dice per region and learning rate over epochs. history: a list of dicts of metrics with "epoch"."""
    figure = new_figure(figsize=(12, 3.2))
    figure.subplots_adjust(
        left=0.045, right=0.99, bottom=0.155, top=0.9, wspace=0.19
    )  # a layout found anew would take half the time
    loss, val, rate = figure.subplots(1, 3)
    epochs = [e["epoch"] for e in history]
    loss.plot(epochs, [e["train/loss"] for e in history], marker=".", color="#333333")
    loss.set(title="training loss", xlabel="epoch")
    validated = [e for e in history if "val/dice_mean" in e]
    when = [e["epoch"] for e in validated]
    for region in REGIONS:
        val.plot(
            when,
            [e[f"val/dice_{region}"] for e in validated],
            marker=".",
            color=REGION_COLOURS[region],
            label=region,
        )
    val.plot(
        when, [e["val/dice_mean"] for e in validated], color="black", linewidth=2, label="mean"
    )
    val.set(title="validation Dice", xlabel="epoch", ylim=(0, 1))
    val.legend(frameon=False, fontsize=8)
    rate.plot(epochs, [e["train/lr"] for e in history], color="#333333")
    rate.set(title="learning rate at the epoch's end", xlabel="epoch")
    rate.ticklabel_format(axis="y", scilimits=(-2, 2))
    for axis in (loss, val, rate):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    save_figure(figure, path)


@dataclass(frozen=True)
class Shown:
    """A case in a picture: image float16 (2, x, y, z) of T1ce and FLAIR, truth and prediction uint8 (x, y, z), cut to the tumour's surroundings."""

    heading: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


def worst_and_median(rows):
    """{"worst": case id, "median": case id} by mean Dice; a single row is the worst alone."""
    ordered = [row["case"] for row in sorted(rows, key=lambda row: row["dice_mean"])]
    return {"worst": ordered[0]} | (
        {"median": ordered[len(ordered) // 2]} if len(ordered) > 1 else {}
    )


def show(case, prediction, name):
    """A Shown of a PreparedCase and a prediction, internal classes on the source's grid. `name` says which one it is."""
    truth = np.array(case.source_label())
    score = dice(prediction, truth)["mean"]
    box = surroundings(truth > 0 if truth.any() else prediction > 0)
    image = case.whole(
        np.asarray(case.image()[[MODALITIES.index(m) for m in SHOWN_MODALITIES]], np.float32)
    )
    cut = _on_grid(image, truth.shape)[(slice(None), *box)].astype(np.float16)
    return Shown(
        f"{name} case {case.id}, Dice {score:.2f}", cut, truth[box], np.asarray(prediction)[box]
    )


def draw_predictions(shown, path):
    """Three planes through the tumour on T1ce and FLAIR for each Shown, truth solid and prediction dashed.

    Radiological view: the patient's right is on the left.
    """
    figure = new_figure(figsize=(9, 6 * len(shown)), layout="constrained")
    grid = figure.subplots(2 * len(shown), 3, squeeze=False)
    for place, one in enumerate(shown):
        centre = busiest_slices(one.truth > 0 if one.truth.any() else one.prediction > 0)
        for row, modality in enumerate(SHOWN_MODALITIES):
            for axis, plane in enumerate(("sagittal", "coronal", "axial")):
                panel = grid[2 * place + row, axis]
                draw_plane(
                    panel,
                    one.image[row].astype(np.float32),
                    one.truth,
                    one.prediction,
                    axis,
                    centre[axis],
                    (slice(None),) * 3,
                )
                panel.set_title(
                    (f"{one.heading}\n" if row == axis == 0 else "") + f"{modality}, {plane}",
                    fontsize=9,
                )
    add_outline_legend(figure)
    save_figure(figure, path)


def _on_grid(image, shape):
    """(channels, x, y, z) interpolated to `shape`, for showing only."""
    if image.shape[1:] == shape:
        return image
    from segmamba.data.working_grid import resample

    return np.stack(
        [
            resample(channel, [n / s for n, s in zip(shape, channel.shape, strict=True)], order=1)
            for channel in image
        ]
    )
