"""The inference ablation: arms that need no training, as a study in MLflow with a report."""

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segmamba.config import Config
from segmamba.data.source import PreparedData, prepare_split, source_changes
from segmamba.data.splits import seeded
from segmamba.device import choose_device
from segmamba.environment import command, describe_environment
from segmamba.errors import UserError
from segmamba.evaluation.inference_arms import score_arms
from segmamba.evaluation.patients import NAMES
from segmamba.files import locked
from segmamba.inference.predictor import load_predictor
from segmamba.orchestration.engine.progress import ProgressDisplay
from segmamba.orchestration.tracking.bulk import PARENT_TAG
from segmamba.orchestration.tracking.database import check_results
from segmamba.orchestration.tracking.run_log import FOLDER_TAG
from segmamba.orchestration.tracking.store import Store, open_store, prose
from segmamba.orchestration.tracking.study_run import TRIAL_TAG
from segmamba.orchestration.tracking.study_text import NOTE_TAG, text
from segmamba.reports.inference_report import write_inference_report
from segmamba.reports.tables import PHANTOM_NOTICE
from segmamba.studies.inference_results import InferenceAblation
from segmamba.studies.results import study_data_from
from segmamba.studies.words import DASH, count, points
from segmamba.training.run_folder import next_run_folder

NAME = "ablate_inference"
DESCRIPTION = (
    "**What is each part of inference worth?** Test-time options and post-processing, without "
    "training."
)


@dataclass(frozen=True, kw_only=True)
class InferenceOptions:
    """What the user chose on the command line."""

    data: Path | None = None
    """Where the data are; None is where the checkpoints were trained."""
    labels: str | None = None
    """The label convention; None is that of the checkpoints' data."""
    reading: Mapping[str, Any] = field(default_factory=dict)
    """Changes of how files are read, by dotted name."""
    names: tuple[str, ...] = ()
    """How the files of `data` are named, as --names gives it; empty takes the known layouts."""
    output: Path = Path("Results")
    device: str = "auto"


def run_inference_ablation(
    checkpoints: Sequence[Path],
    arms: Mapping[str, Mapping[str, Any]],
    baseline: str,
    options: InferenceOptions,
    progress: ProgressDisplay,
) -> tuple[InferenceAblation, Path]:
    """Score the arms on the checkpoints' test cases, log and report.

    Args:
        checkpoints: As `load_predictor` takes them, of runs with one data set and one split.
        arms: Name to dotted changes below inference. and postprocess.
        baseline: The arm that the others are compared with.
        options: What the user chose.
        progress: A StudyProgress or its null object.

    Returns:
        The result, and the path of its report.

    Raises:
        UserError: The runs have different data or splits, or an arm changes what training fixed.
    """
    started, device = time.monotonic(), choose_device(options.device)
    check_results(options.output)
    config = _config(checkpoints, options)
    data = prepare_split(config, options.output, steps=progress.steps)
    split, store = data.split(), open_store(options.output)
    folder = next_run_folder(Path(options.output).resolve(), NAME)
    result = InferenceAblation(
        name=folder.name,
        baseline=baseline,
        arms={arm: dict(changes) for arm, changes in arms.items()},
        checkpoints=tuple(str(Path(path).resolve()) for path in checkpoints),
        rows={arm: [] for arm in arms},
        data=study_data_from(_description(data, config)),
        environment=describe_environment(),
        command=command(),
        mlflow_uri=store.uri,
        run_id="",
        seconds=0.0,
    )
    with locked(folder):
        result = dataclasses.replace(result, run_id=_start(result, store, folder))
        status = "FAILED"
        try:
            for number, path in enumerate(checkpoints, 1):
                size = f"{len(arms)} arms x {len(split.test)} cases"
                steps = progress.steps(f"checkpoint {number} of {len(checkpoints)}: {size}")
                scored = score_arms(path, result.arms, split.test, device, progress=steps)
                for arm, rows in scored.items():
                    result.rows[arm].append(rows)
            result = dataclasses.replace(result, seconds=time.monotonic() - started)
            report = write_inference_report(result, folder)
            _log(result, store, report)
            status = "FINISHED"
            return result, report
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            store.end_run(result.run_id, status)


def _config(checkpoints: Sequence[Path], options: InferenceOptions) -> Config:
    """The Config of the first checkpoint, on the data that the user names."""
    configs = [load_predictor(path, "cpu").members[0].config for path in checkpoints]
    changes: dict[str, object] = {}
    if options.data or options.names:
        changes = source_changes(options.data, options.labels or "auto", options.names)
    elif options.labels:
        changes = {"data.labels": options.labels}
    if len({config.model.classes for config in configs}) > 1:
        raise UserError(
            "--checkpoint: the runs tell different classes apart "
            f"({', '.join(dict.fromkeys(config.model.classes for config in configs))}); give runs "
            "of one study"
        )
    for path, config in zip(checkpoints, configs, strict=True):
        if config.inference.normalise_over != "brain":
            raise UserError(
                f"{path}: its images are normalised over the brain's box, which prepared cases do "
                "not keep; predict with each option and compare by segmamba evaluate"
            )
    changes |= options.reading
    sources = [seeded(config.changed(changes), config.seed) for config in configs]
    if any(source != sources[0] for source in sources[1:]):
        raise UserError(
            "--checkpoint: the runs were trained on different data, folds or splits, and one has "
            "trained on what another is tested on; give runs of one study and one fold"
        )
    return configs[0].changed(changes)


def _description(data: PreparedData, config: Config) -> dict[str, Any]:
    split = data.split()
    return {
        "source": data.source,
        "phantom": not config.data.source,
        "convention": " + ".join(sorted({case.convention for case in data.cases})),
        "regions": data.label_set.region_names,
        "test": [case.id for case in split.test],
        "notes": [*data.notes, *split.notes],
    }


def _start(result: InferenceAblation, store: Store, folder: Path) -> str:
    """The id of the parent run."""
    tags = {
        "kind": "study",
        "study": result.name,
        "dataset": result.data.source,
        "labels_convention": result.data.convention,
        "git_commit": result.environment["git commit"],
        "mlflow.source.name": result.command,
        NOTE_TAG: DESCRIPTION,
        FOLDER_TAG: str(folder),
    }
    run_id = store.create_run(result.name, tags)
    checkpoints = ", ".join(result.checkpoints)[:5000]
    store.log_params(run_id, {"arms": ", ".join(result.arms), "checkpoints": checkpoints})
    return run_id


def _log(result: InferenceAblation, store: Store, report: Path) -> None:
    """A child run for each arm with its metrics and rows; the report in the parent."""
    for arm in result.arms:
        _log_arm(result, store, arm)
    client = store.client
    for path in (report, report.with_suffix(".md")):
        client.log_artifact(result.run_id, str(path))
    client.log_artifacts(result.run_id, str(report.parent / "plots"), "plots")
    best = max(result.arms, key=lambda arm: result.mean(arm, "dice_mean"))
    cases = prose(json.dumps(result.data.test))
    store.set_tags(result.run_id, {"best_arm": best, "cases": cases, NOTE_TAG: _note(result)})
    store.log_metrics(
        result.run_id, {f"test/{name}": result.mean(best, name) for name in _columns(result, best)}
    )


def _columns(result: InferenceAblation, arm: str) -> list[str]:
    """The scores of an arm's rows."""
    return [name for name in result.rows[arm][0][0] if name not in (*NAMES, "seconds")]


def _note(result: InferenceAblation) -> str:
    """What MLflow's page says: each arm's Dice beside the baseline's, and on which data."""
    lines = ["| arm | mean Dice (points) | minus the baseline | 95 % interval | s a case |"]
    lines.append("|---|---|---|---|---|")
    for arm in result.arms:
        mean, low, high = result.difference(arm, "dice_mean")
        interval = (
            DASH if low is None else f"{points(low, signed=True)} to {points(high, signed=True)}"
        )
        gain = DASH if arm == result.baseline else points(mean, signed=True)
        cells = [text(arm), points(result.mean(arm, "dice_mean")), gain]
        cells += [DASH if arm == result.baseline else interval, f"{result.seconds_a_case(arm):.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    cases = count(len(result.data.test), "test case")
    checkpoints = count(len(result.checkpoints), "checkpoint")
    data = f"Data: {text(result.data.source)}, {cases}, {checkpoints}."
    phantoms = f" {PHANTOM_NOTICE[0].upper()}{PHANTOM_NOTICE[1:]}." if result.data.phantom else ""
    return prose("\n\n".join([DESCRIPTION, "\n".join(lines), data + phantoms]))


def _log_arm(result: InferenceAblation, store: Store, arm: str) -> None:
    tags = {PARENT_TAG: result.run_id, TRIAL_TAG: arm, "kind": "arm", "arm": arm}
    run_id = store.create_run(arm, tags | {"study": result.name})
    store.log_params(run_id, result.arms[arm])
    columns = _columns(result, arm)
    metrics = {f"test/{column}": result.mean(arm, column) for column in columns}
    if len(result.checkpoints) > 1:
        for column in columns:
            by_checkpoint = result.table(arm, column).mean(axis=1)
            metrics[f"test_sd/{column}"] = float(by_checkpoint.std(ddof=1))
    metrics["time/case_s"] = result.seconds_a_case(arm)
    store.log_metrics(run_id, metrics)
    rows = [
        {"checkpoint": number} | row
        for number, of_checkpoint in enumerate(result.rows[arm], 1)
        for row in of_checkpoint
    ]
    table = {name: [row[name] for row in rows] for name in rows[0]}
    store.client.log_table(run_id, table, "test_cases.json")
    store.end_run(run_id, "FINISHED")
