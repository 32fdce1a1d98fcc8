"""Runs on data with other classes than glioma's: trained, validated, tested and drawn."""

import dataclasses

import pytest
import torch

from segmamba.data.label_sets import label_set
from segmamba.data.source import prepare_split
from segmamba.errors import UserError
from segmamba.evaluation.cases import evaluate
from segmamba.models import build_model
from segmamba.models.transfer import start_from
from segmamba.training.drawing import draw
from segmamba.training.fit import fit
from segmamba.training.plots import draw_predicted, draw_training_curves
from segmamba.training.run_pictures import worst_and_median_predicted
from tests.classes import write_pediatric, write_post_treatment
from tests.tiny import CPU, TINY

WRITE = {"post_treatment": write_post_treatment, "pediatric": write_pediatric}
CHANGES = {
    "train.epochs": 1,
    "data.balance_classes": True,
    "learning.hard_case_factor": 2.0,
    "model.deep_supervision": 1,
}


def no_steps(label):
    return lambda done, total: None


@pytest.fixture(scope="module", params=WRITE)
def prepared(request, tmp_path_factory):
    """(name of the label set, Config as the user gives it, PreparedData)."""
    home = tmp_path_factory.mktemp(request.param)
    source = WRITE[request.param](home / "data")
    config = TINY.changed({"data.source": str(source), **CHANGES})
    return request.param, config, prepare_split(config, home, steps=no_steps)


@pytest.mark.parametrize("outputs", ["classes", "regions"])
def test_every_region_is_learnt_validated_and_tested(prepared, outputs, tmp_path):
    name, config, data = prepared
    config, split = data.resolved(config.changed({"model.outputs": outputs})), data.split()
    assert config.model.classes == name
    (epoch,) = fit(config, split, CPU)
    labels = label_set(name)
    assert {m for m in epoch.metrics if m.startswith("val/dice_")} == {
        f"val/dice_{score}" for score in labels.scores
    }
    model = build_model(config.model)
    model.load_state_dict(epoch.checkpoint["model"])
    rows = evaluate(model, split.test, config, CPU)
    for region in labels.regions:
        assert 0 <= rows[0][f"dice_{region}"] <= 1 and rows[0][f"hd95_mm_{region}"] >= 0
    mean = sum(rows[0][f"dice_{region}"] for region in labels.regions) / len(labels.regions)
    assert rows[0]["dice_mean"] == pytest.approx(mean)
    predicted = worst_and_median_predicted(model, split.test, rows, config, CPU)
    draw(torch.device("cuda"), draw_predicted, tmp_path / "shown.png", predicted)
    draw_training_curves([{"epoch": 1} | epoch.metrics], tmp_path / "curves.png")
    assert (
        (tmp_path / "shown.png").stat().st_size > 10_000 < (tmp_path / "curves.png").stat().st_size
    )


def test_a_network_of_other_classes_than_the_cases_is_refused_before_it_trains(prepared):
    name, config, data = prepared
    with pytest.raises(UserError, match=f"set model.classes={name}"):
        next(fit(config, data.split(), CPU))


def test_a_mean_teacher_and_weights_of_a_glioma_network_serve_other_classes_too(prepared):
    _, config, data = prepared
    split = data.split()
    split = dataclasses.replace(split, unlabelled=list(split.train))
    config = data.resolved(
        config.changed({"learning.consistency_weight": 1.0, "learning.ema_decay": 0.9})
    )
    torch.manual_seed(0)
    glioma = build_model(config.changed({"model.classes": "glioma"}).model).state_dict()
    (epoch,) = fit(config, split, CPU, start=lambda model: start_from(model, glioma, "glioma"))
    assert epoch.metrics["train/consistency"] > 0
