"""Volumes in canonical orientation, written as the source's own NIfTI.

What is written has the source's shape, affine, header and order of axes.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from segmamba.data import itk_images, nifti
from segmamba.data.case import Case
from segmamba.data.itk_images import is_itk
from segmamba.data.label_sets import LabelSet
from segmamba.data.labels import MODALITIES, from_classes
from segmamba.data.volumes import CANONICAL
from segmamba.disks import disk_reason
from segmamba.errors import UserError
from segmamba.files import write_bytes

LABEL_LEVEL, MAP_LEVEL = 6, 1
"""Levels of gzip: a label map takes 24 ms and 30 kB (22 ms and 69 kB at level 1), a map of
probabilities seconds."""
ALIGNED, MILLIMETRES = 2, 2
"""Codes of NIfTI: a grid aligned to another's, and the unit mm."""
FULL_SCALE = 65535
"""A share in [0, 1] is stored as uint16 of this scale: NIfTI has no half precision, and bytes are
too coarse for probabilities."""


@dataclass(frozen=True)
class Reference:
    """The stored grid of a source file. No voxels."""

    image_class: type[nibabel.Nifti1Image]
    """Nifti1Image or Nifti2Image."""
    header: nibabel.Nifti1Header
    affine: np.ndarray
    """(4, 4), of the stored order of axes."""

    @classmethod
    def of(cls, case: Case) -> "Reference":
        """The grid of a case's T1ce, or of its first modality where it has no T1ce of its own.

        Args:
            case: The case whose files are read.

        A grid that the header does not state plainly is written as it was read: in mm, and both
        its descriptions alike.

        Raises:
            UserError: The file is damaged or no NIfTI.
        """
        path = case.images.get("T1ce") or next(
            case.images[m] for m in MODALITIES if m in case.images
        )
        if is_itk(path):
            grid = itk_images.load_grid(path)
            return cls(nibabel.Nifti1Image, grid.header, grid.affine)
        read = nifti.read_header(path, case.header)
        header = _nibabels_header(path, read)
        placement = read.placement
        if placement.interpreted or case.header.header != "agree":
            code = int(header["sform_code"]) or int(header["qform_code"]) or ALIGNED
            header["xyzt_units"] = (int(header["xyzt_units"]) & ~7) | MILLIMETRES
            header.set_sform(placement.affine, code)
            header.set_qform(placement.affine, code)
        return cls(read.image_class, header, placement.affine)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """The sides of a voxel, in the stored order of axes."""
        return tuple(float(s) for s in nibabel.affines.voxel_sizes(self.affine))

    def image(self, array: np.ndarray) -> nibabel.Nifti1Image:
        """Put an array on the stored grid.

        The header keeps all but what describes the voxels' values. The window of the source's grey
        values is one of these: it would hide labels in a viewer.

        Args:
            array: (x, y, z) or (x, y, z, K) in canonical orientation.

        Returns:
            A NIfTI image in the stored orientation.
        """
        stored = nibabel.orientations.ornt_transform(CANONICAL, nibabel.io_orientation(self.affine))
        array = nibabel.orientations.apply_orientation(array, stored)
        header = self.header.copy()
        header.set_data_dtype(array.dtype)
        header.set_slope_inter(None, None)
        header["cal_min"] = header["cal_max"] = 0
        return self.image_class(np.ascontiguousarray(array), self.affine, header)


def _nibabels_header(path: Path, read: nifti.Header) -> nibabel.Nifti1Header:
    """The header of a file with its extensions."""
    try:
        if read.voxels != path:
            two = read.image_class is nibabel.Nifti2Image
            return (nibabel.Nifti2Pair if two else nibabel.Nifti1Pair).from_filename(path).header
        with gzip.open(path) if read.compressed else path.open("rb") as file:
            return read.image_class.from_stream(file).header
    except nifti.DAMAGED as error:
        raise nifti.damage(path, error) from error


def write_labels(
    path: Path,
    classes: np.ndarray,
    reference: Reference,
    convention_name: str,
    labels: LabelSet,
) -> Path:
    """Write a segmentation.

    Args:
        path: The .nii.gz to write.
        classes: Class numbers, uint8 (x, y, z), in canonical orientation.
        reference: The grid of the source.
        convention_name: The label convention of the values.
        labels: The label set of `classes`.

    Returns:
        The path.

    Raises:
        UserError: The file cannot be written, or the convention is unknown.
    """
    values = from_classes(classes, convention_name, labels)
    return _write(path, reference.image(values), LABEL_LEVEL)


def write_shares(path: Path, shares: np.ndarray, reference: Reference) -> Path:
    """Write numbers in [0, 1] as uint16, which the header scales, to within 8e-6.

    Args:
        path: The .nii.gz to write.
        shares: Float (x, y, z) or (x, y, z, K), in canonical orientation.
        reference: The grid of the source.

    Returns:
        The path.

    Raises:
        UserError: The file cannot be written.
    """
    image = reference.image(np.round(np.clip(shares, 0, 1) * FULL_SCALE).astype(np.uint16))
    image.header.set_slope_inter(1 / FULL_SCALE, 0)
    return _write(path, image, MAP_LEVEL)


def _write(path: Path, image: nibabel.Nifti1Image, level: int) -> Path:
    # without a time and a name in the gzip header, the same prediction is the same file
    try:
        return write_bytes(path, gzip.compress(image.to_bytes(), level, mtime=0))
    except OSError as error:
        if disk_reason(error):
            raise
        raise UserError(f"{path}: cannot be written ({error}); choose another --output") from error
