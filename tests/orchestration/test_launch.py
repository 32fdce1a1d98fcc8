"""Which trials share a process, seen in real Ray workers that train nothing."""

import gc
import os
import sys
import weakref

import pytest

from segmamba.data.splits import Split
from segmamba.errors import UserError
from segmamba.orchestration.engine import cluster, trainable
from segmamba.orchestration.engine.cluster import machine_for
from segmamba.orchestration.engine.context import StudyContext, trial_folder
from segmamba.orchestration.engine.launch import TrialLauncher
from segmamba.orchestration.engine.progress import SilentProgress
from segmamba.orchestration.engine.resources import Resources
from segmamba.orchestration.tracking.store import open_store
from segmamba.orchestration.tracking.study_run import StudyRun
from segmamba.studies.spec import TrialPlan
from tests.tiny import TINY

PLANS = [TrialPlan(arm="a", seed=seed) for seed in range(2)]


def writes_its_process(assignment, context):
    from ray import tune

    folder = trial_folder(context.folder, assignment["trial"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "process").write_text(str(os.getpid()))
    tune.report({"epoch": 1, "epochs": 1, "val/best_dice_mean": 0.5})


@pytest.fixture(scope="module")
def ray_with_one_core_and_a_gpu(tmp_path_factory):
    with machine_for(None, 1, tmp_path_factory.mktemp("ray"), ""):
        import ray

        ray.init(
            address="local",
            num_cpus=1,
            num_gpus=1,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 * 2**20,
        )
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield
        ray.shutdown()


def launcher(folder, *, gpus=0, compile="auto"):
    store = open_store(folder)
    context = StudyContext(
        {"a": TINY},
        {None: ({}, Split([], [], [], False, ()))},
        folder,
        StudyRun(store, store.create_run("study", {})),
        {},
        1,
        "auto",
        "a",
    )
    resources = Resources(gpus=gpus, cpus=1, threads=1, at_once=1, cores=1, compile=compile)
    return TrialLauncher(context, resources, SilentProgress())


@pytest.mark.parametrize(
    ("gpus", "scheduler", "compile", "processes"),
    [
        (0, "none", "auto", 1),
        pytest.param(1, "none", "auto", 2, marks=pytest.mark.slow),
        pytest.param(0, "asha", "auto", 2, marks=pytest.mark.slow),
        pytest.param(0, "none", "always", 2, marks=pytest.mark.slow),
    ],
    ids=["on a CPU", "on a GPU", "under a scheduler", "compiled"],
)
def test_trials_share_a_process_on_a_cpu_alone(
    ray_with_one_core_and_a_gpu, tmp_path, monkeypatch, gpus, scheduler, compile, processes
):
    monkeypatch.setattr(trainable, "run_trial", writes_its_process)
    launcher(tmp_path, gpus=gpus, compile=compile).run_trials(PLANS, scheduler=scheduler, base=TINY)
    assert (
        len({(trial_folder(tmp_path, plan) / "process").read_text() for plan in PLANS}) == processes
    )


def test_a_machine_without_memory_ends_a_study_in_one_line(
    ray_with_one_core_and_a_gpu, tmp_path, monkeypatch
):
    """As Tune raises it where Ray's memory monitor has ended the process of a trial."""
    from ray import tune
    from ray.exceptions import OutOfMemoryError

    def raises(cause):
        def fit(tuner):
            raise RuntimeError("Caught unexpected exception") from cause

        monkeypatch.setattr(tune.Tuner, "fit", fit)
        launcher(tmp_path).run_trials(PLANS, scheduler="none", base=TINY)

    with pytest.raises(UserError, match=r"memory ran out.*--cpus, and go on with --resume"):
        raises(OutOfMemoryError("2 worker(s) were killed"))
    with pytest.raises(RuntimeError, match="unexpected"):
        raises(ValueError("another"))


def test_ray_is_shut_down_when_no_circle_holds_its_objects_any_more(monkeypatch):
    class Held:
        pass

    seen = []
    monkeypatch.setattr("ray.shutdown", lambda: seen.append(reference()))
    gc.disable()  # as luck may have it
    try:
        with cluster._until_done([]):
            held = Held()
            held.itself, reference = held, weakref.ref(held)
            del held
    finally:
        gc.enable()
    assert seen == [None]
