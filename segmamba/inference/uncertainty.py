"""How sure a prediction is, voxel by voxel, in [0, 1].

The entropy of K classes is normalised to 1 where all are alike; of regions it is the mean over the
yes-or-no questions:

    H(p) = -sum_k p_k log p_k / log K
    H(p) = mean_r -(p_r log p_r + (1 - p_r) log (1 - p_r)) / log 2

The disagreement of M members is the entropy of their mean less the mean of their own, the mutual
information of prediction and member (Depeweg et al. 2018): it is high where members are sure of
different things.

    D = H(mean_m p_m) - mean_m H(p_m)

Legend: K channels, classes or regions; (x, y, z) the volume.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from segmamba.models.outputs import Channels


def entropy(probability: Tensor, channels: Channels) -> Tensor:
    """The entropy H of each voxel.

    Args:
        probability: Float (K, x, y, z).
        channels: The K channels.

    Returns:
        Float (x, y, z): 0 where the voxel is certain, 1 where all is alike.
    """
    if not channels.are_regions:
        return torch.special.entr(probability).sum(0).div_(math.log(len(channels))).clamp_(0, 1)
    questions = torch.special.entr(probability) + torch.special.entr(1 - probability)
    return questions.mean(0).div_(math.log(2)).clamp_(0, 1)


def vote_with_entropy(
    probabilities: Iterable[Tensor], channels: Channels
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Average members, and measure how sure they are.

    Args:
        probabilities: One (K, x, y, z) a member; one at a time is in memory.
        channels: The K channels.

    Returns:
        The mean (K, x, y, z), and (entropy, disagreement), each (x, y, z).
    """
    total, own, count = None, None, 0
    for probability in probabilities:
        uncertain = entropy(probability, channels)
        total = probability.clone() if total is None else total.add_(probability)
        own = uncertain if own is None else own.add_(uncertain)
        count += 1
    assert total is not None and own is not None, "there is at least one member"
    mean = total.div_(count)
    common = entropy(mean, channels)
    return mean, (common, (common - own.div_(count)).clamp_(0, 1))
