"""Decisions, post-processing and files of networks that tell other classes apart than glioma's."""

import json

import nibabel
import numpy as np
import pytest
import torch

from segmamba.config import PostprocessConfig, load_config
from segmamba.data.cases import find_cases, list_cases
from segmamba.data.label_sets import (
    GLIOMA,
    LABEL_SETS,
    PEDIATRIC,
    POST_TREATMENT,
    region_dict,
    region_masks,
)
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.evaluation.compare import compare
from segmamba.evaluation.evaluate import evaluate
from segmamba.evaluation.prediction_page import write_prediction_page
from segmamba.inference.bundle import Labels
from segmamba.inference.crf import refine
from segmamba.inference.decide import class_probabilities, decide, region_probabilities
from segmamba.inference.export import export_bundle
from segmamba.inference.folder import notes_on_values, predict_cases
from segmamba.inference.outputs import DONE, Outputs
from segmamba.inference.postprocess import (
    check_postprocessing,
    postprocess_classes,
    without_small_components,
)
from segmamba.inference.predictor import load_predictor
from segmamba.inference.record import write_record
from segmamba.models.outputs import Channels
from segmamba.pictures.palette import REGION_COLOURS
from tests.classes import write_pediatric, write_post_treatment
from tests.conftest import write_case
from tests.inference.conftest import write_run

SETS = pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
OTHERS = pytest.mark.parametrize("labels", [POST_TREATMENT, PEDIATRIC], ids=lambda s: s.name)


def random_classes(labels, shape=(6, 7, 8)):
    return torch.randn(len(labels.classes), *shape, generator=torch.manual_seed(0)).softmax(0)


@SETS
def test_classes_come_back_from_the_probabilities_of_their_regions(labels):
    classes = random_classes(labels)
    assert torch.allclose(
        class_probabilities(region_probabilities(classes, labels), labels), classes, atol=1e-5
    )


@SETS
@pytest.mark.parametrize("are_regions", [False, True])
def test_a_sure_network_is_taken_at_its_word(labels, are_regions):
    truth = torch.arange(len(labels.classes), dtype=torch.uint8)[:, None, None]
    sure = torch.nn.functional.one_hot(truth.long(), len(labels.classes)).movedim(-1, 0).float()
    shown = region_probabilities(sure, labels) if are_regions else sure
    for thresholds in ((), (0.4, 0.5, 0.6)):
        assert torch.equal(decide(shown, Channels(labels, are_regions), thresholds), truth)


@SETS
def test_an_inner_region_lies_within_the_outer_ones_whatever_the_probabilities(labels):
    regions = torch.rand(len(labels.regions), 9, 9, 9, generator=torch.manual_seed(1))
    classes = decide(regions, Channels(labels, are_regions=True)).numpy()
    above = dict(zip(labels.regions, (regions > 0.5).numpy(), strict=True))
    for region, mask in region_dict(classes, labels).items():
        if region in labels.within and region != "RC":
            outer = labels.within[region]
            assert not (mask & ~above[outer]).any() if outer else not (mask & ~above["WT"]).any()


def test_where_tumour_and_cavity_are_both_likely_it_is_cavity():
    likely = torch.full((4, 1, 1, 1), 0.9)
    assert decide(likely, Channels(POST_TREATMENT, are_regions=True)).item() == 4


@SETS
def test_small_components_of_each_region_become_what_lies_around_them(labels):
    for region, name in labels.written:
        limits = [2 * (r == region) for r in labels.regions]
        classes = np.zeros((9, 9, 9), np.uint8)
        around = dict(labels.written).get(labels.within[region], "background")
        classes[2:7, 2:7, 2:7] = labels.number(around)
        classes[4, 4, 4] = labels.number(name)
        after = without_small_components(classes, limits, labels)
        assert after[4, 4, 4] == labels.number(around), region
        assert (after == classes).sum() == classes.size - 1


@OTHERS
def test_a_small_et_becomes_the_rest_of_the_core(labels):
    classes = np.zeros((5, 5, 5), np.uint8)
    classes[2, 2, 2] = labels.number("ET")
    after = postprocess_classes(classes, PostprocessConfig(min_et_voxels=2), labels)
    assert labels.classes[after[2, 2, 2]] == "NETC"


def test_values_for_et_tc_and_wt_alone_leave_further_regions_as_they_are():
    classes = np.zeros((5, 5, 5), np.uint8)
    classes[1, 1, 1], classes[3, 3, 3] = POST_TREATMENT.number("RC"), POST_TREATMENT.number("ET")
    config = PostprocessConfig(min_component_voxels=(100, 100, 100))
    after = postprocess_classes(classes, config, POST_TREATMENT)
    assert after[1, 1, 1] == POST_TREATMENT.number("RC") and after[3, 3, 3] == 0


def test_settings_that_a_label_set_has_no_use_for_are_refused_in_one_line():
    with pytest.raises(UserError, match="has 4 values, and there are 3 regions: ET, TC, WT"):
        check_postprocessing(PostprocessConfig(thresholds=(0.5,) * 4), GLIOMA)
    with pytest.raises(UserError, match="NETC is what the regions within and around it leave"):
        check_postprocessing(PostprocessConfig(min_component_voxels=(0, 0, 0, 9)), PEDIATRIC)
    check_postprocessing(PostprocessConfig(thresholds=(0.5,) * 5), PEDIATRIC)


@OTHERS
def test_the_crf_refines_every_class_and_regions_alike(labels):
    p, image = random_classes(labels), torch.randn(4, 6, 7, 8, generator=torch.manual_seed(2))
    config = PostprocessConfig(crf_steps=2)
    q = refine(p, Channels(labels, are_regions=False), image, config)
    assert torch.allclose(q.sum(0), torch.ones(6, 7, 8), atol=1e-5)
    regions = refine(
        region_probabilities(p, labels), Channels(labels, are_regions=True), image, config
    )
    assert torch.allclose(regions, region_probabilities(q, labels), atol=1e-4)


@pytest.fixture(scope="module")
def post_run(tmp_path_factory):
    """An untrained network of the four classes after treatment."""
    home = tmp_path_factory.mktemp("post")
    return write_run(home / "run", **{"model.classes": "post_treatment"})[0]


def predicted(run, data, output, **options):
    predictor = load_predictor([run], "cpu")
    cases = list_cases(data, "mixed")
    outputs = Outputs(output, **options)
    outcomes = list(predict_cases(predictor, cases, outputs))
    record = write_record(predictor, outcomes, outputs, [str(run)])
    if outputs.page:
        write_prediction_page(
            outputs, cases, outcomes, predictor.summary, predictor.labels, phantoms_only=False
        )
    return predictor, outcomes, record, notes_on_values(cases, predictor.labels, outputs)


@pytest.mark.parametrize("labels", ["brats2018", "brats2023", "brats2024", "brats2024ped"])
def test_the_page_is_written_in_whatever_values_the_predictions_are(post_run, tmp_path, labels):
    write_post_treatment(tmp_path / "data", ["BraTS-GLI-00000-100"])
    outcomes = predicted(post_run, tmp_path / "data", tmp_path / "out", page=True, labels=labels)[1]
    assert {outcome.state for outcome in outcomes} == {DONE}
    page = (tmp_path / "out" / "predictions.html").read_text()
    assert page.count("data:image/png;base64,") == len(outcomes)


def values_in(path):
    return set(np.unique(np.asanyarray(nibabel.load(path).dataobj)).tolist())


def test_all_classes_are_predicted_written_measured_and_drawn(post_run, tmp_path):
    write_post_treatment(tmp_path / "data", ["BraTS-GLI-00000-100"])
    predictor, (outcome,), record, notes = predicted(
        post_run, tmp_path / "data", tmp_path / "out", overlay=True, page=True, probabilities=True
    )
    scan = read_scan(list_cases(tmp_path / "data")[0])
    masks = region_masks(predictor.predict(scan), POST_TREATMENT)
    assert outcome.state == DONE and notes == []
    assert outcome.volumes_ml == {
        region: pytest.approx(mask.sum() / 1000)
        for region, mask in zip(POST_TREATMENT.regions, masks, strict=True)
    }
    assert masks[3].any(), "the network predicts a cavity"
    assert values_in(tmp_path / "out" / "BraTS-GLI-00000-100.nii.gz") >= {4}
    assert record["classes"] == "post_treatment" and record["channels"][4] == "RC"
    page = (tmp_path / "out" / "predictions.html").read_text()
    assert all(REGION_COLOURS[region] in page for region in ("ET", "TC", "WT", "RC"))
    assert (tmp_path / "out" / "overlays" / "BraTS-GLI-00000-100.png").stat().st_size > 10_000


def test_a_case_whose_convention_lacks_the_cavity_is_written_in_one_that_has_it(post_run, tmp_path):
    write_case(tmp_path / "data", "BraTS20_Training_001", shape=(40, 44, 24))
    _, (outcome,), record, notes = predicted(post_run, tmp_path / "data", tmp_path / "out")
    assert outcome.labels == "brats2024" == record["cases"][0]["labels"]
    assert notes == ["labels brats2018 have no value for RC: brats2024 is written"]
    assert 4 in values_in(tmp_path / "out" / "BraTS20_Training_001.nii.gz")
    evaluation = evaluate(tmp_path / "out", tmp_path / "data", rule="brats-legacy")
    assert evaluation.about["notes"][-1] == "labels: truth brats2018, predictions brats2024"
    assert evaluation.about["classes"] == "glioma"


def test_what_the_user_asks_for_is_written_and_what_it_lacks_is_said(post_run, tmp_path):
    write_post_treatment(tmp_path / "data", ["BraTS-GLI-00000-100"])
    *_, notes = predicted(post_run, tmp_path / "data", tmp_path / "out", labels="brats2018")
    assert notes == ["labels brats2018 have no value for RC, which is merged"]
    assert values_in(tmp_path / "out" / "BraTS-GLI-00000-100.nii.gz") <= {0, 1, 2, 4}


def test_a_network_from_before_label_sets_has_three_classes_and_writes_valid_values(tmp_path):
    run, _ = write_run(tmp_path / "run")
    stored = json.loads((run / "config.json").read_text())
    del stored["model"]["classes"], stored["phantom"]["kind"]
    (run / "config.json").write_text(json.dumps(stored))
    assert load_config(run / "config.json").model.classes == "glioma"
    write_post_treatment(tmp_path / "data", ["BraTS-GLI-00000-100"])
    _, (outcome,), _, notes = predicted(run, tmp_path / "data", tmp_path / "out")
    assert outcome.labels == "brats2024" and "RC is never written" in notes[0]
    assert values_in(tmp_path / "out" / "BraTS-GLI-00000-100.nii.gz") <= {0, 1, 2, 3}


def test_networks_of_different_classes_do_not_vote_together(post_run, tmp_path):
    glioma, _ = write_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"only networks of the same classes vote together"):
        load_predictor([post_run, glioma], "cpu")


def test_a_bundle_writes_the_values_of_its_networks_classes(post_run, tmp_path):
    bundle = export_bundle(post_run, tmp_path / "bundle")
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["labels"]["4"] == "RC"
    assert metadata["network_data_format"]["outputs"]["pred"]["num_channels"] == 5
    models = bundle / "models"
    labels = Labels(models / "config.json", "brats2024", models / "postprocessing.json")
    sure = torch.eye(5)[:, :, None, None]
    assert labels(sure)[0, :, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_truth_with_a_cavity_is_scored_on_it_or_on_gliomas_regions_as_the_user_asks(tmp_path):
    truth = write_post_treatment(tmp_path / "truth", ["BraTS-GLI-00000-100"])
    (tmp_path / "out").mkdir()
    case = find_cases(truth)[0]
    label = nibabel.load(case.label)
    without = np.asanyarray(label.dataobj) * (np.asanyarray(label.dataobj) < 4)
    nibabel.save(
        nibabel.Nifti1Image(without.astype(np.uint8), label.affine),
        tmp_path / "out" / f"{case.id}.nii.gz",
    )
    whole = evaluate(tmp_path / "out", truth).summary["scores"]["brats-legacy"]
    assert list(whole) == ["ET", "TC", "WT", "RC", "mean"]
    assert whole["RC"]["dice"]["mean"] == 0 and whole["mean"]["dice"]["mean"] == 0.75
    three = evaluate(tmp_path / "out", truth, classes="glioma").summary["scores"]["brats-legacy"]
    assert list(three) == ["ET", "TC", "WT", "mean"] and three["mean"]["dice"]["mean"] == 1
    both = compare(tmp_path / "out", tmp_path / "out", truth, labels_a="auto", labels_b="brats2023")
    assert {one.region for one in both.paired} == {"ET", "TC", "WT", "RC", "mean"}
    with pytest.raises(UserError, match="labels brats2024 cannot be read as the classes pediatric"):
        evaluate(tmp_path / "out", truth, classes="pediatric")


def test_predictions_without_a_childs_classes_are_compared_on_gliomas_regions(tmp_path):
    truth = write_pediatric(tmp_path / "truth", ["BraTS-PED-00000-000"])
    values = np.asanyarray(nibabel.load(find_cases(truth)[0].label).dataobj)
    affine = nibabel.load(find_cases(truth)[0].label).affine
    as_2023 = np.array([0, 3, 1, 1, 2], np.uint8)[values]
    for name, written in (("whole", values), ("glioma", as_2023)):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "BraTS-PED-00000-000.nii.gz"
        nibabel.save(nibabel.Nifti1Image(written, affine), path)
    both = compare(
        tmp_path / "whole", tmp_path / "glioma", truth, labels_a="auto", labels_b="brats2023"
    )
    assert {one.region for one in both.paired} == {"ET", "TC", "WT", "mean"}
    assert all(one.mean_a == one.mean_b == 1 for one in both.paired if one.metric == "dice")
