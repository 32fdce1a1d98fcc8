"""Folders of predictions against the truth, from files to tables.

What is wrong with them is said in one line.
"""

import io
import json
import shutil
import sys

import nibabel
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segmamba.cli import main
from segmamba.data.label_sets import GLIOMA, region_masks
from segmamba.errors import UserError
from segmamba.evaluation import summary
from segmamba.evaluation.compare import compare
from segmamba.evaluation.dice import dice
from segmamba.evaluation.evaluate import evaluate
from segmamba.evaluation.folders import match
from segmamba.evaluation.hausdorff import MISSED_MM
from segmamba.evaluation.pictures import write_pictures
from segmamba.evaluation.rules import CHALLENGES, LESION_MISSED_MM, challenge_of
from segmamba.evaluation.score import score_case
from segmamba.pictures.palette import THEMES
from tests.conftest import BRATS_AFFINE, NEW_NAMES, write_case
from tests.evaluation.scorers import hd95_mm, surface_distance_hd95_mm

LEGACY, LESIONWISE = "brats-legacy", "lesionwise-2023"


@pytest.fixture
def folders(cases_folder):
    """(predictions, truth) of three cases.

    One prediction is perfect, one has its tumour shifted by 2 voxels, one has no tumour.
    """
    predictions = cases_folder.parent / "predictions"
    predictions.mkdir()
    for number, spoil in enumerate(
        (lambda label: label, lambda label: np.roll(label, 2, 0), np.zeros_like)
    ):
        case_id = f"BraTS20_Training_{number:03d}"
        save(predictions / f"{case_id}.nii.gz", spoil(true_values(cases_folder, case_id)))
    return predictions, cases_folder


def true_values(folder, case_id):
    return np.asarray(nibabel.load(folder / case_id / f"{case_id}_seg.nii.gz").dataobj)


def save(path, values, affine=BRATS_AFFINE):
    nibabel.save(nibabel.Nifti1Image(values.astype(np.uint8), affine), path)


def rows_of(evaluation, rule, region):
    return {
        row["case"][-1]: row
        for row in evaluation.rows
        if (row["rule"], row["region"]) == (rule, region)
    }


def test_a_perfect_a_shifted_and_a_missed_case_get_their_scores(folders):
    evaluation = evaluate(*folders)
    perfect, shifted, missed = (rows_of(evaluation, LEGACY, "WT")[number] for number in "012")
    assert (
        perfect["dice"],
        perfect["hd95_mm"],
        perfect["sensitivity"],
        perfect["specificity"],
    ) == (1, 0, 1, 1)
    assert (
        shifted["dice"] == pytest.approx(10 / 12)
        and shifted["hd95_mm"] == pytest.approx(2)
        and shifted["sensitivity"] == pytest.approx(10 / 12)
    )
    assert (missed["dice"], missed["hd95_mm"], missed["sensitivity"], missed["specificity"]) == (
        0,
        MISSED_MM,
        0,
        1,
    )
    assert missed["volume_ml"] == pytest.approx(12**3 / 1000) and missed["predicted_ml"] == 0
    assert rows_of(evaluation, LESIONWISE, "WT")["2"] | {"rule": "", "hd95_mm": 0} == missed | {
        "rule": "",
        "hd95_mm": 0,
        "lesions_found": 0,
        "lesions_missed": 1,
        "lesions_false": 0,
    }


def test_volumes_and_distances_follow_the_headers_spacing(tmp_path):
    affine = np.diag([-1.0, -1.0, 3.0, 1.0])
    write_case(tmp_path / "truth", "X", affine=affine)
    values = true_values(tmp_path / "truth", "X")
    (tmp_path / "pred").mkdir()
    save(tmp_path / "pred" / "X.nii.gz", np.roll(values, 1, 2), affine)
    row = rows_of(evaluate(tmp_path / "pred", tmp_path / "truth"), LEGACY, "WT")["X"]
    assert row["volume_ml"] == pytest.approx(3 * 12**3 / 1000) and row["hd95_mm"] == pytest.approx(
        3
    )


@pytest.mark.parametrize("seed", range(3))
def test_case_scores_are_those_of_the_test_and_of_other_scorers(seed):
    rng = np.random.default_rng(seed)
    pred, truth = (np.zeros((24, 20, 16), np.uint8) for _ in range(2))
    for volume in (pred, truth):
        volume[4:18, 5:15, 4:12] = rng.choice([1, 2, 3], (14, 10, 8), p=[0.2, 0.3, 0.5])
    spacing = (1.0, 0.9, 1.3)
    for row, p, t in zip(
        score_case("X", pred, truth, spacing, (LEGACY,), CHALLENGES["GLI"], GLIOMA),
        region_masks(pred, GLIOMA),
        region_masks(truth, GLIOMA),
        strict=True,
    ):
        assert (
            row["dice"] == dice(pred, truth, GLIOMA)[row["region"]]
            and row["hd95_mm"] == hd95_mm(pred, truth, spacing, GLIOMA)[row["region"]]
        )
        assert row["hd95_mm"] == pytest.approx(surface_distance_hd95_mm(p, t, spacing), abs=1e-9)
        assert row["sensitivity"] == pytest.approx((p & t).sum() / t.sum()) and row[
            "specificity"
        ] == pytest.approx((~p & ~t).sum() / (~t).sum())


def test_a_region_that_is_absent_is_counted_and_false_positives_in_it_cost_all(tmp_path):
    (tmp_path / "pred").mkdir()
    for name, stray in (("A", False), ("B", True)):
        folder = write_case(tmp_path / "truth", name)
        values = true_values(tmp_path / "truth", name)
        values[values == 4] = 1
        save(folder / f"{name}_seg.nii.gz", values)
        values[1, 1, 1] = 4 * stray
        save(tmp_path / "pred" / f"{name}.nii.gz", values)
    evaluation = evaluate(tmp_path / "pred", tmp_path / "truth")
    assert (
        evaluation.summary["empty"]["ET"] == {"cases": 2, "predicted": 1}
        and evaluation.summary["empty"]["WT"]["cases"] == 0
    )
    for rule in (LEGACY, LESIONWISE):
        scores = rows_of(evaluation, rule, "ET")
        assert (
            [scores[name]["dice"] for name in "AB"] == [1, 0]
            and scores["A"]["sensitivity"] == 1
            and scores["B"]["sensitivity"] == 0
        )


def test_nnunets_labels_and_predictions_are_read_by_their_dataset_json(folders, tmp_path):
    predictions, truth = folders
    nnunet = {"labels": {"background": 0, "edema": 1, "necrosis": 2, "enhancing tumor": 3}}
    raw, predicted = tmp_path / "raw" / "labelsTr", tmp_path / "nnunet"
    for folder in (raw, predicted):
        folder.mkdir(parents=True)
    swap = np.array([0, 2, 1, 0, 3])
    for path in predictions.iterdir():
        case_id = path.name.partition(".")[0]
        save(predicted / path.name, swap[np.asarray(nibabel.load(path).dataobj)])
        save(raw / path.name, swap[true_values(truth, case_id)])
    for folder in (raw.parent, predicted):
        (folder / "dataset.json").write_text(json.dumps(nnunet))
    ours = evaluate(predictions, truth)
    for left, right in ((predicted, truth), (predictions, raw), (predicted, raw)):
        assert (
            evaluate(
                left, right, prediction_labels="brats2018" if left == predictions else "auto"
            ).rows
            == ours.rows
        )


@pytest.mark.parametrize(
    ("missing", "cases", "noted"),
    [
        ("skip", 2, "1 of 3 cases have no prediction and are left out"),
        ("empty", 3, "scored as empty predictions"),
    ],
)
def test_cases_without_prediction_are_left_out_or_scored_as_empty_where_that_is_asked_for(
    folders, missing, cases, noted
):
    (folders[0] / "BraTS20_Training_000.nii.gz").unlink()
    evaluation = evaluate(*folders, missing=missing)
    assert evaluation.about["cases"] == cases and any(
        noted in note for note in evaluation.about["notes"]
    )
    assert missing == "skip" or rows_of(evaluation, LEGACY, "ET")["0"]["dice"] == 0


def test_predictions_of_no_case_are_named_and_left_out(folders):
    save(folders[0] / "BraTS20_Training_999.nii.gz", np.zeros((48, 48, 32)))
    evaluation = evaluate(*folders)
    assert evaluation.about["cases"] == 3 and any(
        "BraTS20_Training_999" in note for note in evaluation.about["notes"]
    )


def spoil_missing(predictions):
    (predictions / "BraTS20_Training_001.nii.gz").unlink()


def spoil_shape(predictions):
    save(predictions / "BraTS20_Training_001.nii.gz", np.zeros((48, 48, 31)))


def spoil_place(predictions):
    save(
        predictions / "BraTS20_Training_001.nii.gz",
        np.zeros((48, 48, 32)),
        BRATS_AFFINE @ np.diag([1, 1, 1.2, 1]),
    )


def spoil_value(predictions):
    save(predictions / "BraTS20_Training_001.nii.gz", np.full((48, 48, 32), 3))


def spoil_file(predictions):
    path = predictions / "BraTS20_Training_001.nii.gz"
    path.write_bytes(path.read_bytes()[:100])


def spoil_twice(predictions):
    save(predictions / "BraTS20_Training_001_seg.nii.gz", np.zeros((48, 48, 32)))


def spoil_names(predictions):
    for path in list(predictions.iterdir()):
        path.rename(predictions / f"case_{path.name[-8]}.nii.gz")


def spoil_all(predictions):
    shutil.rmtree(predictions)


@pytest.mark.parametrize(
    ("spoil", "messages"),
    [
        (
            spoil_missing,
            ["1 of 3 cases have no prediction (BraTS20_Training_001)", "--missing skip"],
        ),
        (spoil_shape, ["BraTS20_Training_001", "48x48x31", "_seg.nii.gz is 48x48x32"]),
        (spoil_place, ["BraTS20_Training_001", "mm away"]),
        (
            spoil_value,
            [
                "BraTS20_Training_001.nii.gz: label value 3 is not in convention brats2018",
                "--prediction-labels",
            ],
        ),
        (spoil_file, ["BraTS20_Training_001.nii.gz: damaged"]),
        (spoil_twice, ["both BraTS20_Training_001.nii.gz and BraTS20_Training_001_seg.nii.gz"]),
        (spoil_names, ["none of its 3 files is named like a case"]),
        (spoil_all, ["no such folder"]),
    ],
)
def test_what_cannot_be_scored_is_one_line_with_code_2_and_nothing_is_written(
    folders, tmp_path, monkeypatch, capsys, spoil, messages
):
    spoil(folders[0])
    output = tmp_path / "out"
    argv = [
        "segmamba",
        "evaluate",
        "--predictions",
        str(folders[0]),
        "--truth",
        str(folders[1]),
        "--output",
        str(output),
    ]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert (
        stopped.value.code == 2
        and error.startswith("error: ")
        and error.count("\n") == 1
        and not output.exists()
    )
    for words in messages:
        assert words in error


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"rule": "mine"}, "brats-legacy"),
        ({"challenge": "X"}, "MET"),
        ({"missing": "drop"}, "skip"),
    ],
)
def test_wrong_options_name_the_right_ones(folders, option, message):
    with pytest.raises(UserError, match=message):
        evaluate(*folders, **option)


def test_the_challenge_follows_from_the_case_ids():
    assert challenge_of("auto", ["BraTS-MET-00001-000", "BraTS-MET-00002-000"]) == "MET"
    assert (
        challenge_of("auto", ["BraTS-MET-00001-000", "BraTS-GLI-00002-000"])
        == challenge_of("auto", ["Brats18_2013_2_1"])
        == "GLI"
    )


def test_a_truth_folder_of_2023_segmentations_is_read_by_its_names(tmp_path):
    write_case(tmp_path / "truth", "BraTS-GLI-00001-000", names=NEW_NAMES, et_value=3)
    values = np.asarray(
        nibabel.load(
            tmp_path / "truth" / "BraTS-GLI-00001-000" / "BraTS-GLI-00001-000-seg.nii.gz"
        ).dataobj
    )
    for folder in ("labels", "predictions"):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "BraTS-GLI-00001-000.nii.gz", values)
    pairs, notes = match(tmp_path / "predictions", tmp_path / "labels")
    assert [(pair.id, pair.truth_labels, pair.pred_labels) for pair in pairs] == [
        ("BraTS-GLI-00001-000", "brats2023", "brats2023")
    ]
    assert "labels: truth brats2023, predictions brats2023" in notes


def test_the_command_writes_tables_that_say_the_rule_and_pictures(
    folders, tmp_path, monkeypatch, capsys
):
    argv = [
        "segmamba",
        "evaluate",
        "--predictions",
        str(folders[0]),
        "--truth",
        str(folders[1]),
        "--output",
        str(tmp_path / "out"),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stopped:
        main()
    printed = json.loads(capsys.readouterr().out)
    assert (
        stopped.value.code == 0
        and printed["cases"] == 3
        and set(printed["rules"]) == {LEGACY, LESIONWISE}
    )
    wt = printed["scores"][LEGACY]["WT"]["dice"]
    assert (
        wt["mean"] == pytest.approx((1 + 10 / 12) / 3)
        and wt["low"] <= wt["mean"] <= wt["high"]
        and wt["median"] == pytest.approx(10 / 12)
    )
    written = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (
        len(written["rows"]) == 3 * len(GLIOMA.regions) * 2
        and written["scores"] == printed["scores"]
    )
    lines = (tmp_path / "out" / "cases.csv").read_text().splitlines()
    assert (
        len(lines) == 19
        and lines[0].startswith("case,patient,region,rule,dice,hd95_mm,nsd_1mm")
        and LESIONWISE in lines[2]
    )
    for name in ("distribution.png", "worst_cases.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")


def test_the_interval_of_hd95_ends_where_a_missed_lesion_lies(folders):
    evaluation = evaluate(*folders)
    for regions in evaluation.summary["scores"].values():
        for metrics in regions.values():
            assert 0 <= metrics["hd95_mm"]["low"] <= metrics["hd95_mm"]["high"] <= LESION_MISSED_MM


@pytest.mark.parametrize("width", [60, 80, 100, 120])
def test_the_tables_cut_no_figure_and_break_no_word_at_any_width(folders, width):
    evaluation = evaluate(*folders)
    screen = io.StringIO()
    summary.render(evaluation, Console(file=screen, width=width))
    text, _, _ = screen.getvalue().partition(f"\n{LEGACY}: ")  # lines follow the tables
    assert "\N{HORIZONTAL ELLIPSIS}" not in text and max(map(len, text.splitlines())) <= width
    dice = evaluation.summary["scores"][LEGACY]["WT"]["dice"]
    assert f"{100 * dice['low']:.1f}-{100 * dice['high']:.1f}" in text
    assert ("specificity" in text) == (width >= 100) and "HD95 mm" in text


def test_the_worst_cases_are_drawn_dark_or_light_as_asked(folders, tmp_path):
    around = {}
    evaluation = evaluate(*folders)
    for name, theme in THEMES.items():
        write_pictures(tmp_path, evaluation, theme)
        with Image.open(tmp_path / "worst_cases.png") as picture:
            around[name] = np.asarray(picture.convert("RGB"))[0, 0].tolist()
    assert around == {"dark": [0, 0, 0], "light": [255, 255, 255]}


def test_compare_pairs_cases_and_says_that_two_models_say_nothing_of_methods(folders, tmp_path):
    perfect = tmp_path / "perfect"
    perfect.mkdir()
    for path in folders[0].iterdir():
        save(perfect / path.name, true_values(folders[1], path.name.partition(".")[0]))
    comparison = compare(perfect, *folders, labels_a="auto", labels_b="auto")
    (wt,) = [
        one
        for one in comparison.paired
        if (one.rule, one.region, one.metric) == (LEGACY, "WT", "dice")
    ]
    differences = [0, 1 - 10 / 12, 1]
    assert wt.difference == pytest.approx(np.mean(differences)) and (wt.higher, wt.lower) == (2, 0)
    half = 4.302652729911275 * np.std(differences, ddof=1) / np.sqrt(3)
    assert (wt.low, wt.high) == pytest.approx((wt.difference - half, wt.difference + half))
    assert (
        comparison.verdicts[LEGACY].startswith("Undecided")
        and "3 patients" in comparison.verdicts[LEGACY]
    )


def test_compare_names_the_better_of_two_models_and_equal_ones(tmp_path):
    for number in range(4):
        name = f"BraTS20_Training_{number:03d}"
        write_case(tmp_path / "truth", name, seed=number)
        for folder, steps in (("a", 1), ("b", 3)):
            (tmp_path / folder).mkdir(exist_ok=True)
            save(
                tmp_path / folder / f"{name}.nii.gz",
                np.roll(true_values(tmp_path / "truth", name), steps, 0),
            )
    options = {"labels_a": "auto", "labels_b": "auto"}
    assert (
        compare(tmp_path / "b", tmp_path / "a", tmp_path / "truth", **options)
        .verdicts[LEGACY]
        .startswith("B is the better model")
    )
    assert (
        compare(tmp_path / "a", tmp_path / "a", tmp_path / "truth", **options)
        .verdicts[LESIONWISE]
        .startswith("Equivalent")
    )


def test_the_compare_command_shows_both_rules_and_the_caveat(
    folders, tmp_path, monkeypatch, capsys
):
    argv = [
        "segmamba",
        "compare",
        str(folders[0]),
        str(folders[0]),
        "--truth",
        str(folders[1]),
        "--output",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = capsys.readouterr().out
    assert (
        stopped.value.code == 0
        and "rule: lesionwise-2023" in shown
        and "nothing shows how much training itself varies" in shown
    )
    assert (tmp_path / "out" / "differences.png").exists() and json.loads(
        (tmp_path / "out" / "comparison.json").read_text()
    )["cases"] == 3
