"""The ensemble experiment: a study trains the members, then they vote on the test set; the vote is reported and registered."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import torch
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from segmamba.config import PostprocessConfig, from_flat_dict
from segmamba.data.preprocess import prepare_cases
from segmamba.data.source import labelled_cases
from segmamba.data.splits import split_cases
from segmamba.device import choose_device
from segmamba.errors import UserError
from segmamba.evaluation.cases import prepared_scan
from segmamba.evaluation.ensemble_scores import ENSEMBLE, Group, score_group
from segmamba.evaluation.rules import CHALLENGES, LEGACY
from segmamba.evaluation.tune import Vote, mean_dice, tune
from segmamba.files import write_json
from segmamba.inference.predictor import load_predictor
from segmamba.orchestration.tracking.patience import retry
from segmamba.orchestration.tracking.registry import ALIAS, champion_of, register_networks
from segmamba.reports.ensemble_report import write_ensemble_report
from segmamba.studies.ensemble_verdict import Ensemble, answer, verdict_sentence

PAPER_POSTPROCESS = PostprocessConfig(min_component_voxels=(100, 100, 100))
PLAIN = "plain"
NAME = "segmamba-ensemble"
DESCRIPTION = f"Networks that vote softly; `segmamba predict --model models:/{NAME}@{ALIAS}`"


def finish_ensemble(study, options, expected_gain, progress):
    """Score, register and report the members of a study: (Ensemble, path of the report). Repeated after a kill, it registers nothing twice."""
    started, device = time.time(), choose_device()
    split = _split(study, options, progress)
    names = list(dict.fromkeys(trial.arm.rpartition(" ")[0] for trial in study.trials))
    groups, validation = [], {}
    torch.set_num_threads(options.cpus or torch.get_num_threads())
    for name in names:
        trials = [trial for trial in study.trials if trial.arm.rpartition(" ")[0] == name]
        plain, flipped = (
            load_predictor(
                _checkpoints(trials, split),
                device,
                changes=changes,
                postprocessing=PostprocessConfig(),
            )
            for changes in (None, {"inference.flips": True})
        )
        postprocessing, validation[name] = _choose(
            plain, split, progress.steps(f"{name}: validation")
        )
        best = max(
            range(len(trials)),
            key=lambda place: trials[place].metrics.get("val/best_dice_mean", -1.0),
        )
        group = Group(
            name=name,
            members=tuple(trial.arm for trial in trials),
            best=best,
            postprocessing=postprocessing,
        )
        groups.append(
            score_group(group, plain, flipped, split.test, progress=progress.steps(f"{name}: test"))
        )
    registered = _register(study, groups, split, validation, progress)
    found = Ensemble(
        study=study,
        groups=tuple(groups),
        expected_gain=tuple(expected_gain),
        validation=validation,
        registered=registered,
        seconds=time.time() - started,
    )
    folder = Path(options.output).resolve() / study.name
    report = write_ensemble_report(found, folder)
    retry(lambda: _log(found, report), progress.say, uri=study.mlflow_uri)
    return found, report


def _split(study, options, progress):
    """The Split of PreparedCases that the members were trained and tested on."""
    config = from_flat_dict(study.config)
    cases, _, _ = labelled_cases(config, options.output, progress.steps)
    prepared = prepare_cases(
        cases, Path(options.output).resolve() / "cache", config.data, workers=options.cpus
    )
    return split_cases(prepared, config.data)


def _checkpoints(trials, split):
    """The tested checkpoint of every trial; UserError where one is gone."""
    name = "last.pth" if split.test_is_validation else "best_metric_model.pth"
    paths = [Path(trial.folder) / "checkpoints" / name for trial in trials]
    for trial, path in zip(trials, paths, strict=True):
        if not path.is_file():
            raise UserError(
                f"{trial.arm}: its weights {path} are gone (the trial was taken from an earlier study); give --fresh to train it again"
            )
    return paths


def _choose(predictor, split, progress):
    """(PostprocessConfig for the vote, its mean Dice on the validation set): tuned where the validation set is not the test set, else PAPER_POSTPROCESS."""
    config = predictor.members[0].config
    votes = []
    for case in split.validation:
        prepared = prepared_scan(case, config)
        probability = predictor.vote(predictor.member_probabilities(prepared)).half().cpu()
        votes.append(
            Vote(case.id, prepared, probability, case.source_label(), case.source_spacing_mm)
        )
    chosen = (
        PAPER_POSTPROCESS
        if split.test_is_validation
        else tune(predictor, votes, progress=progress)[0]
    )
    return chosen, mean_dice(predictor, votes, chosen, LEGACY, CHALLENGES["GLI"])


def _register(study, groups, split, validation, progress):
    """Register the group that the validation set likes best; tells the address and its standing."""
    best = max(groups, key=lambda group: validation[group.name])
    trials = [trial for trial in study.trials if trial.arm in best.members]
    tags = {"study": study.name, "group": best.name, "data": study.data.source}
    told = ([case.id for case in split.validation], validation[best.name])
    checkpoints, uri = _checkpoints(trials, split), study.mlflow_uri
    version, champion = retry(
        lambda: register_ensemble(
            uri, study.parent_run_id, checkpoints, best.postprocessing, told, tags=tags
        ),
        progress.say,
        uri=uri,
    )
    address = f"models:/{NAME}@{ALIAS}" if champion else f"models:/{NAME}/{version}"
    standing = (
        "champion"
        if champion
        else "not champion: an earlier version scored higher on the same validation set"
    )
    progress.say(f"model    {address} (version {version}, {standing})")
    return f"{address} (version {version}, {standing})"


def _log(found, report):
    """The report, the rows and the figures of the vote, in the study's parent run."""
    client = MlflowClient(found.study.mlflow_uri)
    folder, run_id = report.parent, found.study.parent_run_id
    rows = [{"group": group.name} | row for group in found.groups for row in group.rows]
    record = write_json(
        folder / "ensemble.json",
        {
            "rows": rows,
            "validation": found.validation,
            "registered": found.registered,
            "seconds": {g.name: g.seconds for g in found.groups},
            "postprocessing": {g.name: asdict(g.postprocessing) for g in found.groups},
            "subsets": [
                {
                    "group": g.name,
                    "members": [g.members[i] for i in row["members"]],
                    **{k: row[k] for k in ("case", "dice_mean")},
                }
                for g in found.groups
                for row in g.subsets
            ],
        },
    )
    for path in (report, report.with_suffix(".md"), record):
        client.log_artifact(run_id, str(path))
    client.log_artifacts(run_id, str(folder / "plots"), "plots")
    columns = list(rows[0] | {name: None for row in rows for name in row})
    if not any(file.path == "ensemble_cases.json" for file in client.list_artifacts(run_id)):
        client.log_table(
            run_id,
            {name: [row.get(name) for row in rows] for name in columns},
            "ensemble_cases.json",
        )
    now, metrics = int(time.time() * 1000), {}
    for group in found.groups:
        for flips in (False, True):
            for post in (False, True):
                variant = f"ensemble_{group.name}{'_flips' * flips}{'_post' * post}"
                for score in (
                    "dice_mean",
                    "dice_ET",
                    "dice_TC",
                    "dice_WT",
                    "hd95_mm_ET",
                    "hd95_mm_TC",
                    "hd95_mm_WT",
                ):
                    values = group.scores(ENSEMBLE, score, flips=flips, postprocessed=post)
                    metrics[f"test/{variant}_{score}"] = sum(values.values()) / len(values)
        metrics[f"val/ensemble_{group.name}_dice_mean"] = found.validation[group.name]
    sentence = verdict_sentence(found)
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in metrics.items()],
        tags=[
            RunTag("answer", answer(found)),
            RunTag("verdict", sentence),
            RunTag("seconds", json.dumps(found.seconds)),
        ],
    )


def register_ensemble(uri, run_id, checkpoints, postprocessing, validation, *, tags=None):
    """(version, whether it is the champion): the members of a run as the newest version of NAME, or the one that the run has already.

    validation: (case ids, mean Dice of the vote). The alias moves to it unless its present holder scored higher on the same validation cases.
    """
    cases, score = validation
    told = (tags or {}) | {
        "members": str(len(checkpoints)),
        "validation_dice_mean": f"{score:.6f}",
        "validation_cases": ", ".join(sorted(cases))[:4900],
    }
    version = register_networks(
        uri, run_id, NAME, checkpoints, postprocessing, description=DESCRIPTION, tags=told
    )
    client = MlflowClient(uri)
    champion = champion_of(client, NAME)
    rival = champion.tags if champion else {}
    wins = rival.get("validation_cases") != told["validation_cases"] or float(
        told["validation_dice_mean"]
    ) >= float(rival["validation_dice_mean"])
    if wins:
        client.set_registered_model_alias(NAME, ALIAS, version.version)
    return version.version, wins
