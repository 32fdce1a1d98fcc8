"""What a study reports of every subset of the modalities."""

import dataclasses

import numpy as np
import pytest

from segmamba.evaluation.modality_subsets import LACKING, SUBSETS, subset_score
from segmamba.reports.figures import draw_all
from segmamba.reports.report import write_report
from segmamba.reports.subset_figures import subset_table
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.metrics import METRICS, metric_of
from segmamba.studies.modality_subsets import subset_rows
from segmamba.studies.verdict import verdict
from tests.studies.synthetic import synthetic_study

GAIN = 0.1
"""What dropout gains for each modality that is missing."""


def with_subsets(seeds=4, cases=20):
    """A study whose scores fall by 0.2 a missing modality, and by GAIN less with dropout."""
    study = synthetic_study({"no dropout": 0.0, "dropout": 0.0}, seeds=seeds, cases=cases, epochs=1)
    trials = []
    for trial in study.trials:
        slope = -0.2 + (GAIN if trial.arm == "dropout" else 0)
        rows = []
        for row in trial.test_cases:
            further = {
                f"{subset_score(subset)}_{region}": row[f"dice_{region}"]
                + slope * (4 - len(subset))
                for subset in SUBSETS[1:]
                for region in ("ET", "TC", "WT", "mean")
            }
            for name, lacking in LACKING.items():
                of_size = [s for s in SUBSETS if len(s) == 4 - lacking]
                for region in ("ET", "TC", "WT", "mean"):
                    values = [further[f"{subset_score(s)}_{region}"] for s in of_size]
                    further[f"{name}_dice_{region}"] = float(np.mean(values))
            rows.append(row | further)
        trials.append(dataclasses.replace(trial, test_cases=rows))
    claim = Hypothesis(
        claim="Dropout helps.",
        metric="dice_one_missing",
        better="dropout",
        than="no dropout",
    )
    return dataclasses.replace(study, trials=tuple(trials), hypothesis=claim)


@pytest.fixture(scope="module")
def study():
    return with_subsets()


def test_each_of_the_15_subsets_has_its_means_and_its_paired_difference(study):
    rows = subset_rows(study)
    assert [row.modalities for row in rows[:15]] == list(SUBSETS) and len(rows) == 18
    whole = rows[0]
    base = whole.differences["dropout"].mean
    for row in rows[:15]:
        lacking = 4 - len(row.modalities)
        assert row.differences["dropout"].mean == pytest.approx(base + GAIN * lacking)
        for arm, slope in (("no dropout", -0.2), ("dropout", -0.2 + GAIN)):
            mean = row.means[arm]
            assert mean.mean == pytest.approx(whole.means[arm].mean + slope * lacking)
            assert 0 <= mean.low < mean.mean < mean.high <= 1
    assert rows[15].differences["dropout"].mean == pytest.approx(base + GAIN)


def test_the_answer_is_about_the_subsets_that_lack_one_modality(study):
    answer = verdict(study)
    assert answer.answer == "supported"
    assert answer.difference.mean == pytest.approx(
        subset_rows(study)[15].differences["dropout"].mean
    )
    assert "one modality missing" in METRICS["dice_one_missing"].words
    assert metric_of("only_T1-T2_dice") is metric_of("last_dice") is METRICS["dice"]
    assert metric_of("last_one_missing_dice") is METRICS["dice_one_missing"]
    assert metric_of("last_hd95_mm") is METRICS["hd95"]


def test_one_network_has_intervals_over_patients():
    rows = subset_rows(with_subsets(seeds=1))
    mean, difference = rows[3].means["dropout"], rows[3].differences["dropout"]
    assert mean.low < mean.mean < mean.high
    assert np.isnan(difference.low), "one seed says nothing about training"


def test_the_report_shows_the_table_and_the_picture(study, tmp_path):
    page = write_report(study, tmp_path).read_text()
    assert "Dice by subset of the modalities" in page and 'id="subsets"' in page
    assert "T1, T2, FLAIR" in page and "mean of one missing" in page
    text = (tmp_path / "report.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| T1ce, FLAIR |")]
    assert len(rows) == 1 and rows[0].count("|") == 5
    assert (tmp_path / "plots" / "subsets.png").exists()


def test_a_study_without_subsets_has_neither():
    plain = synthetic_study(seeds=2, cases=6, epochs=1)
    assert subset_rows(plain) == [] and subset_table(plain) == {}
    assert "subsets" not in draw_all(plain)
