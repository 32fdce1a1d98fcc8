"""Reports of searches, of several claims and of folds; the live table of many trials; ASHA's times."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from segmamba.config import PRESETS, preset
from segmamba.orchestration.engine.launch import asha_times
from segmamba.orchestration.engine.progress import SHOWN_ROWS, StudyProgress
from segmamba.reports.report import write_report
from segmamba.reports.tables import render_terminal, result_table
from segmamba.studies.hypothesis import Hypothesis, Trend
from segmamba.studies.results import Trial, study_from
from segmamba.studies.spec import TrialPlan
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


def test_folds_are_averaged_before_seeds_and_their_sets_are_listed(tmp_path):
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=2, cases=6, epochs=1)
    trials = [
        dataclasses.replace(
            t, fold=fold, metrics=t.metrics | {"test/dice_WT": 0.5 + 0.1 * t.seed + 0.2 * fold}
        )
        for t in study.trials
        for fold in (0, 1)
    ]
    sets = [{"train": ["x"], "validation": ["y"], "test": [f"tested-{fold}"]} for fold in (0, 1)]
    study = dataclasses.replace(
        study, folds=(0, 1), trials=tuple(trials), data=study.data | {"folds": sets}
    )
    score = result_table(study)[0]["dice_WT"]
    assert score == {"mean": pytest.approx(0.65), "sd": pytest.approx(0.1 / 2**0.5), "seeds": 2}
    for text in pages(study, tmp_path):
        assert "fold 1, test" in text and "tested-1" in text and "2 folds" in text


def test_the_last_checkpoints_difference_stands_beside_the_chosen_ones(tmp_path):
    study = synthetic_study({"a": 0.0, "b": 0.02}, seeds=2, cases=6, epochs=1)
    assert "last epoch's weights" not in pages(study, tmp_path)[0]
    for trial in study.trials:
        for row in trial.test_cases:
            row["last_dice_WT"] = 0.5 + (0.07 if trial.arm == "b" else 0.0)
    assert (
        "last epoch's weights in place of those that the validation set chose: b \N{MINUS SIGN} a +7.0 [+7.0, +7.0]."
        in pages(study, tmp_path)[0]
    )


def test_a_study_comes_back_from_json_as_it_was():
    study = dataclasses.replace(
        synthetic_study(seeds=2, cases=2, epochs=1),
        secondary=(Hypothesis(claim="c", better="depth 1", than="depth 0"),),
    )
    stored = dataclasses.asdict(dataclasses.replace(study, trials=()))
    again = study_from(
        {
            name: value
            for name, value in json.loads(json.dumps(stored)).items()
            if name not in ("trials", "searched")
        },
        trials=(),
    )
    assert (again.hypothesis, again.secondary, again.seeds) == (
        study.hypothesis,
        study.secondary,
        study.seeds,
    )


@pytest.mark.parametrize("name", PRESETS)
def test_asha_decides_after_the_warm_up_at_an_evaluation_and_never_at_the_end(name):
    base = preset(name)
    times = asha_times(base)
    assert base.optim.warmup_epochs < times["grace_period"] < base.train.epochs < times["max_t"]
    assert (
        times["grace_period"] % base.train.validate_every_epochs == 0
        and times["time_attr"] == "epoch"
    )


def test_the_live_table_of_many_trials_shows_what_runs():
    progress = StudyProgress(Console(file=io.StringIO(), width=100))
    plans = [TrialPlan(arm=f"arm {i}", seed=0) for i in range(100)]
    progress.trials(plans, epochs=6, at_once=2)
    for plan in plans[:60]:
        progress.started(plan.key)
        progress.completed(plan.key)
    progress.started(plans[60].key)
    shown = [key for key, _ in progress._shown()]
    assert (
        len(shown) == SHOWN_ROWS
        and plans[60].key in shown
        and plans[61].key in shown
        and plans[0].key not in shown
    )
    screen = io.StringIO()
    Console(file=screen, width=100).print(progress._table())
    assert "60 of 100 trials" in screen.getvalue() and "and 76 more" in screen.getvalue()
