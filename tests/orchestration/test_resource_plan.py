"""How trials share a machine, decided from rehearsals that a test makes up."""

import dataclasses
from io import StringIO

import pytest
from rich.console import Console

from segmamba.config import preset
from segmamba.data.splits import Split
from segmamba.errors import UserError
from segmamba.orchestration.engine.compile_choice import CompileChoice
from segmamba.orchestration.engine.executions import Workload
from segmamba.orchestration.engine.machine import Machine, Node
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.orchestration.engine.plan_table import render_plan
from segmamba.orchestration.engine.resource_plan import measured_plan, unmeasured_plan
from segmamba.orchestration.engine.resources import loader_workers, resumed_resources
from segmamba.studies.spec import TrialPlan
from segmamba.training.rehearsal import Rehearsal

GIB = 2**30
H100 = Machine(name="1 x H100", gpus=1, gpu_bytes=80 * GIB, cores=16, memory_bytes=120 * GIB)
TWO_CORES = Machine(name="2 CPU cores", gpus=0, gpu_bytes=0, cores=2, memory_bytes=8 * GIB)
DATA = Split([], [None] * 8, [None] * 10, False, ())


def rehearsal(step_s, *, warm_up_s=1.0, peak_bytes=5 * GIB):
    costs = {
        "validate_case_s": 0.1,
        "test_case_s": 1.0,
        "weights_bytes": 10,
        "resume_bytes": 30,
        "start_s": 5.0,
        "epoch_s": 0.5,
    }
    return Rehearsal(step_s=step_s, warm_up_s=warm_up_s, peak_bytes=peak_bytes, **costs)


def gpu(*, alone=0.055, packed=(0.055, 0.080, 0.110), compiled=0.036, peak_bytes=5 * GIB):
    """A stand-in for Measure: packed is the step of 2, 3, 4 trials at once."""

    def measure(configs, *, threads, compile="never", together=False):
        if compile == "always":
            return [rehearsal(compiled, warm_up_s=12.0, peak_bytes=peak_bytes)] * len(configs)
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


EAGER = CompileChoice(compile="never", reason="eager: as asked")
COMPILED = CompileChoice(compile="always", reason="compiled: it pays")
LEFT = CompileChoice(compile="auto", reason="")
LONG = preset("quick").changed({"train.epochs": 90})


def plan(arms, trials, machine, measure, options, choice=None):
    choice = choice or (EAGER if machine.gpus else LEFT)
    work = Workload(arms=arms, trials=trials, data=DATA)
    return measured_plan(work, machine, measure, options, choice)


def unmeasured(base, trials, machine, options, why=""):
    return unmeasured_plan(base, trials, machine, options, LEFT, why)


def test_eager_trials_are_packed_as_long_as_that_pays(tmp_path):
    planned = plan({"a": LONG}, trials(4), H100, gpu(), options(tmp_path))
    assert (
        planned.resources.gpus == 0.5
        and planned.resources.at_once == 2
        and planned.resources.compile == "never"
    )
    assert planned.why.startswith("2 a GPU, eager: ends soonest")
    little = plan({"a": LONG}, trials(4), H100, gpu(packed=(0.115,)), options(tmp_path))
    assert little.resources.gpus == 1


def test_nothing_is_measured_where_one_way_is_known_to_win(tmp_path):
    compiled = plan({"a": LONG}, trials(4), H100, never, options(tmp_path), COMPILED)
    assert compiled.resources.gpus == 1 and compiled.resources.compile == "always"
    assert compiled.why == "compiled: it pays" and not compiled.arms
    short = plan({"a": preset("demo")}, trials(4), H100, never, options(tmp_path))
    assert short.resources.gpus == 1 and short.why == "eager: as asked"
    asked = options(tmp_path, plan=True)
    measured = plan({"a": LONG}, trials(4), H100, gpu(), asked, COMPILED)
    assert [way.name for way in measured.executions] == ["1 a GPU, compiled"]
    assert measured.study_s == pytest.approx(
        5.0 + 12.0 + 4 * (90 * 100 * 0.036 + 0.5 + 45 * 8 * 0.1 + 12 * 1.0)
    ), "its process starts once and loads the graph once"


def test_packing_stops_where_memory_or_cores_end(tmp_path):
    one_fits = plan({"a": LONG}, trials(4), H100, gpu(peak_bytes=40 * GIB), options(tmp_path))
    assert [execution.name for execution in one_fits.executions] == ["1 a GPU, eager"]
    few_cores = dataclasses.replace(H100, cores=3)
    assert plan({"a": LONG}, trials(4), few_cores, gpu(), options(tmp_path)).resources.at_once == 1


def test_every_gpu_finds_cores_for_its_trials(tmp_path):
    four = dataclasses.replace(H100, gpus=4, cores=8)
    alone = plan({"a": LONG}, trials(9), four, never, options(tmp_path), COMPILED).resources
    assert (alone.at_once, alone.cpus) == (4, 2) and LONG.data.workers == 4
    assert loader_workers(LONG, alone) == 1, "beside its own process"
    many = dataclasses.replace(four, cores=64)
    roomy = plan({"a": LONG}, trials(9), many, never, options(tmp_path), COMPILED).resources
    assert (roomy.at_once, roomy.cpus, loader_workers(LONG, roomy)) == (4, 5, 4)
    packed = plan(
        {"a": LONG}, trials(9), four, never, options(tmp_path, gpus_per_trial=0.5), COMPILED
    ).resources
    assert (packed.at_once, packed.cpus) == (8, 1)


def test_a_user_who_says_how_many_gpus_gets_that(tmp_path):
    unpacked = plan({"a": LONG}, trials(4), H100, never, options(tmp_path, gpus_per_trial=1.0))
    assert unpacked.resources.gpus == 1 and not unpacked.arms
    half = options(tmp_path, gpus_per_trial=0.5, plan=True)
    for choice in (EAGER, COMPILED):
        measured = plan({"a": LONG}, trials(4), H100, gpu(), half, choice)
        assert measured.resources.gpus == 0.5 and measured.study_s > 0
        assert measured.resources.compile == choice.compile


def test_the_estimate_adds_start_steps_evaluations_and_warm_up_and_shares_trials_out(tmp_path):
    config = preset("paper").changed(
        {
            "train.compile": "never",
            "train.epochs": 10,
            "train.steps_per_epoch": 100,
            "train.validate_every_epochs": 5,
        }
    )
    asked = options(tmp_path, plan=True)
    planned = plan({"a": config}, trials(3), H100, gpu(packed=(0.2,)), asked)
    one = 10 * 100 * 0.055 + 0.5 + 2 * 8 * 0.1 + (10 + 2) * 1.0
    assert planned.arms["a"].trial_s == pytest.approx(one)
    assert planned.study_s == pytest.approx(5.0 + 1.0 + 3 * one)
    hard = config.changed({"learning.hard_case_factor": 3.0})
    restarting = plan({"a": hard}, trials(3), H100, gpu(packed=(0.2,)), asked)
    assert restarting.arms["a"].trial_s == pytest.approx(one + 9 * 0.5), (
        "the loader starts anew for each of ten epochs"
    )
    assert planned.disk_bytes == 3 * (2 * 10 + 30)  # best, a copy after epoch 10, last


def test_a_process_warms_up_once_for_each_graph(tmp_path):
    base = preset("quick")
    arms = {
        "a": base,
        "no flips": base.changed({"augment.flip_probability": 0.0}),
        "half": base.changed({"model.base_channels": 16}),
    }
    plans = [TrialPlan(arm=arm, seed=seed) for seed in range(2) for arm in arms]
    asked = options(tmp_path, plan=True)

    def study_s(machine, **chosen):
        wanted = dataclasses.replace(asked, **chosen)
        return plan(arms, plans, machine, gpu(), wanted, COMPILED)

    one = study_s(H100)
    trial_s = one.arms["a"].trial_s
    assert one.study_s == pytest.approx(5.0 + 2 * 12.0 + 6 * trial_s), "two graphs, one process"
    two = study_s(dataclasses.replace(H100, gpus=2))
    assert two.study_s == pytest.approx(5.0 + 2 * 12.0 + 3 * trial_s), "both processes need both"
    apart = study_s(H100, scheduler="asha")
    assert apart.study_s == pytest.approx(6 * (5.0 + 12.0 + trial_s))


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
    assert apart.arms["a"].trial_s == pytest.approx(shared.arms["a"].trial_s + 5.0 + 1.0)
    assert apart.study_s == pytest.approx(4 * apart.arms["a"].trial_s)
    assert shared.study_s == pytest.approx(5.0 + 1.0 + 4 * shared.arms["a"].trial_s), (
        "a process goes on to the next trial"
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
    unmeasured_trial = unmeasured(
        preset("demo"), 1, nodes(4, cores=2), options(tmp_path), ""
    ).resources
    assert (unmeasured_trial.cpus, unmeasured_trial.threads) == (2, 2)
    on_gpu = unmeasured(
        preset("quick"), 9, nodes(3, cores=3, gpus=1), options(tmp_path), ""
    ).resources
    assert preset("quick").data.workers + 1 > 3 and (on_gpu.cpus, on_gpu.at_once) == (3, 3)
    odd = unmeasured(
        preset("demo").changed({"data.workers": 1}),
        9,
        nodes(3, cores=3, gpus=1),
        options(tmp_path, gpus_per_trial=0.5),
        "",
    )
    assert (odd.resources.cpus, odd.resources.at_once) == (1, 6), "two trials a node"
    with pytest.raises(UserError, match="--gpus-per-trial 2: a node has 1"):
        unmeasured(
            preset("quick"),
            1,
            nodes(3, cores=8, gpus=1),
            options(tmp_path, gpus_per_trial=2.0),
            "",
        )


def test_alike_nodes_are_packed_as_one_is(tmp_path):
    planned = plan(
        {"a": LONG},
        trials(8),
        nodes(2, cores=16, gpus=1),
        gpu(),
        options(tmp_path),
    )
    assert planned.resources.gpus == 0.5 and planned.resources.at_once == 4


def test_a_plan_without_measurement_says_why(tmp_path):
    console = Console(width=200, file=StringIO())
    render_plan(
        unmeasured(
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
    stored = plan({"a": LONG}, trials(4), H100, gpu(), options(tmp_path)).as_dict()
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
    began = plan({"a": LONG}, trials(4), H100, gpu(), options(tmp_path))
    again = resumed_resources(began.as_dict()["resources"], H100, preset("quick"), 1)
    assert (
        again.compile == "never" and again.threads == began.resources.threads and again.at_once == 1
    )
    on_cpu = unmeasured(preset("demo"), 8, TWO_CORES, options(tmp_path), "")
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
