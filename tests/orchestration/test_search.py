"""The search: the baseline first, pruned is not complete, and a resumed search knows the past."""

import pytest

from segmamba.errors import UserError
from segmamba.orchestration.engine.search import METRIC, SpaceSearch, best_trial, importance
from segmamba.studies.results import Trial
from segmamba.studies.search_space import Between, OneOf

SPACE = {
    "optim.lr": Between(1e-4, 1e-2, log=True),
    "optim.weight_decay": Between(0.0, 0.1),
    "model.norm": OneOf(("batch", "instance")),
    "model.mamba_depths": OneOf(((1, 1, 1), (2, 2, 2))),
    "optim.warmup_epochs": Between(0, 3),
}
BASELINE = {
    "optim.lr": 1e-3,
    "optim.weight_decay": 0.01,
    "model.norm": "batch",
    "model.mamba_depths": (2, 2, 2),
    "optim.warmup_epochs": 1,
}


def dice(changes):
    """A landscape that the learning rate decides: its best is 3e-3."""
    from math import log10

    return (
        0.8
        - 0.1 * abs(log10(changes["optim.lr"]) - log10(3e-3))
        + (0.01 if changes["model.norm"] == "instance" else 0)
    )


def tried(search, number, *, epochs=3, of=3):
    plan = search.suggest(f"ray{number}")["trial"]
    for epoch in range(1, epochs + 1):
        result = {"epoch": epoch, "epochs": of, METRIC: dice(plan.changes) * epoch / of}
        search.on_trial_result(f"ray{number}", result)
    search.on_trial_complete(f"ray{number}", result)
    return plan


def as_trial(plan, status="FINISHED", value=None):
    value = dice(plan.changes) if value is None else value
    return Trial(
        run_id="r",
        arm=plan.arm,
        seed=0,
        status=status,
        changes=plan.changes,
        metrics={METRIC: value},
        history={METRIC: [(1, value)]},
    )


def test_the_baseline_is_tried_first_and_every_value_is_one_the_configuration_takes():
    from segmamba.config import preset

    search = SpaceSearch(SPACE, BASELINE)
    plans = [tried(search, number) for number in range(10)]
    assert plans[0].changes == BASELINE
    assert [plan.arm for plan in plans[:2]] == ["trial 00", "trial 01"]
    for plan in plans:
        preset("demo").changed(plan.changes)
        assert isinstance(plan.changes["optim.warmup_epochs"], int) and plan.changes[
            "model.mamba_depths"
        ] in ((1, 1, 1), (2, 2, 2))
    assert len({str(plan.changes) for plan in plans}) == 10


def test_stopped_is_told_as_pruned_and_failed_as_failed():
    from optuna.trial import TrialState

    search = SpaceSearch(SPACE, BASELINE)
    tried(search, 0)
    tried(search, 1, epochs=1)
    search.suggest("ray2")
    search.on_trial_complete("ray2", {"epoch": 0, "failed": "diverged", "log": ""})
    search.suggest("ray3")
    search.on_trial_complete("ray3", error=True)
    assert [trial.state for trial in search.study.trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.FAIL,
    ]
    assert search.study.trials[1].intermediate_values == {
        1: pytest.approx(dice(search.study.trials[1].params) / 3)
    }


def test_the_final_report_of_the_last_epoch_is_not_a_second_value(recwarn):
    search = SpaceSearch(SPACE, BASELINE)
    search.suggest("ray0")
    for value in (0.5, 0.6):
        search.on_trial_result("ray0", {"epoch": 3, "epochs": 3, METRIC: value})
    search.on_trial_complete("ray0", {})
    assert search.study.trials[0].value == 0.5 and not recwarn.list


def test_a_search_that_goes_on_knows_what_ended_and_tries_again_what_did_not():
    search = SpaceSearch(SPACE, BASELINE)
    plans = [tried(search, number) for number in range(4)]
    states = ("FINISHED", "STOPPED", "KILLED", "FAILED")
    earlier = [as_trial(plan, status) for plan, status in zip(plans, states, strict=True)]
    further = SpaceSearch(SPACE, BASELINE, earlier=earlier)
    again, new = further.suggest("a")["trial"], further.suggest("b")["trial"]
    assert (again.arm, again.changes) == ("trial 02", plans[2].changes)
    assert new.arm == "trial 04" and new.changes not in [plan.changes for plan in plans]
    assert [trial.state.name for trial in further.study.trials] == [
        "COMPLETE",
        "PRUNED",
        "RUNNING",
        "FAIL",
        "RUNNING",
    ]


def test_the_best_is_a_finished_trial_that_differs_from_the_baseline():
    search = SpaceSearch(SPACE, BASELINE)
    plans = [tried(search, number) for number in range(4)]
    trials = [
        as_trial(plans[0], value=0.9),
        as_trial(plans[1], value=0.7),
        as_trial(plans[2], "STOPPED", 0.85),
        as_trial(plans[3], value=0.8),
    ]
    assert best_trial(trials, BASELINE) is trials[3]
    assert best_trial(trials[:1], BASELINE) is None


def test_it_learns_where_the_best_lies_and_which_setting_matters():
    search = SpaceSearch(SPACE, BASELINE)
    plans = [tried(search, number) for number in range(40)]
    late = [dice(plan.changes) for plan in plans[-10:]]
    assert sum(late) / 10 > sum(dice(plan.changes) for plan in plans[:8]) / 8
    shares = importance(SPACE, [as_trial(plan) for plan in plans])
    assert set(shares) == set(SPACE) and max(shares, key=shares.get) == "optim.lr"
    assert sum(shares.values()) == pytest.approx(1)
    assert importance(SPACE, [as_trial(plan) for plan in plans[:3]]) == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Between(1, 1), "low must be below high"),
        (lambda: Between(0, 1, log=True), "above 0 on a log scale"),
        (lambda: OneOf((1, 1)), "at least two different"),
        (
            lambda: SpaceSearch({"optim.lr": Between(1e-2, 1e-1)}, BASELINE),
            "the baseline's 0.001 lies outside 0.01 to 0.1",
        ),
        (
            lambda: SpaceSearch({"model.norm": OneOf(("instance", "layer"))}, BASELINE),
            "the baseline's 'batch' is none of instance, layer",
        ),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
