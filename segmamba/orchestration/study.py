"""The engine: a StudySpec becomes Ray Tune trials, MLflow runs and a report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.clock import steady_s
from segmamba.config import Config, preset
from segmamba.data.source import prepare_split, source_changes
from segmamba.disks import disk_reason, gone_line, is_gone
from segmamba.errors import UserError
from segmamba.files import check_writable, is_abandoned, locked
from segmamba.leftovers import remove_leftovers
from segmamba.orchestration.conclusion import conclude, final_status
from segmamba.orchestration.engine.caching import on_this_node, prepare_on_nodes
from segmamba.orchestration.engine.live_page import LivePage
from segmamba.orchestration.engine.machine import Machine, check_gpus_per_trial
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.orchestration.engine.planning import (
    Prepared,
    planned_study,
    show_notes,
    splits_of,
)
from segmamba.orchestration.engine.power_plan import planned_power
from segmamba.orchestration.engine.ray_watch import RayWatch
from segmamba.orchestration.engine.resume import check_place, check_same, check_same_cases
from segmamba.orchestration.engine.study_resources import choose_compilation, plan_resources
from segmamba.orchestration.engine.study_runner import StudyRunner, study_context
from segmamba.orchestration.tracking.database import check_results
from segmamba.studies.comparable import check_regions
from segmamba.studies.results import Study
from segmamba.studies.spec import StudySpec, resolve
from segmamba.training.compiler_cache import CompilerCache

if TYPE_CHECKING:
    from segmamba.orchestration.engine.compiling_ahead import StudyGraphs
    from segmamba.orchestration.engine.context import TrialFunction
    from segmamba.orchestration.engine.progress import ProgressDisplay
    from segmamba.orchestration.engine.resource_plan import ResourcePlan
    from segmamba.orchestration.engine.resources import Resources
    from segmamba.orchestration.tracking.store import Store
    from segmamba.orchestration.tracking.study_run import StudyRun

__all__ = ["StudyOptions", "open_study", "plan_study", "run_study"]

Declared = StudySpec | Callable[[Config], StudySpec]
"""What a study's file declares: the study, or a function that makes it from a preset's Config."""


def plan_study(study: Declared, options: StudyOptions, progress: ProgressDisplay) -> ResourcePlan:
    """Measure what a study will cost on this machine or its cluster; only the cache is begun.

    Args:
        study: As its file declares it.
        options: What the user chose.
        progress: A StudyProgress or its null object.

    Raises:
        UserError: An option, a setting or a case is wrong.
    """
    ready = _prepared(study, options, progress)
    planned = planned_study(ready, options)
    show_notes(planned, progress)
    with (
        _machine(ready, options, progress, RayWatch()) as machine,
        _compiling(planned, ready, options, machine) as graphs,
    ):
        graphs.settled(progress)
        plan = plan_resources(planned, ready, options, machine, graphs.choice, progress)
    return dataclasses.replace(plan, power=planned_power(ready.spec.name, planned, options))


def run_study(
    study: Declared, options: StudyOptions, progress: ProgressDisplay
) -> tuple[Study, Path]:
    """Run a study to its report.

    Whatever the user got wrong is found before the study's folder, its MLflow run and its trials
    exist. A study that is stopped (SIGINT) ends the same way, with the trials that it has;
    `options.resume` goes on with it.

    Args:
        study: As its file declares it.
        options: What the user chose.
        progress: A StudyProgress or its null object.

    Returns:
        The Study as it stands in the end, and its folder.

    Raises:
        UserError: An option, a setting or a case is wrong.
    """
    with open_study(study, options, progress) as finished:
        return finished


@contextlib.contextmanager
def open_study(
    declared: Declared, options: StudyOptions, progress: ProgressDisplay
) -> Iterator[tuple[Study, Path]]:
    """Run a study as `run_study`, for who has more to do with its trials.

    Until the block ends the study is unfinished and this process is its driver.
    """
    ready = _prepared(declared, options, progress)
    planned = planned_study(ready, options)
    watch = RayWatch()
    with contextlib.ExitStack() as held:
        with (
            _machine(ready, options, progress, watch) as machine,
            _compiling(planned, ready, options, machine) as graphs,
            _ray(options, machine, held, watch) as (store, environment),
        ):
            _close_abandoned(store, ready.spec.name, progress)
            planned = dataclasses.replace(
                planned, environment=environment, mlflow_uri=store.uri, mlflow_page=store.page
            )
            study, run, resources = _begun(
                planned, ready, options, store, machine, graphs, progress
            )
            folder = Path(options.output).resolve() / study.name
            held.enter_context(locked(folder))
            remove_leftovers(folder.parent, folder, *folder.glob("*/"))
            statuses = held.enter_context(_running(run, folder, progress, watch))
            progress.watch(folder)
            context = study_context(ready, options, study, resources, run=run, folder=folder)
            live = held.enter_context(LivePage(run, folder, progress))
            StudyRunner(
                ready, options, study, resources, context, live, graphs, _trial_function()
            ).run()
        live.close()
        concluded = conclude(ready.spec, options, run, folder, progress)
        statuses.append(final_status(concluded))
        yield concluded, folder


@contextlib.contextmanager
def _machine(
    ready: Prepared, options: StudyOptions, progress: ProgressDisplay, watch: RayWatch
) -> Iterator[Machine]:
    """The Machine that a study runs on, a cluster joined, with the cases where trials read them."""
    from segmamba.orchestration.engine.cluster import machine_for

    uri = ""
    if options.ray_address:
        from segmamba.orchestration.tracking.store import store_uri

        uri = store_uri(options.output)
    with machine_for(options.ray_address, options.cpus, options.output, uri, watch) as machine:
        check_gpus_per_trial(options.gpus_per_trial, machine)
        if options.ray_address and options.cache:  # otherwise all nodes read what this one prepared
            prepare_on_nodes(
                ready.data.cases,
                options.cache,
                ready.base.data,
                progress=progress.steps("preparing cases on the nodes"),
            )
        yield machine


def _compiling(
    planned: Study, ready: Prepared, options: StudyOptions, machine: Machine
) -> StudyGraphs:
    """The graphs of a study; within its block those are compiled that the compiler lacks."""
    from segmamba.orchestration.engine.compiling_ahead import StudyGraphs

    choice = choose_compilation(planned, ready, options, machine)
    return StudyGraphs(choice, machine, CompilerCache.below(options.output))


def _ray(
    options: StudyOptions, machine: Machine, held: contextlib.ExitStack, watch: RayWatch
) -> contextlib.AbstractContextManager[tuple[Store, dict[str, str]]]:
    """Ray while a block runs: the cluster that was joined, or one of our own.

    Only now come the slow imports, beside Ray's start: all before this answers within a second.
    `held` waits for the end of a Ray of our own.
    """
    from segmamba.orchestration.engine.cluster import ray_here

    if options.ray_address:
        return contextlib.nullcontext(_opened(options))
    return ray_here(machine, functools.partial(_opened, options), held, watch)


def _opened(options: StudyOptions) -> tuple[Store, dict[str, str]]:
    """The store and this process's environment, with all imported that trials are started with."""
    import segmamba.orchestration.engine.callbacks  # noqa: F401  it imports Ray Tune
    from segmamba.environment import describe_environment
    from segmamba.orchestration.tracking.store import open_store

    return open_store(options.output), describe_environment()


def _trial_function() -> TrialFunction:
    """What each trial runs in a process of its own; Ray's start has imported it by now."""
    from segmamba.orchestration.engine.trainable import run_trial

    return run_trial


def _close_abandoned(store: Store, name: str, progress: ProgressDisplay) -> None:
    """End the runs of studies whose driver is gone, with a line for each."""
    from segmamba.orchestration.tracking.study_run import close_abandoned

    for closed in store.retry(lambda: close_abandoned(store, is_abandoned), progress.say):
        hint = "; --resume goes on with it" if closed.rpartition("_Run")[0] == name else ""
        progress.say(f"closed   {closed}: its process is gone{hint}")


def _with_whole_path(base: Config) -> Config:
    """Name the weights that trials start from by their whole path: trials run in another folder."""
    if not base.learning.initial_weights:
        return base
    path = Path(base.learning.initial_weights).absolute()
    if not path.is_file():
        raise UserError(f"learning.initial_weights={path}: there is no such file")
    return base.changed({"learning.initial_weights": str(path)})


def _prepared(study: Declared, options: StudyOptions, progress: ProgressDisplay) -> Prepared:
    """The study's question and its cases, checked and cached."""
    base = preset(options.preset).changed(
        {"train.early_stop_epochs": 0}
        | source_changes(options.data, options.labels, options.names)
        | options.changes
    )
    base = _with_whole_path(base)
    spec = resolve(study, base).only(options.arms, options.preset)
    if spec.space and options.folds:
        raise UserError(f"--folds {options.folds}: a search trains on one split; leave --folds out")
    check_results(options.output)
    if options.cache and not options.ray_address:
        check_writable(on_this_node(options.cache), "--cache")
    if options.scheduler == "pbt":
        spec = spec.as_population()
        spec.budget.rounds_every(base.train)
    configs, spec = spec.configs(base, options.changes), spec.plain(base)
    data = prepare_split(
        base,
        options.output,
        steps=progress.steps,
        learners=configs.values(),
        cache=on_this_node(options.cache or str(Path(options.output).resolve() / "cache")),
        workers=options.cpus,
    )
    base = data.resolved(base)
    configs = {arm: data.resolved(config) for arm, config in configs.items()}
    check_regions(spec.name, (spec.hypothesis, *spec.secondary), data.label_set)
    return Prepared(spec, base, configs, data, splits_of(data, options, base))


@contextlib.contextmanager
def _running(
    run: StudyRun, folder: Path, progress: ProgressDisplay, watch: RayWatch
) -> Iterator[list[str]]:
    """The study's MLflow run while it runs; the block appends its final status to what it gets.

    The run ends FAILED after an exception and KILLED after Ctrl-C and where Ray has died, and so do
    the trials that were running. An absent store, a full disk or a folder that is gone ends the
    study as StudyHalted; then the run stays as it is, and `--resume` finds it.
    """
    from segmamba.orchestration.tracking.store import StudyHalted, disk_full

    def end(status: str) -> None:
        run.close_stopped_trials()
        run.end(status)

    watch.closing = functools.partial(end, "KILLED")
    retry, statuses = run.store.retry, []  # type: ignore[var-annotated]  # filled by the block
    retry(functools.partial(run.begin, steady_s()), progress.say)
    try:
        yield statuses
    except StudyHalted:
        raise
    except BaseException as error:
        if disk_reason(error):
            raise disk_full(error, folder) from error
        if is_gone(error, folder):
            raise StudyHalted(gone_line(folder)) from error
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        retry(functools.partial(end, status), progress.say)
        raise
    retry(functools.partial(run.end, statuses[-1]), progress.say)


def _begun(
    planned: Study,
    ready: Prepared,
    options: StudyOptions,
    store: Store,
    machine: Machine,
    graphs: StudyGraphs,
    progress: ProgressDisplay,
) -> tuple[Study, StudyRun, Resources]:
    """The Study with its name and the trials it has: a new one, or the one `--resume` finds."""
    from segmamba.orchestration.engine.resources import resumed_resources
    from segmamba.orchestration.tracking.study_reader import unfinished_study
    from segmamba.orchestration.tracking.study_run import StudyRun, start_study
    from segmamba.training.run_folder import next_run_folder

    results, name = Path(options.output).resolve(), ready.spec.name
    stopped = None
    if options.resume:
        stopped = store.retry(lambda: unfinished_study(store, name, results), progress.say)
    if stopped:
        run = StudyRun(store, stopped.parent_run_id)
        check_same(stopped, planned)
        check_same_cases(stopped, ready.splits)
        kept = store.retry(lambda: run.folder, progress.say)
        check_place(kept, results / stopped.name)
        if kept and Path(kept) != results / stopped.name:
            run.moved_to(results / stopped.name)
        ended = sum(trial.status == "FINISHED" for trial in stopped.trials)
        progress.say(f"resume   {stopped.name}: {ended} of {len(stopped.trials)} trials are done")
        left, baseline = len(stopped.trials) - ended, ready.configs[ready.spec.baseline]
        return (
            stopped,
            run,
            resumed_resources(stopped.resource_plan.get("resources"), machine, baseline, left),
        )
    if options.resume:
        progress.say(f"resume   no unfinished {name} found in {results}: starting one")
    graphs.settled(progress)  # what is planned, kept for a resume and reused depends on it
    resource_plan = plan_resources(planned, ready, options, machine, graphs.choice, progress)
    folder = next_run_folder(results, name)
    study = dataclasses.replace(planned, name=folder.name, resource_plan=resource_plan.as_dict())
    start = functools.partial(start_study, store, study, ready.splits, folder, uuid.uuid4().hex)
    run = store.retry(start, progress.say)
    return dataclasses.replace(study, parent_run_id=run.run_id), run, resource_plan.resources
