"""Reading NIfTI files: one canonical orientation, and every fault named with its case and file.

Arrays are (x, y, z) with x to the patient's right side, y anterior, z superior (RAS+, the nearest axis permutation and
flips of the file's affine). Oblique affines keep their small rotation in the affine; voxels are not interpolated here.
"""

import zlib
from dataclasses import dataclass

import nibabel
import numpy as np

from segmamba.data.labels import MODALITIES, to_classes
from segmamba.errors import UserError

# Scanners' software rounds affines; a tenth of a voxel is far above that and far below a misregistration.
AFFINE_TOLERANCE_VOXELS = 0.1


@dataclass(frozen=True)
class Scan:
    """One case in memory. image: float32 (4, x, y, z) in MODALITIES order; label: uint8 (x, y, z) classes, or None."""

    image: np.ndarray
    label: np.ndarray | None
    affine: np.ndarray
    spacing_mm: tuple


def read_volume(path):
    """A NIfTI file as (array (x, y, z) in canonical orientation, affine (4, 4), spacing in mm)."""
    try:
        nifti = nibabel.as_closest_canonical(nibabel.load(path))
        array = np.asanyarray(nifti.dataobj)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (EOFError, OSError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError) as error:
        raise UserError(f"{path}: damaged or not a NIfTI file ({error}); copy or download it again") from error
    if array.ndim != 3:
        raise UserError(f"{path}: has {array.ndim} dimensions, expected a 3-D volume")
    return array, nifti.affine, tuple(float(s) for s in nibabel.affines.voxel_sizes(nifti.affine))


def read_scan(case):
    """A Case as a Scan, checked: shapes and affines agree, voxels finite, no empty image, labels within the convention."""
    first = case.images[MODALITIES[0]]
    channels = []
    for modality in MODALITIES:
        path = case.images[modality]
        array, affine, spacing = read_volume(path)
        if modality == MODALITIES[0]:
            shape, reference, spacing_mm = array.shape, affine, spacing
        _check_grid(case, path, array.shape, affine, first, shape, reference)
        array = np.asarray(array, np.float32)
        if not np.isfinite(array).all():
            raise UserError(f"{case.id}: {path} has {np.count_nonzero(~np.isfinite(array))} voxels that are not finite (NaN or inf); repair the file")
        if not array.any():
            raise UserError(f"{case.id}: {path} is empty (every voxel is 0); replace the file or remove the case")
        channels.append(array)
    return Scan(np.stack(channels), _read_label(case, first, shape, reference), reference, spacing_mm)


def _read_label(case, first, shape, reference):
    if case.label is None:
        return None
    values, affine, _ = read_volume(case.label)
    _check_grid(case, case.label, values.shape, affine, first, shape, reference)
    return to_classes(values, case.convention, case.label)


def _check_grid(case, path, shape, affine, first, first_shape, first_affine):
    if shape != first_shape:
        raise UserError(
            f"{case.id}: {path} is {'x'.join(map(str, shape))} but {first.name} is {'x'.join(map(str, first_shape))} "
            "(in canonical orientation); all files of a case must share one grid"
        )
    corners = np.array([[0, 0, 0, 1], [*(n - 1 for n in shape), 1]], float)
    gap_mm = np.abs((corners @ affine.T - corners @ first_affine.T)[:, :3]).max()
    if gap_mm > AFFINE_TOLERANCE_VOXELS * nibabel.affines.voxel_sizes(first_affine).min():
        raise UserError(f"{case.id}: {path} lies {gap_mm:.2f} mm away from {first.name} by its affine; register the case or correct its header")
