"""Reports of studies with folds: the table of the arms and the paired differences pool patients."""

import dataclasses
import re

import numpy as np
import pytest

from segmamba.reports.report import write_report
from segmamba.reports.tables import arm_table, result_table
from segmamba.studies.contrasts import difference
from segmamba.studies.results import CaseSets
from segmamba.studies.verdict import verdict
from tests.studies.synthetic import synthetic_study

FOLDS = (slice(0, 4), slice(4, 24))  # 4 and 20 of the 24 test cases
DISTANCES = ("hd95_mm_ET", "hd95_mm_TC", "hd95_mm_WT")


def folded(study):
    """The study with each trial cut into one for each of FOLDS, whose metrics are its means."""
    trials = []
    for trial in study.trials:
        for fold, part in enumerate(FOLDS):
            rows = trial.test_cases[part]
            means = {
                f"test/{name}": float(np.mean([row[name] for row in rows]))
                for name in rows[0]
                if name not in ("case", "patient")
            }
            trials.append(
                dataclasses.replace(
                    trial, fold=fold, test_cases=rows, metrics=trial.metrics | means
                )
            )
    sets = tuple(CaseSets(train=("x",), test=study.data.test[part]) for part in FOLDS)
    data = dataclasses.replace(study.data, folds=sets)
    return dataclasses.replace(study, folds=(0, 1), trials=tuple(trials), data=data)


@pytest.fixture(scope="module")
def study():
    """Arm b gains 6 Dice points in the small fold, 1 in the large one, and 8 and 2 mm of HD95."""
    made = synthetic_study(
        {"a": 0.0, "b": 0.0}, seeds=3, cases=24, seed_sd=0.002, case_sd=0, rest_sd=0.001, epochs=1
    )
    small = set(made.data.test[FOLDS[0]])
    for trial in made.trials:
        for row in trial.test_cases:
            gain = (trial.arm == "b") * (0.06 if row["case"] in small else 0.01)
            nearer = (trial.arm == "b") * (8.0 if row["case"] in small else 2.0)
            row.update(
                {
                    name: value + gain
                    for name, value in row.items()
                    if name not in ("case", "patient")
                }
            )
            row.update(dict.fromkeys(DISTANCES, 20.0 - nearer))
            row["last_dice_mean"] = row["dice_mean"] - 0.1
    return folded(made)


def test_with_unequal_folds_the_table_and_the_sentence_agree(study):
    (a, b), headers = arm_table(study)[1], arm_table(study)[0]
    in_table = {
        title: float(b[at][0].split()[0]) - float(a[at][0].split()[0])
        for at, title in enumerate(headers)
        if title in ("mean Dice", "ET", "TC", "WT", "last checkpoint", "HD95 (mm)")
    }
    sentence = verdict(study).sentence
    in_words = float(re.search(r"b scores (\d+\.\d) Dice points above a on WT Dice", sentence)[1])
    assert in_table["WT"] == pytest.approx(in_words, abs=0.11), "both are rounded to a tenth"
    assert in_words == pytest.approx((4 * 6 + 20 * 1) / 24, abs=0.2)
    assert in_table["HD95 (mm)"] == pytest.approx(-(4 * 8 + 20 * 2) / 24, abs=0.11)


@pytest.mark.parametrize("region", ["mean", "ET", "TC", "WT"])
def test_the_tables_means_differ_by_the_paired_difference(study, region):
    a, b = result_table(study)
    name = f"dice_{region}"
    paired = difference(study, "b", "a", region)
    assert b[name]["mean"] - a[name]["mean"] == pytest.approx(paired.mean)
    if region == "mean":
        last = difference(study, "b", "a", region, "last_dice")
        gain = b["last_dice_mean"]["mean"] - a["last_dice_mean"]["mean"]
        assert gain == pytest.approx(last.mean)


def test_a_score_is_the_mean_over_the_patients_of_all_folds_then_over_seeds(study):
    rows = [
        [row for t in study.trials if (t.arm, t.seed) == ("b", s) for row in t.test_cases]
        for s in range(3)
    ]
    seeds = [np.mean([row["dice_WT"] for row in of_seed]) for of_seed in rows]
    assert all(len(of_seed) == 24 for of_seed in rows)
    score = result_table(study)[1]["dice_WT"]
    assert score.pop("low") < score["mean"] < score.pop("high")
    assert score == {
        "mean": pytest.approx(np.mean(seeds)),
        "sd": pytest.approx(np.std(seeds, ddof=1)),
        "seeds": 3,
    }


def test_equal_folds_give_the_table_of_the_undivided_study(make_study, monkeypatch):
    monkeypatch.setitem(globals(), "FOLDS", (slice(0, 12), slice(12, 24)))
    whole = make_study({"a": 0.0, "b": 0.02}, seeds=2, cases=24, epochs=1)
    for one, other in zip(result_table(whole), result_table(folded(whole)), strict=True):
        for region in ("mean", "ET", "TC", "WT"):
            assert one[f"dice_{region}"] == pytest.approx(other[f"dice_{region}"])


def test_the_sets_of_every_fold_are_listed(study, tmp_path):
    page = write_report(study, tmp_path).read_text(encoding="utf-8")
    for text in (page, (tmp_path / "report.md").read_text(encoding="utf-8")):
        assert "fold 0, test: 4" in text and "fold 1, test: 20" in text and "2 folds" in text
        assert "the patients of all folds pooled" in " ".join(text.split())
