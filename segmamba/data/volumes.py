"""Reading NIfTI files: one canonical orientation, and every fault named with its case and file.

Arrays are (x, y, z) with x to the patient's right side, y anterior, z superior (RAS+, the nearest
axis permutation and flips of the file's affine). Oblique affines keep their small rotation in the
affine; voxels are not interpolated here.
"""

import gzip
import itertools
import logging
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np

from segmamba.data import itk_images
from segmamba.data.case import ERROR, Case, Finding, surplus_channels
from segmamba.data.content import examine
from segmamba.data.itk_images import is_itk
from segmamba.data.labels import MODALITIES, to_classes
from segmamba.data.missing import missing_finding, missing_modalities
from segmamba.errors import UserError

# Scanners' software rounds affines. A tenth of a voxel is far above that and far below a
# misregistration.
AFFINE_TOLERANCE_VOXELS = 0.1
# nibabel prints every header field that it mends; our own checks find what matters.
nibabel.imageglobals.logger.setLevel(logging.CRITICAL)
DAMAGED = (
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    MemoryError,
    zlib.error,
    nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
    nibabel.wrapstruct.WrapStructError,
    nibabel.orientations.OrientationError,
)


@dataclass(frozen=True)
class Scan:
    """One case in memory."""

    image: np.ndarray
    """float32 (4, x, y, z) in MODALITIES order, 0 outside the brain."""
    label: np.ndarray | None
    """uint8 (x, y, z), internal classes; None without a segmentation."""
    affine: np.ndarray
    """(4, 4), from voxels to mm."""
    spacing_mm: tuple[float, ...]
    """Voxel size along x, y and z."""
    findings: tuple[Finding, ...] = ()
    """What is to say about its files; no errors."""


@dataclass
class Reading:
    """What could be read of a case; the rest is in `findings`."""

    channels: dict[str, np.ndarray] = field(default_factory=dict)
    """Modality to (x, y, z) array on the grid of the first file, 0 outside the brain."""
    label: np.ndarray | None = None
    """uint8 (x, y, z), internal classes."""
    affine: np.ndarray | None = None
    """(4, 4) of the first file; None where no image could be read."""
    spacing_mm: tuple[float, ...] = ()
    """Of the first file."""
    axis_codes: dict[Path, tuple[str, ...]] = field(default_factory=dict)
    """{path: ("L", "P", "S")}: the directions of the axes as stored."""
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class FileGrid:
    """Where the voxels of a file lie."""

    path: Path
    shape: tuple[int, ...]
    """Voxels along x, y and z in canonical orientation."""
    affine: np.ndarray
    """(4, 4), from voxels to mm."""


@dataclass(frozen=True)
class _Volume:
    """The contents of a file in canonical orientation."""

    array: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, ...]
    axis_codes: tuple[str, ...]
    """The directions of the axes as stored."""


def read_volume(path: str | Path) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Read a NIfTI file of three dimensions.

    Args:
        path: The file.

    Returns:
        (array (x, y, z) in canonical orientation, affine (4, 4), spacing in mm).

    Raises:
        UserError: The file is missing, damaged or of another kind.
    """
    volume = _read(path, dimensions=3)
    return volume.array, volume.affine, volume.spacing_mm


def read_scan(case: Case) -> Scan:
    """Read a case and check it.

    Args:
        case: The case.

    Returns:
        The scan. Shapes and affines of its files agree, voxels are finite, no image is empty and
        labels are within the convention.

    Raises:
        UserError: The first fault of the case.
    """
    reading = read_case(case)
    for finding in (*case.findings, *reading.findings):
        if finding.severity == ERROR:
            raise UserError(finding.text)
    assert reading.affine is not None  # without an error, all images were read
    nothing = np.zeros(next(iter(reading.channels.values())).shape, np.float32)
    image = np.stack([np.asarray(reading.channels.get(m, nothing), np.float32) for m in MODALITIES])
    return Scan(image, reading.label, reading.affine, reading.spacing_mm, tuple(reading.findings))


def read_case(case: Case) -> Reading:
    """Read all that can be read of a case, each file once.

    Args:
        case: The case.

    Returns:
        The reading; a fault is a finding, never an exception.
    """
    reading = Reading()
    first: FileGrid | None = None
    for path in dict.fromkeys(case.images[m] for m in MODALITIES if m in case.images):
        try:
            volume = _read(path, dimensions=4 if case.channels else 3)
        except UserError as error:
            reading.findings.append(Finding(ERROR, "unreadable file", f"{case.id}: {error}"))
            continue
        reading.axis_codes[path] = volume.axis_codes
        grid = FileGrid(path, volume.array.shape[:3], volume.affine)
        if first is None:
            first, reading.affine, reading.spacing_mm = grid, volume.affine, volume.spacing_mm
        if finding := grid_finding(case.id, grid, first):
            reading.findings.append(finding)
            continue
        if case.channels and (surplus := surplus_channels(case, path, volume.array.shape[3])):
            reading.findings.append(surplus)
        for modality in (m for m in MODALITIES if case.images.get(m) == path):
            _take_channel(reading, case, path, modality, volume.array)
    reading.findings += _missing(case, reading)
    if case.label:
        _take_label(reading, case, case.label, first)
    reading.channels, findings = examine(case, reading.channels, reading.label, reading.spacing_mm)
    reading.findings += findings
    return reading


def _missing(case: Case, reading: Reading) -> list[Finding]:
    """Say what a case lacks that may lack it; an error where that is every image."""
    if not case.may_lack:
        return []
    found = [missing_finding(case, m) for m in MODALITIES if m not in case.images]
    if missing_modalities([*reading.findings, *found]) == MODALITIES:
        text = (
            f"{case.id}: every image is empty (all voxels are 0); replace them or remove the case"
        )
        found.append(Finding(ERROR, "empty image", text))
    return found


def _take_channel(
    reading: Reading, case: Case, path: Path, modality: str, volume: np.ndarray
) -> None:
    """Add a modality to the reading, or the finding that it is missing, not finite or empty."""
    where = str(path)
    if case.channels:
        place = case.channels[modality]
        where = f"{path}, channel {place} ({modality}),"
        if place >= volume.shape[3]:
            text = (
                f"{case.id}: {path} has {volume.shape[3]} channels, expected {modality} as number "
                f"{place}; correct the channel names or the file"
            )
            reading.findings.append(Finding(ERROR, "missing modality", text))
            return
        volume = volume[..., place]
    if (bad := volume.size - np.count_nonzero(np.isfinite(volume))) > 0:
        text = (
            f"{case.id}: {where} has {bad} voxels that are not finite (NaN or inf); repair the file"
        )
        reading.findings.append(Finding(ERROR, "not finite", text))
    elif not volume.any() and case.may_lack:
        reading.findings.append(missing_finding(case, modality))
        return
    elif not volume.any():
        text = (
            f"{case.id}: {where} is empty (every voxel is 0); replace the file or remove the case"
        )
        reading.findings.append(Finding(ERROR, "empty image", text))
    reading.channels[modality] = volume


def _take_label(reading: Reading, case: Case, path: Path, first: FileGrid | None) -> None:
    """Add the label to the reading where it lies on the grid of the first file."""
    try:
        volume = _read(path, dimensions=3)
    except UserError as error:
        reading.findings.append(Finding(ERROR, "unreadable file", f"{case.id}: {error}"))
        return
    reading.axis_codes[path] = volume.axis_codes
    grid = FileGrid(path, volume.array.shape, volume.affine)
    misplaced = grid_finding(case.id, grid, first) if first else None
    reading.findings += [misplaced] if misplaced else []
    try:
        classes = to_classes(volume.array, case.convention, path, case.label_set)
    except UserError as error:
        reading.findings.append(Finding(ERROR, "unknown label", f"{case.id}: {error}"))
        return
    reading.label = None if misplaced else classes


def _read(path: str | Path, *, dimensions: int) -> _Volume:
    try:
        stored = _load(Path(path))
        nifti = nibabel.as_closest_canonical(stored)
        array = np.asanyarray(nifti.dataobj)
        codes = nibabel.aff2axcodes(stored.affine)
        spacing_mm = tuple(float(s) for s in nibabel.affines.voxel_sizes(nifti.affine))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except DAMAGED as error:
        raise UserError(
            f"{path}: damaged or not a NIfTI file ({error}); copy or download it again"
        ) from error
    if array.ndim != dimensions:
        expected = (
            "a 3-D volume" if dimensions == 3 else "a 4-D file with a channel for each modality"
        )
        raise UserError(f"{path}: has {array.ndim} dimensions, expected {expected}")
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"{path}: its voxels are {array.dtype}, expected numbers; export it as a grey-value "
            "image"
        )
    if not (np.isfinite(nifti.affine).all() and min(spacing_mm) > 0):
        spacing = " x ".join(f"{s:g}" for s in spacing_mm)
        raise UserError(
            f"{path}: its affine is no grid in space (spacing {spacing} mm); correct its header"
        )
    return _Volume(array, nifti.affine, spacing_mm, codes)


def _load(path: Path) -> nibabel.Nifti1Pair:
    """A file as a nibabel image.

    A .gz is read to its end, where its checksum is: nibabel stops at the last voxel and misses
    flipped bits.
    """
    if is_itk(path):
        return itk_images.load(path)
    if path.suffix.lower() == ".hdr":
        return nibabel.Nifti1Pair.from_filename(path)
    if path.suffix != ".gz":
        with path.open("rb") as file:
            start = file.read(4)
        return image_class(start).from_filename(path)
    raw = gzip.decompress(path.read_bytes())
    return image_class(raw[:4]).from_bytes(raw)


def image_class(start: bytes) -> type[nibabel.Nifti1Image]:
    """NIfTI-1 or NIfTI-2, by the header's size in either byte order.

    Args:
        start: The first four bytes of the file.

    Returns:
        nibabel's class of the file. Any start that is neither is taken, and fails, as NIfTI-1.
    """
    if 540 in (int.from_bytes(start, "little"), int.from_bytes(start, "big")):
        return nibabel.Nifti2Image
    return nibabel.Nifti1Image


def grid_finding(case_id: str, grid: FileGrid, first: FileGrid) -> Finding | None:
    """Compare the grid of a file with that of the first file of its case.

    Args:
        case_id: The case.
        grid: The file's grid.
        first: The grid that it must agree with.

    Returns:
        An error that says where the grids differ, or None where they agree: in shape, and in the
        corners' places to `AFFINE_TOLERANCE_VOXELS`.
    """
    if grid.shape != first.shape:
        shape, expected = ("x".join(map(str, g.shape)) for g in (grid, first))
        text = (
            f"{case_id}: {grid.path} is {shape} but {first.path.name} is {expected} "
            "(in canonical orientation); all files of a case must share one grid"
        )
        return Finding(ERROR, "shape", text)
    corners = np.array(
        [[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in grid.shape))], float
    )
    gap_mm = np.abs((corners @ grid.affine.T - corners @ first.affine.T)[:, :3]).max()
    if gap_mm > AFFINE_TOLERANCE_VOXELS * nibabel.affines.voxel_sizes(first.affine).min():
        text = (
            f"{case_id}: {grid.path} lies {gap_mm:.2f} mm away from {first.path.name} by its "
            "affine; register the case or correct its header"
        )
        return Finding(ERROR, "affine", text)
    return None
