import dataclasses
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segmamba.cli import main
from segmamba.config import PostprocessConfig, load_postprocess
from segmamba.data.cases import find_cases
from segmamba.data.label_sets import GLIOMA, PEDIATRIC, POST_TREATMENT
from segmamba.data.splits import split_cases
from segmamba.data.strata import SourceCase
from segmamba.errors import UserError
from segmamba.evaluation.tune import Vote, tune, validation_of
from segmamba.inference.predictor import Predictor
from segmamba.models import build_model
from segmamba.models.outputs import Channels
from segmamba.training.run_folder import RunFolder
from tests.conftest import write_case
from tests.tiny import CPU, TINY

NCR, ET = GLIOMA.number("NCR"), GLIOMA.number("ET")
SHAPE = (32, 32, 24)
COARSE = TINY.changed({"data.spacing_mm": 4.0})


def vote(*, confidence=0.9, strays=0, seed=0, case_id="X", patient=None):
    """A box of ET that the network sees with this confidence (else NCR), and sure stray voxels."""
    truth = np.zeros(SHAPE, np.uint8)
    truth[8:20, 8:20, 6:16] = NCR
    truth[10:18, 10:18, 8:14] = ET
    probability = torch.zeros(4, *SHAPE)
    probability[0] = 1
    tumour = torch.from_numpy(truth > 0)
    probability[:, tumour] = torch.tensor([0.0, 1.0, 0.0, 0.0])[:, None]
    enhancing = torch.from_numpy(truth == ET)
    probability[:, enhancing] = torch.tensor([0.0, 1 - confidence, 0.0, confidence])[:, None]
    for at in np.random.default_rng(seed).integers(22, (30, 30, 23), (strays, 3)):
        probability[(slice(None), *at)] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    prepared = SimpleNamespace(whole=lambda array: array)
    return Vote(case_id, patient or case_id, prepared, probability.half(), truth, (1.0, 1.0, 1.0))


PREDICTOR = Predictor([SimpleNamespace(device=CPU, outputs=Channels(GLIOMA, are_regions=False))])


def test_a_timid_network_gets_a_lower_threshold_and_a_sure_one_keeps_everything_off():
    timid, _ = tune(PREDICTOR, [vote(confidence=0.42)])
    assert timid.thresholds[0] < 0.42 and timid.thresholds[1:] == (0.5, 0.5)
    sure, steps = tune(PREDICTOR, [vote()])
    assert sure == PostprocessConfig() and {step.chosen for step in steps} == {"off"}


def test_strays_are_removed_where_the_rule_punishes_them():
    votes = [vote(strays=1)]
    assert tune(PREDICTOR, votes)[0].min_component_voxels == (0, 0, 0), (
        "one voxel of a thousand is nothing to the legacy rule"
    )
    chosen, steps = tune(PREDICTOR, votes, rule="lesionwise-2023")
    assert chosen.min_component_voxels[2] > 1
    (wt,) = [step for step in steps if step.setting == "smallest component of WT, voxels"]
    assert wt.scores["0"] < 0.51 < wt.scores["10"] == max(wt.scores.values())


def test_the_gain_of_deciding_region_by_region_is_not_that_of_the_first_threshold():
    """NCR and ET share the core so evenly that ED is the likeliest class of it."""
    one = vote()
    probability = torch.zeros(4, *SHAPE)
    probability[0] = 1
    probability[:, torch.from_numpy(one.truth > 0)] = torch.tensor([0.0, 0.3, 0.4, 0.3])[:, None]
    split = dataclasses.replace(one, probability=probability.half())
    chosen, steps = tune(PREDICTOR, [split])
    by_name = {step.setting: step for step in steps}
    switched = by_name["region by region"].scores
    assert switched["0.5"] > switched["off"] + 0.1
    assert by_name["threshold WT"].chosen == "0.5", "it adds nothing to the switch"
    assert by_name["threshold WT"].scores["0.5"] == switched["0.5"]
    assert by_name["threshold ET"].chosen != "off" and chosen.thresholds[2] == 0.5


@pytest.mark.parametrize("labels", [POST_TREATMENT, PEDIATRIC], ids=lambda s: s.name)
def test_every_region_that_decides_something_is_tuned(labels):
    channels = Channels(labels, are_regions=False)
    predictor = Predictor([SimpleNamespace(device=CPU, outputs=channels)])
    region, other = {"post_treatment": ("RC", "background"), "pediatric": ("CC", "NETC")}[
        labels.name
    ]
    truth = np.zeros(SHAPE, np.uint8)
    truth[8:20, 8:20, 6:16] = labels.number(region)
    probability = torch.zeros(len(labels.classes), *SHAPE)
    probability[0] = 1
    timid = torch.zeros(len(labels.classes))
    timid[labels.number(other)], timid[labels.number(region)] = 0.58, 0.42
    probability[:, torch.from_numpy(truth > 0)] = timid[:, None]
    case = dataclasses.replace(vote(), probability=probability.half(), truth=truth)
    chosen, steps = tune(predictor, [case])
    tuned = {step.setting for step in steps}
    assert {f"threshold {r}" for r, _ in labels.written} <= tuned
    assert chosen.thresholds[labels.region_names.index(region)] < 0.42
    assert len(chosen.thresholds) == len(labels.regions)


def write_run(folder, config):
    run = RunFolder(folder)
    run.write_config(config)
    torch.manual_seed(0)
    torch.save(build_model(config.model).state_dict(), run.best)
    return run


def test_the_command_tunes_on_validation_alone_and_stores_what_predict_then_takes(
    tmp_path, monkeypatch, capsys
):
    for number in range(6):
        write_case(tmp_path / "data", f"BraTS20_Training_{number:03d}", seed=number)
    config = COARSE.changed({"data.source": str(tmp_path / "data"), "data.validation_share": 0.4})
    run = write_run(tmp_path / "run", config)
    monkeypatch.setattr(
        sys, "argv", ["segmamba", "tune-postprocessing", "--checkpoint", str(run.root), "--json"]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    printed = json.loads(capsys.readouterr().out)
    split = split_cases([SourceCase(case) for case in find_cases(tmp_path / "data")], config.data)
    assert (
        stopped.value.code == 0
        and printed["validation"] == [case.id for case in split.validation]
        and len(split.validation) == 2
    )
    stored = load_postprocess(run.checkpoints / "postprocessing.json")
    assert list(stored.min_component_voxels) == printed["settings"]["min_component_voxels"]
    choice = json.loads((run.checkpoints / "postprocessing_choice.json").read_text())
    assert choice["validation"] == printed["validation"] and len(choice["steps"]) == 8
    argv = [
        "segmamba",
        "predict",
        "--input",
        str(tmp_path / "data"),
        "--output",
        str(tmp_path / "out"),
        "--checkpoint",
        str(run.root),
    ]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit):
        main()
    assert "postprocessing.json" in " ".join(capsys.readouterr().err.split())


def test_validation_that_is_also_the_test_is_refused(cases_folder, tmp_path):
    with pytest.raises(UserError, match="too few patients"):
        validation_of(
            COARSE.changed({"data.source": str(cases_folder)}),
            tmp_path,
            lambda label: lambda done, total: None,
        )
