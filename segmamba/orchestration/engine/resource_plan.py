"""What a study will cost and how its trials share the machine, decided from measurements before anything is spent.

A "way" is one manner of running all trials: how many at once, with which share of a GPU or how many cores, compiled or not. All trials
of a study run the same way, so that arms differ by nothing else; a resumed study keeps its way, since threads and compilation change
the last bits of a result.
"""

import dataclasses
import heapq
import math
import shutil
from dataclasses import dataclass, field

from segmamba.orchestration.engine.machine import check_gpus_per_trial

MEMORY_SHARE = 0.9  # of a device's memory that trials may take together; the rest is for the allocator's fragments and everybody else
WORTH_TRYING = 1.1  # one more trial on a GPU is tried as long as the one before raised the steps per second by this
SHORT_STEPS = 500  # without a GPU and without a choice, a trial of fewer steps is over before measuring it pays


@dataclass(frozen=True, kw_only=True)
class Resources:
    """How many trials run at once, and with what."""

    gpus: float
    """Of one trial; 0 on a CPU."""
    cpus: int
    """Cores of one trial, its loader's processes included."""
    threads: int
    """Of torch, in one trial."""
    at_once: int
    cores: int
    """Of the whole study."""
    compile: str
    """What `train.compile` is in every trial: auto, always or never."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How a study runs and what that is expected to cost; empty dicts and 0 where nothing was measured."""

    resources: Resources
    machine: str
    why: str
    """One sentence."""
    ways: list = field(default_factory=list)
    """What was compared: dicts of way, steps_per_s (of all trials together), study_s."""
    arms: dict = field(default_factory=dict)
    """Arm name to step_s, train_s (all steps), trial_s, validate_case_s, test_case_s, peak_bytes."""
    trials: int = 0
    study_s: float = 0.0
    disk_bytes: int = 0
    """Checkpoints of all trials, and what the cache takes."""
    disk_free_bytes: int = 0

    def as_dict(self):
        return dataclasses.asdict(self)


def _fixed(machine, base, trials, gpus, *, threads=None, compile=None):
    """Resources without any measurement."""
    if not machine.gpus:
        threads = threads or max(1, min(machine.cores // max(1, trials), machine.trial_cores))
        cpus = min(threads, machine.trial_cores)
        at_once = max(1, min(trials, machine.holds(cpus)))
        return Resources(
            gpus=0,
            cpus=cpus,
            threads=threads,
            at_once=at_once,
            cores=machine.cores,
            compile=compile or base.train.compile,
        )
    cpus = min(base.data.workers + 1, machine.trial_cores)
    at_once = max(1, min(machine.holds(cpus, gpus), max(1, trials)))
    return Resources(
        gpus=gpus,
        cpus=cpus,
        threads=threads or cpus,
        at_once=at_once,
        cores=machine.cores,
        compile=compile or base.train.compile,
    )


def plan(arms, trials, data, machine, measure, options):
    """The Budget of `trials` (TrialPlans) of {arm: Config} on a Split; of `options`: gpus_per_trial (None is auto), plan and output.

    measure([Config, ...], threads=, compile=, together=) gives Rehearsals: a segmamba.orchestration.engine.measuring.Measure.
    """
    base = next(iter(arms.values()))
    check_gpus_per_trial(options.gpus_per_trial, machine)
    if not options.plan and not _worth_measuring(base, trials, machine, options):
        return unmeasured(
            base,
            trials,
            machine,
            options,
            "not measured: there is nothing to choose, and it is short",
        )
    used = {arm: arms[arm] for arm in dict.fromkeys(trial.arm for trial in trials)}
    find = _ways_of_gpus if machine.gpus else _ways_of_cores
    alone, ways = find(used, trials, machine, measure, options)
    costs = [_way_cost(way, used, alone, trials, data, options.scheduler) for way in ways]
    chosen = min(range(len(ways)), key=lambda i: costs[i][0])
    study_s, trial_s = costs[chosen]
    rows = [
        {"way": way.name, "steps_per_s": way.resources.at_once / way.step_s, "study_s": cost}
        for way, (cost, _) in zip(ways, costs, strict=True)
    ]
    return Budget(
        resources=ways[chosen].resources,
        machine=machine.name,
        why=_why(rows, chosen),
        ways=rows,
        trials=len(trials),
        study_s=study_s,
        arms={
            arm: {
                "step_s": alone[arm].step_s * ways[chosen].slowdown,
                "trial_s": trial_s[arm],
                "train_s": _steps(used[arm]) * alone[arm].step_s * ways[chosen].slowdown,
                "validate_case_s": alone[arm].validate_case_s,
                "test_case_s": alone[arm].test_case_s,
                "peak_bytes": alone[arm].peak_bytes,
            }
            for arm in used
        },
        disk_bytes=sum(_checkpoint_bytes(used[trial.arm], alone[trial.arm]) for trial in trials),
        disk_free_bytes=shutil.disk_usage(options.output).free,
    )


def unmeasured(base, trials, machine, options, why):
    """The Budget where nothing is measured: as many GPUs a trial as asked for, one by default; or the cores shared evenly."""
    check_gpus_per_trial(options.gpus_per_trial, machine)
    return Budget(
        resources=_fixed(machine, base, len(trials), options.gpus_per_trial or 1.0),
        machine=machine.name,
        trials=len(trials),
        why=why,
    )


def resumed(before, base, trials, machine):
    """The Budget that a study began with, a dict, for so many trials that are left and the machine as it is now."""
    if not before:  # of a version that planned nothing
        return Budget(
            resources=_fixed(machine, base, trials, 1.0), machine=machine.name, why="resumed"
        )
    began = Resources(**before["resources"])
    resources = _fixed(
        machine, base, trials, began.gpus or 1.0, threads=began.threads, compile=began.compile
    )
    return Budget(**before | {"resources": resources})


@dataclass(frozen=True, kw_only=True)
class _Way:
    name: str
    resources: Resources
    step_s: float
    """Of the first arm."""
    slowdown: float
    """Of its steps, against the first arm measured alone (GPU), or as all arms were measured (CPU)."""
    warm_up_s: float
    compile_s: float = 0.0
    """Of a network that the compiler has not seen yet; measuring has shown it the first arm's, or all of them: then this is 0."""


def _worth_measuring(base, trials, machine, options):
    if machine.gpus:
        return options.gpus_per_trial is None
    return len(_thread_choices(len(trials), machine)) > 1 or _steps(base) >= SHORT_STEPS


def _thread_choices(trials, machine):
    """Threads for a trial that are worth comparing: more than one only where a core would otherwise stand idle for long."""
    cores, most = machine.cores, machine.trial_cores
    if trials % cores == 0 or trials >= 4 * cores:
        return [1]
    return sorted({1, min(2, most), min(most, cores // min(trials, cores))})


def _ways_of_cores(arms, trials, machine, measure, options):
    """({arm: Rehearsal}, [_Way]) without a GPU."""
    first, config = next(iter(arms.items()))
    fewest, *more = _thread_choices(len(trials), machine)
    alone = dict(zip(arms, measure(list(arms.values()), threads=fewest), strict=True))
    measured = {fewest: alone[first]} | {
        threads: measure([config], threads=threads)[0] for threads in more
    }
    ways = []
    for threads, rehearsal in measured.items():
        fitting = int(MEMORY_SHARE * machine.memory_bytes / max(1, rehearsal.peak_bytes))
        at_once = max(1, min(len(trials), machine.holds(threads), fitting))
        resources = Resources(
            gpus=0,
            cpus=threads,
            threads=threads,
            at_once=at_once,
            cores=machine.cores,
            compile=config.train.compile,
        )
        ways.append(
            _Way(
                name=f"{at_once} at once, {threads} core{'s' * (threads > 1)} each",
                resources=resources,
                step_s=rehearsal.step_s,
                slowdown=rehearsal.step_s / alone[first].step_s,
                warm_up_s=rehearsal.warm_up_s,
            )
        )
    return alone, ways


def _ways_of_gpus(arms, trials, machine, measure, options):
    """({arm: Rehearsal of it alone on a GPU}, [_Way]): packed while that pays, and compiled, one a GPU."""
    first, config = next(iter(arms.items()))
    asked, wanted = options.gpus_per_trial, config.train.compile
    eager = "never" if wanted == "auto" else wanted
    cpus = min(config.data.workers + 1, machine.trial_cores)
    alone = {
        arm: measure([arm_config], threads=cpus, compile=eager)[0]
        for arm, arm_config in arms.items()
    }

    def way(name, gpus, compile, measured, compile_s=0.0):
        step_s = sum(m.step_s for m in measured) / len(measured)
        at_once = max(1, min(machine.holds(cpus, gpus), len(trials)))
        resources = Resources(
            gpus=gpus,
            cpus=cpus,
            threads=cpus,
            at_once=at_once,
            cores=machine.cores,
            compile=compile,
        )
        slowdown, warm_up_s = step_s / alone[first].step_s, measured[0].warm_up_s
        return _Way(
            name=name,
            resources=resources,
            step_s=step_s,
            slowdown=slowdown,
            warm_up_s=warm_up_s,
            compile_s=compile_s,
        )

    kind = {"never": "eager", "always": "compiled"}
    ways = [
        way(f"1 a GPU, {kind[eager]}", asked if asked and asked > 1 else 1.0, eager, [alone[first]])
    ]
    fitting = int(MEMORY_SHARE * machine.gpu_bytes / max(r.peak_bytes for r in alone.values()))
    most = min(
        fitting, machine.cores // cpus // machine.gpus, math.ceil(len(trials) / machine.gpus)
    )
    for packed in range(2, most + 1):
        if asked and packed > 1 / asked:
            break
        measured = measure([config] * packed, threads=cpus, compile=eager, together=True)
        ways.append(way(f"{packed} a GPU, {kind[eager]}", 1 / packed, eager, measured))
        if packed / ways[-1].step_s < WORTH_TRYING * (packed - 1) / ways[-2].step_s:
            break
    if wanted == "auto" and (asked is None or asked >= 1):
        compiled = measure([config], threads=cpus, compile="always")
        ways.append(
            way(
                "1 a GPU, compiled",
                ways[0].resources.gpus,
                "always",
                compiled,
                compiled[0].compile_s,
            )
        )
    if asked:
        ways = [w for w in ways if math.isclose(w.resources.gpus, asked)] or ways[-1:]
    return alone, ways


def goes_on(resources, scheduler):
    """Whether a trial's process goes on to the next trial, which saves it the seconds that torch takes to start.

    On a GPU each trial has its own, so that the memory of one is free for the next; under a scheduler too, since a trial that is stopped
    half-way may not let go in time; and where trials are compiled, since torch refuses the ninth network of one process.
    """
    return not resources.gpus and scheduler in (None, "none") and resources.compile != "always"


def _way_cost(way, arms, alone, trials, data, scheduler):
    """(seconds of the study, {arm: seconds of a trial})."""
    start_s = max(
        rehearsal.start_s for rehearsal in alone.values()
    )  # all but the first may have been rehearsed in one process
    each_s = 0.0 if goes_on(way.resources, scheduler) else start_s
    of_trial = {arm: each_s + _trial_seconds(arms[arm], alone[arm], way, data) for arm in arms}
    slots, compiled = (
        [start_s - each_s] * way.resources.at_once,
        {_what_is_compiled(next(iter(arms.values()))): 0.0},
    )
    for trial in trials:  # Ray starts them in this order, the next as soon as one ends
        began, network = slots[0], _what_is_compiled(arms[trial.arm])
        missing_s = way.compile_s if began < compiled.get(network, math.inf) else 0.0
        compiled.setdefault(network, began + missing_s)  # when the compiler's cache has it
        heapq.heapreplace(slots, began + of_trial[trial.arm] + missing_s)
    return max(slots), of_trial


def _what_is_compiled(config):
    hard_cases = config.learning.hard_case_factor > 1
    return (
        config.model,
        config.loss,
        config.data.patch_size,
        config.train.batch_size,
        config.train.precision,
        hard_cases,
    )


def _trial_seconds(config, rehearsal, way, data):
    """A trial from its first step to its last score."""
    train = config.train
    validations = math.ceil(train.epochs / train.validate_every_epochs)
    shared = max(1.0, way.slowdown)  # evaluation is never compiled, but it shares the device
    tested = len(data.test) + min(len(data.validation), 2)  # and the two cases of a picture
    evaluation = (
        validations * len(data.validation) * rehearsal.validate_case_s
        + tested * rehearsal.test_case_s
    )
    restarts = train.epochs if config.learning.hard_case_factor > 1 else 1  # of the loader
    return (
        _steps(config) * rehearsal.step_s * way.slowdown
        + restarts * rehearsal.epoch_s
        + shared * evaluation
        + way.warm_up_s
    )


def _steps(config):
    return config.train.epochs * config.train.steps_per_epoch


def _checkpoint_bytes(config, rehearsal):
    """best, last, and the copies kept on the way."""
    kept = (
        config.train.epochs // config.train.keep_every_epochs
        if config.train.keep_every_epochs
        else 0
    )
    return (1 + kept) * rehearsal.weights_bytes + rehearsal.resume_bytes


def _why(rows, chosen):
    if len(rows) == 1:
        return f"{rows[0]['way']}: the only way that this machine and the options leave"
    others = ", ".join(
        f"{row['way']} {clock(row['study_s'])}" for i, row in enumerate(rows) if i != chosen
    )
    return f"{rows[chosen]['way']}: ends soonest, in {clock(rows[chosen]['study_s'])} ({others})"


def clock(seconds):
    """2.5 h, 12 min or 40 s."""
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 5400
        else f"{seconds / 60:.0f} min"
        if seconds >= 90
        else f"{seconds:.0f} s"
    )
