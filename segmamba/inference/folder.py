"""Many cases from NIfTI files to NIfTI files: reading, predicting and writing at once.

    DIR/<case-id>.nii.gz                 labels, uint8, on the source's grid
    DIR/probabilities/<case-id>.nii.gz   4-D, one volume a channel (predictions.json names them)
    DIR/entropy/, DIR/disagreement/      maps in [0, 1]
    DIR/overlays/<case-id>.png           three planes with outlines
    DIR/predictions.html                 all cases on one page
    DIR/predictions.json                 who predicted, how, and what became of each case
    DIR/failures.log                     tracebacks, where a case failed for a reason of ours

Threads suffice: what takes the time (zlib, NumPy, the device) leaves Python's lock. Reading and
preparing a 240x240x155 case takes one core 1.3 s, compressing its labels 24 ms.
"""

import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from segmamba.data.case import ERROR, Case
from segmamba.data.label_sets import LabelSet, region_dict, translation
from segmamba.data.labels import convention, written_values
from segmamba.data.volumes import read_scan
from segmamba.disks import disk_line, disk_reason, gone_line, is_gone
from segmamba.errors import UserError
from segmamba.files import write_text
from segmamba.inference.native_view import native_view
from segmamba.inference.nifti_writer import Reference, write_labels, write_shares
from segmamba.inference.outputs import AGAIN, DONE, FAILED, SKIPPED, Outcome, Outputs, writing_to
from segmamba.inference.predictor import Predictor
from segmamba.inference.prepared_scan import Analysis, PreparedScan
from segmamba.pictures.overlay import draw_cases, thumbnail
from segmamba.pictures.view import surroundings

READERS = min(8, os.cpu_count() or 1)
"""Threads that read; each holds one case: 200 MiB at 240x240x155."""
WRITERS = 2
"""Threads that write."""

LOG = "failures.log"
MARGIN = 1 / 50
"""By how much pictures show more than the brain, in sides of the volume."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def predict_cases(
    predictor: Predictor, cases: Iterable[Case], outputs: Outputs
) -> Iterator[Outcome]:
    """Predict cases and write what is asked for.

    A bad case fails alone, whatever it raises: its Outcome names the error. A traceback is for
    errors that the files do not explain; it goes to failures.log as well, where there is to be one.

    Args:
        predictor: Who predicts.
        cases: The cases.
        outputs: What is written, and where.

    Yields:
        An Outcome for each case as it is finished, in the order of `cases`.

    Raises:
        UserError: The output folder cannot be made, was removed meanwhile, or its disk takes no
            more. The cases that were finished stay.
    """
    _make_folders(outputs, len(predictor))
    log = outputs.folder / LOG
    if outputs.record:
        log.unlink(missing_ok=True)
    tracebacks: list[str] = []
    for outcome in _outcomes(predictor, cases, outputs):
        if outcome.state == FAILED:  # what an earlier prediction left there is not this one's
            with writing_to(outputs):
                for path in outputs.files(outcome.case, len(predictor)).values():
                    path.unlink(missing_ok=True)
        if outcome.traceback and outputs.record:
            tracebacks.append(f"{outcome.case}\n{outcome.traceback}")
            with writing_to(outputs):
                write_text(log, "\n".join(tracebacks))
        yield outcome


def _outcomes(predictor: Predictor, cases: Iterable[Case], outputs: Outputs) -> Iterator[Outcome]:
    """The pipeline: what each stage cannot do ends its case, and goes on as an Outcome."""
    with _threads(READERS) as readers, _threads(WRITERS) as writers:
        writing: deque[Future[Outcome]] = deque()
        for case, reading in _ahead(readers, lambda case: _read(predictor, case, outputs), cases):
            predicted = _predict(predictor, case, reading.result(), outputs)
            writing.append(writers.submit(_finish, predictor, case, predicted, outputs))
            while writing and (len(writing) > WRITERS or writing[0].done()):
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()


def _alone(case: Case, outputs: Outputs, stage: Callable[[], Result]) -> Result | Outcome:
    """The result of a stage, or the Outcome that ends the case here."""
    try:
        return stage()
    except UserError as error:
        named = str(error).startswith(f"{case.id}: ")
        return Outcome(case.id, FAILED, str(error) if named else f"{case.id}: {error}")
    except Exception as error:
        if disk_reason(error):  # the cases behind it would fail alike
            raise UserError(disk_line(error, AGAIN, outputs.folder)) from error
        if is_gone(error, outputs.folder):
            raise UserError(gone_line(outputs.folder)) from error
        line = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")
        where = f"; {LOG} beside the predictions has the traceback" if outputs.record else ""
        text = f"{case.id}: not predicted ({line}){where}"
        outcome = Outcome(case.id, FAILED, text, traceback=traceback.format_exc())
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # only now that the traceback holds no tensor any more
    return outcome


def _make_folders(outputs: Outputs, members: int) -> None:
    with writing_to(outputs):
        for path in outputs.files("case", members).values():
            path.parent.mkdir(parents=True, exist_ok=True)


def _read(predictor: Predictor, case: Case, outputs: Outputs) -> PreparedScan | Outcome:
    """The images of a case, or the Outcome that ends it here."""
    files = outputs.files(case.id, len(predictor)).values()
    if outputs.skip_existing and all(path.exists() for path in files):
        return Outcome(case.id, SKIPPED, labels=outputs.convention_for(case, predictor.labels))

    def prepare() -> PreparedScan:
        errors = [finding.text for finding in case.findings if finding.severity == ERROR]
        if errors:
            raise UserError(errors[0])
        return predictor.prepare(read_scan(replace(case, label=None)))

    return _alone(case, outputs, prepare)


def _predict(
    predictor: Predictor, case: Case, prepared: PreparedScan | Outcome, outputs: Outputs
) -> tuple[Analysis, float] | Outcome:
    """The device's part and its seconds, or the Outcome that ends the case here."""
    if isinstance(prepared, Outcome):
        return prepared
    scan, started = prepared, time.perf_counter()
    analysis = _alone(
        case,
        outputs,
        lambda: predictor.analyse(
            scan, probabilities=outputs.probabilities, uncertainty=outputs.uncertainty
        ),
    )
    if isinstance(analysis, Outcome):
        return analysis
    return analysis, time.perf_counter() - started


def _finish(
    predictor: Predictor,
    case: Case,
    predicted: tuple[Analysis, float] | Outcome,
    outputs: Outputs,
) -> Outcome:
    """Write everything of a case, and measure it."""
    if isinstance(predicted, Outcome):
        return predicted
    analysis, predict_s = predicted
    return _alone(case, outputs, lambda: _written(predictor, case, analysis, predict_s, outputs))


def _written(
    predictor: Predictor, case: Case, analysis: Analysis, predict_s: float, outputs: Outputs
) -> Outcome:
    classes = predictor.finish(analysis)
    reference = Reference.of(case)
    picture = _draw(case, classes, predictor.labels, outputs)
    _write(predictor, case, analysis, classes, reference, outputs)
    voxel_ml = float(np.prod(reference.spacing_mm)) / 1000
    masks = region_dict(classes, predictor.labels)
    return Outcome(
        case.id,
        DONE,
        labels=outputs.convention_for(case, predictor.labels),
        volumes_ml={region: int(mask.sum()) * voxel_ml for region, mask in masks.items()},
        predict_s=predict_s,
        mean_entropy=_mean_entropy(analysis),
        findings=analysis.prepared.findings,
        thumbnail=picture,
    )


def _write(
    predictor: Predictor,
    case: Case,
    analysis: Analysis,
    classes: np.ndarray,
    reference: Reference,
    outputs: Outputs,
) -> None:
    """Write the files of a case; the labels last, so that a case which has them is complete."""
    files, prepared = outputs.files(case.id, len(predictor)), analysis.prepared
    if analysis.probability is not None:
        shares = _whole_probability(prepared, analysis.probability, predictor.channels)
        write_shares(files["probabilities"], shares, reference)
    maps = {"entropy": analysis.entropy, "disagreement": analysis.disagreement}
    for kind, values in maps.items():
        if values is not None:
            write_shares(files[kind], prepared.whole(values), reference)
    convention_name = outputs.convention_for(case, predictor.labels)
    write_labels(files["labels"], classes, reference, convention_name, predictor.labels)


def _draw(case: Case, classes: np.ndarray, labels: LabelSet, outputs: Outputs) -> bytes:
    """Draw what is asked for; returns the picture for the page, where there is to be one."""
    if not (outputs.overlay or outputs.page):
        return b""
    view = native_view(case, classes, labels)
    view = view.cut(surroundings(view.brain() | (classes > 0), MARGIN))
    if outputs.overlay:
        heading = case.id if classes.any() else f"{case.id}: no tumour found"
        path = outputs.files(case.id, 1)["overlay"]
        draw_cases(path, [replace(view, heading=heading)], outputs.theme)
    return thumbnail(view) if outputs.page else b""


def _whole_probability(
    prepared: PreparedScan, probability: np.ndarray, channels: tuple[str, ...]
) -> np.ndarray:
    """(x, y, z, K) on the source's whole grid, channels last as NIfTI has them.

    Outside the brain, background is certain.
    """
    whole = np.stack([prepared.whole(channel) for channel in probability], axis=-1)
    if channels[0] == "background":
        outside = prepared.whole(np.ones(probability.shape[1:], bool)) == 0
        whole[outside, 0] = 1
    return whole


def _mean_entropy(analysis: Analysis) -> float | None:
    """Over the voxels of the predicted tumour, before small components are removed."""
    tumour = analysis.classes > 0
    if analysis.entropy is None or not tumour.any():
        return None
    return float(analysis.entropy[tumour].mean())


def notes_on_values(cases: Sequence[Case], labels: LabelSet, outputs: Outputs) -> list[str]:
    """Say in which values predictions are written, where that is not a matter of course.

    Args:
        cases: The cases.
        labels: The label set of the predictions.
        outputs: What is written.

    Returns:
        A line for each label convention that lacks classes of the network, or has further ones.
    """
    notes = []
    written = {(case.convention, outputs.convention_for(case, labels)) for case in cases}
    for own, values in sorted(written):
        known = convention(values).labels
        names = [known.classes[number] for number in translation(labels, known)]
        if never := [name for name in known.classes if name not in names]:
            notes.append(
                f"labels {values}: {', '.join(never)} is never written, for the network predicts "
                f"{', '.join(labels.classes[1:])}"
            )
        if values != own and not outputs.labels:
            shared = ", ".join(_sharing(own, labels))
            notes.append(f"labels {own} have no value for {shared}: {values} is written")
        elif shared := ", ".join(_sharing(values, labels)):
            notes.append(f"labels {values} have no value for {shared}, which is merged")
    return [*notes, *(line for name in sorted({v for _, v in written}) for line in _warned(name))]


def _sharing(name: str, labels: LabelSet) -> list[str]:
    """The classes that have no value of their own in a convention, but that of one before them."""
    values = written_values(name, labels).tolist()
    return [c for place, c in enumerate(labels.classes) if values[place] in values[:place]]


def _warned(name: str) -> list[str]:
    warning = convention(name).warning
    return [f"labels {name}: {warning}"] if warning else []


@contextmanager
def _threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that drops what is waiting when the caller stops."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Future[Result]]]:
    """(item, future) for each item in order, the next READERS being computed already."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > READERS:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
