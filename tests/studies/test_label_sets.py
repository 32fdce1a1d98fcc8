"""Studies on data with other regions than glioma's three: claims, contrasts and reports."""

import dataclasses

import pytest

from segmamba.data.label_sets import GLIOMA, POST_TREATMENT
from segmamba.errors import UserError
from segmamba.orchestration.engine.resume import check_same
from segmamba.reports.report import write_report
from segmamba.reports.tables import arm_table, decisive_first, result_table
from segmamba.studies.comparable import check_may_vary, check_regions
from segmamba.studies.comparisons import compare_arms
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.results import study_data_from
from tests.studies import synthetic


@pytest.fixture
def study(monkeypatch):
    """A study on cases with a resection cavity, whose claim is about it."""
    monkeypatch.setattr(synthetic, "DICE", synthetic.DICE | {"RC": 0.7})
    made = synthetic.synthetic_study(seeds=3, cases=12, region="RC")
    data = dataclasses.replace(made.data, regions=POST_TREATMENT.region_names)
    return dataclasses.replace(made, data=data)


def test_contrasts_and_tables_have_the_regions_of_the_data(study):
    assert decisive_first(study, "RC") == ["RC", "mean", "ET", "TC", "WT"]
    assert set(compare_arms(study)[0].regions) == {"ET", "TC", "WT", "RC", "mean"}
    headers, _ = arm_table(study)
    assert headers[1:6] == ["mean Dice", "ET", "TC", "WT", "RC"]
    assert result_table(study)[0]["dice_RC"]["mean"] == pytest.approx(0.7, abs=0.05)


def test_the_report_shows_the_cavity(study, tmp_path):
    write_report(study, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "| mean Dice | ET | TC | WT | RC |" in text and "RC (decides)" in text


def test_a_study_stored_before_there_were_label_sets_has_gliomas_regions(study):
    stored = dataclasses.asdict(study.data)
    assert study_data_from(stored) == study.data
    del stored["regions"]
    assert study_data_from(stored).regions == GLIOMA.region_names


def test_a_claim_about_a_region_that_the_data_lack_is_refused_before_anything_trains():
    claim = Hypothesis(claim="x", region=("WT", "RC"), better="a", than="b")
    check_regions("s", [claim], POST_TREATMENT)
    with pytest.raises(UserError, match=r"about RC, and the data \(glioma\) are scored on ET, TC"):
        check_regions("s", [claim], GLIOMA)
    with pytest.raises(UserError, match="region 'cavity' is none of ET, TC, WT, RC"):
        Hypothesis(claim="x", region="cavity")


def test_arms_may_not_differ_in_their_classes(study):
    spec = dataclasses.replace(study, arms={"a": {}, "b": {"model.classes": "glioma"}}, space={})
    with pytest.raises(UserError, match=r"model\.classes may not vary"):
        check_may_vary(spec)


def test_a_study_that_was_begun_before_there_were_label_sets_goes_on(study):
    planned = dataclasses.replace(
        study, config={**study.config, "model.classes": "glioma", "phantom.kind": "glioma"}
    )
    check_same(study, planned)
    other = dataclasses.replace(study, config={**study.config, "model.classes": "post_treatment"})
    with pytest.raises(UserError, match=r"model\.classes was 'glioma' and is 'post_treatment'"):
        check_same(study, other)
