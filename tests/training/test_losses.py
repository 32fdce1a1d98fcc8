import pytest
import torch
import torch.nn.functional as F

from segmamba.config import LossConfig
from segmamba.training.losses import dice_ce_loss, dice_loss, training_loss


def example():
    torch.manual_seed(0)
    return torch.randn(2, 4, 5, 6, 7, dtype=torch.float64, requires_grad=True), torch.randint(0, 4, (2, 5, 6, 7)).to(torch.uint8)


def test_dice_matches_the_formula_written_out():
    logits, label = example()
    p, total = logits.detach().float().softmax(1), 0.0
    for c in (1, 2, 3):
        g = (label == c).float()
        total += float((2 * (p[:, c] * g).sum() + 1e-5) / (p[:, c].sum() + g.sum() + 1e-5))
    assert dice_loss(logits, label, smooth=1e-5).item() == pytest.approx(1 - total / 3, abs=1e-6)


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_almost_one():
    _, label = example()
    perfect = 50 * F.one_hot(label.long(), 4).movedim(-1, 1).float()
    assert dice_loss(perfect, label, smooth=1e-5) < 1e-4
    assert dice_loss(perfect.roll(1, dims=1), label, smooth=1e-5) > 0.999


def test_an_absent_class_is_finite_and_pushes_its_probability_down():
    logits, _ = example()
    label = torch.zeros(2, 5, 6, 7, dtype=torch.uint8)
    loss = dice_loss(logits, label, smooth=1e-5)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert all(logits.grad[:, c].sum() >= 0 for c in (1, 2, 3)) and logits.grad[:, 1:].sum() > 0, "a step down the gradient lowers them"


def test_weights_scale_their_terms_and_zero_skips():
    logits, label = example()
    dice, ce = dice_loss(logits, label, smooth=1e-5), F.cross_entropy(logits.float(), label.long())
    for d, c in ((1, 1), (2, 0.5), (0, 3), (3, 0)):
        loss = dice_ce_loss(logits, label, LossConfig(dice_weight=d, ce_weight=c))
        assert loss.item() == pytest.approx((d * dice + c * ce).item(), rel=1e-5)


def test_half_precision_logits_are_summed_in_fp32():
    label = torch.ones(1, 64, 64, 64, dtype=torch.uint8)
    logits = torch.zeros(1, 4, 64, 64, 64, dtype=torch.float16)
    assert dice_ce_loss(logits, label, LossConfig()).isfinite()


def test_deep_supervision_halves_the_weight_at_each_level_and_takes_the_nearest_label():
    torch.manual_seed(0)
    label = torch.randint(0, 4, (1, 8, 8, 8)).to(torch.uint8)
    outputs = [torch.randn(1, 4, side, side, side) for side in (8, 4, 2)]
    parts = [dice_ce_loss(o, label[:, :: 8 // o.shape[-1], :: 8 // o.shape[-1], :: 8 // o.shape[-1]], LossConfig()) for o in outputs]
    expected = (parts[0] + parts[1] / 2 + parts[2] / 4) / 1.75
    assert training_loss(outputs, label, LossConfig()).item() == pytest.approx(expected.item(), rel=1e-6)
    assert training_loss(outputs[0], label, LossConfig()) == parts[0]
