"""Dice per region under the BraTS rule."""

from segmamba.data.labels import REGIONS, Array, region_masks


def dice(pred: Array, truth: Array) -> dict[str, float]:
    """Compute Dice per region, and their mean.

    Both empty -> 1.0; exactly one empty -> 0.0 (the BraTS rule; Menze et al. 2015 and the
    challenges' scoring).

    Args:
        pred: Internal classes (D, H, W), a NumPy array or a tensor.
        truth: Internal classes (D, H, W), of the same kind as `pred`.

    Returns:
        {"ET": .., "TC": .., "WT": .., "mean": ..}, in [0, 1].
    """
    scores: dict[str, float] = {}
    for region, p, t in zip(REGIONS, region_masks(pred), region_masks(truth), strict=True):
        total = int(p.sum()) + int(t.sum())
        scores[region] = 2 * int((p & t).sum()) / total if total else 1.0
    return {**scores, "mean": sum(scores.values()) / len(REGIONS)}
