"""What the driver makes of Ray's events, without Ray's trials."""

import contextlib
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException
from ray.tune.trainable.metadata import _TrainingRunMetadata

from segmamba.orchestration.engine import callbacks
from segmamba.orchestration.engine.progress import SilentProgress
from segmamba.orchestration.tracking.store import Store, StudyHalted
from segmamba.studies.spec import TrialPlan


def test_what_mlflow_refuses_of_one_trial_is_not_taken_for_the_failure_of_the_next():
    asked = []

    def end_trial(key, status, **how):
        asked.append(key)
        if key == "a, seed 0":
            raise MlflowException("no such run", error_code=1000)  # INVALID_PARAMETER_VALUE

    run = SimpleNamespace(end_trial=end_trial, store=Store("sqlite://", "1"))
    context = SimpleNamespace(run=run, trial_tags=lambda plan: {})
    finish = callbacks.FinishRuns(context, SilentProgress())
    trials = [
        SimpleNamespace(
            config={"trial": TrialPlan(arm="a", seed=seed)},
            last_result={"epoch": 1, "epochs": 1},
            run_metadata=SimpleNamespace(),
        )
        for seed in range(2)
    ]
    finish.on_trial_complete(1, trials, trials[0])
    finish._outbox._thread.join(10)
    finish.on_trial_complete(2, trials, trials[1])
    with pytest.raises(MlflowException, match="no such run"):
        finish.settle()
    assert asked == ["a, seed 0", "a, seed 0", "a, seed 1"], "the other is told of, too"


def test_of_a_trial_that_has_ended_ray_keeps_no_numbers():
    kept = _TrainingRunMetadata()
    for epoch in range(1, 4):
        kept.update_metric("val/dice_mean", 0.5, step=epoch)
    before = len(kept.get_json_state())
    trial = SimpleNamespace(
        config={"trial": TrialPlan(arm="a", seed=0)},
        last_result={"epoch": 3, "epochs": 3},
        run_metadata=kept,
    )
    run = SimpleNamespace(end_trial=lambda *what, **how: None, store=Store("sqlite://", "1"))
    context = SimpleNamespace(run=run, trial_tags=lambda plan: {})
    finish = callbacks.FinishRuns(context, SilentProgress())
    finish.on_trial_complete(1, [trial], trial)
    finish.settle()
    assert not kept.metric_n_steps and not kept.metric_analysis
    assert len(kept.get_json_state()) < before / 2, "nor writes them in its states"


def test_a_full_disk_ends_the_study_behind_the_trial_that_met_it_as_tune_would_swallow_it_there():
    run = SimpleNamespace(end_trial=lambda *arguments, **how: None)
    context = SimpleNamespace(run=run, trial_tags=lambda plan: {})
    finish = callbacks.FinishRuns(context, SilentProgress())
    line = "/results/last.pth: the disk is full; free some space: --resume goes on"
    for reason, ends in (("the loss is not finite", False), (line, True)):
        trial = SimpleNamespace(
            config={"trial": TrialPlan(arm="a", seed=0)},
            last_result={"epoch": 0, "failed": reason, "log": "none"},
            run_metadata=SimpleNamespace(),
        )
        finish.on_trial_complete(1, [trial], trial)
        with pytest.raises(StudyHalted, match=line) if ends else contextlib.nullcontext():
            finish.on_step_end(1, [trial])
