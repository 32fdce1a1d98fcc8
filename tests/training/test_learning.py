"""Every option of learning beyond the plain loop.

Each does what it says, and a resumed run ends as one that never stopped.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from segmamba.data.cases import find_cases
from segmamba.data.label_sets import GLIOMA
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import split_cases
from segmamba.errors import UserError
from segmamba.models import build_model
from segmamba.models.outputs import Channels
from segmamba.models.transfer import start_from
from segmamba.models.weights import load_checkpoint
from segmamba.training import fit as fit_module
from segmamba.training.ema import weight_average
from segmamba.training.fit import fit
from segmamba.training.hard_cases import HardCases, chances
from segmamba.training.losses import patch_losses
from segmamba.training.mean_teacher import consistency_weight
from segmamba.training.pretrain import Reconstruction, hidden_voxels, pretrain
from segmamba.training.pretrain_run import pretrain_run, read_pretraining
from segmamba.training.run import train_run
from segmamba.training.run_evaluation import evaluate_run
from segmamba.training.run_folder import RunFolder
from tests.conftest import write_case
from tests.tiny import CPU, TINY
from tests.training.conftest import copy_of
from tests.training.test_fit import same, weights

CLASSES, REGIONS = (Channels(GLIOMA, are_regions) for are_regions in (False, True))

OPTIONS = {
    "deep supervision": {"model.deep_supervision": 2},
    "EMA": {"learning.ema_decay": 0.9},
    "hard cases": {"learning.hard_case_factor": 50.0},
    "regions": {"model.outputs": "regions"},
    "mean teacher": {"learning.ema_decay": 0.9, "learning.consistency_weight": 10.0},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two cases to train on with labels, two without, one for validation, one for the test.

    Tests share the files and must not change them.
    """
    folder = tmp_path_factory.mktemp("learning")
    for number in range(6):
        write_case(
            folder / "data",
            f"BraTS20_Training_{number:03d}",
            seed=number,
            shape=(32, 32, 24),
            label=number not in (4, 5),
        )
    cases = prepare_cases(find_cases(folder / "data"), folder / "cache", TINY.data)
    labelled = [case for case in cases if case.id[-1] in "0123"]
    unlabelled = [case for case in cases if case.id[-1] in "45"]
    split = split_cases(labelled, TINY.data)
    return dataclasses.replace(
        split,
        train=labelled[:2],
        validation=labelled[2:3],
        test=labelled[3:],
        test_is_validation=False,
        unlabelled=unlabelled,
    )


@pytest.fixture(scope="module")
def plain(data):
    """The last weights of a run without any option."""
    return weights(list(fit(TINY, data, CPU))[-1])


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_that_is_switched_on_changes_what_is_learnt(data, plain, option):
    other = weights(list(fit(TINY.changed(OPTIONS[option]), data, CPU))[-1])
    shared = [
        name
        for name in plain
        if name in other
        and plain[name].shape == other[name].shape
        and plain[name].is_floating_point()
    ]
    assert any(
        not torch.equal(plain[name], other[name])
        for name in shared
        if not name.startswith(("head.", "deep_heads."))
    )


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_resumed_run_ends_with_the_same_weights(data, option, accumulation):
    config = TINY.changed(OPTIONS[option] | {"train.accumulation": accumulation})
    whole = [copy.deepcopy(e.checkpoint) for e in fit(config, data, CPU)]
    *_, last = fit(config, data, CPU, resume_from=whole[0])
    assert same(weights(last), whole[-1]["model"]) and same(
        last.checkpoint["trained"], whole[-1]["trained"]
    )


def test_deep_supervisions_decay_is_read(data):
    deep = TINY.changed({"model.deep_supervision": 2, "train.epochs": 1})
    half, none = (
        weights(next(iter(fit(deep.changed({"loss.deep_supervision_decay": d}), data, CPU))))
        for d in (0.5, 0.0)
    )
    assert not same(half, none)


def test_the_average_is_what_the_recurrence_gives_and_what_is_validated_and_kept(data, monkeypatch):
    config = TINY.changed(
        {"learning.ema_decay": 0.3, "train.epochs": 2, "train.steps_per_epoch": 3}
    )
    seen = []
    original = fit_module.Validator.scores
    monkeypatch.setattr(
        fit_module.Validator,
        "scores",
        lambda self, model, *rest: (
            seen.append(copy.deepcopy(model.state_dict())) or original(self, model, *rest)
        ),
    )
    trajectory = []
    step = fit_module.Optimizer.step

    def spy(self, rate):
        step(self, rate)
        trajectory.append({name: value.clone() for name, value in self._model.state_dict().items()})

    monkeypatch.setattr(fit_module.Optimizer, "step", spy)
    torch.manual_seed(0)
    expected = {
        name: value.clone() for name, value in build_model(config.model).state_dict().items()
    }
    *_, last = fit(config, data, CPU)
    for number, state in enumerate(trajectory):
        decay = min(0.3, (1 + number) / (10 + number))
        for name, value in state.items():
            expected[name] = (
                decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value
            )
    assert len(trajectory) == 6 and any("running_var" in name for name in expected)
    for name, value in last.checkpoint["model"].items():
        assert torch.allclose(value, expected[name], rtol=1e-4, atol=1e-6), name
    assert same(seen[-1], last.checkpoint["model"]) and same(
        last.checkpoint["trained"], trajectory[-1]
    )
    assert not same(last.checkpoint["model"], last.checkpoint["trained"])


def test_without_an_average_the_trained_weights_are_kept_once(data):
    model = build_model(TINY.model)
    assert weight_average(model, TINY.learning).model is model
    checkpoint = next(iter(fit(TINY, data, CPU))).checkpoint
    assert all(
        checkpoint["model"][name].data_ptr() == value.data_ptr()
        for name, value in checkpoint["trained"].items()
    ), "one copy in the file"


def test_chances_are_geometric_in_the_rank_and_ties_share():
    assert chances(np.array([3.0, 1.0, 2.0]), 4) == pytest.approx(np.array([4, 1, 2]) / 7)
    assert chances(np.full(5, np.inf), 9) == pytest.approx(np.full(5, 0.2)), (
        "before any loss is known"
    )
    assert chances(np.array([0.5]), 9) == pytest.approx([1.0])
    assert chances(np.array([1.0, np.inf, 2.0]), 9).argmax() == 1, "who was never drawn comes first"


def test_cases_with_the_larger_losses_are_drawn_more_often_from_the_next_epoch_on(data):
    cases = HardCases(
        data.train,
        TINY.changed(
            {"learning.hard_case_factor": 1e9, "train.steps_per_epoch": 6, "data.workers": 0}
        ),
        CPU,
    )
    easy, hard = (case.id for case in data.train)
    cases.remember([easy, hard, hard], [0.1, 0.8, 0.6])
    drawn = [case for batch in cases.stream(2) for case in batch.cases]
    assert drawn == [hard] * 12, "six steps of two patches, and no more"
    assert cases.state_dict()["losses"].tolist() == pytest.approx([0.1, 0.7])
    cases.remember([hard], [0.1])
    assert cases.state_dict()["losses"].tolist() == pytest.approx([0.1, 0.4])


def test_hard_cases_do_not_depend_on_the_number_of_workers(data):
    config = TINY.changed(OPTIONS["hard cases"])
    alone, helped = (
        weights(list(fit(config.changed({"data.workers": n}), data, CPU))[-1]) for n in (0, 2)
    )
    assert same(alone, helped)


def test_losses_of_patches_are_each_patchs_own(data):
    torch.manual_seed(0)
    logits, label = torch.randn(3, 4, 4, 4, 4), torch.randint(0, 4, (3, 4, 4, 4)).to(torch.uint8)
    losses = patch_losses([logits, None], label, CLASSES)
    assert losses.shape == (3,) and len(set(losses.tolist())) == 3
    assert losses[1].item() == pytest.approx(patch_losses(logits[1:2], label[1:2], CLASSES).item())
    empty = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    found_nothing = torch.tensor([20.0, 0, 0, 0]).view(1, 4, 1, 1, 1).expand(1, 4, 4, 4, 4)
    assert patch_losses(found_nothing, empty, CLASSES) < 0.01, "no tumour, and none found"
    assert patch_losses(torch.full((1, 3, 4, 4, 4), 20.0), empty, REGIONS) > 1, (
        "no tumour, and all found"
    )


def test_the_weight_of_consistency_rises_to_its_full_value():
    config = TINY.changed(
        {
            "learning.ema_decay": 0.9,
            "learning.consistency_weight": 2.0,
            "learning.consistency_rampup_epochs": 2,
        }
    )
    rise = [consistency_weight(step, config) for step in (0, 2, 4, 100)]
    assert rise == pytest.approx([2 * np.exp(-5), 2 * np.exp(-1.25), 2, 2])
    assert consistency_weight(0, config.changed({"learning.consistency_rampup_epochs": 0})) == 2


def test_a_mean_teacher_learns_from_the_images_of_unlabelled_cases_alone(data):
    config = TINY.changed(OPTIONS["mean teacher"])
    runs = [
        list(fit(config, dataclasses.replace(data, unlabelled=cases), CPU))[-1]
        for cases in (data.unlabelled, data.unlabelled[:1])
    ]
    both, one = (
        {name: value for name, value in run.checkpoint["trained"].items() if "running" not in name}
        for run in runs
    )
    assert not same(both, one), "by the gradient, not by the statistics of a forward pass"
    with pytest.raises(UserError, match="no unlabelled cases"):
        next(iter(fit(config, dataclasses.replace(data, unlabelled=[]), CPU)))


def test_withheld_labels_are_never_read(data, tmp_path):
    data = copy_of(data, tmp_path)
    config = TINY.changed(OPTIONS["mean teacher"] | {"train.epochs": 1})
    withheld = dataclasses.replace(data, train=data.train[:1], unlabelled=data.train[1:])
    before = weights(next(iter(fit(config, withheld, CPU))))
    for file in ("label.npy", "tumour_voxels.npy", "brain_voxels.npy"):
        (withheld.unlabelled[0].folder / file).unlink()
    assert same(before, weights(next(iter(fit(config, withheld, CPU)))))


def test_the_consistency_of_student_and_teacher_is_reported(data):
    metrics = next(iter(fit(TINY.changed(OPTIONS["mean teacher"]), data, CPU))).metrics
    assert 0 < metrics["train/consistency"] < 1
    assert "train/consistency" not in next(iter(fit(TINY, data, CPU))).metrics


def test_the_teacher_sees_another_view_and_gets_no_gradient(data):
    config = TINY.changed(
        OPTIONS["mean teacher"]
        | {"learning.consistency_noise": 0.0, "train.epochs": 1, "train.steps_per_epoch": 1}
    )
    quiet, noisy = (
        next(iter(fit(config.changed({"learning.consistency_noise": n}), data, CPU))).metrics[
            "train/consistency"
        ]
        for n in (0.0, 2.0)
    )
    assert noisy > quiet


def test_a_share_of_the_voxels_is_hidden_in_whole_cubes():
    config = TINY.changed({"learning.mask_side": 4, "learning.mask_share": 0.75}).learning
    hidden, other = (hidden_voxels((16, 16, 12), config, 0, 1, index) for index in (2, 3))
    cubes = (
        hidden.reshape(4, 4, 4, 4, 3, 4)
        .swapaxes(1, 2)
        .swapaxes(3, 4)
        .swapaxes(2, 3)
        .reshape(48, 64)
    )
    assert hidden.mean() == 0.75 and {cube.sum() for cube in cubes} == {0, 64}
    assert (hidden != other).any()


def test_what_is_hidden_is_not_seen_and_counts_alone_and_only_in_the_brain():
    seen = []
    network = torch.nn.Module()
    network.forward = lambda x: seen.append(x) or torch.full_like(x, 3.0)
    image = torch.ones(1, 4, 4, 4, 4)
    image[..., 0] = 0  # background
    image[..., 1] = 2.0
    hidden = torch.zeros(1, 1, 4, 4, 4, dtype=torch.bool)
    hidden[..., :2] = True
    assert Reconstruction(network)(image, hidden).item() == pytest.approx((3 - 2) ** 2), (
        "not the background's 9, nor the visible voxels' 4"
    )
    assert not seen[0][..., :2].any() and (seen[0][..., 2:] == 1).all()


def test_pretraining_learns_to_fill_in_what_is_hidden(data, tmp_path):
    data = copy_of(data, tmp_path)
    config = TINY.changed(
        {
            "learning.pretrain_epochs": 5,
            "train.steps_per_epoch": 8,
            "model.base_channels": 4,
            "optim.lr": 5e-3,
        }
    )
    for case in data.unlabelled:
        ramp = np.linspace(-1.7, 1.7, case.shape[0])[:, None, None] + np.zeros((4, *case.shape))
        np.save(case.folder / "image.npy", ramp.astype(np.float16))
    losses = [epoch.metrics["pretrain/loss"] for epoch in pretrain(config, data.unlabelled, CPU)]
    assert losses[-1] < losses[0] and losses[-1] < 0.6, (
        "a network that says 0 everywhere loses the ramp's variance, 0.97"
    )


def test_a_run_starts_from_what_it_has_pretrained_but_for_its_heads(data, tmp_path, monkeypatch):
    config = TINY.changed({"learning.pretrain_epochs": 2, "train.epochs": 1, "optim.lr": 1e-3})
    started = []
    begin = fit_module._begin
    monkeypatch.setattr(
        fit_module,
        "_begin",
        lambda model, *rest: (
            started.append(copy.deepcopy(model.state_dict())) or begin(model, *rest)
        ),
    )
    folder = RunFolder(tmp_path / "run")
    list(train_run(config, data, folder, CPU))
    pretrained = load_checkpoint(folder.pretrained)
    torch.manual_seed(0)
    untrained = build_model(config.model).state_dict()
    for name, value in started[0].items():
        source = untrained if name.startswith("head.") else pretrained
        assert torch.equal(value, source[name]), name
    assert (
        not torch.equal(pretrained["stem.conv1.weight"], untrained["stem.conv1.weight"])
        and "head.weight" not in pretrained
    )
    metrics = evaluate_run(config, data, folder, CPU).metrics
    assert (
        metrics["time/train_total_s"]
        > sum(entry["time/pretrain_s"] for entry in read_pretraining(folder))
        > 0
    )


PRETRAINED = TINY.changed({"learning.pretrain_epochs": 3, "train.epochs": 1})


@pytest.fixture(scope="module")
def pretrained_run(data, tmp_path_factory):
    """The folder of a run of PRETRAINED that nobody disturbed."""
    folder = RunFolder(tmp_path_factory.mktemp("pretrained"))
    list(train_run(PRETRAINED, data, folder, CPU))
    return folder


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_run_killed_while_it_pretrains_ends_with_the_same_weights(
    data, pretrained_run, tmp_path, killed_after
):
    config, broken = PRETRAINED, RunFolder(tmp_path / "broken")
    stopped = pretrain_run(config, [*data.train, *data.unlabelled], broken, CPU)
    for _ in range(killed_after):
        next(stopped)
    stopped.close()
    assert broken.pretraining.exists() and not broken.pretrained.exists()
    list(train_run(config, data, broken, CPU))
    expected = load_checkpoint(pretrained_run.last)
    assert same(load_checkpoint(broken.last)["model"], expected["model"])
    assert [entry["epoch"] for entry in read_pretraining(broken)] == [1, 2, 3]
    assert not broken.pretraining.exists()


def test_a_run_starts_from_the_weights_of_another_and_says_where_they_do_not_fit(data, tmp_path):
    first, second = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    list(train_run(TINY, data, first, CPU))
    for source in (first.best, first.last):
        config = TINY.changed(
            {
                "learning.initial_weights": str(source),
                "optim.lr": 1e-9,
                "optim.min_lr": 0.0,
                "train.epochs": 1,
            }
        )
        *_, epoch = fit(
            config,
            data,
            CPU,
            start=lambda model: start_from(model, load_checkpoint(first.best), ""),
        )
        assert torch.allclose(
            epoch.checkpoint["model"]["stem.conv1.weight"],
            load_checkpoint(first.best)["stem.conv1.weight"],
            atol=1e-6,
        )
    list(train_run(config, data, second, CPU))
    assert torch.allclose(
        load_checkpoint(second.last)["model"]["head.weight"],
        load_checkpoint(first.last)["model"]["head.weight"],
        atol=1e-6,
    )
    wider = build_model(dataclasses.replace(TINY.model, base_channels=4))
    with pytest.raises(
        UserError,
        match=r"last\.pth: not weights of this network .* is 2x.* there and 4x.* here",
    ):
        start_from(wider, load_checkpoint(first.best), first.last)
    regions = build_model(dataclasses.replace(TINY.model, outputs="regions"))
    start_from(regions, load_checkpoint(first.best), first.best)
    assert torch.equal(regions.stem.conv1.weight, load_checkpoint(first.best)["stem.conv1.weight"])


def test_an_epoch_tells_the_next_one_how_hard_each_case_was(data):
    first = next(
        iter(fit(TINY.changed(OPTIONS["hard cases"] | {"train.steps_per_epoch": 6}), data, CPU))
    )
    losses = first.checkpoint["cases"]["losses"]
    assert losses.isfinite().all() and losses[0] != losses[1] and (losses > 0.5).all(), (
        "Dice and cross entropy of a network that has hardly begun"
    )
