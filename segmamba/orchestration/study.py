"""The engine: a StudySpec becomes Ray Tune trials, MLflow runs and a report."""

import os
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from segmamba.config import preset
from segmamba.data.cases import find_cases
from segmamba.data.preprocess import check_patch_fits, prepare_cases
from segmamba.data.splits import split_cases
from segmamba.errors import UserError
from segmamba.orchestration.results import Study

OBJECT_STORE_BYTES = 256 * 2**20  # trials exchange paths and numbers only; Ray's default would take 30 % of the memory


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
    changes: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds}: at least 1")
        if self.cpus < 0:
            raise UserError(f"--cpus {self.cpus}: must be 0 (all) or more")
        if self.gpus_per_trial is not None and self.gpus_per_trial <= 0:
            raise UserError(f"--gpus-per-trial {self.gpus_per_trial:g}: must be above 0, for example 0.5 for two trials on one GPU")


@dataclass(frozen=True)
class Resources:
    """How many trials run at once, and with what."""

    gpus: float
    cpus: int
    at_once: int
    total_cpus: int


def run_study(spec, options, progress):
    """Run the study to its report: (Study, folder). `progress` is a StudyProgress (or its null object) that watches.

    Whatever the user got wrong is found before the study's folder, its MLflow run and its trials exist.
    """
    started = time.time()
    base = preset(options.preset).changed({"train.early_stop_epochs": 0} | options.changes)
    configs = spec.configs(base, options.changes)
    cases, source = _cases(options, base, progress)
    prepared = prepare_cases(cases, Path(options.output).resolve() / "cache", base.data, progress=progress.steps("preparing cases"))
    for config in configs.values():
        check_patch_fits(prepared, config.data)
    data = split_cases(prepared, base.data)

    # Only now the slow imports: everything above answers within a second.
    import segmamba.orchestration.tracking as tracking
    from segmamba.environment import describe_environment
    from segmamba.orchestration.report import write_report
    from segmamba.training.run_folder import next_run_folder

    environment = describe_environment()
    resources = _resources(options, base)
    uri = tracking.store_uri(options.output)
    experiment = tracking.open_store(uri, options.output)
    folder = next_run_folder(Path(options.output).resolve(), spec.name)
    study = _planned(spec, options, base, cases, source, data, environment, folder, uri)
    _announce(study, options, resources, progress)
    parent = tracking.start_study(uri, experiment, study, data)
    status = "FAILED"
    try:
        context = _context(configs, data, folder, uri, experiment, parent, study, resources)
        progress.trials(spec.trials(options.seeds), base.train.epochs, resources.at_once)
        status = _run_trials(spec.trials(options.seeds), context, resources, folder, progress)
        study = tracking.read_study(uri, parent, seconds=time.time() - started)
        report = write_report(study, folder)
        tracking.log_report(uri, study, report)
        return study, folder
    finally:
        tracking.end_run(uri, parent, status)


def _cases(options, base, progress):
    """(labelled cases, what they are)."""
    if options.data is None:
        from segmamba.data.phantom import GENERATOR_VERSION, write_phantom

        phantom = base.phantom
        size = "x".join(map(str, phantom.size))
        folder = Path(options.output).resolve() / "phantom" / f"v{GENERATOR_VERSION}_{phantom.cases}_cases_{size}_seed{phantom.seed}"
        write_phantom(folder, cases=phantom.cases, size=phantom.size, seed=phantom.seed, progress=progress.steps("making phantom cases"))
        return find_cases(folder, options.labels), f"phantom ({phantom.cases} cases of {size} voxels, seed {phantom.seed})"
    found = find_cases(options.data, options.labels)
    labelled = [case for case in found if case.label]
    if not labelled:
        raise UserError(f"{options.data}: {len(found)} cases but none has a segmentation (..._seg.nii.gz); a study needs labelled cases")
    return labelled, str(Path(options.data).resolve())


def _resources(options, base):
    """Trials at once: as many as the GPUs, or without one the CPU cores, allow."""
    import torch

    cores = options.cpus or os.cpu_count()
    devices = torch.cuda.device_count()
    if options.gpus_per_trial and not devices:
        raise UserError(f"--gpus-per-trial {options.gpus_per_trial:g}: torch {torch.__version__} sees no GPU; leave the option out to run on the CPU")
    if not devices:
        return Resources(gpus=0, cpus=1, at_once=cores, total_cpus=cores)
    gpus = options.gpus_per_trial or 1.0
    cpus = base.data.workers + 1
    at_once = max(1, min(int(devices / gpus), cores // cpus))
    return Resources(gpus=gpus, cpus=min(cpus, cores), at_once=at_once, total_cpus=cores)


def _planned(spec, options, base, cases, source, data, environment, folder, uri):
    notes = [*data.notes]
    if options.seeds == 1:
        notes.append("one seed: differences between arms cannot be told from luck")
    return Study(
        name=folder.name, question=spec.question, hypothesis=spec.hypothesis, baseline=spec.baseline,
        arms={arm: dict(changes) for arm, changes in spec.arms.items()}, seeds=tuple(range(options.seeds)), preset=options.preset,
        config=base.to_flat_dict(),
        data={
            "source": source, "phantom": options.data is None, "convention": cases[0].convention,
            "train": [c.id for c in data.train], "minival": [c.id for c in data.minival], "judge": [c.id for c in data.judge],
            "judge_is_minival": data.judge_is_minival, "notes": [*notes, *spec.notes],
        },
        environment=environment, command=shlex.join([Path(sys.executable).name, *sys.argv]), mlflow_uri=uri, parent_run_id="",
        seconds=0.0, trials=(),
    )  # fmt: skip


def _announce(study, options, resources, progress):
    """What is about to happen, before it takes hours."""
    data = study.data
    origin = "from the files' naming" if options.labels == "auto" else "stated"
    where = f"GPU, {resources.gpus:g} a trial" if resources.gpus else "CPU"
    progress.say(f"data     {data['source']}; labels {data['convention']} ({origin})")
    progress.say(f"cases    {len(data['train'])} train, {len(data['minival'])} minival, {len(data['judge'])} judge")
    for note in data["notes"]:
        progress.say(f"note     {note}")
    arms, seeds = len(study.arms), len(study.seeds)
    progress.say(f"trials   {arms * seeds} (arms {arms} x seeds {seeds}), {resources.at_once} at once ({where}), preset {study.preset}")


def _context(configs, data, folder, uri, experiment, parent, study, resources):
    from segmamba.orchestration.trainable import StudyContext

    tags = {
        "study": study.name, "preset": study.preset, "dataset": study.data["source"],
        "labels_convention": study.data["convention"], "git_commit": study.environment["git commit"], "mlflow.source.name": study.command,
    }  # fmt: skip
    return StudyContext(configs, data, folder, uri, experiment, parent, tags, resources.cpus)


def _run_trials(trials, context, resources, folder, progress):
    """Run the trials on Ray; returns the parent's final MLflow status."""
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AIR_NEW_OUTPUT": "0"}
    import ray
    from ray import tune

    from segmamba.orchestration.callbacks import FinishRuns
    from segmamba.orchestration.trainable import run_trial

    ray.init(
        num_cpus=resources.total_cpus, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        object_store_memory=OBJECT_STORE_BYTES,
    )  # fmt: skip
    try:
        trainable = tune.with_resources(tune.with_parameters(run_trial, context=context), {"cpu": resources.cpus, "gpu": resources.gpus})
        tuner = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(trials)},
            tune_config=tune.TuneConfig(max_concurrent_trials=resources.at_once, trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}"),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=1),
                callbacks=[FinishRuns(context, progress)],
            ),
        )
        tuner.fit()
    finally:
        ray.shutdown()
    return "FINISHED" if progress.finished else "FAILED"
