"""The engine: a StudySpec becomes Ray Tune trials, MLflow runs and a report."""

import contextlib
import dataclasses
import functools
import json
import time
from pathlib import Path

from segmamba.config import preset
from segmamba.data.cases import notes_on
from segmamba.data.preprocess import check_patch_fits, prepare_cases
from segmamba.data.source import labelled_cases, source_changes, unlabelled_cases
from segmamba.errors import UserError
from segmamba.files import check_writable, is_abandoned, locked
from segmamba.orchestration.engine.caching import on_this_node, prepare_on_nodes
from segmamba.orchestration.engine.machine import check_gpus_per_trial
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.orchestration.engine.planning import (
    Prepared,
    infeasible_arms,
    planned_study,
    say_notes,
    splits_of,
)
from segmamba.orchestration.engine.study_runner import StudyRunner
from segmamba.studies.spec import FOUND, TrialPlan, resolve

__all__ = ["StudyOptions", "open_study", "plan_study", "run_study"]


def plan_study(study, options, progress):
    """The Budget of a study on this machine or its cluster, measured; nothing is begun but the cache."""
    ready = _prepared(study, options, progress)
    planned = planned_study(ready, options, {}, "")
    say_notes(planned, progress)
    with _machine(ready, options, progress) as machine:
        return _budget(planned, ready, options, machine, progress)


def run_study(study, options, progress):
    """Run a study, as its file declares it, to its report: (Study, folder). `progress` is a StudyProgress (or its null object) that watches.

    Whatever the user got wrong is found before the study's folder, its MLflow run and its trials exist. A study that is stopped
    (SIGINT) ends the same way, with the trials it has; `options.resume` goes on with it.
    """
    with open_study(study, options, progress) as done:
        return done


@contextlib.contextmanager
def open_study(study, options, progress):
    """`run_study` for whoever has more to do with its trials: the study is unfinished, and this process its driver, until the block ends."""
    ready = _prepared(study, options, progress)
    with contextlib.ExitStack() as held:
        with (
            _machine(ready, options, progress) as machine,
            _ray(options, machine, held) as (uri, experiment, environment),
        ):
            _close_stale(uri, experiment, ready.spec.name, progress)
            planned = planned_study(ready, options, environment, uri)
            study, resources = _begun(planned, ready, options, experiment, machine, progress)
            folder, started = Path(options.output).resolve() / study.name, time.time()
            held.enter_context(locked(folder))
            statuses = held.enter_context(_parent_run(study, experiment, progress))
            StudyRunner(ready, options, folder, experiment, study, resources, progress).run()
        yield _concluded(ready.spec, study, experiment, folder, started, statuses, progress), folder


@contextlib.contextmanager
def _machine(ready, options, progress):
    """The Machine that a study will run on, joined where it is a cluster, with the cases where its trials read them."""
    from segmamba.orchestration.engine.cluster import machine_for

    uri = ""
    if options.ray_address:
        from segmamba.orchestration.tracking.store import store_uri

        uri = store_uri(options.output)
    with machine_for(options.ray_address, options.cpus, options.output, uri) as machine:
        check_gpus_per_trial(options.gpus_per_trial, machine)
        if (
            options.ray_address and options.cache
        ):  # otherwise all nodes read what this one has prepared
            prepare_on_nodes(
                ready.cases,
                options.cache,
                ready.base.data,
                progress=progress.steps("preparing cases on the nodes"),
            )
        yield machine


def _ray(options, machine, waiting):
    """Ray for as long as a block takes: the cluster that was joined, or one of our own, whose end `waiting` waits for.

    The block gets what `_opened` does: only now come the slow imports, beside Ray's start. All before this answers within a second.
    """
    from segmamba.orchestration.engine.cluster import ray_here

    if options.ray_address:
        return contextlib.nullcontext(_opened(options))
    return ray_here(machine, functools.partial(_opened, options), waiting)


def _opened(options):
    """(the store's URI, its experiment, this process's environment), with all imported that trials are started with."""
    import segmamba.orchestration.engine.callbacks  # noqa: F401  imports Ray Tune
    import segmamba.orchestration.tracking.store as store
    from segmamba.environment import describe_environment

    uri = store.store_uri(options.output)
    return uri, store.open_store(uri, options.output), describe_environment()


def _close_stale(uri, experiment, name, progress):
    """End the runs of studies whose driver is gone, with a line for each."""
    from segmamba.orchestration.tracking.runs import close_stale

    for stale in close_stale(uri, experiment, is_abandoned):
        hint = "; --resume goes on with it" if stale.rpartition("_Run")[0] == name else ""
        progress.say(f"closed   {stale}: its process is gone{hint}")


def _prepared(study, options, progress):
    base = preset(options.preset).changed(
        {"train.early_stop_epochs": 0}
        | source_changes(options.data, options.labels)
        | options.changes
    )
    spec = resolve(study, base).only(options.arms, options.preset)
    if spec.space and options.folds:
        raise UserError(f"--folds {options.folds}: a search trains on one split; leave --folds out")
    check_writable(options.output)
    if options.scheduler == "pbt":
        spec = spec.as_population()
        spec.budget.rounds_every(base.train)
    configs, spec = spec.configs(base, options.changes), spec.plain(base)
    cases, source, left_out = labelled_cases(base, options.output, progress.steps)
    unlabelled, counted = (
        unlabelled_cases(base, configs.values()),
        progress.steps("preparing cases"),
    )
    prepared = prepare_cases(
        [*cases, *unlabelled],
        on_this_node(_cache(options)),
        base.data,
        workers=options.cpus,
        progress=counted,
    )
    for config in configs.values():
        check_patch_fits(prepared, config.data)
    splits = splits_of(prepared[: len(cases)], prepared[len(cases) :], options, base)
    return Prepared(
        spec,
        base,
        configs,
        [*cases, *unlabelled],
        source,
        [*([] if unlabelled else left_out), *notes_on(cases)],
        splits,
    )


def _cache(options):
    return options.cache or str(Path(options.output).resolve() / "cache")


def _budget(planned, ready, options, machine, progress):
    """The Budget of a study that is planned, measured where that pays, on the first node of a cluster whose nodes are alike.

    A search's trials cost what the baseline does.
    """
    from segmamba.environment import git_commit
    from segmamba.orchestration.engine.measuring import LocalMeasurement, Measure, RemoteMeasurement
    from segmamba.orchestration.engine.resource_plan import plan, unmeasured

    spec, configs = ready.spec, ready.configs
    searched = (options.trials or spec.budget.trials) if spec.space else 0
    options = (
        dataclasses.replace(options, scheduler=options.scheduler or "asha")
        if spec.space
        else options
    )
    trials = [TrialPlan(arm=spec.baseline, seed=0)] * searched + planned.plans
    if machine.differing:
        return unmeasured(
            configs[spec.baseline],
            trials,
            machine,
            options,
            f"not measured, since the nodes differ: {machine.differing}",
        )
    kept, first = Path(options.output).resolve() / "cache" / "rehearsals", ready.first_split
    feasible = {
        arm: config for arm, config in configs.items() if arm not in infeasible_arms(configs)
    }
    trials = [trial for trial in trials if trial.arm in feasible]
    place, processes, at_once = machine.name, LocalMeasurement(), machine.cores
    for node in machine.nodes[:1]:
        place, processes, at_once = (
            f"{node.kind} on {node.host}",
            RemoteMeasurement(node, ready.cases, options.cache),
            machine.trial_cores,
        )
    with Measure(
        first, kept, [place, git_commit()], at_once=at_once, say=progress.say, processes=processes
    ) as measure:
        budget = plan(feasible, trials, first, machine, measure, options)
    measured = (
        f"{machine.name}; measured on {place}" if machine.nodes and budget.arms else machine.name
    )
    return dataclasses.replace(budget, machine=measured)


@contextlib.contextmanager
def _parent_run(study, experiment, progress):
    """The study's MLflow run while it runs: gives a list for its final status; FAILED after an exception, KILLED after Ctrl-C, as are the
    trials that were running.

    An absent store or a full disk ends the study as StudyHalted; then the run stays as it is, and `--resume` finds it.
    """
    import segmamba.orchestration.tracking.store as store
    from segmamba.orchestration.tracking.patience import StudyHalted, disk_full, is_full, retry
    from segmamba.orchestration.tracking.runs import close_stopped_trials

    uri, parent, statuses = study.mlflow_uri, study.parent_run_id, []
    retry(lambda: store.reopen_run(uri, parent), progress.say, uri=uri)
    try:
        yield statuses
    except StudyHalted:
        raise
    except BaseException as error:
        if is_full(error):
            raise disk_full(error) from error
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        retry(
            lambda: (
                close_stopped_trials(uri, experiment, parent),
                store.end_run(uri, parent, status),
            ),
            progress.say,
            uri=uri,
        )
        raise
    retry(lambda: store.end_run(uri, parent, statuses[-1]), progress.say, uri=uri)


def _concluded(spec, study, experiment, folder, started, statuses, progress):
    """The Study as it stands in the end, its report written and in MLflow; `statuses` gets its status."""
    import segmamba.orchestration.tracking.runs as tracking
    from segmamba.orchestration.tracking.patience import retry
    from segmamba.orchestration.tracking.registry import register_best
    from segmamba.orchestration.tracking.study_reader import read_study
    from segmamba.reports.report import write_report

    uri, parent = study.mlflow_uri, study.parent_run_id

    def read():
        tracking.close_stopped_trials(uri, experiment, parent)
        return read_study(uri, parent, seconds=time.time() - started)

    study = retry(read, progress.say, uri=uri)
    report = write_report(study, folder)
    retry(
        lambda: (
            tracking.log_report(uri, study, report),
            spec.registers_best and register_best(uri, study),
        ),
        progress.say,
        uri=uri,
    )
    statuses.append(_final_status(study))
    return study


def _begun(planned, ready, options, experiment, machine, progress):
    """(the Study with its name, its parent run and the trials it has, its Resources): a new one, or the one that `--resume` found."""
    from segmamba.orchestration.engine.resource_plan import resumed
    from segmamba.orchestration.tracking.runs import start_study, study_folder
    from segmamba.orchestration.tracking.study_reader import unfinished_study
    from segmamba.training.run_folder import next_run_folder

    if options.resume:
        found = unfinished_study(planned.mlflow_uri, experiment, ready.spec.name)
        if found:
            _check_same(found, planned)
            check_place(
                study_folder(found.mlflow_uri, found.parent_run_id),
                Path(options.output).resolve() / found.name,
            )
            ended = sum(trial.status == "FINISHED" for trial in found.trials)
            progress.say(f"resume   {found.name}: {ended} of {len(found.trials)} trials are done")
            return found, resumed(
                found.resource_plan, ready.configs[ready.spec.baseline], len(found.trials) - ended, machine
            ).resources
        progress.say(f"resume   no unfinished {ready.spec.name} found: starting one")
    budget = _budget(planned, ready, options, machine, progress)
    folder = next_run_folder(Path(options.output).resolve(), ready.spec.name)
    study = dataclasses.replace(planned, name=folder.name, resource_plan=budget.as_dict())
    parent = start_study(study.mlflow_uri, experiment, study, ready.splits, folder)
    return dataclasses.replace(study, parent_run_id=parent), budget.resources


def check_place(began_in, folder):
    """A UserError where a study would go on in another folder than the one that holds its checkpoints; one that was moved may."""
    if began_in and Path(began_in) != folder and (Path(began_in).is_dir() or not folder.is_dir()):
        raise UserError(
            f"--resume: {folder.name} began in {began_in}; give --output {Path(began_in).parent}, or leave --resume out"
        )


def _check_same(found, planned):
    """A UserError unless the study found asks the same question of the same data with the same settings."""
    before, now = _plain(found.config), _plain(planned.config)
    differing = [
        f"{name} was {before.get(name)!r} and is {value!r}"
        for name, value in now.items()
        if before.get(name) != value
    ]
    arms = [
        {arm: changes for arm, changes in study.arms.items() if arm != FOUND}
        for study in (found, planned)
    ]
    differing += ["arms differ"] if _plain(arms[0]) != _plain(arms[1]) else []
    same = ("seeds", "folds", "space", "round_every")
    differing += [
        f"{name} differ"
        for name in same
        if _plain(getattr(found, name)) != _plain(getattr(planned, name))
    ]
    differing += [
        f"the {name} cases differ"
        for name in ("train", "validation", "test")
        if getattr(found.data, name) != getattr(planned.data, name)
    ]
    if differing:
        raise UserError(
            f"--resume: {found.name} is not the same study ({'; '.join(differing[:3])}); give its options, or leave --resume out"
        )


def _plain(value):
    """As it comes back from the store: tuples are lists."""
    return json.loads(json.dumps(value))


def _final_status(study):
    """MLflow's status of the parent: KILLED while trials are missing, FAILED where none ended well."""
    states = {trial.status for trial in (*study.trials, *study.searched)}
    if states & {"KILLED", "RUNNING", "NOT STARTED"}:
        return "KILLED"
    return "FINISHED" if "FINISHED" in states else "FAILED"
