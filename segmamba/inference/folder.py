"""Many cases from NIfTI files to NIfTI files: reading, predicting and writing at once.

    DIR/<case-id>.nii.gz                 labels, uint8, on the source's grid
    DIR/probabilities/<case-id>.nii.gz   4-D, one volume a channel (predictions.json names them)
    DIR/entropy/, DIR/disagreement/      maps in [0, 1]
    DIR/overlays/<case-id>.png           three planes with outlines
    DIR/predictions.html                 all cases on one page
    DIR/predictions.json                 who predicted, how, and what became of each case

Threads suffice: what takes the time (zlib, NumPy, the device) leaves Python's lock. Reading and preparing a 240x240x155 case takes one
core 1.3 s, compressing its labels 24 ms.
"""

import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from segmamba.data.case import ERROR
from segmamba.data.labels import REGIONS, region_masks
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.files import write_json
from segmamba.inference.nifti_writer import Reference, write_labels, write_shares
from segmamba.inference.overlay import draw_overlay, thumbnail
from segmamba.inference.page import write_page

READERS = min(8, os.cpu_count() or 1)  # each holds one case: 200 MiB at 240x240x155
WRITERS = 2
DONE, SKIPPED, FAILED = "done", "skipped", "failed"


@dataclass(frozen=True)
class Outputs:
    """What is written, and where. labels: the convention of the values, or None for each case's own."""

    folder: Path
    labels: str | None = None
    probabilities: bool = False
    uncertainty: bool = False
    overlay: bool = False
    page: bool = False
    skip_existing: bool = False

    def files(self, case_id, members):
        """{kind: path} of everything that a case gets."""
        kinds = {
            "probabilities": self.probabilities,
            "entropy": self.uncertainty,
            "disagreement": self.uncertainty and members > 1,
        }
        files = {"labels": self.folder / f"{case_id}.nii.gz"}
        files |= {
            kind: self.folder / kind / f"{case_id}.nii.gz"
            for kind, wanted in kinds.items()
            if wanted
        }
        return files | (
            {"overlay": self.folder / "overlays" / f"{case_id}.png"} if self.overlay else {}
        )


@dataclass(frozen=True)
class Outcome:
    """What became of one case. volumes_ml: {"ET": ..., "TC": ..., "WT": ...} of a case that was predicted."""

    case: str
    state: str
    error: str = ""
    volumes_ml: dict = field(default_factory=dict)
    predict_s: float = 0.0
    mean_entropy: float | None = None
    """Over the voxels of the predicted whole tumour; None where it was not asked for or nothing was found."""
    thumbnail: bytes = b""
    """A PNG for the page, where there is to be one."""


def predict_cases(predictor, cases, outputs):
    """Yield an Outcome for each Case as it is finished, in the order of `cases`. A bad case fails alone: its Outcome tells the error."""
    _make_folders(outputs, len(predictor))
    with _threads(READERS) as readers, _threads(WRITERS) as writers:
        writing = deque()
        for case, reading in _ahead(readers, lambda case: _read(predictor, case, outputs), cases):
            writing.append(
                writers.submit(
                    _finish, predictor, case, _predict(predictor, case, reading, outputs), outputs
                )
            )
            while writing and (len(writing) > WRITERS or writing[0].done()):
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()


def _make_folders(outputs, members):
    try:
        for path in outputs.files("case", members).values():
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output {outputs.folder}: cannot be made ({error}); choose another folder"
        ) from error


def _read(predictor, case, outputs):
    """The PreparedScan of a case, or the Outcome that ends it here."""
    if outputs.skip_existing and all(
        path.exists() for path in outputs.files(case.id, len(predictor)).values()
    ):
        return Outcome(case.id, SKIPPED)
    try:
        errors = [finding.text for finding in case.findings if finding.severity == ERROR]
        if errors:
            raise UserError(errors[0])
        return predictor.prepare(read_scan(replace(case, label=None)))
    except UserError as error:
        return Outcome(case.id, FAILED, str(error))


def _predict(predictor, case, reading, outputs):
    """(Analysis, seconds on the device), or the Outcome that ends the case here."""
    prepared = reading.result()
    if isinstance(prepared, Outcome):
        return prepared
    started = time.perf_counter()
    try:
        analysis = predictor.analyse(
            prepared, probabilities=outputs.probabilities, uncertainty=outputs.uncertainty
        )
    except UserError as error:
        return Outcome(case.id, FAILED, f"{case.id}: {error}")
    return analysis, time.perf_counter() - started


def _finish(predictor, case, predicted, outputs):
    """Write everything of a case; the labels last, so that a case which has them is complete."""
    if isinstance(predicted, Outcome):
        return predicted
    analysis, predict_s = predicted
    classes = predictor.finish(analysis)
    files = outputs.files(case.id, len(predictor))
    try:
        reference = Reference.of(case)
        if "probabilities" in files:
            write_shares(
                files["probabilities"], _whole_probability(analysis, predictor.channels), reference
            )
        for kind in ("entropy", "disagreement"):
            if kind in files:
                write_shares(
                    files[kind], analysis.prepared.whole(getattr(analysis, kind)), reference
                )
        if "overlay" in files:
            draw_overlay(files["overlay"], case.id, analysis.prepared, classes)
        write_labels(files["labels"], classes, reference, outputs.labels or case.convention)
    except UserError as error:
        return Outcome(case.id, FAILED, f"{case.id}: {error}")
    voxel_ml = float(np.prod(reference.spacing_mm)) / 1000
    volumes = {
        region: int(mask.sum()) * voxel_ml
        for region, mask in zip(REGIONS, region_masks(classes), strict=True)
    }
    tumour = analysis.classes > 0
    mean_entropy = (
        float(analysis.entropy[tumour].mean())
        if analysis.entropy is not None and tumour.any()
        else None
    )
    picture = thumbnail(analysis.prepared, classes) if outputs.page else b""
    return Outcome(
        case.id,
        DONE,
        volumes_ml=volumes,
        predict_s=predict_s,
        mean_entropy=mean_entropy,
        thumbnail=picture,
    )


def _whole_probability(analysis, channels):
    """(x, y, z, K) on the source's whole grid, channels last as NIfTI has them; outside the brain, background is certain."""
    whole = np.stack(
        [analysis.prepared.whole(channel) for channel in analysis.probability], axis=-1
    )
    if channels[0] == "background":
        outside = analysis.prepared.whole(np.ones(analysis.classes.shape, bool)) == 0
        whole[outside, 0] = 1
    return whole


def write_record(predictor, outcomes, outputs, names):
    """Write predictions.json, and the page where it is asked for; returns what predictions.json holds."""
    cases = [
        {
            "case": o.case,
            "state": o.state,
            "error": o.error,
            "volumes_ml": o.volumes_ml,
            "predict_s": o.predict_s,
            "mean_entropy": o.mean_entropy,
        }
        for o in outcomes
    ]
    record = {
        "members": names,
        "channels": list(predictor.channels),
        "labels": outputs.labels or "each case's own",
        "inference": [asdict(member.inference) for member in predictor.members],
        "postprocessing": asdict(predictor.postprocessing),
        "cases": cases,
    }
    write_json(outputs.folder / "predictions.json", record)
    if outputs.page:
        write_page(outputs.folder / "predictions.html", outcomes, predictor.summary)
    return record


@contextmanager
def _threads(count):
    """A pool that drops what is waiting when the caller stops."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(pool, function, items):
    """(item, future) for each item in order, the next READERS being computed already."""
    waiting, items = deque(), iter(items)
    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > READERS:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
