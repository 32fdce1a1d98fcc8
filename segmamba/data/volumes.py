"""Reading the files of a case: one canonical orientation, and every fault named with its file.

Arrays are (x, y, z) with x to the patient's right side, y anterior, z superior (RAS+, the nearest
axis permutation and flips of the file's affine). Oblique affines keep their small rotation in the
affine; voxels are not interpolated here. The formats have modules of their own, such as `nifti`.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel
import numpy as np

from segmamba.config.header import HeaderRules
from segmamba.data import itk_images, nifti
from segmamba.data.case import ERROR, Case, Finding, surplus_channels
from segmamba.data.content import examine
from segmamba.data.itk_images import is_itk
from segmamba.data.labels import MODALITIES, to_classes
from segmamba.data.missing import missing_finding, missing_modalities
from segmamba.data.placement import corner_gap
from segmamba.data.stored_volume import FileFault
from segmamba.errors import UserError

# Scanners' software rounds affines. A tenth of a voxel is far above that and far below a
# misregistration.
AFFINE_TOLERANCE_VOXELS = 0.1
CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])
"""nibabel's orientation of RAS+."""
SMALLEST_VALUE = float(np.finfo(np.float32).smallest_subnormal)
LARGEST_VALUE = float(np.finfo(np.float32).max)


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
    max_volume_mib: int = HeaderRules.max_volume_mib
    """Largest channel of a working grid, in MiB."""


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
    located: bool = True
    """Whether the file says where it lies; without, its origin is not compared."""


@dataclass(frozen=True)
class Volume:
    """The contents of a file in canonical orientation."""

    array: np.ndarray
    affine: np.ndarray
    spacing_mm: tuple[float, ...]
    axis_codes: tuple[str, ...]
    """The directions of the axes as stored."""
    located: bool
    """As in a StoredVolume."""
    remarks: tuple[Finding, ...]
    """As in a StoredVolume."""

    def grid(self, path: Path) -> FileGrid:
        """Where the voxels of the file lie."""
        return FileGrid(path, self.array.shape[:3], self.affine, self.located)


def read_volume(
    path: str | Path, rules: HeaderRules | None = None
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Read an image file of three dimensions.

    Args:
        path: The file.
        rules: How its header is read; None takes the defaults.

    Returns:
        (array (x, y, z) in canonical orientation, affine (4, 4), spacing in mm).

    Raises:
        UserError: The file is missing, damaged or of another kind.
    """
    volume = read_file(Path(path), rules or HeaderRules())
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
    return Scan(
        image,
        reading.label,
        reading.affine,
        reading.spacing_mm,
        tuple(reading.findings),
        case.header.max_volume_mib,
    )


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
            volume = read_file(path, case.header, dimensions=4 if case.channels else 3)
        except FileFault as fault:
            reading.findings.append(Finding(ERROR, fault.kind, f"{case.id}: {fault}"))
            continue
        _take_file(reading, case, path, volume)
        grid = volume.grid(path)
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
    reading.channels, findings = examine(case, reading.channels, reading.label)
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


def _take_file(reading: Reading, case: Case, path: Path, volume: Volume) -> None:
    """Add what the reader of a file has to say."""
    reading.axis_codes[path] = volume.axis_codes
    reading.findings += [replace(r, text=f"{case.id}: {r.text}") for r in volume.remarks]


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
    elif (largest := max(abs(float(volume.min())), abs(float(volume.max())))) < SMALLEST_VALUE:
        text = (
            f"{case.id}: {where} is empty (every voxel is 0); replace the file or remove the case"
        )
        reading.findings.append(Finding(ERROR, "empty image", text))
    elif largest > LARGEST_VALUE:
        text = (
            f"{case.id}: {where} has values up to {largest:g}, above what float32 holds "
            f"({LARGEST_VALUE:.2g}); correct scl_slope and scl_inter of its header, or its voxels"
        )
        reading.findings.append(Finding(ERROR, "overflow", text))
    reading.channels[modality] = volume


def _take_label(reading: Reading, case: Case, path: Path, first: FileGrid | None) -> None:
    """Add the label to the reading where it lies on the grid of the first file."""
    try:
        volume = read_file(path, case.header)
    except FileFault as fault:
        reading.findings.append(Finding(ERROR, fault.kind, f"{case.id}: {fault}"))
        return
    _take_file(reading, case, path, volume)
    misplaced = grid_finding(case.id, volume.grid(path), first) if first else None
    reading.findings += [misplaced] if misplaced else []
    try:
        classes = to_classes(volume.array, case.convention, path, case.label_set)
    except UserError as error:
        reading.findings.append(Finding(ERROR, "unknown label", f"{case.id}: {error}"))
        return
    reading.label = None if misplaced else classes


def read_file(path: str | Path, rules: HeaderRules, *, dimensions: int = 3) -> Volume:
    """Read an image file and turn it to canonical orientation.

    Args:
        path: The file.
        rules: How its header is read.
        dimensions: 3, or 4 for a file whose last axis holds channels.

    Returns:
        The volume, with where it lies.

    Raises:
        FileFault: It cannot be read, or has other dimensions.
    """
    path = Path(path)
    stored = (itk_images if is_itk(path) else nifti).load(path, rules)
    array, affine = stored.array, stored.affine
    if array.ndim != dimensions:
        expected = (
            "a 3-D volume" if dimensions == 3 else "a 4-D file with a channel for each modality"
        )
        raise FileFault(f"{path}: has {array.ndim} dimensions, expected {expected}")
    orientation = nibabel.io_orientation(affine)
    codes = nibabel.aff2axcodes(affine)
    if not np.array_equal(orientation, CANONICAL):
        affine = affine @ nibabel.orientations.inv_ornt_aff(orientation, array.shape[:3])
        array = nibabel.orientations.apply_orientation(array, orientation)
    spacing_mm = tuple(float(s) for s in nibabel.affines.voxel_sizes(affine))
    return Volume(array, affine, spacing_mm, codes, stored.located, stored.remarks)


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
    affine = grid.affine
    if not (grid.located and first.located):
        affine = affine.copy()
        affine[:3, 3] = first.affine[:3, 3]
    gap_mm = corner_gap(grid.shape, affine, first.affine)
    if gap_mm > AFFINE_TOLERANCE_VOXELS * nibabel.affines.voxel_sizes(first.affine).min():
        text = (
            f"{case_id}: {grid.path} lies {gap_mm:.2f} mm away from {first.path.name} by its "
            "affine; register the case or correct its header"
        )
        return Finding(ERROR, "affine", text)
    return None
