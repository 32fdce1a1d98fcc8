"""What pretraining asks of patches that lack a modality."""

import pytest
import torch

from segmamba.training.pretrain import Reconstruction


class Constant(torch.nn.Module):
    """A network that says the same for every voxel."""

    def forward(self, x):
        return torch.full_like(x, 2.0)


def loss_of(image, hidden):
    return float(Reconstruction(Constant())(image, hidden))


def test_pretraining_asks_nothing_of_a_modality_that_is_missing():
    torch.manual_seed(0)
    image = torch.randn(2, 4, 6, 6, 6)
    hidden = torch.rand(2, 1, 6, 6, 6) < 0.5
    whole = loss_of(image, hidden)
    assert whole == pytest.approx(
        float((((2 - image) ** 2) * hidden).sum() / (4 * hidden.sum())), rel=1e-5
    )
    lacking = image.clone()
    lacking[:, 2] = 0
    others = [0, 1, 3]
    expected = float((((2 - image[:, others]) ** 2) * hidden).sum() / (3 * hidden.sum()))
    assert loss_of(lacking, hidden) == pytest.approx(expected, rel=1e-5)
