"""The pictures of one run: its curves, and its worst and median case beside the truth."""

import numpy as np

from segmamba.data.labels import MODALITIES, REGIONS
from segmamba.evaluation.dice import dice
from segmamba.pictures import REGION_COLOURS, add_outline_legend, busiest_slices, draw_plane, new_figure, save_figure, surroundings


def draw_training_curves(history, path):
    """Loss, minival Dice per region and learning rate over epochs. history: a list of dicts of metrics with "epoch"."""
    figure = new_figure(figsize=(12, 3.2), layout="constrained")
    loss, val, rate = figure.subplots(1, 3)
    epochs = [e["epoch"] for e in history]
    loss.plot(epochs, [e["train/loss"] for e in history], marker=".", color="#333333")
    loss.set(title="training loss", xlabel="epoch")
    validated = [e for e in history if "val/dice_mean" in e]
    when = [e["epoch"] for e in validated]
    for region in REGIONS:
        val.plot(when, [e[f"val/dice_{region}"] for e in validated], marker=".", color=REGION_COLOURS[region], label=region)
    val.plot(when, [e["val/dice_mean"] for e in validated], color="black", linewidth=2, label="mean")
    val.set(title="minival Dice", xlabel="epoch", ylim=(0, 1))
    val.legend(frameon=False, fontsize=8)
    rate.plot(epochs, [e["train/lr"] for e in history], color="#333333")
    rate.set(title="learning rate at the epoch's end", xlabel="epoch")
    for axis in (loss, val, rate):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
    save_figure(figure, path)


def draw_predictions(cases, predict, path):
    """Worst and median case by mean Dice: three planes through the tumour on T1ce and FLAIR, truth solid and prediction dashed.

    predict(case) gives internal classes (x, y, z) on the source's grid. Radiological view: the patient's right is on the left.
    """
    scored = []
    for case in cases:
        prediction, truth = predict(case), np.array(case.source_label())
        scored.append((dice(prediction, truth)["mean"], case, prediction, truth))
    scored.sort(key=lambda s: s[0])
    shown = [("worst", scored[0])] + ([("median", scored[len(scored) // 2])] if len(scored) > 1 else [])
    figure = new_figure(figsize=(9, 6 * len(shown)), layout="constrained")
    grid = figure.subplots(2 * len(shown), 3, squeeze=False)
    for place, (name, (score, case, prediction, truth)) in enumerate(shown):
        image = _on_grid(case.whole(np.asarray(case.image(), np.float32)), truth.shape)
        tumour = truth > 0 if truth.any() else prediction > 0
        box, centre = surroundings(tumour), busiest_slices(tumour)
        for row, modality in enumerate(("T1ce", "FLAIR")):
            for axis, plane in enumerate(("sagittal", "coronal", "axial")):
                panel = grid[2 * place + row, axis]
                draw_plane(panel, image[MODALITIES.index(modality)], truth, prediction, axis, centre[axis], box)
                heading = f"{name} case {case.id}, Dice {score:.2f}\n" if row == axis == 0 else ""
                panel.set_title(f"{heading}{modality}, {plane}", fontsize=9)
    add_outline_legend(figure)
    save_figure(figure, path)


def _on_grid(image, shape):
    """(4, x, y, z) interpolated to `shape`, for showing only."""
    if image.shape[1:] == shape:
        return image
    from segmamba.data.preprocess import resample

    return np.stack([resample(channel, [n / s for n, s in zip(shape, channel.shape, strict=True)], order=1) for channel in image])
