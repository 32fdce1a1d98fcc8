"""Which cases of a study a reader sees, whose predictions, and in which order."""

from dataclasses import replace

from segmamba.pictures.encode import encode_case
from segmamba.pictures.viewer import named_cases
from segmamba.reports.report import write_report
from segmamba.reports.study_viewer import examples, trials_to_show, write_viewer
from tests.pictures.conftest import made_view
from tests.studies.synthetic import synthetic_study


def test_each_arm_has_its_worst_median_and_best_case_beside_the_baselines():
    study = synthetic_study(seeds=2, cases=30)
    found = examples(study)
    for arm in study.arms:
        trial = next(t for t in study.trials if (t.arm, t.seed) == (arm, 0))
        dice = {row["case"]: row["dice_mean"] for row in trial.test_cases}
        for name, case in named_cases(dice).items():
            (example,) = [e for e in found if arm in e.named.get(name, ())]
            assert example.case == case and example.trials[arm] is trial
            assert next(iter(example.trials)) == study.baseline, "the baseline stands on the left"
    assert found[0].group.startswith("worst of depth 0")
    assert len({example.case for example in found}) == len(found), "each case once"
    firsts = [next(iter(example.named)) for example in found]
    assert firsts == sorted(firsts, key=("worst", "best", "median").index), "the worst come first"


def test_an_arm_without_the_baselines_seed_is_shown_by_the_next_one_or_not_at_all():
    study = synthetic_study(seeds=2, failed=[("depth 0", 0), ("depth 4", 1)])
    for arm in ("depth 1", "depth 2"):
        baseline, trial = trials_to_show(study, arm)
        assert (baseline.arm, baseline.seed, trial.seed) == ("depth 0", 1, 1)
    assert trials_to_show(study, "depth 4") is None
    assert not [e for e in examples(study) if "depth 4" in e.trials]
    unfinished = replace(study, trials=tuple(replace(t, status="RUNNING") for t in study.trials))
    assert examples(unfinished) == []


def test_the_page_says_what_is_missing_and_the_report_links_to_it(tmp_path):
    study = synthetic_study(phantom=True)
    (tmp_path / "report.html").touch()
    named = replace(study, baseline="<b>0</b>")
    cases = [encode_case(made_view(), group="worst of depth 1")]
    page = write_viewer(tmp_path, named, cases, 9, ["depth 4, seed 0: its weights <x> are gone"])
    text = page.read_text(encoding="utf-8")
    assert "its weights &lt;x&gt; are gone" in text and "&lt;b&gt;0&lt;/b&gt;" in text
    assert "phantom data: no evidence about BraTS" in text and '<a href="report.html">' in text
    assert '<a href="viewer.html">' in write_report(study, tmp_path).read_text(encoding="utf-8")
