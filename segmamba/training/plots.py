"""The pictures of one run: its curves, and its worst and median case beside the truth."""

import os

import numpy as np

from segmamba.data.labels import MODALITIES, REGIONS, region_masks
from segmamba.evaluation.dice import dice

REGION_COLOURS = {"ET": "#d55e00", "TC": "#f0e442", "WT": "#56b4e9"}  # Okabe & Ito 2008: told apart by colour-blind readers


def draw_training_curves(history, path):
    """Loss, minival Dice per region and learning rate over epochs. history: a list of dicts of metrics with "epoch"."""
    figure = _figure(figsize=(12, 3.2), layout="constrained")
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
    _save(figure, path)


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
    figure = _figure(figsize=(9, 6 * len(shown)), layout="constrained")
    grid = figure.subplots(2 * len(shown), 3, squeeze=False)
    for place, (name, (score, case, prediction, truth)) in enumerate(shown):
        image = _on_grid(case.whole(np.asarray(case.image(), np.float32)), truth.shape)
        tumour = truth > 0 if truth.any() else prediction > 0
        box, centre = _surroundings(tumour), _busiest_slices(tumour)
        for row, modality in enumerate(("T1ce", "FLAIR")):
            for axis, plane in enumerate(("sagittal", "coronal", "axial")):
                panel = grid[2 * place + row, axis]
                _draw_plane(panel, image[MODALITIES.index(modality)], truth, prediction, axis, centre[axis], box)
                heading = f"{name} case {case.id}, Dice {score:.2f}\n" if row == axis == 0 else ""
                panel.set_title(f"{heading}{modality}, {plane}", fontsize=9)
    handles = [_line(REGION_COLOURS[r], "-", r) for r in REGIONS] + [_line("0.4", "-", "truth"), _line("0.4", "--", "prediction")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False)
    _save(figure, path)


def _draw_plane(panel, image, truth, prediction, axis, index, box):
    """One plane of `image` within `box`, with the outlines of both segmentations."""

    def cut(volume):
        return np.take(volume, index, axis=axis)[tuple(b for a, b in enumerate(box) if a != axis)].T

    inside = image[image != 0]
    low, high = np.percentile(inside, (1, 99)) if inside.size else (0, 1)
    panel.imshow(np.where(cut(image) == 0, low, cut(image)), cmap="gray", origin="lower", vmin=low, vmax=high)
    for labels, style, width in ((truth, "-", 1.6), (prediction, (0, (3, 2)), 1.1)):
        for region, mask in zip(REGIONS, region_masks(labels), strict=True):
            if cut(mask).any() and not cut(mask).all():
                panel.contour(cut(mask), levels=[0.5], colors=REGION_COLOURS[region], linewidths=width, linestyles=[style])
    panel.invert_xaxis()
    panel.set_axis_off()


def _surroundings(mask):
    """Slices of the mask's bounding box, wider by an eighth of each side of the volume."""
    where = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    margins = [n // 8 for n in mask.shape]
    return tuple(slice(max(0, w.min() - m), w.max() + 1 + m) if w.size else slice(None) for w, m in zip(where, margins, strict=True))


def _busiest_slices(mask):
    """The index along each axis whose slice holds most of the mask."""
    return [int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3)]


def _on_grid(image, shape):
    """(4, x, y, z) interpolated to `shape`, for showing only."""
    if image.shape[1:] == shape:
        return image
    from segmamba.data.preprocess import resample

    return np.stack([resample(channel, [n / s for n, s in zip(shape, channel.shape, strict=True)], order=1) for channel in image])


def _line(colour, style, label):
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linestyle=style, label=label)


def _figure(**options):
    from matplotlib.figure import Figure  # no pyplot: no global state, no display, safe in any thread

    return Figure(**options)


def _save(figure, path):
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, dpi=110, format="png")
    os.replace(temporary, path)
