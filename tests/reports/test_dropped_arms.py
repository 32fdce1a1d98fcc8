"""What a report says where the arms of a study that adds seeds have different numbers of seeds."""

import dataclasses
import io

import pytest
from rich.console import Console

from segmamba.reports import figures
from segmamba.reports.reading import STUDY, reading_of
from segmamba.reports.report import write_report
from segmamba.reports.tables import arm_table, dropped_rows
from segmamba.reports.terminal import render_terminal
from segmamba.studies.caveats import background
from segmamba.studies.comparisons import differences_of
from segmamba.studies.hypothesis import Hypothesis
from segmamba.studies.results import Study
from segmamba.studies.sequential import first_seeds, take_look
from segmamba.studies.verdict import decide
from tests.studies.synthetic import synthetic_study

REASON = "the repeated interval of c \N{MINUS SIGN} a lies below the 0.5 points that matter"


@pytest.fixture
def study() -> Study:
    """Arm c was dropped after 3 seeds and did not train the fourth."""
    claim = Hypothesis(claim="c", region="WT", contrasts=(("b", "a"), ("c", "a")))
    whole = dataclasses.replace(
        synthetic_study({"a": 0.0, "b": 0.01, "c": -0.2}, seeds=6, seed_sd=0.008, epochs=1),
        hypothesis=claim,
        max_seeds=6,
    )
    looks = [take_look(whole, claim, 3, ())]
    assert looks[0].arms == ("a", "b")
    trials = tuple(t for t in whole.trials if t.arm != "c" or t.seed < 3)
    part = first_seeds(dataclasses.replace(whole, trials=trials), 4)
    looks.append(take_look(part, claim, 4, looks))
    return dataclasses.replace(part, looks=tuple(looks), arm_seeds={"c": (0, 1, 2)})


def test_a_dropped_arm_lacks_no_trial(study):
    _, rows = arm_table(study)
    assert [row[-1][0] for row in rows] == ["4 of 4", "4 of 4", "3 of 3"]
    assert len(study.plans) == len(study.trials) == 11


def test_a_failed_trial_still_counts_as_planned(study):
    trials = tuple(
        dataclasses.replace(trial, status="FAILED", test_cases=[])
        if (trial.arm, trial.seed) == ("b", 3)
        else trial
        for trial in study.trials
    )
    _, rows = arm_table(dataclasses.replace(study, trials=trials))
    assert [row[-1][0] for row in rows] == ["4 of 4", "3 of 4", "3 of 3"]


def test_the_report_names_dropped_arms_with_their_reason(study, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "draw_all", lambda study: {})
    write_report(study, tmp_path)
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text().replace("&#39;", "'")
        assert REASON in text and "Arms that got no further seed" in text
        assert "3 to 4 seeds (of at most 6) per arm" in text
        assert "no tested trial" not in text
        assert "c failed in none of 3 runs" in text and "a failed in none of 4 runs" in text
        assert "repeated after 3 seeds and each further one, up to 6" in text


def test_the_terminal_names_dropped_arms_within_its_width(study):
    console = Console(width=80, record=True, file=io.StringIO())
    render_terminal(study, console)
    shown = console.export_text()
    assert f"c got no further seed: {REASON}" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


def test_a_study_of_fixed_seeds_says_nothing_of_looks(study):
    fixed = dataclasses.replace(study, max_seeds=0, looks=(), arm_seeds={})
    assert reading_of(fixed) == STUDY and dropped_rows(fixed) == []
    assert len(reading_of(study)) == len(STUDY) == 5
    assert "up to 6" in reading_of(study)[1]


def test_an_arm_keeps_the_hyphen_in_its_name():
    study = synthetic_study({"nnU-Net": 0.0, "b-c": 0.01}, seeds=4, seed_sd=0.02, epochs=1)
    decision = decide(differences_of(study, study.hypothesis), study.hypothesis)
    pairing = list(background(study, decision))[-1]
    assert "the means of b-c and nnU-Net correlate by" in pairing
