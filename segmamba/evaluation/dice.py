"""Dice per region under the BraTS rule."""

from segmamba.data.labels import REGIONS, region_masks


def dice(pred, truth):
    """Dice per region, in [0, 1], and their mean: {"ET": .., "TC": .., "WT": .., "mean": ..}.

    pred, truth: internal classes (D, H, W), both NumPy arrays or both tensors.
    Both empty -> 1.0; exactly one empty -> 0.0 (the BraTS rule; Menze et al. 2015 and the challenges' scoring).
    """
    scores = {}
    for region, p, t in zip(REGIONS, region_masks(pred), region_masks(truth), strict=True):
        total = int(p.sum()) + int(t.sum())
        scores[region] = 2 * int((p & t).sum()) / total if total else 1.0
    return {**scores, "mean": sum(scores.values()) / len(REGIONS)}
