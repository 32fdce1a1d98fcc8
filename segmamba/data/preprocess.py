"""Building the preprocessing cache.

Each case is z-scored, brought to one grid and cut to the brain once, in files that a patch is read
from without the volume. `prepared_case` says which files these are.

A case's folder is named with a key, a digest of the settings and of the contents of its files:
nothing stale is ever served, and what leaves the contents alone leaves the key. The key is computed
once for each case and run; behind it the case goes by its folder. case.json is written first. The
folder appears by one rename when all is complete.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segmamba.config import DataConfig
from segmamba.data.case import Case
from segmamba.data.label_sets import GLIOMA
from segmamba.data.labels import convention
from segmamba.data.missing import ZEROS
from segmamba.data.parallel import Progress, map_cases, no_progress
from segmamba.data.prepared_case import PreparedCase
from segmamba.data.same_images import image_digests
from segmamba.data.source_files import (
    read_digests,
    recorded_digests,
    stamps_of,
    write_record,
)
from segmamba.data.volumes import Scan, read_scan
from segmamba.data.working_grid import BoxGeometry, must_resample, to_working_grid
from segmamba.disks import disk_line, disk_reason
from segmamba.errors import UserError
from segmamba.leftovers import folder_beside, remove_leftovers

FORMAT = 4  # raise it when the meaning of a cached file changes
# Candidate patch centres kept per kind: more than any training run draws from one case.
CENTRES = 50_000
BUILDING = ".building-"  # until version 0.4
SOURCES = "sources.json"  # beside case.json: which files were read
ABANDONED_S = 24 * 3600
"""Seconds after which what a version before 0.4 began to build is removed; it names no process."""


def prepare_cases(
    cases: Sequence[Case],
    cache: str | Path,
    config: DataConfig,
    *,
    workers: int = 0,
    progress: Progress = no_progress,
) -> list[PreparedCase]:
    """Read cases from the cache, after building in parallel what the cache lacks.

    Args:
        cases: The cases to prepare.
        cache: Folder of the cache; made if need be.
        config: Gives the spacing of the working grid.
        workers: The largest number of processes; 0 is one for each core.
        progress: Called with (cases done, cases in all) after each case that is built.

    Returns:
        The prepared cases in the order of `cases`.

    Raises:
        UserError: A case is bad, where the message names the first one and counts the others, or
            the disk takes no more. Good cases stay in the cache.
    """
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(cache)
    known = _folders_by_case(cache)
    places: list[_Place] = [
        _find(case, known.get(case.id, []), cache, config) or _Place(None) for case in cases
    ]
    missing = [case for case, place in zip(cases, places, strict=True) if not place.folder]
    cached = len(cases) - len(missing)
    built = map_cases(
        functools.partial(_build, cache=cache, config=config),
        missing,
        lost=_lost,
        workers=workers,
        progress=lambda done, _: progress(cached + done, len(cases)),
    )
    if errors := [place.error for place in built if place.error]:
        raise UserError(
            errors[0] + (f" (and {len(errors) - 1} more cases fail)" if len(errors) > 1 else "")
        )
    news = iter(built)
    folders = [place.folder or next(news).folder for place in places]
    return [_read(folder, case) for folder, case in zip(folders, cases, strict=True)]


def prepare_again(
    prepared: Sequence[PreparedCase], cases: Sequence[Case], cache: Path, config: DataConfig
) -> list[PreparedCase]:
    """Find prepared cases in another cache, and build there what it lacks.

    Args:
        prepared: Cases of one cache, whose keys hold for the whole run.
        cases: The cases that they were made from, in the same order.
        cache: The other cache, or the same.
        config: The settings that the cases were prepared with.

    Returns:
        The same cases in `cache`. Files of a case that is there already are not looked at.

    Raises:
        UserError: A case is bad, or its files have other contents than when the run began.
    """
    missing = [
        case
        for case, known in zip(cases, prepared, strict=True)
        if not (cache / known.folder.name).exists()
    ]
    built = {case.id: case for case in prepare_cases(missing, cache, config)} if missing else {}
    for known in prepared:
        if known.id in built and built[known.id].folder.name != known.folder.name:
            raise UserError(
                f"{known.id}: its files or settings have changed since the run began; bring them "
                "back, or start a new run"
            )
    return [
        replace(PreparedCase.read(cache / known.folder.name), patient=known.patient)
        for known in prepared
    ]


@dataclass(frozen=True)
class _Place:
    """Where a case lies in the cache, or why it does not."""

    folder: Path | None
    error: str = ""


def _read(folder: Path | None, case: Case) -> PreparedCase:
    assert folder is not None  # without an error, every case has been built
    return replace(PreparedCase.read(folder), patient=case.patient)


def _lost(case: Case) -> _Place:
    return _Place(
        None,
        f"{case.id}: not prepared, the process that built it or a case beside it was killed "
        "(memory?); free some memory or allow fewer --cpus",
    )


def _folders_by_case(cache: Path) -> dict[str, list[Path]]:
    """{case id: its folders}, whatever their keys; ids hold dashes, keys do not."""
    folders: dict[str, list[Path]] = {}
    for entry in os.scandir(cache):
        if "-" in entry.name and not entry.name.startswith("."):
            folders.setdefault(entry.name.rpartition("-")[0], []).append(Path(entry.path))
    return folders


def _find(case: Case, folders: Sequence[Path], cache: Path, config: DataConfig) -> _Place | None:
    """The place of a case that was built before with the same contents and settings."""
    if not folders:
        return None
    stamps = stamps_of(case)
    for folder in folders:
        if digests := recorded_digests(folder / SOURCES, stamps):
            found = _folder(case, digests, cache, config)
            return _Place(found) if found.exists() else None
    read_ns, digests = time.time_ns(), read_digests(case)
    found = _folder(case, digests, cache, config)
    if not found.exists():
        return None
    with contextlib.suppress(OSError):  # a cache that cannot be written is read all the same
        write_record(found / SOURCES, stamps, digests, read_ns)
    return _Place(found)


def _build(case: Case, cache: Path, config: DataConfig) -> _Place:
    """Build one case."""
    try:
        stamps, read_ns = stamps_of(case), time.time_ns()
        digests = read_digests(case)
        folder = _folder(case, digests, cache, config)
        if folder.exists():  # another process has built it meanwhile
            return _Place(folder)
        scan = read_scan(case)
    except UserError as error:
        return _Place(None, str(error))
    try:
        image, label, geometry = to_working_grid(scan, config.spacing_mm)
    except (UserError, MemoryError) as error:
        return _Place(None, f"{case.id}: {error}")
    if stamps_of(case) != stamps and read_digests(case) != digests:
        return _Place(None, f"{case.id}: its files changed while they were read; start again")
    try:
        with folder_beside(folder) as building:
            _write(building, case, scan, geometry, image, label)
            if scan.label is not None and must_resample(scan, config.spacing_mm):
                np.save(building / "source_label.npy", scan.label)
            write_record(building / SOURCES, stamps, digests, read_ns)
            os.rename(building, folder)
    except OSError as error:
        # A folder that is there means that another process finished the same case first.
        if not folder.exists():
            if disk_reason(error):  # nor does it take another case
                go_on = "the same command goes on; or choose another --output"
                raise UserError(f"{case.id}: {disk_line(error, go_on, cache)}") from error
            return _Place(
                None,
                f"{case.id}: cannot be written to the cache in {cache} ({error}); "
                "choose another --output",
            )
    return _Place(folder)


def _write(
    building: Path,
    case: Case,
    scan: Scan,
    geometry: BoxGeometry,
    image: np.ndarray,
    label: np.ndarray | None,
) -> None:
    """Write all files of a case but source_label.npy and the record of its sources.

    image: float16 (4, x, y, z). label: uint8 (x, y, z), or None: then all brain is "brain".
    """
    tumour = np.zeros(image.shape[1:], bool) if label is None else label > 0
    numbers = range(1, len(case.label_set.classes))
    classes = [c for c in numbers if label is not None and (label == c).any()]
    meta = {
        "id": case.id,
        "patient": case.patient,
        **geometry,
        "classes": classes,
        "label_set": case.label_set.name,
        "findings": [asdict(finding) for finding in scan.findings],
        "image_digests": image_digests(scan.image),
    }
    (building / "case.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    np.save(building / "image.npy", image)
    if label is not None:
        np.save(building / "label.npy", label)
    np.save(building / "tumour_voxels.npy", _some(np.flatnonzero(tumour)))
    np.save(building / "brain_voxels.npy", _some(np.flatnonzero(image.any(axis=0) & ~tumour)))
    for c in classes:
        np.save(building / f"class{c}_voxels.npy", _some(np.flatnonzero(label == c)))


def _some(indices: np.ndarray) -> np.ndarray:
    """At most CENTRES of the sorted indices, evenly spread; they depend on the case alone."""
    count = min(CENTRES, len(indices))
    keep = np.linspace(0, len(indices) - 1, count).astype(np.int64) if count else slice(0)
    return indices[keep].astype(np.int32)


def _folder(case: Case, digests: Mapping[str, str], cache: Path, config: DataConfig) -> Path:
    files = {path: place for place, path in enumerate(case.files)}
    contents = [digests[str(path.absolute())] for path in files]
    roles = {modality: files[path] for modality, path in case.images.items()}
    label = files[case.label] if case.label else None
    values = sorted(convention(case.convention).numbers(case.label_set).items())
    channels = sorted(case.channels.items())
    parts: list[Any] = [
        *(FORMAT, config.spacing_mm, values, channels, sorted(roles.items()), label, contents)
    ]
    # What is as it ever was is left out: glioma's classes, and headers that agree.
    if case.label_set != GLIOMA:
        parts.append(case.label_set.name)
    if (stated := [case.header.orientation.upper(), case.header.header]) != ["", "agree"]:
        parts.append(stated)
    if case.may_lack:  # an image of zeros is an error where no modality may be missing
        parts.append(ZEROS)
    text = json.dumps(parts)
    return cache / f"{case.id}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _clear_abandoned(cache: Path) -> None:
    remove_leftovers(cache)
    for folder in cache.glob(f"{BUILDING}*"):
        try:
            if time.time() - folder.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            continue  # its builder has just finished


def check_patch_fits(cases: Sequence[PreparedCase], config: DataConfig) -> None:
    """Refuse volumes that are smaller than the patch, unless padding is on.

    What counts is the volume before it was cut to the brain. Where only the cut made it too small,
    the zeros come back as padding.

    Args:
        cases: The cases to check.
        config: Gives the patch size and whether padding is on.

    Raises:
        UserError: A side of a volume is shorter than the patch; the message names the first such
            case.
    """
    if config.pad_to_patch:
        return
    for case in cases:
        for axis, side, wanted in zip("xyz", case.working_shape, config.patch_size, strict=True):
            if side < wanted:
                raise UserError(
                    f"{case.id}: {side} voxels along {axis} at {config.spacing_mm:g} mm are fewer "
                    f"than the patch's {wanted}; choose a smaller data.patch_size (now "
                    f"{'x'.join(map(str, config.patch_size))}) or --set data.pad_to_patch=true"
                )
