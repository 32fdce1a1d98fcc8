"""How trials share a machine, decided from rehearsals that a test makes up."""

import dataclasses
from io import StringIO

import pytest
from rich.console import Console

from segmamba.config import preset
from segmamba.data.splits import Split
from segmamba.errors import UserError
from segmamba.orchestration.engine.executions import Workload
from segmamba.orchestration.engine.machine import Machine, Node
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.orchestration.engine.plan_table import render_plan
from segmamba.orchestration.engine.resource_plan import measured_plan, unmeasured_plan
from segmamba.orchestration.engine.resources import resumed_resources
from segmamba.studies.spec import TrialPlan
from segmamba.training.rehearsal import Rehearsal

GIB = 2**30
H100 = Machine(name="1 x H100", gpus=1, gpu_bytes=80 * GIB, cores=16, memory_bytes=120 * GIB)
TWO_CORES = Machine(name="2 CPU cores", gpus=0, gpu_bytes=0, cores=2, memory_bytes=8 * GIB)
DATA = Split([], [None] * 8, [None] * 10, False, ())


def rehearsal(step_s, *, warm_up_s=1.0, peak_bytes=5 * GIB, compile_s=0.0):
    costs = {
        "validate_case_s": 0.1,
        "test_case_s": 1.0,
        "weights_bytes": 10,
        "resume_bytes": 30,
        "start_s": 5.0,
        "epoch_s": 0.5,
    }
    return Rehearsal(
        step_s=step_s, warm_up_s=warm_up_s, peak_bytes=peak_bytes, compile_s=compile_s, **costs
    )


def gpu(
    *,
    alone=0.055,
    packed=(0.055, 0.080, 0.110),
    compiled=0.036,
    from_cache_s=60.0,
    compile_s=0.0,
    peak_bytes=5 * GIB,
):
    """A stand-in for Measure: packed is the step of 2, 3, 4 trials at once."""

    def measure(configs, *, threads, compile="never", together=False):
        if compile == "always":
            return [
                rehearsal(
                    compiled, warm_up_s=from_cache_s, peak_bytes=peak_bytes, compile_s=compile_s
                )
            ] * len(configs)
        return [
            rehearsal(packed[len(configs) - 2] if together else alone, peak_bytes=peak_bytes)
        ] * len(configs)

    return measure


def cpu(step_s, *, peak_bytes=GIB):
    """step_s: threads to seconds."""
    return lambda configs, *, threads, compile="never", together=False: (
        [rehearsal(step_s[threads], peak_bytes=peak_bytes)] * len(configs)
    )


def never(configs, **how):
    raise AssertionError("measured")


def trials(count):
    return [TrialPlan(arm="a", seed=seed) for seed in range(count)]


def options(tmp_path, **chosen):
    return StudyOptions(output=tmp_path, **chosen)


def plan(arms, trials, machine, measure, options):
    return measured_plan(Workload(arms=arms, trials=trials, data=DATA), machine, measure, options)


def test_four_short_trials_are_packed_since_compiling_costs_more_than_it_saves(tmp_path):
    planned = plan({"a": preset("quick")}, trials(4), H100, gpu(), options(tmp_path))
    assert (
        planned.resources.gpus == 0.5
        and planned.resources.at_once == 2
        and planned.resources.compile == "never"
    )
    assert planned.why.startswith("2 a GPU, eager: ends soonest")


def test_long_trials_are_compiled_where_packing_gains_little(tmp_path):
    planned = plan({"a": preset("paper")}, trials(4), H100, gpu(packed=(0.105,)), options(tmp_path))
    assert (
        planned.resources.gpus == 1
        and planned.resources.at_once == 1
        and planned.resources.compile == "always"
    )


def test_packing_stops_where_memory_or_cores_end(tmp_path):
    one_fits = plan(
        {"a": preset("quick")}, trials(4), H100, gpu(peak_bytes=40 * GIB), options(tmp_path)
    )
    assert {execution.name for execution in one_fits.executions} == {
        "1 a GPU, eager",
        "1 a GPU, compiled",
    }
    few_cores = Machine(name="", gpus=1, gpu_bytes=80 * GIB, cores=5, memory_bytes=GIB)
    assert (
        plan(
            {"a": preset("quick")}, trials(4), few_cores, gpu(), options(tmp_path)
        ).resources.at_once
        == 1
    )


def test_a_user_who_says_compile_or_how_many_gpus_gets_that(tmp_path):
    never_compiled = preset("quick").changed({"train.compile": "never"})
    eager = plan(
        {"a": never_compiled},
        trials(4),
        H100,
        gpu(compiled=0.001, from_cache_s=0),
        options(tmp_path),
    )
    assert eager.resources.compile == "never"
    unpacked = plan(
        {"a": preset("quick")}, trials(4), H100, never, options(tmp_path, gpus_per_trial=1.0)
    )
    assert (
        unpacked.resources.gpus == 1 and unpacked.resources.compile == "auto" and not unpacked.arms
    )
    half = plan(
        {"a": preset("quick")},
        trials(4),
        H100,
        gpu(),
        options(tmp_path, gpus_per_trial=0.5, plan=True),
    )
    assert half.resources.gpus == 0.5 and half.study_s > 0


def test_the_estimate_adds_start_steps_evaluations_and_warm_up_and_shares_trials_out(tmp_path):
    config = preset("paper").changed(
        {
            "train.compile": "never",
            "train.epochs": 10,
            "train.steps_per_epoch": 100,
            "train.validate_every_epochs": 5,
        }
    )
    planned = plan({"a": config}, trials(3), H100, gpu(packed=(0.2,)), options(tmp_path))
    one = 5.0 + 10 * 100 * 0.055 + 0.5 + 2 * 8 * 0.1 + (10 + 2) * 1.0 + 1.0
    assert planned.arms["a"].trial_s == pytest.approx(one) and planned.study_s == pytest.approx(
        3 * one
    )
    hard = config.changed({"learning.hard_case_factor": 3.0})
    restarting = plan({"a": hard}, trials(3), H100, gpu(packed=(0.2,)), options(tmp_path))
    assert restarting.arms["a"].trial_s == pytest.approx(one + 9 * 0.5), (
        "the loader starts anew for each of ten epochs"
    )
    assert planned.disk_bytes == 3 * (2 * 10 + 30)  # best, a copy after epoch 10, last


def test_a_network_is_compiled_once_and_then_found_in_the_cache(tmp_path):
    base = preset("paper")
    changed = {
        "half": {"model.base_channels": 16},
        "no flips": {"augment.flip_probability": 0.0},
        "hard cases": {"learning.hard_case_factor": 3.0},
    }
    arms = {"a": base} | {arm: base.changed(changes) for arm, changes in changed.items()}
    plans = [TrialPlan(arm=arm, seed=seed) for arm in arms for seed in range(2)]

    def study_s(compile_s, machine=H100, compile="auto"):
        wanted = {arm: config.changed({"train.compile": compile}) for arm, config in arms.items()}
        planned = plan(
            wanted,
            plans,
            machine,
            gpu(compiled=0.01, compile_s=compile_s),
            options(tmp_path, gpus_per_trial=1.0, plan=True),
        )
        return planned.study_s

    assert study_s(80.0) == pytest.approx(study_s(0.0) + 2 * 80.0), (
        "measuring has compiled the first; flips change no network"
    )
    assert study_s(80.0, compile="always") == study_s(0.0, compile="always"), (
        "then all are measured compiled"
    )
    two = dataclasses.replace(H100, gpus=2)
    assert study_s(80.0, two) == pytest.approx(study_s(0.0, two) + 2 * 80.0), (
        "both seeds start, and compile, at the same time"
    )


def test_where_each_trial_has_a_process_of_its_own_each_pays_for_its_start(tmp_path):
    def planned(**chosen):
        return plan(
            {"a": preset("demo")},
            trials(8),
            TWO_CORES,
            cpu({1: 0.1}),
            options(tmp_path, plan=True, **chosen),
        )

    apart, shared = planned(scheduler="asha"), planned()
    assert apart.arms["a"].trial_s == pytest.approx(shared.arms["a"].trial_s + 5.0)
    assert apart.study_s == pytest.approx(4 * apart.arms["a"].trial_s)
    assert shared.study_s == pytest.approx(5.0 + 4 * shared.arms["a"].trial_s), (
        "on a CPU a process goes on to the next trial"
    )


def test_a_lone_trial_gets_both_cores_where_that_is_faster_and_one_where_not(tmp_path):
    faster = plan(
        {"a": preset("demo")}, trials(1), TWO_CORES, cpu({1: 1.0, 2: 0.6}), options(tmp_path)
    )
    assert faster.resources.threads == faster.resources.cpus == 2 and faster.resources.at_once == 1
    slower = plan(
        {"a": preset("demo")}, trials(1), TWO_CORES, cpu({1: 1.0, 2: 1.2}), options(tmp_path)
    )
    assert slower.resources.threads == 1
    assert (
        plan(
            {"a": preset("demo")},
            trials(3),
            TWO_CORES,
            cpu({1: 1.0, 2: 0.55}),
            options(tmp_path),
        ).resources.threads
        == 2
    )


def nodes(count, *, cores, gpus=0):
    """The Machine of so many alike nodes."""
    one = Node(
        id="", host="h", cpu="EPYC", gpu="H100", gpus=gpus, gpu_bytes=80 * GIB * gpus, cores=cores
    )
    return Machine(
        name="",
        gpus=count * gpus,
        gpu_bytes=80 * GIB * gpus,
        cores=count * cores,
        memory_bytes=64 * GIB,
        nodes=(one,) * count,
    )


def test_a_trial_on_a_cluster_takes_no_more_than_one_node_has(tmp_path):
    lone = plan(
        {"a": preset("demo")},
        trials(1),
        nodes(4, cores=2),
        cpu({1: 1.0, 2: 0.6}),
        options(tmp_path),
    ).resources
    assert (lone.cpus, lone.threads, lone.at_once) == (2, 2, 1), (
        "8 cores, but no node with more than 2"
    )
    unmeasured_trial = unmeasured_plan(
        preset("demo"), 1, nodes(4, cores=2), options(tmp_path), ""
    ).resources
    assert (unmeasured_trial.cpus, unmeasured_trial.threads) == (2, 2)
    on_gpu = unmeasured_plan(
        preset("quick"), 9, nodes(3, cores=3, gpus=1), options(tmp_path), ""
    ).resources
    assert preset("quick").data.workers + 1 > 3 and (on_gpu.cpus, on_gpu.at_once) == (3, 3)
    odd = unmeasured_plan(
        preset("demo").changed({"data.workers": 1}),
        9,
        nodes(3, cores=3, gpus=1),
        options(tmp_path, gpus_per_trial=0.5),
        "",
    )
    assert (odd.resources.cpus, odd.resources.at_once) == (2, 3), (
        "9 cores, but one trial of 2 a node"
    )
    with pytest.raises(UserError, match="--gpus-per-trial 2: a node has 1"):
        unmeasured_plan(
            preset("quick"),
            1,
            nodes(3, cores=8, gpus=1),
            options(tmp_path, gpus_per_trial=2.0),
            "",
        )


def test_alike_nodes_are_packed_as_one_is(tmp_path):
    planned = plan(
        {"a": preset("quick")},
        trials(8),
        nodes(2, cores=16, gpus=1),
        gpu(),
        options(tmp_path),
    )
    assert planned.resources.gpus == 0.5 and planned.resources.at_once == 4


def test_a_plan_without_measurement_says_why(tmp_path):
    console = Console(width=200, file=StringIO())
    render_plan(
        unmeasured_plan(
            preset("demo"),
            8,
            TWO_CORES,
            options(tmp_path),
            "not measured, since the nodes differ",
        ),
        console,
    )
    printed = " ".join(console.file.getvalue().split())
    assert printed.startswith(
        "machine 2 CPU cores trials 8, 2 at once, 1 core each "
        "time not measured, since the nodes differ start the same"
    )


def test_the_stored_form_keeps_its_names(tmp_path):
    stored = plan({"a": preset("quick")}, trials(4), H100, gpu(), options(tmp_path)).as_dict()
    assert list(stored) == [
        "resources",
        "machine",
        "why",
        "ways",
        "arms",
        "trials",
        "study_s",
        "disk_bytes",
        "disk_free_bytes",
    ]
    assert list(stored["ways"][0]) == ["way", "steps_per_s", "study_s"]
    assert list(stored["arms"]["a"]) == [
        "step_s",
        "trial_s",
        "train_s",
        "validate_case_s",
        "test_case_s",
        "peak_bytes",
    ]


def test_a_short_study_that_fills_the_cores_is_not_measured_unless_asked(tmp_path):
    planned = plan({"a": preset("demo")}, trials(8), TWO_CORES, never, options(tmp_path))
    assert (
        planned.resources.threads == 1 and planned.resources.at_once == 2 and planned.study_s == 0
    )
    assert (
        plan(
            {"a": preset("demo")},
            trials(8),
            TWO_CORES,
            cpu({1: 1.0}),
            options(tmp_path, plan=True),
        ).study_s
        > 0
    )


def test_no_more_trials_run_at_once_than_the_memory_holds(tmp_path):
    planned = plan(
        {"a": preset("demo")},
        trials(8),
        TWO_CORES,
        cpu({1: 1.0}, peak_bytes=5 * GIB),
        options(tmp_path, plan=True),
    )
    assert planned.resources.at_once == 1


def test_a_resumed_study_keeps_threads_and_compilation(tmp_path):
    began = plan({"a": preset("quick")}, trials(4), H100, gpu(), options(tmp_path))
    again = resumed_resources(began.as_dict()["resources"], H100, preset("quick"), 1)
    assert (
        again.compile == "never" and again.threads == began.resources.threads and again.at_once == 1
    )
    on_cpu = unmeasured_plan(preset("demo"), 8, TWO_CORES, options(tmp_path), "")
    assert (
        resumed_resources(on_cpu.as_dict()["resources"], TWO_CORES, preset("demo"), 1).threads == 1
    ), "another number would change the last bits"


def test_more_gpus_than_there_are_is_the_users_mistake(tmp_path):
    for machine, gpus in ((TWO_CORES, 1.0), (H100, 2.0), (H100, 1.5)):
        with pytest.raises(UserError, match="--gpus-per-trial"):
            plan(
                {"a": preset("quick")},
                trials(4),
                machine,
                never,
                options(tmp_path, gpus_per_trial=gpus),
            )
