"""Scoring a network on whole cases: `validate` chooses (minival), `judge` gives the verdict (judge set)."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from segmamba.data.labels import REGIONS
from segmamba.device import autocast, mixed_dtype
from segmamba.evaluation.dice import dice
from segmamba.evaluation.hausdorff import hd95_mm
from segmamba.inference.sliding_window import predict_probabilities

SCORES = (*REGIONS, "mean")


def validate(model, cases, config, device):
    """One row per case, on the grid that the network works in: {"case", "dice_ET", "dice_TC", "dice_WT", "dice_mean"}."""
    rows = []
    for case in cases:
        pred = probabilities(model, case, config, device).argmax(0).to(torch.uint8)
        rows.append(_row(case, dice(pred, torch.from_numpy(np.array(case.label())).to(device))))
    return rows


def judge(model, cases, config, device):
    """One row per case, on the source's grid and labels: Dice as in `validate`, and hd95_mm_ET, hd95_mm_TC, hd95_mm_WT.

    Where preprocessing changed the grid, probabilities are brought back by trilinear interpolation before the argmax.
    """
    rows = []
    for case in cases:
        prediction = predict_classes(model, case, config, device)
        truth = np.array(case.source_label())
        distances = hd95_mm(prediction, truth, case.source_spacing_mm)
        rows.append(_row(case, dice(prediction, truth)) | {f"hd95_mm_{region}": mm for region, mm in distances.items()})
    return rows


def predict_classes(model, case, config, device):
    """Internal classes, uint8 NumPy (x, y, z), on the source's grid in canonical orientation."""
    probability = _whole(probabilities(model, case, config, device), case)
    if tuple(probability.shape[1:]) != case.source_shape:
        probability = F.interpolate(probability[None], size=case.source_shape, mode="trilinear", align_corners=False)[0]
    return probability.argmax(0).to(torch.uint8).cpu().numpy()


def probabilities(model, case, config, device):
    """Softmax probabilities, float32 (classes, x, y, z), on the grid of `case.image()`; the model is put in eval mode."""
    model.eval()
    image = torch.from_numpy(np.array(case.image())).to(device).float()
    precision = partial(autocast, device, mixed_dtype(device, config.train.precision))
    window, overlap = config.data.patch_size, config.inference.overlap
    return predict_probabilities(model, image, window, overlap=overlap, batch_size=config.train.batch_size, autocast=precision)


def _whole(probability, case):
    """(classes, x, y, z) on the case's cached box, put back into the working grid; what was cut away is background."""
    margins = [voxels for margin in reversed(case.margins) for voxels in margin]
    return torch.cat([F.pad(probability[:1], margins, value=1.0), F.pad(probability[1:], margins)])


def means(rows, prefix):
    """{"<prefix>/dice_mean": .., ...}: each score averaged over the rows."""
    return {f"{prefix}/{name}": float(np.mean([row[name] for row in rows])) for name in rows[0] if name != "case"}


def _row(case, scores):
    return {"case": case.id} | {f"dice_{name}": scores[name] for name in SCORES}
