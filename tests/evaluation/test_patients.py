"""Patients are the unit of means and intervals, however many time points each of them has."""

import numpy as np
import pytest
from scipy import stats

from segmamba.errors import UserError
from segmamba.evaluation.cases import means
from segmamba.evaluation.compare import compare
from segmamba.evaluation.ensemble_scores import ENSEMBLE, Group
from segmamba.evaluation.evaluate import evaluate
from segmamba.evaluation.hausdorff import mask_surface_scores
from segmamba.evaluation.intervals import patient_interval, rank_p, score_interval
from segmamba.evaluation.patients import by_patient, counted, patient_means
from segmamba.evaluation.tune import mean_dice
from segmamba.studies.inference_results import InferenceAblation
from segmamba.studies.results import StudyData
from tests.conftest import NEW_NAMES, write_case


def test_a_patients_cases_are_averaged_and_patients_keep_their_order():
    values, names = patient_means(np.array([[1.0, 3.0, 8.0], [0.0, 1.0, 2.0]]), ["b", "b", "a"])
    assert names == ("b", "a") and values.tolist() == [[2.0, 8.0], [0.5, 2.0]]
    assert by_patient({"x": 1.0, "y": 3.0}, {"x": "p", "y": "p"}) == {"p": 2.0}


def test_with_one_case_a_patient_the_values_are_those_given():
    given = np.random.default_rng(0).random(7)
    assert patient_means(given, list("gfedcba"))[0] is given or np.array_equal(
        patient_means(given, list("gfedcba"))[0], given
    )


def test_cases_are_named_only_where_there_are_more_of_them_than_patients():
    assert counted(["x", "y"], ["p", "p"]) == "2 cases of 1 patient"
    assert counted(["x", "y"], ["p", "q"]) == "2 patients"


def test_repeating_a_patients_scores_neither_moves_nor_narrows_an_interval():
    rng = np.random.default_rng(1)
    differences, patients = rng.normal(1, 2, 12), [f"p{i}" for i in range(12)]
    once = patient_interval(differences, patients)
    assert once == pytest.approx(
        (differences.mean(), *stats.ttest_1samp(differences, 0).confidence_interval())
    )
    again = patient_interval(np.repeat(differences, 4), np.repeat(patients, 4).tolist())
    assert again == pytest.approx(once)
    assert patient_interval(np.array([1.0, 2.0]), ["p", "p"]) == (1.5, None, None)


def test_a_metric_of_a_run_averages_each_patients_cases_first():
    rows = [
        {"case": "a-1", "patient": "a", "dice_WT": 0.2},
        {"case": "a-2", "patient": "a", "dice_WT": 0.4},
        {"case": "b-1", "patient": "b", "dice_WT": 0.9},
    ]
    assert means(rows, "test") == {"test/dice_WT": pytest.approx(0.6)}
    named = [{"case": f"BraTS-GLI-0000{p}-00{t}", "dice_WT": 0.1 * p} for p, t in ((1, 0), (1, 1))]
    assert means([*named, {"case": "BraTS-GLI-00004-000", "dice_WT": 0.4}], "val") == {
        "val/dice_WT": pytest.approx(0.25)
    }


def test_an_ensembles_scores_are_of_patients():
    group = Group(name="plain", members=("m",), best=0, postprocessing=None)
    for case, patient, dice in (("a1", "a", 0.2), ("a2", "a", 0.4), ("b1", "b", 0.9)):
        names = {"case": case, "patient": patient}
        variant = {"flips": False, "postprocessed": False}
        group.rows.append(names | {"who": ENSEMBLE, "dice_mean": dice} | variant)
        group.subsets.append(names | {"members": (0,), "dice_mean": dice})
    assert group.scores(ENSEMBLE, "dice_mean") == pytest.approx({"a": 0.3, "b": 0.9})
    assert group.by_size() == {1: [pytest.approx(0.6)]}


def inference_ablation(checkpoints, timepoints):
    """Four patients, each with the same scores at every time point."""
    rows = {
        arm: [
            [
                {
                    "case": f"{patient}-{time}",
                    "patient": patient,
                    "seconds": 1.0 + time,
                    "dice_mean": gain * (1 + number / 10) + 0.1 * index,
                }
                for index, patient in enumerate("abcd")
                for time in range(timepoints if index < 2 else 1)
            ]
            for number in range(checkpoints)
        ]
        for arm, gain in (("plain", 0.1), ("flips", 0.12))
    }
    for number in range(checkpoints):
        for index, row in enumerate(rows["flips"][number]):
            row["dice_mean"] += 0.01 * "abcd".index(row["patient"]) * (1 + number % 2)
            assert index >= 0
    return InferenceAblation(
        name="n",
        baseline="plain",
        arms={"plain": {}, "flips": {}},
        checkpoints=tuple(map(str, range(checkpoints))),
        rows=rows,
        data=StudyData(source="s", phantom=False, convention="c"),
        environment={},
        command="",
        mlflow_uri="",
        run_id="",
        seconds=0.0,
    )


@pytest.mark.parametrize("checkpoints", [1, 3])
def test_an_inference_ablation_counts_a_patient_once_and_times_each_case(checkpoints):
    once, often = (inference_ablation(checkpoints, timepoints) for timepoints in (1, 3))
    assert often.difference("flips", "dice_mean") == pytest.approx(
        once.difference("flips", "dice_mean")
    )
    assert often.mean("plain", "dice_mean") == pytest.approx(once.mean("plain", "dice_mean"))
    assert often.seconds_a_case("plain") == pytest.approx((1 + 2 + 3 + 1 + 2 + 3 + 1 + 1) / 8)


def test_tuning_weighs_patients_alike():
    from segmamba.config import PostprocessConfig
    from segmamba.evaluation.rules import CHALLENGES, LEGACY, LESIONWISE
    from tests.evaluation.test_tune import PREDICTOR, vote

    good, bad = vote(case_id="a", patient="p"), vote(confidence=0.1, case_id="b", patient="q")
    twice = [good, vote(case_id="c", patient="p"), bad]
    for rule in (LEGACY, LESIONWISE):
        options = (PostprocessConfig(), rule, CHALLENGES["GLI"])
        score = mean_dice(PREDICTOR, twice, *options)
        assert score == pytest.approx(mean_dice(PREDICTOR, [good, bad], *options))


@pytest.fixture
def time_points(tmp_path):
    """(A, B, truth): patient 1 has three time points, patient 2 has one; B misses patient 2."""
    import shutil

    for case in ("00001-000", "00001-001", "00001-002", "00002-000"):
        name = f"BraTS-GLI-{case}"
        folder = write_case(tmp_path / "truth", name, names=NEW_NAMES, et_value=3)
        for side in "ab":
            (tmp_path / side).mkdir(exist_ok=True)
            shutil.copy(folder / f"{name}-seg.nii.gz", tmp_path / side / f"{name}.nii.gz")
    import nibabel

    missed = tmp_path / "b" / "BraTS-GLI-00002-000.nii.gz"
    image = nibabel.load(missed)
    empty = np.zeros(image.shape, np.uint8)
    nibabel.save(nibabel.Nifti1Image(empty, image.affine), missed)
    return tmp_path / "a", tmp_path / "b", tmp_path / "truth"


def test_a_summary_is_over_patients_and_its_table_names_them(time_points):
    _, b, truth = time_points
    evaluation = evaluate(b, truth, rule="brats-legacy")
    wt = evaluation.summary["scores"]["brats-legacy"]["WT"]["dice"]
    assert wt["mean"] == pytest.approx(0.5), "3 of 4 cases score 1, and 1 of 2 patients"
    assert (evaluation.about["cases"], evaluation.about["patients"]) == (4, 2)
    assert {row["patient"] for row in evaluation.rows} == {"BraTS-GLI-00001", "BraTS-GLI-00002"}


def test_a_minus_b_agrees_with_the_a_and_b_that_are_printed(time_points):
    comparison = compare(*time_points, labels_a="auto", labels_b="auto", rule="brats-legacy")
    for one in comparison.paired:
        assert one.difference == pytest.approx(one.mean_a - one.mean_b), one
        assert one.higher + one.lower <= 2, "patients are counted, not cases"
    (sentence,) = comparison.verdicts.values()
    assert "50.0 Dice points above" in sentence and "over 4 cases of 2 patients" in sentence
    assert "Fewer than 20 patients" in sentence and "signed-rank test" in sentence


def test_equal_predictions_show_no_difference(time_points):
    a, _, truth = time_points
    comparison = compare(a, a, truth, labels_a="auto", labels_b="auto", rule="brats-legacy")
    (sentence,) = comparison.verdicts.values()
    assert sentence.startswith("Equivalent: no difference of A (")
    assert "0.0 Dice points" not in sentence


def test_the_rank_test_is_scipys_and_knows_equal_arms():
    differences = np.random.default_rng(2).normal(0.5, 1, 15)
    assert rank_p(differences) == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert rank_p(np.zeros(5)) == 1.0 and np.isnan(rank_p(np.array([])))


@pytest.mark.parametrize("patients", [5, 8, 20])
def test_a_scores_interval_covers_more_than_the_percentile_bootstrap(patients):
    rng, inside = np.random.default_rng(3), [0, 0]
    for _ in range(300):
        values = np.clip(1 - rng.gamma(2.0, 0.06, patients), 0, 1)
        low, high = score_interval(values, (0, 1))
        drawn = values[rng.integers(patients, size=(500, patients))].mean(1)
        percentile = np.quantile(drawn, [0.025, 0.975])
        inside[0] += low <= 0.88 <= high  # the mean of 1 - Gamma(2, 0.06), clipped hardly ever
        inside[1] += percentile[0] <= 0.88 <= percentile[1]
        assert 0 <= low <= values.mean() <= high <= 1
    assert inside[0] > inside[1] and inside[0] >= 0.9 * 300
    assert score_interval(np.array([0.5]), (0, 1)) == (None, None)


def test_a_summarys_interval_is_the_same_at_every_call():
    values = np.array([0.9, 0.8, 0.95, 0.0, 0.85])
    assert score_interval(values, (0, 1)) == score_interval(values, (0, 1))


def cube(start, size=10):
    mask = np.zeros((30, 30, 30), bool)
    mask[start : start + size, 5:15, 5:15] = True
    return mask


def test_nsd_is_the_share_of_both_surfaces_within_a_millimetre():
    assert mask_surface_scores(cube(5), cube(5), (1, 1, 1)).nsd_1mm == 1
    assert mask_surface_scores(cube(5), cube(6), (1, 1, 1)).nsd_1mm == 1, "one voxel of 1 mm"
    far = mask_surface_scores(cube(5), cube(8), (1, 1, 1)).nsd_1mm
    assert 0 < far < 1 and mask_surface_scores(cube(5), cube(6), (2, 2, 2)).nsd_1mm < 1


def test_nsd_of_empty_masks_follows_the_brats_rule():
    empty = np.zeros((30, 30, 30), bool)
    assert mask_surface_scores(empty, empty, (1, 1, 1)).nsd_1mm == 1
    assert mask_surface_scores(cube(5), empty, (1, 1, 1)).nsd_1mm == 0
    assert mask_surface_scores(empty, cube(5), (1, 1, 1)).nsd_1mm == 0


def test_nsd_agrees_with_deepminds_surface_dice():
    np.Inf = np.inf  # surface-distance 0.1 is older than NumPy 2
    surface_distance = pytest.importorskip("surface_distance.metrics")
    rng, spacing = np.random.default_rng(4), (1.0, 1.2, 0.8)
    from scipy.ndimage import binary_dilation

    for _ in range(3):
        a, b = (binary_dilation(rng.random((14, 12, 13)) > 0.985, iterations=2) for _ in range(2))
        found = surface_distance.compute_surface_distances(b, a, spacing)
        expected = surface_distance.compute_surface_dice_at_tolerance(found, 1.0)
        assert mask_surface_scores(a, b, spacing).nsd_1mm == pytest.approx(expected, abs=1e-9)


def test_patients_that_no_name_tells_are_stated_to_evaluate_and_compare(tmp_path):
    (tmp_path / "pred").mkdir()
    for name in ("x1a", "x1b", "x2a"):
        label = write_case(tmp_path / "truth", name) / f"{name}_seg.nii.gz"
        (tmp_path / "pred" / f"{name}.nii.gz").write_bytes(label.read_bytes())
    folders = (tmp_path / "pred", tmp_path / "truth")
    assert evaluate(*folders).about["patients"] == 3
    assert evaluate(*folders, patients=r"(x\d)").about["patients"] == 2
    table = tmp_path / "patients.csv"
    table.write_text("case,patient\nx1a,P\nx1b,P\nx2a,Q\nelsewhere,R\n")
    comparison = compare(
        folders[0], *folders, labels_a="auto", labels_b="auto", patients=str(table)
    )
    assert comparison.about["patients"] == 2
    assert {row["patient"] for row in comparison.rows} == {"P", "Q"}
    with pytest.raises(UserError, match="finds no patient in x1a"):
        evaluate(*folders, patients=r"(y\d)")


def test_cases_that_share_an_image_are_one_patient_in_scores_and_comparisons(tmp_path):
    (tmp_path / "pred").mkdir()
    for name, seed in (("BraTS20_Training_001", 1), ("BraTS2021_00001", 1), ("HGG_7", 2)):
        label = write_case(tmp_path / "truth", name, seed=seed) / f"{name}_seg.nii.gz"
        (tmp_path / "pred" / f"{name}.nii.gz").write_bytes(label.read_bytes())
    evaluation = evaluate(tmp_path / "pred", tmp_path / "truth")
    assert evaluation.about["patients"] == 2
    assert len({row["patient"] for row in evaluation.rows}) == 2
    assert [note for note in evaluation.about["notes"] if "share an image" in note]
    comparison = compare(
        tmp_path / "pred", tmp_path / "pred", tmp_path / "truth", labels_a="auto", labels_b="auto"
    )
    assert comparison.about["patients"] == 2
