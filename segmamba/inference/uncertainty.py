"""How sure a prediction is, voxel by voxel, in [0, 1].

entropy: of the members' mean; 0 where one class is certain, 1 where all are alike. disagreement: that entropy less the mean of the
members' own (the mutual information of prediction and member; Depeweg et al. 2018): high where members are sure of different things.
Of regions, the mean over the three yes-or-no questions.
"""

import math

import torch

from segmamba.data.labels import CLASSES


def entropy(probability):
    """(x, y, z) in [0, 1] of class probabilities (4, x, y, z) or region probabilities (3, x, y, z)."""
    if len(probability) == len(CLASSES):
        return torch.special.entr(probability).sum(0).div_(math.log(len(CLASSES))).clamp_(0, 1)
    return (
        (torch.special.entr(probability) + torch.special.entr(1 - probability))
        .mean(0)
        .div_(math.log(2))
        .clamp_(0, 1)
    )


def vote_with_entropy(probabilities):
    """(mean (K, x, y, z), (entropy, disagreement)) of an iterable of members' (K, x, y, z), one at a time in memory."""
    total, own, count = None, None, 0
    for probability in probabilities:
        uncertain = entropy(probability)
        total, own, count = (
            (probability.clone(), uncertain, 1)
            if total is None
            else (total.add_(probability), own.add_(uncertain), count + 1)
        )
    mean = total.div_(count)
    common = entropy(mean)
    return mean, (common, (common - own.div_(count)).clamp_(0, 1))
