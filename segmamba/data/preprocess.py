"""Building the preprocessing cache.

Each case is z-scored, brought to one grid and cut to the brain once, in files that a patch is read
from without the volume. `prepared_case` says which files these are.

A case's folder is named with a key, a digest of the settings and of each source file's name, size
and times: nothing stale is ever served. case.json is written first. The folder appears by one
rename when all is complete.
"""

import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segmamba.config import DataConfig
from segmamba.data.case import Case
from segmamba.data.labels import REGION_CLASSES, convention
from segmamba.data.parallel import Progress, map_cases, no_progress
from segmamba.data.prepared_case import PreparedCase
from segmamba.data.volumes import read_scan
from segmamba.data.working_grid import BoxGeometry, must_resample, to_working_grid
from segmamba.errors import UserError

FORMAT = 2  # raise it when the meaning of a cached file changes
# Candidate patch centres kept per kind: more than any training run draws from one case.
CENTRES = 50_000
BUILDING = ".building-"
# A case takes seconds. What has stood unfinished for so long belongs to a process that was killed.
ABANDONED_S = 3600


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
        UserError: A case is bad. The message names the first one and counts the others. Good cases
            stay in the cache.
    """
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(cache)
    missing = [case for case in cases if not _folder(case, cache, config).exists()]
    cached = len(cases) - len(missing)
    outcomes = map_cases(
        functools.partial(_build, cache=cache, config=config),
        missing,
        lost=_lost_message,
        workers=workers,
        progress=lambda done, _: progress(cached + done, len(cases)),
    )
    if errors := [error for error in outcomes if error]:
        raise UserError(
            errors[0] + (f" (and {len(errors) - 1} more cases fail)" if len(errors) > 1 else "")
        )
    return [PreparedCase.read(_folder(case, cache, config)) for case in cases]


def _lost_message(case: Case) -> str | None:
    return (
        f"{case.id}: not prepared, the process that built it or a case beside it was killed "
        "(memory?); free some memory or allow fewer --cpus"
    )


def _build(case: Case, cache: Path, config: DataConfig) -> str | None:
    """Build one case; None, or the error message."""
    folder, spacing_mm = _folder(case, cache, config), config.spacing_mm
    if folder.exists():  # another process has built it meanwhile
        return None
    try:
        scan = read_scan(case)
    except UserError as error:
        return str(error)
    try:
        image, label, geometry = to_working_grid(scan, spacing_mm)
    except UserError as error:
        return f"{case.id}: {error}"
    building = Path(tempfile.mkdtemp(prefix=BUILDING, dir=folder.parent))
    try:
        _write(building, case, geometry, image, label)
        if scan.label is not None and must_resample(scan, spacing_mm):
            np.save(building / "source_label.npy", scan.label)
        os.rename(building, folder)
    except OSError as error:
        # A folder that is there means that another process finished the same case first.
        if not folder.exists():
            return (
                f"{case.id}: cannot be written to the cache in {folder.parent} ({error}); free "
                "space or choose another --output"
            )
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return None


def _write(
    building: Path, case: Case, geometry: BoxGeometry, image: np.ndarray, label: np.ndarray | None
) -> None:
    """Write all files of a case but source_label.npy.

    image: float16 (4, x, y, z). label: uint8 (x, y, z), or None: then all brain is "brain".
    """
    tumour = np.zeros(image.shape[1:], bool) if label is None else label > 0
    classes = [c for c in REGION_CLASSES["WT"] if label is not None and (label == c).any()]
    meta = {"id": case.id, "patient": case.patient, **geometry, "classes": classes}
    (building / "case.json").write_text(json.dumps(meta, indent=1))
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


def _folder(case: Case, cache: Path, config: DataConfig) -> Path:
    return cache / f"{case.id}-{_key(case, config)}"


def _key(case: Case, config: DataConfig) -> str:
    # The time of the last status change tells a file that was replaced by one of the same size and
    # with its old modification time.
    try:
        stats = [
            (path.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
            for path in case.files
            for s in [path.stat()]
        ]
    except OSError as error:
        raise UserError(
            f"{case.id}: {error.filename}: {error.strerror}; add the file or remove the case"
        ) from error
    values = sorted(convention(case.convention).values.items())
    parts = [FORMAT, config.spacing_mm, values, sorted(case.channels.items()), stats]
    if (stated := [case.header.orientation.upper(), case.header.header]) != ["", "agree"]:
        parts.append(stated)
    text = json.dumps(parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _clear_abandoned(cache: Path) -> None:
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
