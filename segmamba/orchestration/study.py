"""The engine: a StudySpec becomes Ray Tune trials, MLflow runs and a report."""

import contextlib
import dataclasses
import json
import shutil
import time
from pathlib import Path

from segmamba.config import preset
from segmamba.data.cases import notes_on
from segmamba.data.preprocess import check_patch_fits, prepare_cases
from segmamba.data.source import labelled_cases, source_changes, unlabelled_cases
from segmamba.errors import UserError
from segmamba.files import check_writable
from segmamba.orchestration.engine.budget import check_gpus_per_trial
from segmamba.orchestration.engine.caching import on_this_node, prepare_on_nodes
from segmamba.orchestration.engine.driver import is_abandoned, only_driver
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.orchestration.engine.planning import (
    announce,
    fold_changes,
    infeasible_arms,
    planned_study,
    say_notes,
    splits_of,
)  # fmt: skip
from segmamba.orchestration.question.spec import FOUND, TrialPlan, resolve

__all__ = ["StudyOptions", "open_study", "plan_study", "run_study"]


def plan_study(study, options, progress):
    """The Budget of a study on this machine or its cluster, measured; nothing is begun but the cache."""
    import segmamba.orchestration.tracking.store as store

    base, spec, configs, cases, source, notes, splits = _prepared(study, options, progress)
    planned = planned_study(spec, options, base, cases, splits, source, notes, {}, "")
    say_notes(planned, progress)
    with _machine(options, store.store_uri(options.output), cases, base, progress) as machine:
        return _budget(planned, spec, options, configs, cases, splits, machine, progress)


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
    started = time.time()
    base, spec, configs, cases, source, notes, splits = _prepared(study, options, progress)

    # Only now the slow imports: everything above answers within a second.
    import segmamba.orchestration.tracking.runs as tracking
    import segmamba.orchestration.tracking.store as store
    from segmamba.environment import describe_environment

    environment, uri = describe_environment(), store.store_uri(options.output)
    with _machine(options, uri, cases, base, progress) as machine:
        experiment = store.open_store(uri, options.output)
        for name in tracking.close_stale(uri, experiment, is_abandoned):
            hint = "; --resume goes on with it" if name.rpartition("_Run")[0] == spec.name else ""
            progress.say(f"closed   {name}: its process is gone{hint}")
        planned = planned_study(spec, options, base, cases, splits, source, notes, environment, uri)
        study, resources = _begun(planned, spec, options, configs, cases, splits, experiment, machine, progress)
        folder = Path(options.output).resolve() / study.name
        with only_driver(folder), _parent_run(study, progress) as statuses:
            _Engine(spec, options, configs, cases, splits, folder, experiment, study, resources, progress).run()
            yield _concluded(spec, study, experiment, folder, started, statuses, progress), folder


@contextlib.contextmanager
def _machine(options, uri, cases, base, progress):
    """The Machine that a study will run on, joined where it is a cluster, with the cases where its trials read them."""
    from segmamba.orchestration.engine.cluster import machine_for

    with machine_for(options.ray_address, options.cpus, options.output, uri) as machine:
        check_gpus_per_trial(options.gpus_per_trial, machine)
        if options.ray_address and options.cache:  # otherwise all nodes read what this one has prepared
            prepare_on_nodes(cases, options.cache, base.data, progress=progress.steps("preparing cases on the nodes"))
        yield machine


def _prepared(study, options, progress):
    """(base Config, StudySpec, {arm: Config}, labelled and unlabelled cases, what they are, notes on them, {fold: Split})."""
    base = _base(options)
    spec = resolve(study, base).only(options.arms, options.preset)
    if spec.space and options.folds:
        raise UserError(f"--folds {options.folds}: a search trains on one split; leave --folds out")
    check_writable(options.output)
    if options.scheduler == "pbt":
        spec = spec.as_population()
        spec.budget.rounds_every(base.train)
    configs, spec = spec.configs(base, options.changes), spec.plain(base)
    cases, source, left_out = labelled_cases(base, options.output, progress.steps)
    unlabelled, counted = unlabelled_cases(base, configs.values()), progress.steps("preparing cases")
    prepared = prepare_cases([*cases, *unlabelled], on_this_node(_cache(options)), base.data, workers=options.cpus, progress=counted)
    for config in configs.values():
        check_patch_fits(prepared, config.data)
    splits = splits_of(prepared[: len(cases)], prepared[len(cases) :], options, base)
    return base, spec, configs, [*cases, *unlabelled], source, [*([] if unlabelled else left_out), *notes_on(cases)], splits


def _cache(options):
    return options.cache or str(Path(options.output).resolve() / "cache")


def _budget(planned, spec, options, configs, cases, splits, machine, progress):
    """The Budget of a study that is planned, measured where that pays, on the first node of a cluster whose nodes are alike.

    A search's trials cost what the baseline does.
    """
    from segmamba.environment import git_commit
    from segmamba.orchestration.engine.budget import plan, unmeasured
    from segmamba.orchestration.engine.measuring import Here, Measure, There

    searched = (options.trials or spec.budget.trials) if spec.space else 0
    trials = [TrialPlan(arm=spec.baseline, seed=0)] * searched + planned.plans
    if machine.differing:
        return unmeasured(configs[spec.baseline], trials, machine, options, f"not measured, since the nodes differ: {machine.differing}")
    kept, first = Path(options.output).resolve() / "cache" / "rehearsals", next(iter(splits.values()))
    feasible = {arm: config for arm, config in configs.items() if arm not in infeasible_arms(configs)}
    trials = [trial for trial in trials if trial.arm in feasible]
    place, processes, at_once = machine.name, Here(), machine.cores
    for node in machine.nodes[:1]:
        place, processes, at_once = f"{node.kind} on {node.host}", There(node, cases, options.cache), machine.trial_cores
    with Measure(first, kept, [place, git_commit()], at_once=at_once, say=progress.say, processes=processes) as measure:
        budget = plan(feasible, trials, first, machine, measure, options)
    measured = f"{machine.name}; measured on {place}" if machine.nodes and budget.arms else machine.name
    return dataclasses.replace(budget, machine=measured)


@contextlib.contextmanager
def _parent_run(study, progress):
    """The study's MLflow run while it runs: gives a list for its final status; FAILED after an exception, KILLED after Ctrl-C.

    An absent store or a full disk ends the study as StudyHalted; then the run stays as it is, and `--resume` finds it.
    """
    import segmamba.orchestration.tracking.store as store
    from segmamba.orchestration.tracking.patience import StudyHalted, disk_full, insist, is_full

    uri, parent, statuses = study.mlflow_uri, study.parent_run_id, []
    insist(lambda: store.reopen_run(uri, parent), progress.say, uri=uri)
    try:
        yield statuses
    except StudyHalted:
        raise
    except BaseException as error:
        if is_full(error):
            raise disk_full(error) from error
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        insist(lambda: store.end_run(uri, parent, status), progress.say, uri=uri)
        raise
    insist(lambda: store.end_run(uri, parent, statuses[-1]), progress.say, uri=uri)


def _concluded(spec, study, experiment, folder, started, statuses, progress):
    """The Study as it stands in the end, its report written and in MLflow; `statuses` gets its status."""
    import segmamba.orchestration.tracking.runs as tracking
    from segmamba.orchestration.reports.report import write_report
    from segmamba.orchestration.tracking.patience import insist
    from segmamba.orchestration.tracking.registry import register_best
    from segmamba.orchestration.tracking.study_reader import read_study

    uri, parent = study.mlflow_uri, study.parent_run_id

    def read():
        tracking.close_stopped_trials(uri, experiment, parent)
        return read_study(uri, parent, seconds=time.time() - started)

    study = insist(read, progress.say, uri=uri)
    report = write_report(study, folder)
    insist(lambda: (tracking.log_report(uri, study, report), spec.registers_best and register_best(uri, study)), progress.say, uri=uri)
    statuses.append(_final_status(study))
    return study


def _base(options):
    """The Config that the arms change."""
    return preset(options.preset).changed({"train.early_stop_epochs": 0} | source_changes(options.data, options.labels) | options.changes)


class _Engine:
    """One start of a study: what it has to run, and running it."""

    def __init__(self, spec, options, configs, cases, splits, folder, experiment, study, resources, progress):
        self.spec, self.options, self.study, self.progress, self.resources = spec, options, study, progress, resources
        self.base = _base(options)
        self.context = _context(configs, self._folds(splits), folder, experiment, study, resources, cases if options.cache else (), options.cache)

    def _folds(self, splits):
        return {fold: (fold_changes(self.options, self.base, fold), split) for fold, split in splits.items()}

    def run(self):
        """Search, where there is a space; then every arm with every seed on every fold."""
        if self.spec.space:
            best, schedule = self._search()
            if best is None:
                return
            found = self.context.configs | {FOUND: self.base.changed(best.changes)}
            self.context = dataclasses.replace(self.context, configs=found, schedule=schedule)
        ended = {(t.arm, t.seed, t.fold) for t in self.study.trials if t.status in ("FINISHED", "INFEASIBLE")}
        plans = [plan for plan in self.study.plans if (plan.arm, plan.seed, plan.fold) not in ended]
        plans = self._without_reused(self._without_infeasible(plans))
        announce(self.study, self.resources, len(plans), self.progress)
        if plans:  # none where only the report was missing
            from segmamba.orchestration.engine.launch import run_trials

            self.progress.trials(plans, self.base.train.epochs, self.resources.at_once)
            run_trials(plans, self.context, self.resources, self.progress, scheduler=self.arms_scheduler, base=self.base)

    @property
    def arms_scheduler(self):
        """What the judged arms train under; a population is of the search alone."""
        return "none" if self.options.scheduler in (None, "pbt") else self.options.scheduler

    def _search(self):
        """(the Trial that minival likes best, the Stages of its weights); (None, ()) where the search was stopped or found nothing."""
        from segmamba.orchestration.engine.launch import COPIES
        from segmamba.orchestration.engine.search import ENDED, best_trial, importance
        from segmamba.orchestration.tracking.runs import store_found
        from segmamba.orchestration.tracking.study_reader import read_study

        baseline = {name: self.base.to_flat_dict()[name] for name in self.spec.space}
        ended, wanted = [t.arm for t in self.study.searched if t.status in ENDED], self.options.trials or self.spec.budget.trials
        rounds = self._rounds(baseline, wanted) if self.study.round_every else None
        missing = wanted - len(ended)
        if missing > 0:
            self.progress.say(f"search   {missing} of {wanted} trials to run over {len(self.spec.space)} settings, chosen by minival")
            self.progress.trials([], self.base.train.epochs, self.resources.at_once, further=missing)
            self._launch_search(baseline, missing, rounds, ended)
        study = read_study(self.context.mlflow_uri, self.study.parent_run_id, seconds=0.0)
        if sum(trial.status in ENDED for trial in study.searched) < wanted:
            return None, ()
        shutil.rmtree(self.context.folder / COPIES, ignore_errors=True)  # copies that nobody takes any more
        best = best_trial(study.searched, baseline)
        if best is None:
            return None, ()
        schedule = tuple(rounds.lineage(best.arm)) if rounds else ()
        shares = {} if rounds else importance(self.spec.space, study.searched)  # a member's Dice comes of many settings
        store_found(self.context.mlflow_uri, self.study.parent_run_id, best, shares, schedule)
        self.progress.say(f"found    {best.arm}: " + ", ".join(f"{name} {value}" for name, value in best.changes.items()))
        return best, schedule

    def _rounds(self, baseline, size):
        """The Rounds of a population, begun."""
        from segmamba.orchestration.engine.population import Rounds

        rounds = Rounds(self.context.folder, self.study.round_every)
        rounds.begin(self.spec.space, baseline, size)
        often = "epoch" if rounds.every == 1 else f"{rounds.every} epochs"
        self.progress.say(f"pbt      {size} members, a round every {often}; no run is reused: each depends on the others")
        return rounds

    def _launch_search(self, baseline, missing, rounds, ended):
        from segmamba.orchestration.engine.launch import run_population, run_search

        shared = (self.context, self.resources, self.progress)
        if rounds:
            run_population(self.spec.space, rounds, *shared, ended=ended, base=self.base)
        else:
            run_search(
                self.spec.space, baseline, missing, self.study.searched, *shared, scheduler=self.options.scheduler or "asha", base=self.base
            )

    def _without_infeasible(self, plans):
        """The plans of arms that can run here; the others end at once, with the reason."""
        from segmamba.orchestration.tracking.runs import INFEASIBLE_TAG, end_trial

        reasons = infeasible_arms({arm: self.context.configs[arm] for arm in dict.fromkeys(plan.arm for plan in plans)})
        for arm, reason in reasons.items():
            self.progress.say(f"left out {arm}: {reason}")
        for plan in plans:
            if plan.arm in reasons:
                end_trial(self.context, plan, "FAILED", reason=reasons[plan.arm], marks={INFEASIBLE_TAG: "yes"})
        return [plan for plan in plans if plan.arm not in reasons]

    def _without_reused(self, plans):
        """The plans that no finished run answers; the others are taken from there."""
        if self.options.fresh or self.study.round_every:
            return plans
        from segmamba.orchestration.tracking.runs import reuse_trial

        trained_before = [plan for plan in plans if reuse_trial(self.context, plan)]
        if trained_before:
            self.progress.say(f"reused   {len(trained_before)} trials that were trained before, to the letter; --fresh trains them again")
        return [plan for plan in plans if plan not in trained_before]


def _begun(planned, spec, options, configs, cases, splits, experiment, machine, progress):
    """(the Study with its name, its parent run and the trials it has, its Resources): a new one, or the one that `--resume` found."""
    from segmamba.orchestration.engine.budget import resumed
    from segmamba.orchestration.tracking.runs import start_study, study_folder
    from segmamba.orchestration.tracking.study_reader import unfinished_study
    from segmamba.training.run_folder import next_run_folder

    if options.resume:
        found = unfinished_study(planned.mlflow_uri, experiment, spec.name)
        if found:
            _check_same(found, planned)
            check_place(study_folder(found.mlflow_uri, found.parent_run_id), Path(options.output).resolve() / found.name)
            ended = sum(trial.status == "FINISHED" for trial in found.trials)
            progress.say(f"resume   {found.name}: {ended} of {len(found.trials)} trials are done")
            return found, resumed(found.budget, configs[spec.baseline], len(found.trials) - ended, machine).resources
        progress.say(f"resume   no unfinished {spec.name} found: starting one")
    budget = _budget(planned, spec, options, configs, cases, splits, machine, progress)
    folder = next_run_folder(Path(options.output).resolve(), spec.name)
    study = dataclasses.replace(planned, name=folder.name, budget=budget.as_dict())
    parent = start_study(study.mlflow_uri, experiment, study, splits, folder)
    return dataclasses.replace(study, parent_run_id=parent), budget.resources


def check_place(began_in, folder):
    """A UserError where a study would go on in another folder than the one that holds its checkpoints; one that was moved may."""
    if began_in and Path(began_in) != folder and (Path(began_in).is_dir() or not folder.is_dir()):
        raise UserError(f"--resume: {folder.name} began in {began_in}; give --output {Path(began_in).parent}, or leave --resume out")


def _check_same(found, planned):
    """A UserError unless the study found asks the same question of the same data with the same settings."""
    before, now = _plain(found.config), _plain(planned.config)
    differing = [f"{name} was {before.get(name)!r} and is {value!r}" for name, value in now.items() if before.get(name) != value]
    arms = [{arm: changes for arm, changes in study.arms.items() if arm != FOUND} for study in (found, planned)]
    differing += ["arms differ"] if _plain(arms[0]) != _plain(arms[1]) else []
    same = ("seeds", "folds", "space", "round_every")
    differing += [f"{name} differ" for name in same if _plain(getattr(found, name)) != _plain(getattr(planned, name))]
    differing += [f"the {name} cases differ" for name in ("train", "minival", "judge") if found.data[name] != planned.data[name]]
    if differing:
        raise UserError(f"--resume: {found.name} is not the same study ({'; '.join(differing[:3])}); give its options, or leave --resume out")


def _plain(value):
    """As it comes back from the store: tuples are lists."""
    return json.loads(json.dumps(value))


def _final_status(study):
    """MLflow's status of the parent: KILLED while trials are missing, FAILED where none ended well."""
    states = {trial.status for trial in (*study.trials, *study.searched)}
    if states & {"KILLED", "RUNNING", "NOT STARTED"}:
        return "KILLED"
    return "FINISHED" if "FINISHED" in states else "FAILED"


def _context(configs, folds, folder, experiment, study, resources, cases, cache):
    from segmamba.orchestration.engine.trainable import StudyContext

    tags = {
        "study": study.name, "preset": study.preset, "dataset": study.data["source"],
        "labels_convention": study.data["convention"], "git_commit": study.environment["git commit"], "mlflow.source.name": study.command,
    }  # fmt: skip
    return StudyContext(configs, folds, folder, study.mlflow_uri, experiment, study.parent_run_id, tags, resources.threads,
                        resources.compile, study.baseline, tuple(cases), cache)  # fmt: skip
