"""Volumes in canonical orientation, written as the source's own NIfTI: its shape, affine, header and order of axes."""

import gzip
from dataclasses import dataclass

import nibabel
import numpy as np

from segmamba.data.labels import MODALITIES, from_classes
from segmamba.data.volumes import DAMAGED, image_class
from segmamba.errors import UserError
from segmamba.files import write_bytes

CANONICAL = np.array([[0, 1], [1, 1], [2, 1]])  # nibabel's orientation of RAS+
LABEL_LEVEL, MAP_LEVEL = (
    6,
    1,
)  # gzip: a label map takes 24 ms and 30 kB (22 ms and 69 kB at level 1), a map of probabilities seconds
FULL_SCALE = 65535  # a share in [0, 1] is stored as uint16 of this scale: NIfTI has no half precision, and bytes are too coarse for probabilities


@dataclass(frozen=True)
class Reference:
    """The stored grid of a source file. No voxels."""

    image_class: type
    header: object
    affine: np.ndarray

    @classmethod
    def of(cls, case):
        """The grid of a Case's T1ce, or of its first modality where there is none of its own."""
        path = case.images.get("T1ce") or next(
            case.images[m] for m in MODALITIES if m in case.images
        )
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                kind = image_class(file.read(4))
            stored = kind.from_filename(path)
            return cls(kind, stored.header, stored.affine)
        except DAMAGED as error:
            raise UserError(
                f"{path}: damaged or not a NIfTI file ({error}); copy or download it again"
            ) from error

    @property
    def spacing_mm(self):
        return tuple(float(s) for s in nibabel.affines.voxel_sizes(self.affine))

    def image(self, array):
        """An array (x, y, z) or (x, y, z, K) in canonical orientation as a NIfTI image on the stored grid; the header keeps all but
        what describes the voxels' values."""
        stored = nibabel.orientations.ornt_transform(CANONICAL, nibabel.io_orientation(self.affine))
        array = nibabel.orientations.apply_orientation(array, stored)
        header = self.header.copy()
        header.set_data_dtype(array.dtype)
        header.set_slope_inter(None, None)
        header["cal_min"] = header["cal_max"] = (
            0  # the window of the source's grey values would hide labels in a viewer
        )
        return self.image_class(np.ascontiguousarray(array), self.affine, header)


def write_labels(path, classes, reference, convention_name):
    """Internal classes, uint8 (x, y, z) in canonical orientation, as `path` (.nii.gz) with the values of a label convention."""
    return _write(path, reference.image(from_classes(classes, convention_name)), LABEL_LEVEL)


def write_shares(path, shares, reference):
    """Numbers in [0, 1], float (x, y, z) or (x, y, z, K) in canonical orientation, as `path`: uint16, scaled by the header to 8e-6."""
    image = reference.image(np.round(np.clip(shares, 0, 1) * FULL_SCALE).astype(np.uint16))
    image.header.set_slope_inter(1 / FULL_SCALE, 0)
    return _write(path, image, MAP_LEVEL)


def _write(path, image, level):
    # without a time and a name in the gzip header, the same prediction is the same file, byte for byte
    try:
        return write_bytes(path, gzip.compress(image.to_bytes(), level, mtime=0))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error}); free space or choose another --output"
        ) from error
