"""Dice per region under the BraTS rule."""

from segmamba.data.label_sets import MEAN, Array, LabelSet, region_masks


def dice(pred: Array, truth: Array, labels: LabelSet) -> dict[str, float]:
    """Compute Dice per region, and their mean.

    Both empty -> 1.0; exactly one empty -> 0.0 (the BraTS rule; Menze et al. 2015 and the
    challenges' scoring).

    Args:
        pred: Class numbers (D, H, W), a NumPy array or a tensor.
        truth: Class numbers (D, H, W), of the same kind as `pred`.
        labels: The label set of both.

    Returns:
        {"ET": .., "TC": .., "WT": .., "mean": ..} by `labels.scores`, in [0, 1].
    """
    scores: dict[str, float] = {}
    masks = zip(
        labels.regions, region_masks(pred, labels), region_masks(truth, labels), strict=True
    )
    for region, p, t in masks:
        total = int(p.sum()) + int(t.sum())
        scores[region] = 2 * int((p & t).sum()) / total if total else 1.0
    return {**scores, MEAN: sum(scores.values()) / len(labels.regions)}
