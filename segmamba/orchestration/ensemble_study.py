"""The ensemble experiment: a study trains the members, then they vote on the test cases."""

import functools
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from segmamba.config import PostprocessConfig, flat_as_stored, from_flat_dict
from segmamba.data.preprocess import PreparedCase
from segmamba.data.source import prepare_split
from segmamba.data.splits import Split
from segmamba.device import choose_device
from segmamba.errors import UserError
from segmamba.evaluation.cases import prepared_scan
from segmamba.evaluation.ensemble_scores import ENSEMBLE, Group, score_group
from segmamba.evaluation.rules import CHALLENGES, LEGACY
from segmamba.evaluation.tune import Vote, mean_dice, tune
from segmamba.files import write_json
from segmamba.inference.predictor import Predictor, load_predictor
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.orchestration.engine.progress import ProgressDisplay
from segmamba.orchestration.tracking.registry import (
    ALIAS,
    Networks,
    champion_of,
    register_networks,
)
from segmamba.orchestration.tracking.store import Store, open_store, prose
from segmamba.orchestration.tracking.study_text import LOADING, NOTE_TAG, limits, text
from segmamba.reports.ensemble_report import write_ensemble_report
from segmamba.screen import Progress
from segmamba.studies.ensemble_verdict import Ensemble, answer, verdict_sentence
from segmamba.studies.results import Study, Trial

PAPER_POSTPROCESS = PostprocessConfig(min_component_voxels=(100, 100, 100))
NAME = "segmamba-ensemble"
DESCRIPTION = (
    f"Networks that vote softly; `segmamba predict --model models:/{NAME}@{ALIAS}`\n\n{LOADING}"
)
LOGGED = ("dice_mean", "dice_ET", "dice_TC", "dice_WT", "hd95_mm_ET", "hd95_mm_TC", "hd95_mm_WT")
"""The scores of a vote that become metrics."""
CASES_TABLE = "ensemble_cases.json"


def finish_ensemble(
    study: Study,
    options: StudyOptions,
    expected_gain: tuple[float, float],
    progress: ProgressDisplay,
) -> tuple[Ensemble, Path]:
    """Score, register and report the members of a study.

    Repeated after a kill, it registers nothing twice.

    Args:
        study: Whose arms are the members, named "GROUP NUMBER".
        options: Those that the study ran with.
        expected_gain: Least and most Dice that the vote is expected to gain over one member.
        progress: A StudyProgress or its null object.

    Returns:
        The Ensemble, and the path of its report.

    Raises:
        UserError: A member's weights are gone.
    """
    started, device, store = time.monotonic(), choose_device(), open_store(options.output)
    split = _split(study, options, progress)
    groups: list[Group] = []
    validation: dict[str, float] = {}
    torch.set_num_threads(options.cpus or torch.get_num_threads())
    for name in dict.fromkeys(_group_of(trial) for trial in study.trials):
        trials = [trial for trial in study.trials if _group_of(trial) == name]
        plain, flipped = (
            load_predictor(
                _checkpoints(trials, split),
                device,
                changes=changes,
                postprocessing=PostprocessConfig(),
            )
            for changes in (None, {"inference.flips": True})
        )
        steps = progress.steps(f"{name}: validation")
        postprocessing, validation[name] = _choose(plain, split, steps)
        group = Group(
            name=name,
            members=tuple(trial.arm for trial in trials),
            best=_best_on_validation(trials),
            postprocessing=postprocessing,
        )
        steps = progress.steps(f"{name}: test")
        groups.append(score_group(group, plain, flipped, split.test, progress=steps))
    ensemble = Ensemble(
        study=study,
        groups=tuple(groups),
        expected_gain=expected_gain,
        validation=validation,
        registered=_register(study, groups, split, validation, store, progress),
        seconds=time.monotonic() - started,
    )
    report = write_ensemble_report(ensemble, Path(options.output).resolve() / study.name)
    store.retry(functools.partial(_log, ensemble, store, report), progress.say)
    return ensemble, report


def _group_of(trial: Trial) -> str:
    return trial.arm.rpartition(" ")[0]


def _best_on_validation(trials: list[Trial]) -> int:
    """The place of the trial that the validation set likes best."""
    return max(
        range(len(trials)), key=lambda place: trials[place].metrics.get("val/best_dice_mean", -1.0)
    )


def _split(study: Study, options: StudyOptions, progress: ProgressDisplay) -> Split[PreparedCase]:
    """The cases that the members were trained and tested on."""
    config = from_flat_dict(flat_as_stored(study.config))
    if options.data:  # they may have been moved since the study began
        config = config.changed({"data.source": str(Path(options.data).resolve())})
    data = prepare_split(config, options.output, steps=progress.steps, workers=options.cpus)
    return data.split()


def _checkpoints(trials: list[Trial], split: Split[PreparedCase]) -> list[Path]:
    """The tested checkpoint of every trial."""
    name = "last.pth" if split.test_is_validation else "best_metric_model.pth"
    paths = [Path(trial.folder) / "checkpoints" / name for trial in trials]
    for trial, path in zip(trials, paths, strict=True):
        if not path.is_file():
            raise UserError(
                f"{trial.arm}: its weights {path} are gone (the trial was taken from an earlier "
                "study); give --fresh to train it again"
            )
    return paths


def _choose(
    predictor: Predictor, split: Split[PreparedCase], progress: Progress
) -> tuple[PostprocessConfig, float]:
    """What is done with the vote, and its mean Dice on the validation set.

    It is tuned there; where the validation set is the test set, it is PAPER_POSTPROCESS.
    """
    config, votes = predictor.members[0].config, []
    for case in split.validation:
        prepared = prepared_scan(case, config)
        probability = predictor.vote(predictor.member_probabilities(prepared)).half().cpu()
        truth, spacing_mm = case.source_label(), case.source_spacing_mm
        votes.append(Vote(case.id, case.patient, prepared, probability, truth, spacing_mm))
    chosen = PAPER_POSTPROCESS
    if not split.test_is_validation:
        chosen, _ = tune(predictor, votes, progress=progress)
    return chosen, mean_dice(predictor, votes, chosen, LEGACY, CHALLENGES["GLI"])


def _register(
    study: Study,
    groups: list[Group],
    split: Split[PreparedCase],
    validation: dict[str, float],
    store: Store,
    progress: ProgressDisplay,
) -> str:
    """Register the group that the validation set likes best: its address and standing in words."""
    best = max(groups, key=lambda group: validation[group.name])
    trials = [trial for trial in study.trials if trial.arm in best.members]
    networks = Networks(_checkpoints(trials, split), best.postprocessing)
    tags = {"study": study.name, "group": best.name, "data": study.data.source}
    score = [case.id for case in split.validation], validation[best.name]

    def register() -> tuple[str, bool]:
        return register_ensemble(store, study.parent_run_id, networks, score, tags=tags)

    version, champion = store.retry(register, progress.say)
    address = f"models:/{NAME}@{ALIAS}" if champion else f"models:/{NAME}/{version}"
    standing = (
        "champion"
        if champion
        else "not champion: an earlier version scored higher on the same validation set"
    )
    progress.say(f"model    {address} (version {version}, {standing})")
    return f"{address} (version {version}, {standing})"


def _log(ensemble: Ensemble, store: Store, report: Path) -> None:
    """The report, the rows and the figures of the vote, in the study's parent run."""
    client, run_id = store.client, ensemble.study.parent_run_id
    rows = [{"group": group.name} | row for group in ensemble.groups for row in group.rows]
    record = write_json(report.parent / "ensemble.json", _record(ensemble, rows))
    for path in (report, report.with_suffix(".md"), record):
        client.log_artifact(run_id, str(path))
    client.log_artifacts(run_id, str(report.parent / "plots"), "plots")
    if not store.has_artifact(run_id, CASES_TABLE):
        columns = dict.fromkeys(name for row in rows for name in row)
        table = {name: [row.get(name) for row in rows] for name in columns}
        client.log_table(run_id, table, CASES_TABLE)
    store.log_metrics(run_id, _metrics(ensemble))
    said = f"{text(verdict_sentence(ensemble))}\n\n{limits(ensemble.study)}"
    store.set_tags(
        run_id,
        {
            "answer": answer(ensemble),
            "verdict": prose(verdict_sentence(ensemble)),
            "seconds": json.dumps(ensemble.seconds),
            NOTE_TAG: prose(f"**{text(ensemble.study.question)}**\n\n{said}"),
        },
    )
    for version in client.search_model_versions(f"name = '{NAME}' and run_id = '{run_id}'"):
        client.update_model_version(NAME, version.version, prose(said))


def _record(ensemble: Ensemble, rows: list[dict[str, Any]]) -> dict[str, Any]:
    groups = ensemble.groups
    return {
        "rows": rows,
        "validation": ensemble.validation,
        "registered": ensemble.registered,
        "seconds": {group.name: group.seconds for group in groups},
        "postprocessing": {group.name: asdict(group.postprocessing) for group in groups},
        "subsets": [
            {
                "group": group.name,
                "members": [group.members[place] for place in row["members"]],
                "case": row["case"],
                "patient": row["patient"],
                "dice_mean": row["dice_mean"],
            }
            for group in groups
            for row in group.subsets
        ],
    }


def _metrics(ensemble: Ensemble) -> dict[str, float]:
    metrics = {}
    for group in ensemble.groups:
        for flips in (False, True):
            for post in (False, True):
                variant = f"ensemble_{group.name}{'_flips' * flips}{'_post' * post}"
                for score in LOGGED:
                    values = group.scores(ENSEMBLE, score, flips=flips, postprocessed=post)
                    metrics[f"test/{variant}_{score}"] = sum(values.values()) / len(values)
        metrics[f"val/ensemble_{group.name}_dice_mean"] = ensemble.validation[group.name]
    return metrics


def register_ensemble(
    store: Store,
    run_id: str,
    networks: Networks,
    validation: tuple[list[str], float],
    *,
    tags: dict[str, str] | None = None,
) -> tuple[str, bool]:
    """Register the members of a run as the newest version of NAME, unless the run has one.

    Args:
        store: Of the run and the model.
        run_id: The run that the version stands for.
        networks: The members, and what is done with their vote.
        validation: The ids of the validation cases and the mean Dice of the vote on them.
        tags: Of the version, beside the usual ones.

    Returns:
        The version, and whether it is the champion: the alias moves to it unless its present holder
        scored higher on the same validation cases.
    """
    cases, score = validation
    tags = (tags or {}) | {
        "members": str(len(networks.checkpoints)),
        "validation_dice_mean": f"{score:.6f}",
        "validation_cases": ", ".join(sorted(cases))[:4900],
    }
    version = register_networks(store, run_id, NAME, networks, description=DESCRIPTION, tags=tags)
    champion = champion_of(store, NAME)
    rival = dict(champion.tags) if champion else {}
    for name in ("cases", "dice_mean"):  # as versions before 0.2 called them
        if f"minival_{name}" in rival:
            rival.setdefault(f"validation_{name}", rival[f"minival_{name}"])
    wins = rival.get("validation_cases") != tags["validation_cases"] or (
        float(tags["validation_dice_mean"]) >= float(rival["validation_dice_mean"])
    )
    if wins:
        store.client.set_registered_model_alias(NAME, ALIAS, version.version)
    return version.version, wins
