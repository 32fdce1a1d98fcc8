import pytest
import torch
import torch.nn.functional as F

from segmamba.config import LossConfig
from segmamba.data.label_sets import GLIOMA, PEDIATRIC, POST_TREATMENT
from segmamba.models.outputs import Channels
from segmamba.training import loss_cpu
from segmamba.training.losses import cross_entropy, dice_ce_loss, dice_loss, one_hot, training_loss
from tests.models.kernels import needs_kernels

CLASSES, REGIONS = (Channels(GLIOMA, are_regions) for are_regions in (False, True))


def example():
    torch.manual_seed(0)
    return torch.randn(2, 4, 5, 6, 7, dtype=torch.float64, requires_grad=True), torch.randint(
        0, 4, (2, 5, 6, 7)
    ).to(torch.uint8)


def test_dice_matches_the_formula_written_out():
    logits, label = example()
    p, total = logits.detach().float().softmax(1), 0.0
    for c in (1, 2, 3):
        g = (label == c).float()
        total += float((2 * (p[:, c] * g).sum() + 1e-5) / (p[:, c].sum() + g.sum() + 1e-5))
    assert dice_loss(logits, label, CLASSES, smooth=1e-5).item() == pytest.approx(
        1 - total / 3, abs=1e-6
    )


def test_a_perfect_prediction_costs_nothing_and_a_wrong_one_almost_one():
    _, label = example()
    perfect = 50 * F.one_hot(label.long(), 4).movedim(-1, 1).float()
    assert dice_loss(perfect, label, CLASSES, smooth=1e-5) < 1e-4
    assert dice_loss(perfect.roll(1, dims=1), label, CLASSES, smooth=1e-5) > 0.999


def test_an_absent_class_is_finite_and_pushes_its_probability_down():
    logits, _ = example()
    label = torch.zeros(2, 5, 6, 7, dtype=torch.uint8)
    loss = dice_loss(logits, label, CLASSES, smooth=1e-5)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert all(logits.grad[:, c].sum() >= 0 for c in (1, 2, 3)) and logits.grad[:, 1:].sum() > 0, (
        "a step down the gradient lowers them"
    )


def test_weights_scale_their_terms_and_zero_skips():
    logits, label = example()
    dice, ce = (
        dice_loss(logits, label, CLASSES, smooth=1e-5),
        F.cross_entropy(logits.float(), label.long()),
    )
    for d, c in ((1, 1), (2, 0.5), (0, 3), (3, 0)):
        loss = dice_ce_loss(logits, label, CLASSES, LossConfig(dice_weight=d, ce_weight=c))
        assert loss.item() == pytest.approx((d * dice + c * ce).item(), rel=1e-5)


def test_half_precision_logits_are_summed_in_fp32():
    label = torch.ones(1, 64, 64, 64, dtype=torch.uint8)
    logits = torch.zeros(1, 4, 64, 64, 64, dtype=torch.float16)
    assert dice_ce_loss(logits, label, CLASSES, LossConfig()).isfinite()


def test_deep_supervision_halves_the_weight_at_each_level_and_takes_the_nearest_label():
    torch.manual_seed(0)
    label = torch.randint(0, 4, (1, 8, 8, 8)).to(torch.uint8)
    outputs = [torch.randn(1, 4, side, side, side) for side in (8, 4, 2)]
    parts = [
        dice_ce_loss(
            o,
            label[:, :: 8 // o.shape[-1], :: 8 // o.shape[-1], :: 8 // o.shape[-1]],
            CLASSES,
            LossConfig(),
        )
        for o in outputs
    ]
    expected = (parts[0] + parts[1] / 2 + parts[2] / 4) / 1.75
    assert training_loss(outputs, label, CLASSES, LossConfig()).item() == pytest.approx(
        expected.item(), rel=1e-6
    )
    assert training_loss(outputs[0], label, CLASSES, LossConfig()) == parts[0]


def test_deep_supervisions_decay_sets_the_weights():
    torch.manual_seed(0)
    label = torch.randint(0, 4, (1, 8, 8, 8)).to(torch.uint8)
    outputs = [torch.randn(1, 4, 8, 8, 8), torch.randn(1, 4, 4, 4, 4)]
    fine, coarse = (
        dice_ce_loss(outputs[0], label, CLASSES, LossConfig()),
        dice_ce_loss(outputs[1], label[:, ::2, ::2, ::2], CLASSES, LossConfig()),
    )
    for decay, expected in (
        (0, fine),
        (1, (fine + coarse) / 2),
        (0.25, (fine + coarse / 4) / 1.25),
    ):
        loss = training_loss(outputs, label, CLASSES, LossConfig(deep_supervision_decay=decay))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_region_losses_match_their_formulas_written_out():
    torch.manual_seed(0)
    logits, label = torch.randn(2, 3, 5, 6, 7), torch.randint(0, 4, (2, 5, 6, 7)).to(torch.uint8)
    members, dice, entropy = {"ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}, 0.0, 0.0
    for c, region in enumerate(REGIONS.names):
        p, g = torch.sigmoid(logits[:, c]), sum((label == m).float() for m in members[region])
        dice += float((2 * (p * g).sum() + 1e-5) / (p.sum() + g.sum() + 1e-5)) / 3
        entropy -= float((g * p.log() + (1 - g) * (1 - p).log()).mean()) / 3
    assert dice_loss(logits, label, REGIONS, smooth=1e-5).item() == pytest.approx(
        1 - dice, abs=1e-6
    )
    assert cross_entropy(logits, label, REGIONS).item() == pytest.approx(entropy, rel=1e-5)


def test_nested_regions_do_not_compete():
    label = torch.full((1, 4, 4, 4), 3, dtype=torch.uint8)
    assert dice_ce_loss(torch.full((1, 3, 4, 4, 4), 20.0), label, REGIONS, LossConfig()) < 1e-4, (
        "ET lies in TC and WT: all three at once are free"
    )


@pytest.mark.parametrize("labels", [GLIOMA, POST_TREATMENT, PEDIATRIC], ids=lambda s: s.name)
@pytest.mark.parametrize("are_regions", [False, True])
def test_the_loss_is_one_graph_for_every_label_set(labels, are_regions):
    channels = Channels(labels, are_regions)

    def loss(logits, label):
        return training_loss([logits, logits[..., ::2, ::2, ::2]], label, channels, LossConfig())

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    logits = torch.randn(2, len(channels), 4, 4, 4)
    label = torch.randint(0, len(labels.classes), (2, 4, 4, 4), dtype=torch.uint8)
    assert compiled(logits, label) == loss(logits, label)


def test_a_cavity_is_a_channel_of_its_own_for_classes_and_regions():
    label = torch.full((1, 2, 2, 2), POST_TREATMENT.number("RC"), dtype=torch.uint8)
    for are_regions in (False, True):
        channels = Channels(POST_TREATMENT, are_regions)
        held = dict(zip(channels.names, one_hot(label, channels)[0].flatten(1).all(1), strict=True))
        assert [name for name, whole in held.items() if whole] == ["RC"]


@needs_kernels
@pytest.mark.parametrize("sides", [(3, 5, 16), (1, 1, 16), (9, 16, 48)])
@pytest.mark.parametrize(("dice_weight", "ce_weight"), [(1, 1), (0.3, 0), (0, 2)])
def test_the_cpus_kernels_compute_the_loss_and_its_gradient_as_torch_in_float64(
    sides, dice_weight, ce_weight
):
    channels, config = CLASSES, LossConfig(dice_weight=dice_weight, ce_weight=ce_weight)
    torch.manual_seed(0)
    logits = (8 * torch.randn(2, len(channels), *sides)).requires_grad_()
    label = torch.randint(0, len(channels), (2, *sides), dtype=torch.uint8)
    exact = logits.detach().double().requires_grad_()
    assert loss_cpu.fits(logits, label) and not loss_cpu.fits(exact, label)
    ours, want = (dice_ce_loss(x, label, channels, config) for x in (logits, exact))
    assert abs(ours.double() - want) < 2e-6 * want
    (3 * ours).backward(), (3 * want).backward()
    assert (logits.grad - exact.grad).norm() < 2e-6 * exact.grad.norm()


@needs_kernels
def test_the_cpus_kernels_keep_a_loss_that_is_not_finite_and_refuse_classes_beyond_the_networks():
    channels, label = CLASSES, torch.zeros(1, 2, 2, 16, dtype=torch.uint8)
    logits = torch.zeros(1, len(channels), 2, 2, 16)
    logits[0, 1, 0, 1, 5] = torch.nan
    assert dice_ce_loss(logits, label, channels, LossConfig()).isnan()
    label[0, 1, 1, 3] = 9
    with pytest.raises(IndexError, match="class 9 of 4 classes"):
        dice_ce_loss(torch.zeros_like(logits), label, channels, LossConfig())
