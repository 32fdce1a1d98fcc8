"""The engine: a StudySpec becomes Ray Tune trials, MLflow runs and a report."""

import contextlib
import dataclasses
import json
import math
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from segmamba.config import preset
from segmamba.data.cases import notes_on
from segmamba.data.preprocess import check_patch_fits, prepare_cases
from segmamba.data.source import labelled_cases, source_changes
from segmamba.data.splits import split_cases
from segmamba.errors import UserError
from segmamba.files import check_writable
from segmamba.orchestration.results import Study
from segmamba.orchestration.spec import TrialPlan


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """What the user chose on the command line."""

    data: Path | None = None
    """Folder of BraTS cases; None is the embedded phantom."""
    labels: str = "auto"
    preset: str = "demo"
    seeds: int = 2
    gpus_per_trial: float | None = None
    """None is one whole GPU where there is one."""
    cpus: int = 0
    """CPU cores for the whole study; 0 is all of the machine's."""
    output: Path = Path("Results")
    resume: bool = False
    """Go on with the newest unfinished study of this name, or start one where there is none."""
    changes: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds}: at least 1")
        if "seed" in self.changes:
            raise UserError(f"--set seed: a study gives every arm the seeds 0, 1, ...; choose how many with --seeds (now {self.seeds})")
        if self.cpus < 0:
            raise UserError(f"--cpus {self.cpus}: must be 0 (all) or more")
        if self.gpus_per_trial is not None and not 0 < self.gpus_per_trial < math.inf:
            raise UserError(f"--gpus-per-trial {self.gpus_per_trial:g}: must be above 0, for example 0.5 for two trials on one GPU")


def run_study(spec, options, progress):
    """Run the study to its report: (Study, folder). `progress` is a StudyProgress (or its null object) that watches.

    Whatever the user got wrong is found before the study's folder, its MLflow run and its trials exist. A study that is stopped
    (SIGINT) ends the same way, with the trials it has; `options.resume` goes on with it.
    """
    started = time.time()
    check_writable(options.output)
    base = preset(options.preset).changed({"train.early_stop_epochs": 0} | source_changes(options.data, options.labels) | options.changes)
    configs = spec.configs(base, options.changes)
    cases, source, left_out = labelled_cases(base, options.output, progress.steps)
    cache, counted = Path(options.output).resolve() / "cache", progress.steps("preparing cases")
    prepared = prepare_cases(cases, cache, base.data, workers=options.cpus, progress=counted)
    for config in configs.values():
        check_patch_fits(prepared, config.data)
    data = split_cases(prepared, base.data)

    # Only now the slow imports: everything above answers within a second.
    import segmamba.orchestration.store as store
    import segmamba.orchestration.tracking as tracking
    from segmamba.environment import describe_environment
    from segmamba.orchestration.launch import plan_resources, run_trials
    from segmamba.orchestration.report import write_report

    environment = describe_environment()
    resources = plan_resources(options, base)
    uri = store.store_uri(options.output)
    experiment = store.open_store(uri, options.output)
    planned = _planned(spec, options, base, cases, source, [*left_out, *notes_on(cases), *data.notes], data, environment, uri)
    study, ended = _begun(planned, spec, options, data, experiment, progress)
    folder, parent = Path(options.output).resolve() / study.name, study.parent_run_id
    trials = [trial for trial in spec.trials(options.seeds) if trial.key not in ended]
    with _only_driver(folder):
        store.reopen_run(uri, parent)
        _announce(study, options, resources, len(trials), progress)
        status = "FAILED"
        try:
            if trials:  # none where only the report was missing
                progress.trials(trials, base.train.epochs, resources.at_once)
                run_trials(trials, _context(configs, data, folder, experiment, study, resources), resources, progress)
            tracking.close_stopped_trials(uri, experiment, parent)
            study = tracking.read_study(uri, parent, seconds=time.time() - started)
            status = _final_status(study)
            tracking.log_report(uri, study, write_report(study, folder))
            return study, folder
        finally:
            store.end_run(uri, parent, status)


@contextlib.contextmanager
def _only_driver(folder):
    """Holds the study's lock, which the system lets go when this process dies, however it dies."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".driver.lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"--resume: {folder.name} is still running in another process; wait for it, or stop it first") from error


def _begun(planned, spec, options, data, experiment, progress):
    """(the Study with its name and parent run, keys of the trials that are done): a new one, or the one that `--resume` found."""
    import segmamba.orchestration.tracking as tracking
    from segmamba.training.run_folder import next_run_folder

    if options.resume:
        found = tracking.unfinished_study(planned.mlflow_uri, experiment, spec.name)
        if found:
            _check_same(found, planned)
            ended = {TrialPlan(arm=t.arm, seed=t.seed).key for t in found.trials if t.status == "FINISHED"}
            progress.say(f"resume   {found.name}: {len(ended)} of {len(found.trials)} trials are done")
            return found, ended
        progress.say(f"resume   no unfinished {spec.name} found: starting one")
    folder = next_run_folder(Path(options.output).resolve(), spec.name)
    study = dataclasses.replace(planned, name=folder.name)
    return dataclasses.replace(study, parent_run_id=tracking.start_study(study.mlflow_uri, experiment, study, data)), set()


def _check_same(found, planned):
    """A UserError unless the study found asks the same question of the same data with the same settings."""
    before, now = _plain(found.config), _plain(planned.config)
    differing = [f"{name} was {before.get(name)!r} and is {value!r}" for name, value in now.items() if before.get(name) != value]
    differing += [f"{name} differ" for name in ("arms", "seeds") if _plain(getattr(found, name)) != _plain(getattr(planned, name))]
    differing += [f"the {name} cases differ" for name in ("train", "minival", "judge") if found.data[name] != planned.data[name]]
    if differing:
        raise UserError(f"--resume: {found.name} is not the same study ({'; '.join(differing[:3])}); give its options, or leave --resume out")


def _plain(value):
    """As it comes back from the store: tuples are lists."""
    return json.loads(json.dumps(value))


def _final_status(study):
    """MLflow's status of the parent: KILLED while trials are missing, FAILED where none ended well."""
    states = {trial.status for trial in study.trials}
    if states & {"KILLED", "RUNNING", "NOT STARTED"}:
        return "KILLED"
    return "FINISHED" if "FINISHED" in states else "FAILED"


def _planned(spec, options, base, cases, source, notes, data, environment, uri):
    notes = list(notes)
    if options.seeds == 1:
        notes.append("one seed: differences between arms cannot be told from luck")
    return Study(
        name="", question=spec.question, hypothesis=spec.hypothesis, baseline=spec.baseline,
        arms={arm: dict(changes) for arm, changes in spec.arms.items()}, seeds=tuple(range(options.seeds)), preset=options.preset,
        config=base.to_flat_dict(),
        data={
            "source": source, "phantom": not base.data.source, "convention": " + ".join(sorted({c.convention for c in cases})),
            "train": [c.id for c in data.train], "minival": [c.id for c in data.minival], "judge": [c.id for c in data.judge],
            "judge_is_minival": data.judge_is_minival, "notes": [*notes, *spec.notes],
        },
        environment=environment, command=shlex.join([Path(sys.executable).name, *sys.argv]), mlflow_uri=uri, parent_run_id="",
        seconds=0.0, trials=(),
    )  # fmt: skip


def _announce(study, options, resources, trials, progress):
    """What is about to happen, before it takes hours."""
    data = study.data
    origin = "from the files' naming" if study.config["data.labels"] == "auto" else "stated"
    where = f"GPU, {resources.gpus:g} a trial" if resources.gpus else "CPU"
    progress.say(f"data     {data['source']}; labels {data['convention']} ({origin})")
    progress.say(f"cases    {len(data['train'])} train, {len(data['minival'])} minival, {len(data['judge'])} judge")
    for note in data["notes"]:
        progress.say(f"note     {note}")
    arms, seeds = len(study.arms), len(study.seeds)
    progress.say(f"trials   {trials} to run (arms {arms} x seeds {seeds}), {resources.at_once} at once ({where}), preset {study.preset}")


def _context(configs, data, folder, experiment, study, resources):
    from segmamba.orchestration.trainable import StudyContext

    tags = {
        "study": study.name, "preset": study.preset, "dataset": study.data["source"],
        "labels_convention": study.data["convention"], "git_commit": study.environment["git commit"], "mlflow.source.name": study.command,
    }  # fmt: skip
    return StudyContext(configs, data, folder, study.mlflow_uri, experiment, study.parent_run_id, tags, resources.cpus)


