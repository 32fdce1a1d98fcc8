"""Reading NIfTI files: one canonical orientation, and every fault named with its case and file.

Arrays are (x, y, z) with x to the patient's right side, y anterior, z superior (RAS+, the nearest axis permutation and
flips of the file's affine). Oblique affines keep their small rotation in the affine; voxels are not interpolated here.
"""

import gzip
import itertools
import logging
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np

from segmamba.data.case import ERROR, Finding
from segmamba.data.labels import MODALITIES, to_classes
from segmamba.errors import UserError

# Scanners' software rounds affines; a tenth of a voxel is far above that and far below a misregistration.
AFFINE_TOLERANCE_VOXELS = 0.1
nibabel.imageglobals.logger.setLevel(
    logging.CRITICAL
)  # it prints every header field that it mends; what matters is found by our checks
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
    """One case in memory. image: float32 (4, x, y, z) in MODALITIES order; label: uint8 (x, y, z) classes, or None."""

    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    spacing_mm: tuple


@dataclass
class Reading:
    """What could be read of a case. channels: modality to (x, y, z) array as stored, on the grid of the first; the rest is in `findings`."""

    channels: dict = field(default_factory=dict)
    label: np.ndarray | None = None
    affine: np.ndarray | None = None
    spacing_mm: tuple = ()
    axis_codes: dict = field(default_factory=dict)
    """{path: ("L", "P", "S")}: the directions of the axes as stored."""
    findings: list = field(default_factory=list)


def read_volume(path):
    """A NIfTI file as (array (x, y, z) in canonical orientation, affine (4, 4), spacing in mm)."""
    array, affine, spacing_mm, _ = _read(path, 3)
    return array, affine, spacing_mm


def read_scan(case):
    """A Case as a Scan, checked: shapes and affines agree, voxels finite, no empty image, labels within the convention."""
    reading = read_case(case)
    for finding in (*case.findings, *reading.findings):
        if finding.severity == ERROR:
            raise UserError(finding.text)
    image = np.stack([np.asarray(reading.channels[m], np.float32) for m in MODALITIES])
    return Scan(image, reading.label, reading.affine, reading.spacing_mm)


def read_case(case):
    """All that can be read of a Case, each file once, as a Reading; a fault is a Finding, never an exception."""
    reading, first = Reading(), None
    for path in dict.fromkeys(case.images[m] for m in MODALITIES if m in case.images):
        try:
            volume, affine, spacing_mm, codes = _read(path, 4 if case.channels else 3)
        except UserError as error:
            reading.findings.append(Finding(ERROR, "unreadable file", f"{case.id}: {error}"))
            continue
        reading.axis_codes[path] = codes
        if first is None:
            first, reading.affine, reading.spacing_mm, shape = (
                path,
                affine,
                spacing_mm,
                volume.shape[:3],
            )
        if grid := grid_finding(case, path, volume.shape[:3], affine, first, shape, reading.affine):
            reading.findings.append(grid)
            continue
        for modality in (m for m in MODALITIES if case.images.get(m) == path):
            _take_channel(reading, case, path, modality, volume)
    if case.label:
        _take_label(reading, case, first, shape if first else None)
    return reading


def _take_channel(reading, case, path, modality, volume):
    where = path
    if case.channels:
        place = case.channels[modality]
        where = f"{path}, channel {place} ({modality}),"
        if place >= volume.shape[3]:
            text = f"{case.id}: {path} has {volume.shape[3]} channels, expected {modality} as number {place}; correct the channel names or the file"
            reading.findings.append(Finding(ERROR, "missing modality", text))
            return
        volume = volume[..., place]
    if (bad := volume.size - np.count_nonzero(np.isfinite(volume))) > 0:
        text = (
            f"{case.id}: {where} has {bad} voxels that are not finite (NaN or inf); repair the file"
        )
        reading.findings.append(Finding(ERROR, "not finite", text))
    elif not volume.any():
        text = (
            f"{case.id}: {where} is empty (every voxel is 0); replace the file or remove the case"
        )
        reading.findings.append(Finding(ERROR, "empty image", text))
    reading.channels[modality] = volume


def _take_label(reading, case, first, shape):
    try:
        values, affine, _, reading.axis_codes[case.label] = _read(case.label, 3)
    except UserError as error:
        reading.findings.append(Finding(ERROR, "unreadable file", f"{case.id}: {error}"))
        return
    grid = first and grid_finding(
        case, case.label, values.shape, affine, first, shape, reading.affine
    )
    reading.findings += [grid] if grid else []
    try:
        classes = to_classes(values, case.convention, case.label)
    except UserError as error:
        reading.findings.append(Finding(ERROR, "unknown label", f"{case.id}: {error}"))
        return
    reading.label = None if grid else classes


def _read(path, dimensions):
    """(array in canonical orientation, affine, spacing in mm, directions of the axes as stored)."""
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
            f"{path}: its voxels are {array.dtype}, expected numbers; export it as a grey-value image"
        )
    if not (np.isfinite(nifti.affine).all() and min(spacing_mm) > 0):
        raise UserError(
            f"{path}: its affine is no grid in space (spacing {' x '.join(f'{s:g}' for s in spacing_mm)} mm); correct its header"
        )
    return array, nifti.affine, spacing_mm, codes


def _load(path):
    """A file as a nibabel image. A .gz is read to its end, where its checksum is: nibabel stops at the last voxel and misses flipped bits."""
    if path.suffix != ".gz":
        with path.open("rb") as file:
            start = file.read(4)
        return image_class(start).from_filename(path)
    raw = gzip.decompress(path.read_bytes())
    return image_class(raw[:4]).from_bytes(raw)


def image_class(start):
    """NIfTI-1 or NIfTI-2 by the header's size in the first four bytes, in either byte order; any other start fails as NIfTI-1."""
    return (
        nibabel.Nifti2Image
        if 540 in (int.from_bytes(start, order) for order in ("little", "big"))
        else nibabel.Nifti1Image
    )


def grid_finding(case, path, shape, affine, first, first_shape, first_affine):
    """The Finding that a file lies on another grid than the first, or None."""
    if shape != first_shape:
        return Finding(
            ERROR,
            "shape",
            f"{case.id}: {path} is {'x'.join(map(str, shape))} but {first.name} is {'x'.join(map(str, first_shape))} "
            "(in canonical orientation); all files of a case must share one grid",
        )
    corners = np.array(
        [[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in shape))], float
    )
    gap_mm = np.abs((corners @ affine.T - corners @ first_affine.T)[:, :3]).max()
    if gap_mm > AFFINE_TOLERANCE_VOXELS * nibabel.affines.voxel_sizes(first_affine).min():
        text = f"{case.id}: {path} lies {gap_mm:.2f} mm away from {first.name} by its affine; register the case or correct its header"
        return Finding(ERROR, "affine", text)
    return None
