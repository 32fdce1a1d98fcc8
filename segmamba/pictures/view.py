"""A case as a picture shows it: images, truth and prediction on the grid of its files.

Arrays are (x, y, z) with x to the patient's right, y anterior, z superior (RAS+).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from segmamba.data.label_sets import LabelSet
from segmamba.pictures.palette import AGREED, FALSE, MISSED, OTHER_CLASS

Box = tuple[slice, ...]
"""Slices along x, y and z."""
PREFERRED = ("T1ce", "FLAIR", "T2", "T1")
"""The modalities in the order in which they show a tumour best."""
PLANES = ("sagittal", "coronal", "axial")
"""The plane that is perpendicular to each axis."""
SIDES = (("P", "A", "I", "S"), ("L", "R", "I", "S"), ("L", "R", "P", "A"))
"""What lies right, left, below and above in each plane: the patient's right is on the left."""


@dataclass(frozen=True)
class CaseView:
    """What is drawn of a case."""

    heading: str
    images: Mapping[str, np.ndarray]
    """Modality to float (x, y, z), 0 outside the brain; only those that the case has."""
    affine: np.ndarray
    """(4, 4), from voxels to the mm of its files."""
    labels: LabelSet
    truth: np.ndarray | None = None
    """Class numbers, uint8 (x, y, z)."""
    prediction: np.ndarray | None = None
    """The same."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along x, y and z."""
        known = (*self.images.values(), self.truth, self.prediction)
        return next(array.shape for array in known if array is not None)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along x, y and z."""
        return tuple(float(side) for side in np.linalg.norm(self.affine[:3, :3], axis=0))

    @property
    def shown(self) -> tuple[str, ...]:
        """Its modalities, the preferred ones first."""
        return tuple(modality for modality in PREFERRED if modality in self.images)

    def tumour(self) -> np.ndarray:
        """bool (x, y, z): the true tumour, else the predicted one, else nothing."""
        for classes in (self.truth, self.prediction):
            if classes is not None and classes.any():
                return classes > 0
        return np.zeros(self.shape, bool)

    def brain(self) -> np.ndarray:
        """bool (x, y, z): where any image is not 0; without an image, everywhere."""
        if not self.images:
            return np.ones(self.shape, bool)
        return np.any([image != 0 for image in self.images.values()], axis=0)

    def centre(self) -> list[int]:
        """The slice along each axis that shows most of the tumour, or of the brain without one."""
        tumour = self.tumour()
        return busiest_slices(tumour if tumour.any() else self.brain())

    def position_mm(self, axis: int, index: int) -> float:
        """Where the middle of a slice lies along its axis, in the coordinates of the files."""
        middle = [(n - 1) / 2 for n in self.shape]
        middle[axis] = index
        return float((self.affine @ [*middle, 1])[axis])

    def cut(self, box: Box) -> CaseView:
        """The same case, of which only a box is shown."""
        affine = np.array(self.affine, float)
        affine[:3, 3] = (affine @ [*(side.start or 0 for side in box), 1])[:3]
        return replace(
            self,
            affine=affine,
            images={modality: image[box] for modality, image in self.images.items()},
            truth=None if self.truth is None else self.truth[box],
            prediction=None if self.prediction is None else self.prediction[box],
        )


def surroundings(mask: np.ndarray, share: float = 1 / 8) -> Box:
    """Return the mask's bounding box, wider by a share of each side of the volume.

    Args:
        mask: Bool (x, y, z).
        share: By how much the box is wider at each end, of the volume's side.

    Returns:
        The box; the whole volume for an empty mask.
    """
    places = [
        np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)
    ]
    margins = [int(n * share) for n in mask.shape]
    return tuple(
        slice(max(0, int(place.min()) - margin), min(n, int(place.max()) + 1 + margin))
        if place.size
        else slice(0, n)
        for place, margin, n in zip(places, margins, mask.shape, strict=True)
    )


def busiest_slices(mask: np.ndarray) -> list[int]:
    """Return, for each axis, the index of the slice that holds most of a mask (x, y, z)."""
    return [
        int(mask.sum(axis=tuple(a for a in range(3) if a != axis)).argmax()) for axis in range(3)
    ]


def errors(truth: np.ndarray, prediction: np.ndarray) -> dict[str, np.ndarray]:
    """Tell where a prediction agrees with the truth, and how it differs.

    Args:
        truth: Class numbers, uint8 (...).
        prediction: The same.

    Returns:
        Bool (...) by name: "agreed", "other class", "missed" and "false". No two overlap, and
        together they are all that is tumour in either.
    """
    same = truth == prediction
    return {
        AGREED: same & (truth > 0),
        OTHER_CLASS: ~same & (truth > 0) & (prediction > 0),
        MISSED: (truth > 0) & (prediction == 0),
        FALSE: (truth == 0) & (prediction > 0),
    }


def window(image: np.ndarray) -> tuple[float, float]:
    """The values that are shown black and white: the 1st and the 99.5th percentile of the brain.

    Args:
        image: Float (x, y, z), 0 outside the brain.

    Returns:
        (black, white); white is above black.
    """
    inside = image[image != 0]
    if not inside.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(inside.astype(np.float32), (1, 99.5)))
    return low, high if high > low else low + 1
