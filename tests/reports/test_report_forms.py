"""Reports of searches, of several claims, of last checkpoints and of several starts."""

import dataclasses
import io

from rich.console import Console

from segmamba.reports.report import write_report
from segmamba.reports.terminal import render_terminal
from segmamba.studies.hypothesis import Hypothesis, Trend
from segmamba.studies.results import Trial
from segmamba.studies.verdict import verdict
from tests.studies.synthetic import synthetic_study


def tried(number, status, dice, lr):
    return Trial(
        run_id=f"run{number}",
        arm=f"trial {number:02d}",
        seed=0,
        status=status,
        changes={"optim.lr": lr},
        reason="stopped by the scheduler after epoch 3 of 6" if status == "STOPPED" else "",
        metrics={"val/best_dice_mean": dice},
        history={"val/dice_mean": [(3, dice)]},
    )


def pages(study, folder):
    write_report(study, folder)
    return (folder / "report.md").read_text(encoding="utf-8"), (folder / "report.html").read_text(
        encoding="utf-8"
    )


def test_a_search_shows_every_trial_with_its_settings_and_what_mattered(tmp_path):
    searched = (
        tried(0, "FINISHED", 0.5, 1e-3),
        tried(1, "STOPPED", 0.3, 1e-4),
        tried(2, "FINISHED", 0.61234, 3.21987e-3),
    )
    study = synthetic_study({"baseline": 0.0, "found": 0.02}, seeds=2, cases=6, epochs=2)
    study = dataclasses.replace(
        study,
        searched=searched,
        space={"optim.lr": "0.0001 to 0.01, log"},
        importance={"optim.lr": 1.0},
    )
    for text in pages(study, tmp_path):
        for part in (
            "run0",
            "run1",
            "run2",
            "0.00322",
            "61.2",
            "stopped by the scheduler after epoch 3 of 6",
            "0.0001 to 0.01, log",
            "100 %",
        ):
            assert part in text
    assert (tmp_path / "plots" / "search.png").exists()


def test_every_further_claim_has_an_answer_of_its_own_below_the_first(tmp_path):
    trend = Hypothesis(
        claim="It rises with depth.",
        region="WT",
        contrasts=(Trend({"depth 0": 0, "depth 1": 1, "depth 2": 2, "depth 4": 4}),),
    )
    none = Hypothesis(
        claim="No depth is better than 4.",
        region="WT",
        direction="no better",
        contrasts=(("depth 1", "depth 4"),),
    )
    study = dataclasses.replace(
        synthetic_study(seeds=3, cases=12, epochs=2), secondary=(trend, none)
    )
    sentences = [verdict(study, claim).sentence for claim in study.claims]
    assert len(set(sentences)) == 3
    markdown, _ = pages(study, tmp_path)
    places = [markdown.index(sentence) for sentence in sentences]
    assert places == sorted(places) and markdown.index(trend.claim) > places[1]
    screen = io.StringIO()
    render_terminal(study, Console(file=screen, width=1000))
    assert all(sentence in screen.getvalue() for sentence in sentences)
    assert (tmp_path / "plots" / "doses.png").exists()


def test_the_last_checkpoints_difference_stands_beside_the_chosen_ones(tmp_path):
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=2, cases=6, epochs=1)
    assert "last epoch's weights" not in pages(study, tmp_path)[0]
    for trial in study.trials:
        for row in trial.test_cases:
            row["last_dice_WT"] = 0.5 + (0.07 if trial.arm == "b" else 0.0)
    study = dataclasses.replace(study)
    assert (
        "last epoch's weights in place of those that the validation set chose: "
        "b \N{MINUS SIGN} a +7.0 [+7.0, +7.0]." in pages(study, tmp_path)[0]
    )


def test_the_time_of_a_resumed_study_is_that_of_all_its_starts(tmp_path):
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=2, cases=4, epochs=1)
    for text in pages(study, tmp_path):
        assert "12:34 min from plan to report." in text
    resumed = dataclasses.replace(study, seconds=1260.0, starts=3)
    for text in pages(resumed, tmp_path):
        assert "21:00 min from plan to report over 3 starts." in text


def test_arms_with_dollar_signs_are_drawn_as_they_are_written(tmp_path):
    arms = {"_a": 0.0, r"$\frac{x$": 0.02, "$y$": 0.01}
    study = synthetic_study(arms, seeds=2, cases=6, epochs=2)
    _, page = pages(study, tmp_path)
    legend = page[page.index('<figure id="curves">') :]
    assert all(f">{arm}</text>" in legend for arm in arms)
