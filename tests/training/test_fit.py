import copy
import dataclasses
import random

import numpy as np
import pytest
import torch

from segmamba.errors import UserError
from segmamba.evaluation.cases import make_predictor, prepared_scan
from segmamba.models import build_model, decay_groups
from segmamba.training import fit as fit_module
from segmamba.training import run_evaluation as evaluation_module
from segmamba.training import run_pictures as pictures_module
from segmamba.training import step as step_module
from segmamba.training.callback import Callback
from segmamba.training.final_metrics import read_final_metrics
from segmamba.training.fit import NonFiniteLoss, fit
from segmamba.training.run import train_run
from segmamba.training.run_evaluation import evaluate_run
from segmamba.training.run_folder import RunFolder
from tests.tiny import CPU, TINY

SCORE_NAMES = ("dice_ET", "dice_TC", "dice_WT", "dice_mean")


def weights(epoch):
    return {name: value.clone() for name, value in epoch.checkpoint["model"].items()}


def row_of(case, score):
    return {"case": case.id} | dict.fromkeys(SCORE_NAMES, score)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_run_repeats_bit_for_bit_and_another_seed_differs(data, whole_run):
    again, other = (
        [weights(e) for e in fit(TINY.changed({"seed": seed}), data, CPU)][-1] for seed in (0, 1)
    )
    first = whole_run[-1].checkpoint["model"]
    assert same(first, again) and not same(first, other)


def test_the_share_of_the_epoch_spent_waiting_for_data_is_reported(whole_run):
    shares = [epoch.metrics["time/data_wait_share"] for epoch in whole_run]
    assert all(0 < share < 1 for share in shares)


def test_a_resumed_run_ends_with_the_same_weights_and_metrics(data, whole_run):
    rest = list(fit(TINY, data, CPU, resume_from=copy.deepcopy(whole_run[0].checkpoint)))
    assert [e.number for e in rest] == [2, 3]
    assert same(weights(rest[-1]), whole_run[-1].checkpoint["model"])
    untimed = [
        {name: value for name, value in metrics.items() if not name.startswith("time/")}
        for metrics in (rest[-1].metrics, whole_run[-1].metrics)
    ]
    assert untimed[0] == untimed[1]


def test_a_resumed_run_remembers_the_best_epoch_so_far(data, monkeypatch):
    scores = iter([0.9, 0.1, 0.2, 0.3])
    monkeypatch.setattr(
        fit_module.Validator, "scores", lambda *args: [{"case": "x", "dice_mean": next(scores)}]
    )
    config = TINY.changed({"train.epochs": 4, "train.early_stop_epochs": 2})
    first = copy.deepcopy(next(iter(fit(config, data, CPU))).checkpoint)
    rest = list(fit(config, data, CPU, resume_from=first))
    assert [e.number for e in rest] == [2, 3], (
        "stops two epochs after the best, which was before the interruption"
    )
    assert not any(e.is_best for e in rest) and rest[-1].metrics["val/best_dice_mean"] == 0.9


@pytest.mark.parametrize(
    "changes",
    [
        {"optim.clip_norm": 1e-6},
        {"optim.weight_decay": 50.0},
        {"optim.betas": (0.0, 0.5)},
        {"optim.name": "sgd"},
        {"optim.schedule": "polynomial"},
        {"optim.name": "sgd", "optim.momentum": 0.5},
        {"optim.schedule": "polynomial", "optim.power": 2.0},
    ],
    ids=str,
)
def test_every_optimiser_setting_changes_the_weights(data, changes):
    base = TINY.changed({"train.epochs": 1, "train.steps_per_epoch": 3, "optim.warmup_epochs": 0})
    without_last = dict(list(changes.items())[:-1])
    plain, other = (
        weights(next(iter(fit(base.changed(c), data, CPU)))) for c in (without_last, changes)
    )
    assert not same(plain, other)


def test_a_resumed_run_under_sgd_has_its_momentum_back(data):
    config = TINY.changed({"train.epochs": 2, "optim.name": "sgd", "optim.schedule": "polynomial"})
    first, last = (copy.deepcopy(epoch.checkpoint) for epoch in fit(config, data, CPU))
    (rest,) = fit(config, data, CPU, resume_from=first)
    assert same(weights(rest), last["model"])


def test_the_loss_falls_on_data_that_can_be_learnt(data):
    config = TINY.changed(
        {"train.epochs": 6, "train.steps_per_epoch": 8, "model.base_channels": 4, "optim.lr": 5e-3}
    )
    losses = [e.metrics["train/loss"] for e in fit(config, data, CPU)]
    assert losses[-1] < 0.75 * losses[0]


def test_accumulating_two_batches_of_one_equals_one_batch_of_two(data):
    base = {
        "train.epochs": 1,
        "train.steps_per_epoch": 1,
        "model.norm": "instance",
        "optim.warmup_epochs": 0,
        "loss.dice_weight": 0.0,
    }
    base["data.patch_size"] = (32, 32, 16)
    epochs = [
        next(
            iter(
                fit(
                    TINY.changed(base | {"train.batch_size": b, "train.accumulation": 2 // b}),
                    data,
                    CPU,
                )
            )
        )
        for b in (1, 2)
    ]
    one, two = (
        [state["exp_avg"] for state in e.checkpoint["optimizer"]["state"].values()] for e in epochs
    )  # a tenth of the gradient
    assert any(g.abs().max() > 1e-3 for g in two)
    assert all(torch.allclose(g, h, atol=1e-6) for g, h in zip(one, two, strict=True))


def test_validation_falls_where_it_is_asked_for_and_always_at_the_end(data):
    epochs = list(fit(TINY.changed({"train.validate_every_epochs": 2}), data, CPU))
    assert [("val/dice_mean" in e.metrics) for e in epochs] == [False, True, True]


def test_early_stopping_counts_epochs_without_a_better_validation_dice(data, monkeypatch):
    scores = iter([0.3, 0.5, 0.4, 0.5, 0.9, 0.9])
    monkeypatch.setattr(
        fit_module.Validator, "scores", lambda *args: [{"case": "x", "dice_mean": next(scores)}]
    )
    epochs = list(fit(TINY.changed({"train.epochs": 6, "train.early_stop_epochs": 2}), data, CPU))
    assert [e.number for e in epochs] == [1, 2, 3, 4]
    assert [e.is_best for e in epochs] == [True, True, False, False]
    assert epochs[-1].metrics["val/best_dice_mean"] == 0.5


def test_a_non_finite_loss_stops_the_run_and_names_the_batch(data, monkeypatch):
    monkeypatch.setattr(
        step_module, "training_loss", lambda logits, *rest: logits.float().mean() * float("nan")
    )
    with pytest.raises(
        NonFiniteLoss,
        match=r"epoch 1, step 1: the loss is nan; "
        r"the batch held BraTS20_Training_\d+, BraTS20_Training_\d+",
    ):
        list(fit(TINY, data, CPU))


def test_weight_decay_spares_norms_biases_and_the_scans_own_parameters(data):
    model = build_model(TINY.model)
    decayed, undecayed = (set(map(id, group)) for group in decay_groups(model))
    named = dict(model.named_parameters())
    assert decayed | undecayed == set(map(id, named.values())) and not decayed & undecayed
    for name, parameter in named.items():
        spared = name.endswith(("A_log", ".D", "bias")) or parameter.ndim == 1
        assert (id(parameter) in undecayed) == spared, name


def test_the_shares_of_tumour_patches_are_reported(data):
    metrics = next(iter(fit(TINY.changed({"data.tumour_centre_share": 1.0}), data, CPU))).metrics
    assert metrics["train/tumour_centre_share"] == 1.0 and metrics["train/tumour_patch_share"] > 0.5


def test_a_run_folder_holds_all_that_was_promised_and_goes_on_where_it_stopped(data, tmp_path):
    folder = RunFolder(tmp_path / "run")
    config = TINY.changed({"train.keep_every_epochs": 2})
    stopped = train_run(config, data, folder, CPU)
    next(stopped)
    stopped.close()
    epochs = list(train_run(config, data, folder, CPU))
    assert [e.number for e in epochs] == [2, 3]
    result = evaluate_run(config, data, folder, CPU)
    assert read_final_metrics(folder.final_metrics) == result
    from_memory = evaluate_run(config, data, folder, CPU, trained=epochs[-1].checkpoint)
    assert (from_memory.cases, from_memory.tested_epoch) == (result.cases, result.tested_epoch)
    assert from_memory.weights_sha256 == result.weights_sha256
    metrics, rows = result.metrics, result.cases
    names = {str(p.relative_to(folder.root)) for p in folder.root.rglob("*") if p.is_file()}
    assert {
        "checkpoints/best_metric_model.pth",
        "checkpoints/last.pth",
        "checkpoints/epoch_0002.pth",
        "config.json",
        "metrics/history.json",
        "metrics/final_metrics.json",
        "plots/training_curves.png",
        "plots/val_predictions_epoch_0003.png",
    } <= names
    assert any(name.startswith("logs/events.out.tfevents") for name in names)
    assert {
        "test/dice_mean",
        "test/dice_ET",
        "test/hd95_mm_WT",
        "model/parameters",
    } <= metrics.keys()
    assert [row["case"] for row in rows] == [case.id for case in data.test]
    assert [entry["epoch"] for entry in folder.read_history(3)] == [1, 2, 3]
    assert list(train_run(config, data, folder, CPU)) == [], (
        "a finished run has nothing left to train"
    )


def test_with_a_separate_test_set_the_best_checkpoint_is_tested(data, tmp_path, monkeypatch):
    for own_validation, tested, epoch in ((True, "best", 1), (False, "last", 3)):
        scores = iter([0.9, 0.1, 0.1])
        monkeypatch.setattr(
            fit_module.Validator,
            "scores",
            lambda *args, scores=scores: [row_of(data.validation[0], next(scores))],
        )
        folder = RunFolder(tmp_path / tested)
        split = dataclasses.replace(data, test_is_validation=not own_validation)
        list(train_run(TINY, split, folder, CPU))
        result = evaluate_run(TINY, split, folder, CPU)
        assert (result.tested_checkpoint, result.tested_epoch) == (tested, epoch)


def test_the_last_checkpoint_is_tested_beside_the_chosen_one_and_never_twice(
    data, tmp_path, monkeypatch
):
    for name, changes, epochs in (
        ("both", {}, [1, 3]),
        ("same", {"train.epochs": 1}, [1]),
        ("off", {"train.test_last": False}, [1]),
    ):
        scores, tested = iter([0.9, 0.1, 0.1]), []
        monkeypatch.setattr(
            fit_module.Validator,
            "scores",
            lambda *args, scores=scores: [row_of(data.validation[0], next(scores))],
        )
        monkeypatch.setattr(
            evaluation_module,
            "evaluate",
            lambda model, *rest, tested=tested: (
                tested.append(1) or [{"case": "x"} | dict.fromkeys(SCORE_NAMES, len(tested) / 4)]
            ),
        )
        config, folder = TINY.changed(changes), RunFolder(tmp_path / name)
        split = dataclasses.replace(data, test_is_validation=False)
        list(train_run(config, split, folder, CPU))
        result = evaluate_run(config, split, folder, CPU)
        assert read_final_metrics(folder.final_metrics) == result
        metrics = result.metrics
        assert len(tested) == len(epochs) and metrics["test/dice_mean"] == 0.25
        assert metrics.get("test/last_dice_mean") == {"both": 0.5, "same": 0.25, "off": None}[name]


def test_the_picture_shows_the_worst_and_the_median_of_the_chosen_epoch_and_is_drawn_once(
    data, tmp_path, monkeypatch
):
    scores, predicted, prepare = (
        iter([(0.6, 0.9, 0.7), (0.1, 0.2, 0.3), (0.3, 0.2, 0.1)]),
        [],
        pictures_module.prepared_scan,
    )
    cases, folder = [*data.train, *data.validation, *data.test][:3], RunFolder(tmp_path / "run")
    split = dataclasses.replace(data, validation=cases, test_is_validation=False)
    monkeypatch.setattr(
        fit_module.Validator,
        "scores",
        lambda *args: [row_of(*pair) for pair in zip(split.validation, next(scores), strict=True)],
    )
    monkeypatch.setattr(
        pictures_module,
        "prepared_scan",
        lambda case, config: predicted.append(case.id) or prepare(case, config),
    )
    next(train_run(TINY, split, folder, CPU))
    list(
        train_run(TINY, split, folder, CPU)
    )  # epoch 1, whose rows are known from the checkpoint alone, stays the best
    for _ in range(2):
        evaluate_run(TINY, split, folder, CPU)
    assert (
        predicted == [split.validation[0].id, split.validation[2].id]
        and folder.val_predictions(1).is_file()
    )


def test_a_resumed_run_draws_the_random_numbers_that_the_whole_one_would_have_drawn(
    data, monkeypatch
):
    drawn = []

    def spy(image, label, plans):
        drawn.append((torch.rand(()).item(), np.random.rand(), random.random()))
        return image, label

    monkeypatch.setattr(fit_module, "augment", spy)
    checkpoints = [copy.deepcopy(epoch.checkpoint) for epoch in fit(TINY, data, CPU)]
    whole = list(drawn)
    drawn.clear()
    list(fit(TINY, data, CPU, resume_from=checkpoints[0]))
    assert drawn == whole[-len(drawn) :] and len(whole) == 6 and len(set(whole)) == 6


def test_a_callback_gets_every_step_and_case_and_may_end_the_run(data):
    class Impatient(Callback):
        def __init__(self):
            self.calls = []

        def on_step(self, epoch, done):
            self.calls.append(("step", epoch, done))
            if (epoch, done) == (2, 1):
                raise KeyboardInterrupt

        def on_validation_case(self, epoch, done):
            self.calls.append(("case", epoch, done))

    callback = Impatient()
    with pytest.raises(KeyboardInterrupt):
        list(fit(TINY, data, CPU, callback=callback))
    assert callback.calls == [("step", 1, 1), ("step", 1, 2), ("case", 1, 1), ("step", 2, 1)]


def test_an_epoch_brings_the_scores_of_each_validation_case(data, whole_run):
    assert [row["case"] for row in whole_run[0].rows] == [case.id for case in data.validation]


def test_what_is_trained_here_is_normalised_over_the_brain(data):
    """The cache keeps no intensities of the background, which a z-score over the box counts."""
    config = TINY.changed({"inference.normalise_over": "box"})
    with pytest.raises(UserError, match=r"inference\.normalise_over.*trained here"):
        next(fit(config, data, CPU))
    predictor = make_predictor(build_model(config.model), config, CPU)
    with pytest.raises(UserError, match="predictions from files"):
        predictor.predict(prepared_scan(data.test[0], config))
