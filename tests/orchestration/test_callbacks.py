"""What the driver makes of Ray's events, without Ray's trials."""

from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException

from segmamba.orchestration.engine import callbacks
from segmamba.orchestration.engine.progress import SilentProgress
from segmamba.orchestration.tracking.store import Store
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
            config={"trial": TrialPlan(arm="a", seed=seed)}, last_result={"epoch": 1, "epochs": 1}
        )
        for seed in range(2)
    ]
    finish.on_trial_complete(1, trials, trials[0])
    finish._outbox._thread.join(10)
    finish.on_trial_complete(2, trials, trials[1])
    with pytest.raises(MlflowException, match="no such run"):
        finish.settle()
    assert asked == ["a, seed 0", "a, seed 0", "a, seed 1"], "the other is told of, too"
