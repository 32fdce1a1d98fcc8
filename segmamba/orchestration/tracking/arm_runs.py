"""A run for each arm of a study: what its seeds have in common, and how far they differ.

MLflow has no groups of runs with a mean and a spread (mlflow/mlflow#3762), so that its charts can
compare trials but no arms. Here each arm that has a tested trial has one run below its study's:

    test/dice_WT                     mean over the seeds, as the report has it
    test_sd/dice_WT                  standard deviation over the seeds
    test_low/dice_WT, test_high/...  95 % interval of the mean over other seeds and patients
    train/..., val/...               at each epoch that all its trials have: the mean over them
    val_sd/...                       and their standard deviation

Such a run is never changed. One whose arm has other results by now, as after a resume or a further
seed, is deleted and written anew, so that an arm has one run whose curves have each epoch once.
"""

import hashlib
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlflow.entities import Metric

from segmamba.orchestration.tracking.bulk import PARENT_TAG
from segmamba.orchestration.tracking.experiment_page import SUMMARY_TAG
from segmamba.orchestration.tracking.store import metric_entities, prose
from segmamba.orchestration.tracking.study_run import StudyRun
from segmamba.orchestration.tracking.study_text import NOTE_TAG, text
from segmamba.studies.arm_means import mean_interval
from segmamba.studies.results import Study, Trial
from segmamba.studies.scores import finished_trials, seed_scores
from segmamba.studies.words import DASH, count, points

KIND = "arm"
CONTENT_TAG = "arm_sha256"
"""The tag with the digest of all that a run of an arm holds, set when it holds it and has ended."""
TESTED = "test/dice_mean"
"""What every tested trial has."""
OF_TRAINING = ("time/", "model/")
"""Metrics of a trial that are averaged as they are."""


@dataclass(frozen=True)
class Summary:
    """What the run of an arm holds."""

    name: str
    params: dict[str, str]
    """The settings in which the study's arms differ."""
    tags: dict[str, str]
    metrics: dict[int, dict[str, float]]
    """Step to name to value: 0, then the epochs."""

    def digest(self) -> str:
        """Return a name for all of it."""
        content = json.dumps([self.name, self.params, self.tags, self.metrics], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def log_arms(run: StudyRun, study: Study) -> None:
    """Bring the runs of a study's arms up to date. Repeated, it changes nothing.

    Args:
        run: The study's run.
        study: With its trials and their histories.
    """
    store = run.store
    condition = f"tags.`{PARENT_TAG}` = '{run.run_id}' and tags.kind = '{KIND}'"
    known = {
        known.info.run_id: known.data.tags.get(CONTENT_TAG) for known in store.search(condition)
    }
    for summary in summaries(study):
        digest = summary.digest()
        same = next((run_id for run_id, content in known.items() if content == digest), None)
        if same is not None:
            del known[same]
            continue
        run_id = store.create_run(summary.name, {**summary.tags, PARENT_TAG: run.run_id})
        store.log_params(run_id, summary.params)
        store.log_metric_entities(run_id, list(_entities(summary)))
        store.end_run(run_id, "FINISHED")
        store.set_tags(run_id, {CONTENT_TAG: digest})  # last: what lacks it is written anew
    for run_id in known:
        store.client.delete_run(run_id)


def summaries(study: Study) -> list[Summary]:
    """Return what the run of each arm holds; arms without a tested trial have none.

    Args:
        study: With its trials and their histories.
    """
    names = sorted({name for changes in study.arms.values() for name in changes})
    return [
        _summary(study, arm, names, trials)
        for arm in study.arms
        if (trials := [t for t in finished_trials(study, arm) if TESTED in t.metrics])
    ]


def _summary(study: Study, arm: str, names: Sequence[str], trials: Sequence[Trial]) -> Summary:
    seeds = sorted({trial.seed for trial in trials})
    finals = _test_figures(study, arm, trials) | _training_figures(trials)
    return Summary(
        name=f"{arm}, {count(len(seeds), 'seed')}",
        params={name: trials[0].params[name] for name in names if name in trials[0].params},
        tags={
            "kind": KIND,
            "study": study.name,
            "arm": arm,
            SUMMARY_TAG: f"{arm} in {study.name}",
            "seeds": ", ".join(map(str, seeds)),
            "preset": study.preset,
            "dataset": study.data.source,
            NOTE_TAG: prose(_note(study, arm, seeds, finals)),
        },
        metrics={0: finals} | _curves([trial.history for trial in trials]),
    )


def _note(study: Study, arm: str, seeds: Sequence[int], finals: Mapping[str, float]) -> str:
    baseline = ", the baseline" if arm == study.baseline else ""
    low, high = (points(finals.get(f"test_{end}/dice_mean")) for end in ("low", "high"))
    interval = "" if low == DASH else f" (95 % interval {low} to {high})"
    return (
        f"**{text(arm)}**{baseline} of {text(study.name)}: means over "
        f"{count(len(seeds), 'seed')}. Mean Dice on the test set "
        f"{points(finals.get('test/dice_mean'))} points{interval}. test\\_sd/… are standard "
        "deviations over the seeds, test\\_low/… and test\\_high/… the ends of the 95 % intervals "
        "over other seeds and patients. No trial: nothing was trained here."
    )


def _test_figures(study: Study, arm: str, trials: Sequence[Trial]) -> dict[str, float]:
    """Mean, spread and interval of every score of the test; what is not known is left out."""
    columns = [name for name in trials[0].metrics if name.startswith("test/")]
    named: dict[str, float] = {}
    for column in (name.removeprefix("test/") for name in columns):
        values = [v for v in seed_scores(study, arm, column).values() if math.isfinite(v)]
        if not values:
            continue
        named[f"test/{column}"] = statistics.fmean(values)
        if len(values) > 1:
            named[f"test_sd/{column}"] = statistics.stdev(values)
        if ends := mean_interval(study, arm, column):
            named[f"test_low/{column}"], named[f"test_high/{column}"] = ends
    return {name: value for name, value in named.items() if math.isfinite(value)}


def _training_figures(trials: Sequence[Trial]) -> dict[str, float]:
    """Means of what a training took and of what the validation set said of it at its best."""
    names = [
        name
        for name in trials[0].metrics
        if name.startswith(OF_TRAINING) or name == "val/best_dice_mean"
    ]
    return {
        name: statistics.fmean(trial.metrics[name] for trial in trials)
        for name in names
        if all(math.isfinite(trial.metrics.get(name, math.nan)) for trial in trials)
    }


def _curves(
    histories: Sequence[Mapping[str, Sequence[tuple[int, float]]]],
) -> dict[int, dict[str, float]]:
    """Epoch to the means of the trials' metrics there, and the spread of the validation's."""
    curves: dict[int, dict[str, float]] = {}
    for name in histories[0]:
        if name == "val/best_dice_mean" or not all(name in history for history in histories):
            continue
        tables = [dict(history[name]) for history in histories]
        for epoch in sorted(set.intersection(*(set(table) for table in tables))):
            values = [table[epoch] for table in tables]
            if not all(map(math.isfinite, values)):
                continue
            at = curves.setdefault(epoch, {})
            at[name] = statistics.fmean(values)
            if name.startswith("val/") and len(values) > 1:
                at[name.replace("val/", "val_sd/", 1)] = statistics.stdev(values)
    return curves


def _entities(summary: Summary) -> Iterator[Metric]:
    for step, metrics in summary.metrics.items():
        yield from metric_entities(metrics, step)
