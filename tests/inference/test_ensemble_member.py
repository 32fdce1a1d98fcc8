"""A member's mirror images, scales, windows, folded norms and half precision."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from segmamba.config import InferenceConfig, ModelConfig
from segmamba.errors import UserError
from segmamba.inference import ensemble_member
from segmamba.inference.ensemble_member import MIRRORS, Member
from segmamba.inference.fold import folded, in_half
from segmamba.models import build_model
from segmamba.models.layers import Conv
from segmamba.training.randomness import seed_everything
from tests.tiny import CPU, TINY


class Ramp(torch.nn.Module):
    """Prefers class 1 along x whatever it sees; mirrored, it prefers it the other way round."""

    def forward(self, x):
        logits = torch.zeros(x.shape[0], 4, *x.shape[2:])
        logits[:, 1] = torch.linspace(-4, 4, x.shape[2])[:, None, None]
        return logits


class Bright(torch.nn.Module):
    """Each voxel by its T1 alone."""

    def forward(self, x):
        return torch.cat([x[:, :1], torch.zeros(x.shape[0], 3, *x.shape[2:])], 1)


def member(network, **options):
    return Member(network, TINY, CPU, InferenceConfig(**options))


def test_mirror_images_are_all_eight_and_their_mean_is_symmetric():
    assert len(set(MIRRORS)) == 8
    image = torch.zeros(4, 16, 16, 16)
    plain, mirrored = (member(Ramp(), flips=flips).probabilities(image) for flips in (False, True))
    assert not torch.allclose(plain, plain.flip(1))
    for axes in itertools.chain.from_iterable(
        itertools.combinations((1, 2, 3), n) for n in (1, 2, 3)
    ):
        assert torch.allclose(mirrored, mirrored.flip(axes), atol=1e-6)
    assert torch.allclose(mirrored, (plain + plain.flip(1)) / 2, atol=1e-6)


def test_flips_of_a_real_network_equal_eight_predictions_of_mirrored_volumes():
    torch.manual_seed(0)
    model = build_model(ModelConfig(base_channels=4, conv_depths=(1, 1, 1), mamba_depths=(1, 0, 0)))
    image = torch.randn(4, 24, 16, 20)
    plain = Member(model, TINY, CPU)
    whole = torch.stack(
        [
            plain.probabilities(image.flip([a - 1 for a in axes])).flip([a - 1 for a in axes])
            for axes in MIRRORS
        ]
    ).mean(0)
    mirrored = Member(model, TINY, CPU, InferenceConfig(flips=True)).probabilities(image)
    assert torch.allclose(mirrored, whole, atol=1e-5)


def test_scales_are_averaged_on_the_grid_of_the_image():
    image = torch.randn(4, 20, 24, 16)
    both = member(Bright(), scales=(1.0, 0.5)).probabilities(image)
    half = F.interpolate(image[None], size=(10, 12, 8), mode="trilinear")
    coarse = F.interpolate(Bright()(half).softmax(1), size=(20, 24, 16), mode="trilinear")[0]
    assert torch.allclose(both, (Bright()(image[None])[0].softmax(0) + coarse) / 2, atol=1e-5)
    assert torch.allclose(both.sum(0), torch.ones(20, 24, 16), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_the_number_of_windows_in_a_batch_changes_nothing(batch):
    image = torch.randn(4, 40, 20, 24)
    assert torch.allclose(
        member(Bright(), window_batch=batch).probabilities(image),
        member(Bright(), window_batch=2).probabilities(image),
        atol=1e-6,
    )


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("name", ["segmamba", "unet"])
def test_folding_batch_norms_changes_neither_the_function_nor_the_network(norm, name, device_type):
    torch.manual_seed(0)
    model = build_model(
        ModelConfig(
            name=name, base_channels=4, conv_depths=(1, 1, 1), mamba_depths=(1, 1, 1), norm=norm
        )
    )
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(2, 4, 32, 16, 16) * 2 + 1)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.weight.uniform_(0.5, 2)
                module.bias.uniform_(-1, 1)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    image = torch.randn(1, 4, 32, 16, 16)
    with torch.inference_mode():
        fast, slow = folded(model, device_type)(image), model.eval()(image)
    assert torch.allclose(fast, slow, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    convolutions = [m for m in folded(model, device_type).modules() if isinstance(m, Conv)]
    assert not any(
        isinstance(m, torch.nn.BatchNorm3d) for m in folded(model, device_type).modules()
    )
    assert norm == "instance" or all(
        (m.bias is None) == (device_type == "cuda") for m in convolutions
    ), "GPU kernels know no bias"


def test_weights_in_half_precision_give_what_autocast_gives_and_leave_the_network_as_it_is():
    torch.manual_seed(0)
    model = folded(
        build_model(ModelConfig(base_channels=8, conv_depths=(1, 1, 1), mamba_depths=(1, 1, 1))),
        "cpu",
    )
    half, image = in_half(model, torch.bfloat16), torch.randn(2, 4, 16, 32, 16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(half(image), model(image))
    scan = half.stages[2][-1].mamba.scans[0]
    assert (
        scan.dt_proj.weight.dtype == torch.bfloat16
        and scan.dt_proj.bias.dtype == scan.A_log.dtype == torch.float32
    )
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_a_member_keeps_the_weights_of_the_moment_it_was_made():
    model = build_model(ModelConfig(base_channels=4, conv_depths=(1, 1, 1), mamba_depths=(0, 0, 0)))
    made = Member(model, TINY, CPU)
    image = torch.randn(4, 16, 16, 16)
    first = made.probabilities(image)
    with torch.no_grad():
        model.head.weight.add_(1)
    assert torch.equal(made.probabilities(image), first)
    assert not torch.equal(Member(model, TINY, CPU).probabilities(image), first)


class Hungry(Bright):
    """A network whose memory holds so many windows and no more."""

    def __init__(self, most):
        super().__init__()
        self.most, self.refused = most, []

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        if len(x) > self.most:
            self.refused.append(len(x))
            raise torch.OutOfMemoryError
        return super().forward(x)


def test_fewer_windows_at_once_are_taken_for_good_where_memory_is_short():
    image, network = torch.randn(4, 40, 40, 24), Hungry(2)
    short = member(network, window_batch=8)
    first, second = short.probabilities(image), short.probabilities(image)
    assert network.refused == [8, 4], "the second volume does not try again"
    assert torch.equal(first, second) and torch.allclose(
        first, member(Bright()).probabilities(image), atol=1e-6
    )


def test_a_window_that_does_not_fit_alone_is_one_line():
    with pytest.raises(
        UserError, match="a window of 16 x 16 x 16 voxels does not fit into the memory of cpu"
    ):
        member(Hungry(0)).probabilities(torch.randn(4, 16, 16, 16))


def test_a_refreshed_member_predicts_as_one_made_anew_and_keeps_its_tensors():
    torch.manual_seed(0)
    shape = ModelConfig(base_channels=4, conv_depths=(1, 1, 1), mamba_depths=(1, 0, 0))
    first, second = build_model(shape), build_model(shape)
    with torch.no_grad():
        for module in second.train().modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.weight.uniform_(0.5, 2)
                module.running_mean.uniform_(-1, 1)
    image = torch.randn(4, 24, 16, 20)
    refreshed, made = Member(first, TINY, CPU), Member(second, TINY, CPU)
    before = [tensor.data_ptr() for tensor in refreshed._networks[None].parameters()]
    assert not torch.equal(refreshed.probabilities(image), made.probabilities(image))
    refreshed.refresh(second)
    assert torch.equal(refreshed.probabilities(image), made.probabilities(image))
    assert before == [tensor.data_ptr() for tensor in refreshed._networks[None].parameters()]


def test_volumes_whose_windows_share_batches_are_predicted_as_each_alone(monkeypatch):
    images = [torch.randn(4, *sides).half() for sides in ((40, 20, 24), (16, 16, 16), (8, 50, 18))]
    alone = [member(Bright(), window_batch=3).probabilities(image.float()) for image in images]
    monkeypatch.setitem(ensemble_member.SHARED_BATCHES, "cpu", True)
    counting = Counting()
    together = list(member(counting, window_batch=3).probabilities_of(images))
    for one, other in zip(alone, together, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert set(counting.sizes) == {3} and len(counting.sizes) == -(-(16 + 1 + 12) // 3)


def test_volumes_that_share_batches_take_fewer_windows_where_memory_is_short(monkeypatch):
    images = [torch.randn(4, 40, 20, 24) for _ in range(3)]
    expected = [member(Bright()).probabilities(image) for image in images]
    monkeypatch.setitem(ensemble_member.SHARED_BATCHES, "cpu", True)
    network = Hungry(2)
    got = list(member(network, window_batch=8).probabilities_of(images))
    assert network.refused == [8, 4]
    for one, other in zip(expected, got, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


class Counting(Bright):
    """Notes the number of windows in each of its batches."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        self.sizes.append(len(x))
        return super().forward(x)


class Watching(Bright):
    """Notes whether cuDNN may choose its kernels by their time."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        self.seen.append(torch.backends.cudnn.benchmark)
        return super().forward(x)


@pytest.mark.parametrize("deterministic", [True, False])
def test_kernels_are_not_chosen_by_their_time_where_determinism_is_asked_for(deterministic):
    seen = []
    try:
        seed_everything(0, deterministic=deterministic)
        member(Watching(seen)).probabilities(torch.randn(4, 16, 16, 16))
        assert set(seen) == {not deterministic}
        assert torch.backends.cudnn.benchmark is not deterministic, "as it was"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = False
