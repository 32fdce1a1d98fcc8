"""The examples of a study, predicted again from the checkpoints of its trials, on one page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from segmamba.config import flat_as_stored, from_flat_dict, load_config
from segmamba.data.case import Case
from segmamba.data.label_sets import MEAN
from segmamba.data.source import find_data
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.evaluation.dice import dice
from segmamba.inference.native_view import native_view
from segmamba.inference.predictor import Predictor, load_predictor
from segmamba.orchestration.engine.progress import ProgressDisplay
from segmamba.pictures.encode import ViewerCase, encode_case
from segmamba.pictures.niivue import niivue_is_installed
from segmamba.pictures.viewer import fitting
from segmamba.reports.study_viewer import Example, examples, write_viewer
from segmamba.screen import Progress, Steps
from segmamba.studies.results import Study, Trial


def add_viewer(study: Study, folder: Path, output: Path, progress: ProgressDisplay) -> Path | None:
    """Write viewer.html at the end of a study, where that can be done; nothing here fails it.

    Args:
        study: The study.
        folder: The study's folder.
        output: The folder of results.
        progress: Says in one line where the page is, or why there is none.

    Returns:
        The page; None without one.
    """
    if not niivue_is_installed():
        return None
    try:
        page = draw_viewer(study, folder, output, "auto", progress.steps)
    except KeyboardInterrupt:
        progress.say("viewer   left out: stopped; segmamba report --viewer makes it")
    except Exception as error:  # the study is done, whatever becomes of its pictures
        reason = " ".join(str(error).split()) or type(error).__name__
        progress.say(f"viewer   left out: {reason}")
    else:
        progress.say(f"viewer   {page}")
        return page
    return None


def draw_viewer(study: Study, folder: Path, output: Path, device: str, steps: Steps) -> Path:
    """Write viewer.html of a study beside its report.

    Args:
        study: The study.
        folder: The study's folder.
        output: The folder of results, where a phantom lies.
        device: "auto", "cpu", "cuda" or "cuda:1"; where the networks predict.
        steps: Shows the progress.

    Returns:
        The page.

    Raises:
        UserError: The data set is not there any more, or no trial has its weights.
    """
    chosen = examples(study)
    if not chosen:
        raise UserError(f"{study.name}: no arm has a finished trial of a seed of the baseline's")
    gone = {
        trial.key: f"{trial.key}: its weights {_weights(study, trial)} are gone"
        for example in chosen
        for trial in example.trials.values()
        if not _weights(study, trial).is_file()
    }
    config = from_flat_dict(flat_as_stored(study.config))
    cases = {case.id: case for case in find_data(config, output, steps=steps).cases}
    shown = [
        replace(example, trials=kept)
        for example in chosen
        if example.case in cases
        and (kept := {arm: t for arm, t in example.trials.items() if t.key not in gone})
    ]
    if not shown:
        raise UserError(
            f"{study.name}: nothing can be shown, its weights or its cases are gone "
            f"({next(iter(gone.values()), 'cases')}); run the study again with --fresh"
        )
    absent = sorted({example.case for example in chosen} - cases.keys())
    notes = [*gone.values(), *(f"{case}: no longer in the data set" for case in absent)]
    made = _viewer_cases(study, shown, cases, device, steps("predicting examples"))
    return write_viewer(folder, study, fitting(made), len(chosen), notes)


def _weights(study: Study, trial: Trial) -> Path:
    """The tested checkpoint of a trial."""
    name = "last.pth" if study.data.test_is_validation else "best_metric_model.pth"
    return Path(trial.folder) / "checkpoints" / name


def _viewer_cases(
    study: Study,
    shown: list[Example],
    cases: Mapping[str, Case],
    device: str,
    progress: Progress,
) -> Iterator[ViewerCase]:
    """The examples one by one; a network is loaded when the first case needs it."""
    networks: dict[str, Predictor] = {}

    def network(trial: Trial) -> Predictor:
        if trial.key not in networks:
            settings = load_config(Path(trial.folder) / "config.json")
            networks[trial.key] = load_predictor(
                _weights(study, trial), device, postprocessing=settings.postprocess
            )
        return networks[trial.key]

    for done, example in enumerate(shown):
        case = cases[example.case]
        scan = read_scan(replace(case, label=None))
        found: dict[str, np.ndarray] = {
            arm: network(trial).predict(scan) for arm, trial in example.trials.items()
        }
        first = next(iter(example.trials.values()))
        view = native_view(case, next(iter(found.values())), network(first).labels)
        truth = view.truth
        scores = (
            {arm: dice(classes, truth, view.labels)[MEAN] for arm, classes in found.items()}
            if truth is not None
            else None
        )
        yield encode_case(view, predictions=found, dice=scores, group=example.group)
        progress(done + 1, len(shown))
