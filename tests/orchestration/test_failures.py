"""What a trial does after its process died, and when memory runs out in it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from segmamba.config import preset
from segmamba.orchestration.engine import trainable
from segmamba.orchestration.engine.context import StudyContext, trial_folder
from segmamba.orchestration.engine.failures import (
    ALL_LEVELS,
    assess,
    clear_failures,
    read_failures,
    record_failure,
)
from segmamba.orchestration.engine.trainable import run_trial
from segmamba.studies.spec import TrialPlan
from segmamba.training import compiling
from segmamba.training.run_folder import RunFolder

KILLED = (
    "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.\n"
    "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes "
    "include: (1) the process was killed by the OOM killer due to high memory usage, "
    "(2) ray stop --force was called, or (3) the worker crashed due to SIGSEGV or another error.\n"
)
PLAN = TrialPlan(arm="a", seed=1)
LOW_MEMORY = (
    "Task was killed due to the node running low on memory.\nMemory on the node was 120GB / 125GB\n"
)


def decision(folder):
    return assess(read_failures(folder))


def test_a_killed_process_starts_again_as_it_was(tmp_path):
    assert decision(tmp_path).checkpoint is False
    record_failure(tmp_path, 3, KILLED)
    record_failure(tmp_path, 4, KILLED)
    record_failure(tmp_path, 9, KILLED)
    assert decision(tmp_path) == assess([]), "it gets on between its failures"


def test_one_that_gets_nowhere_tries_with_less_memory_and_is_then_given_up(tmp_path):
    record_failure(tmp_path, 4, KILLED)
    record_failure(tmp_path, 4, KILLED)
    assert decision(tmp_path).checkpoint and not decision(tmp_path).hopeless
    assert not record_failure(tmp_path, 4, KILLED)
    assert (
        "killed 3 times after epoch 4" in decision(tmp_path).hopeless
        and not decision(tmp_path).memory
    )
    assert record_failure(tmp_path, 4, KILLED), "it does not even come to reading this"


def test_one_killed_for_its_memory_tries_once_with_less_of_it(tmp_path):
    record_failure(tmp_path, 0, LOW_MEMORY)
    assert decision(tmp_path).checkpoint and not decision(tmp_path).hopeless
    record_failure(tmp_path, 2, LOW_MEMORY)
    assert "low on memory" in decision(tmp_path).hopeless
    clear_failures(tmp_path)
    assert decision(tmp_path) == assess([]), "a new start of the study begins with a clean slate"


class Log:
    """Stands in for a RunLog that reaches its store at once."""

    away_because = ""

    def __init__(self):
        self.tags, self.reason, self.params = {}, "", {}

    def log_config(self, flat):
        self.params = flat

    def log_tags(self, tags):
        self.tags |= tags

    def log_reason(self, reason):
        self.reason = reason

    def log_data(self, data):
        pass

    log_history = log_data

    def close(self, seconds):
        return True


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """run(outcome, **changes): a trial of the changed configuration that trains by `outcome`.

    It returns what the trial reported, its log and its folder.
    """

    def run(outcome, **changes):
        log, reports = Log(), []
        monkeypatch.setattr(StudyContext, "trial_tags", lambda context, plan: {})
        monkeypatch.setattr(
            trainable, "_train_and_test", lambda trial, config, data: outcome(config)
        )
        monkeypatch.setattr(trainable, "tune", SimpleNamespace(report=reports.append))
        config = preset("demo").changed(
            {name.replace("__", "."): value for name, value in changes.items()}
        )
        context = StudyContext(
            {"a": config},
            {None: ({}, None)},
            tmp_path,
            SimpleNamespace(trial_log=lambda key, tags: log),
            {},
            torch.get_num_threads(),
            "auto",
            "a",
        )
        run_trial({"trial": PLAN}, context)
        (final,) = reports
        return final, log, trial_folder(tmp_path, PLAN)

    return run


def out_of_memory(config):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_out_of_memory_is_tried_once_more_with_activation_checkpointing(trial):
    tried = []

    def needs_checkpointing(config):
        tried.append(config)
        return {"epoch": 6} if config.model.checkpoint_stages else out_of_memory(config)

    final, log, _ = trial(needs_checkpointing)
    assert final == {"epoch": 6} and [config.model.checkpoint_stages for config in tried] == [
        (),
        ALL_LEVELS,
    ]
    assert tried[0].train == tried[1].train and tried[0].data == tried[1].data, (
        "never another batch"
    )
    assert (
        "CUDA out of memory" in log.tags["activation_checkpointing"]
        and log.params["model.checkpoint_stages"] == ()
    )


def test_what_earlier_trials_left_compiled_makes_way_before_memory_is_said_to_lack(
    trial, monkeypatch
):
    held = []
    monkeypatch.setattr(compiling, "_idle", {("graph", "cuda"): object()})

    def counts(config):
        held.append(len(compiling._idle))
        return out_of_memory(config)

    trial(counts)
    assert held == [1, 0]


@pytest.mark.parametrize(
    "changes", [{}, {"model__name": "segresnet"}, {"model__checkpoint_stages": ALL_LEVELS}]
)
def test_what_cannot_fit_is_infeasible_with_its_reason(trial, changes):
    final, log, folder = trial(out_of_memory, **changes)
    assert (
        final["infeasible"] and "out of memory" in final["failed"] and "2.00 GiB" in final["failed"]
    )
    assert log.reason.startswith(final["failed"]) and "Traceback" in Path(final["log"]).read_text()
    assert (folder / "logs" / "error.txt") == Path(final["log"])
    assert log.reason == f"{final['failed']} (see {trial_folder(Path(), PLAN)}/logs/error.txt)"


def test_memory_that_the_machine_refuses_counts_as_well(trial):
    def refused(config):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: "
            "you tried to allocate 9 bytes"
        )

    assert trial(refused)[0]["infeasible"]


def test_any_other_exception_fails_the_trial_and_is_not_tried_again(trial):
    tried = []

    def broken(config):
        tried.append(config)
        raise RuntimeError("the loss is nan")

    final, _, _ = trial(broken)
    assert (
        final["failed"] == "RuntimeError: the loss is nan"
        and "infeasible" not in final
        and len(tried) == 1
    )


def test_after_a_death_for_memory_it_starts_with_checkpointing_and_after_two_not_at_all(
    trial, tmp_path
):
    tried = []
    record_failure(trial_folder(tmp_path, PLAN), 2, LOW_MEMORY)
    trial(lambda config: tried.append(config) or {"epoch": 6})
    assert tried[0].model.checkpoint_stages == ALL_LEVELS
    record_failure(trial_folder(tmp_path, PLAN), 2, LOW_MEMORY)
    final, _, _ = trial(lambda config: tried.append(config) or {"epoch": 6})
    assert final["infeasible"] and len(tried) == 1


def test_a_disk_too_full_for_the_error_file_still_gives_the_reason(trial, monkeypatch, tmp_path):
    def full(*anything, **more):
        raise OSError(28, "No space left on device")

    RunFolder(trial_folder(tmp_path, PLAN))
    monkeypatch.setattr(Path, "write_text", full)
    final, log, _ = trial(full)
    assert (
        "the disk is full" in final["failed"]
        and "--resume" in final["failed"]
        and "the disk is full" in log.reason
    )
