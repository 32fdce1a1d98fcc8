"""Where a NIfTI header puts its voxels, and whether it can be believed.

A header may describe its grid twice: by a matrix (sform) and by a rotation and voxel sizes (qform,
pixdim), each with a code that is 0 where it is not set. Programs differ in which of the two they
take, so that only a header that does not contradict itself means the same to all of them.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from segmamba.config.header import HeaderRules
from segmamba.data.case import INFORMATION, WARNING, Finding
from segmamba.data.stored_volume import FileFault

XFORM_CODES = range(1, 6)
"""What the codes of sform and qform can be, but for 0 (NIfTI-1 and NIfTI-2 standard)."""
MM_IN = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""mm in a unit, by the lower three bits of xyzt_units; 0 is no unit."""
UNITS = {1: "metres", 3: "microns"}
SMALLEST_MM, LARGEST_MM = 0.1, 10.0
"""Voxel sizes of a head that are plausible."""
AGREE_VOXELS = 0.25
"""The corners of sform and qform may lie so far apart: far above rounding, below a misplacement."""
PIXDIM_SHARE = 0.01
"""Voxel sizes in pixdim may be rounded by so much where only the sform counts."""
SHEAR_DEGREES = 0.1
"""Angles between axes may differ so much from 90 degrees: rounded matrices do by 0.06."""


@dataclass(frozen=True)
class Placement:
    """Where a file's voxels lie."""

    affine: np.ndarray
    """(4, 4), from stored voxels to mm."""
    located: bool
    """Whether the header says so; otherwise directions were stated and the origin means nothing."""
    remarks: tuple[Finding, ...]
    """What was decided about the header; the texts begin with the file."""

    @property
    def interpreted(self) -> bool:
        """Whether the header says less than this, or says it in another unit."""
        return bool(self.remarks)


def place(
    header: nibabel.Nifti1Header, shape: tuple[int, ...], rules: HeaderRules, path: Path
) -> Placement:
    """Read where a header puts the voxels of its file.

    Args:
        header: The header as stored, with nothing mended.
        shape: Voxels along the three stored axes.
        rules: What counts where the header is silent or contradicts itself.
        path: The file, for messages.

    Returns:
        The placement, in mm.

    Raises:
        FileFault: The header names no orientation, contradicts itself, is sheared, or has voxels
            of an implausible size.
    """
    sform = _sform(header) if int(header["sform_code"]) in XFORM_CODES else None
    qform = _qform(header) if int(header["qform_code"]) in XFORM_CODES else None
    remarks: list[Finding] = []
    if sform is None and qform is None:
        affine = _stated(header, rules, path)
        text = (
            f"{path}: its header names no orientation; its axes are taken to run "
            f"{rules.orientation.upper()}, as data.orientation says"
        )
        remarks.append(Finding(INFORMATION, "stated orientation", text))
    else:
        affine = _chosen(header, sform, qform, shape, rules, path)
    located = sform is not None or qform is not None
    _check_grid(affine, path)
    affine = _in_mm(header, affine, path, remarks)
    return Placement(affine, located, tuple(remarks))


def _sform(header: nibabel.Nifti1Header) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.asarray(header.get_sform(), np.float64)


def _qform(header: nibabel.Nifti1Header) -> np.ndarray:
    """The grid of rotation and voxel sizes; NaN where its rotation is none."""
    mended = header.copy()
    mended["pixdim"][1:4] = np.abs(mended["pixdim"][1:4])
    if mended["pixdim"][0] not in (-1, 1):  # 0 and anything else count as 1, as in nibabel
        mended["pixdim"][0] = 1
    try:
        with np.errstate(all="ignore"):
            return np.asarray(mended.get_qform(), np.float64)
    except (ValueError, nibabel.spatialimages.HeaderDataError):
        return np.full((4, 4), np.nan)


def _stated(header: nibabel.Nifti1Header, rules: HeaderRules, path: Path) -> np.ndarray:
    """The affine of a header without orientation, along stated directions."""
    if not rules.orientation:
        raise FileFault(
            f"{path}: its header names no orientation (sform and qform codes are "
            f"{int(header['sform_code'])} and {int(header['qform_code'])}); state the directions "
            "in which its axes run with --orientation, for example --orientation LPS, or set the "
            "header",
            "no orientation",
        )
    orientation = nibabel.orientations.axcodes2ornt(rules.orientation.upper())
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for axis, (world, direction) in enumerate(orientation):
        affine[int(world), axis] = direction * abs(float(header["pixdim"][axis + 1]))
    return affine


def _chosen(
    header: nibabel.Nifti1Header,
    sform: np.ndarray | None,
    qform: np.ndarray | None,
    shape: tuple[int, ...],
    rules: HeaderRules,
    path: Path,
) -> np.ndarray:
    """The affine of a header that has one or two, of which the rules choose where they differ."""
    if sform is None:
        assert qform is not None  # the caller has one of the two
        return qform
    if qform is not None and rules.header == "qform":
        return qform
    if rules.header != "sform" and (difference := _difference(header, sform, qform, shape)):
        choice = "sform or --set data.header=qform" if qform is not None else "sform"
        raise FileFault(
            f"{path}: its header describes two grids, {difference}; say which is right with --set "
            f"data.header={choice}, or correct the header",
            "header disagrees",
        )
    _check_grid(sform, path)
    fix = "take its qform with --set data.header=qform, or " if qform is not None else ""
    _check_angles(sform, path, fix)
    return sform


def _difference(
    header: nibabel.Nifti1Header,
    sform: np.ndarray,
    qform: np.ndarray | None,
    shape: tuple[int, ...],
) -> str:
    """Say how the two grids of a header differ; empty where they agree.

    A sheared sform alone is no difference: it has a fault of its own.
    """
    size = nibabel.affines.voxel_sizes(sform)
    if not (np.isfinite(sform).all() and size.min() > 0):
        return "" if qform is None else "of which the sform is none in space"
    if qform is None:
        stored = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
        stated = np.isfinite(stored) & (stored > 0)
        apart = stated & (np.abs(stored - size) > PIXDIM_SHARE * size)
        if not apart.any():
            return ""
        return f"voxels of {_mm(size)} by its sform and of {_mm(stored)} by pixdim"
    if not np.isfinite(qform).all():
        return "of which the qform is none in space"
    if shear_degrees(sform) > SHEAR_DEGREES:
        return ""
    other = nibabel.affines.voxel_sizes(qform)
    gap = corner_gap(shape, sform, qform)
    if gap <= AGREE_VOXELS * size.min():
        return ""
    if (np.abs(other - size) > PIXDIM_SHARE * size).any():
        return f"voxels of {_mm(size)} by its sform and of {_mm(other)} by its qform"
    codes = ["".join(c or "?" for c in nibabel.aff2axcodes(a)) for a in (sform, qform)]
    axes = f" (axes {codes[0]} and {codes[1]})" if codes[0] != codes[1] else ""
    return f"its sform and its qform lie {gap:.3g} mm apart{axes}"


def check_affine(affine: np.ndarray, path: Path) -> None:
    """Refuse a grid of a format that states it once, in mm, where no head can lie on it.

    Args:
        affine: (4, 4), from stored voxels to mm.
        path: The file, for the message.

    Raises:
        FileFault: The affine is no grid in space, is sheared, or has voxels of an implausible size.
    """
    _check_grid(affine, path)
    _check_angles(affine, path)
    if not _plausible(size_mm := nibabel.affines.voxel_sizes(affine)):
        raise FileFault(
            f"{path}: its voxels are {_mm(size_mm)}, which is no head ({SMALLEST_MM:g} to "
            f"{LARGEST_MM:g} mm is plausible); correct the spacing in its header",
            "implausible spacing",
        )


def _check_angles(affine: np.ndarray, path: Path, fix: str = "") -> None:
    """Refuse a sheared grid; `fix` is what to do short of resampling."""
    if (degrees := shear_degrees(affine)) > SHEAR_DEGREES:
        raise FileFault(
            f"{path}: its grid is sheared, its axes stand {degrees:.2g} degrees off the right "
            f"angle; {fix}resample it to an orthogonal grid",
            "sheared grid",
        )


def _check_grid(affine: np.ndarray, path: Path) -> None:
    """Refuse an affine that is no grid in space."""
    with np.errstate(all="ignore"):
        size = nibabel.affines.voxel_sizes(affine)
        volume = abs(np.linalg.det(affine[:3, :3] / size)) if size.all() else 0.0
    if not (np.isfinite(affine).all() and np.isfinite(size).all() and volume > 1e-3):
        raise FileFault(
            f"{path}: its affine is no grid in space (spacing {_mm(size)}); correct its header"
        )


def _in_mm(
    header: nibabel.Nifti1Header, affine: np.ndarray, path: Path, remarks: list[Finding]
) -> np.ndarray:
    """The affine in mm, after a check that its voxels have the size of a head's."""
    unit = int(header["xyzt_units"]) & 7
    size = nibabel.affines.voxel_sizes(affine)
    factor = MM_IN.get(unit, 1.0)
    if not _plausible(size * factor):
        raise FileFault(
            f"{path}: its voxels are {_mm(size * factor)}"
            f"{f' (its header is in {UNITS[unit]})' if unit in UNITS else ''}, which is no head "
            f"({SMALLEST_MM:g} to {LARGEST_MM:g} mm is plausible); correct "
            f"{_wrong_field(size)} of its header",
            "implausible spacing",
        )
    if factor == 1:
        return affine
    text = (
        f"{path}: its header is in {UNITS[unit]}; voxels of {_mm(size, UNITS[unit])} are read as "
        f"{_mm(size * factor)}"
    )
    remarks.append(Finding(WARNING, "units", text))
    converted = affine.copy()
    converted[:3] *= factor
    return converted


def _wrong_field(size: np.ndarray) -> str:
    """Name the field that would make the sizes plausible, or the sizes themselves."""
    for unit, factor in ((2, 1.0), (1, MM_IN[1]), (3, MM_IN[3])):
        if _plausible(size * factor):
            name = {1: "metres", 2: "mm", 3: "microns"}[unit]
            return f"the unit (xyzt_units: in {name} its voxels would be {_mm(size * factor)})"
    return "the voxel size"


def _plausible(size_mm: np.ndarray) -> bool:
    # pixdim is float32: 0.1 is stored as 0.10000000149, 10 exactly
    return bool(
        (size_mm > SMALLEST_MM * (1 - 1e-4)).all() and (size_mm < LARGEST_MM * 1.0001).all()
    )


def corner_gap(shape: tuple[int, ...], first: np.ndarray, second: np.ndarray) -> float:
    """The largest distance along an axis between the corners of a volume under two affines.

    Args:
        shape: Voxels along the three axes.
        first: (4, 4).
        second: (4, 4).

    Returns:
        The distance in the affines' unit.
    """
    corners = np.array(list(_corners(shape)), np.float64)
    return float(np.abs((corners @ first.T - corners @ second.T)[:, :3]).max())


def _corners(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for corner in itertools.product(*((0, n - 1) for n in shape[:3])):
        yield (*corner, 1)


def shear_degrees(affine: np.ndarray) -> float:
    """How far two axes of a grid are from the right angle at most, in degrees.

    Args:
        affine: (4, 4), finite, without an axis of length 0.
    """
    axes = affine[:3, :3] / nibabel.affines.voxel_sizes(affine)
    cosines = np.abs(axes.T @ axes - np.eye(3)).max()
    return float(np.rad2deg(np.arcsin(min(1.0, cosines))))


def _mm(size: np.ndarray, unit: str = "mm") -> str:
    return f"{' x '.join(f'{s:g}' for s in size)} {unit}"
