"""A case in the preprocessing cache, as everything behind the cache reads it.

    <cache>/<case id>-<key>/image.npy           float16 (4, x, y, z), z-scored, 0 outside the brain
                            label.npy           uint8 (x, y, z), class numbers, grid of the image
                            source_label.npy    uint8, grid of the source; only of resampled cases
                            tumour_voxels.npy   int32, flat indices into label.npy, not all of them
                            class1_voxels.npy   the same for each class of tumour
                            brain_voxels.npy    the same for brain voxels that are no tumour
                            case.json           grids, offset, the images' digests, and what is to
                                                say about the case
                            sources.json        which files were read, and their digests

The grids are those of `working_grid`. Why plain .npy and not a compressed format:
benchmarks/README.md.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from segmamba.data.case import Finding
from segmamba.data.label_sets import GLIOMA, LabelSet, label_set
from segmamba.json_files import read_json

Triple = tuple[int, int, int]
Row = tuple[float, float, float, float]


class CaseJson(TypedDict):
    """What case.json holds: the fields of PreparedCase."""

    id: str
    patient: str
    shape: Triple
    offset: Triple
    working_shape: Triple
    source_shape: Triple
    source_spacing_mm: tuple[float, float, float]
    source_affine: tuple[Row, Row, Row, Row]
    classes: list[int]
    label_set: str
    findings: list[dict[str, str]]
    image_digests: list[str]


@dataclass(frozen=True)
class PreparedCase:
    """A cached case.

    Arrays are memory maps, opened at each access so that the object travels between processes.
    """

    id: str
    patient: str
    folder: Path
    shape: tuple[int, ...]
    """Of image and label: the box around the brain."""
    offset: tuple[int, ...]
    """The box's first voxel in the working grid."""
    working_shape: tuple[int, ...]
    source_shape: tuple[int, ...]
    source_spacing_mm: tuple[float, ...]
    source_affine: tuple[tuple[float, ...], ...]
    """Rows of the affine of the source in canonical orientation."""
    classes: tuple[int, ...]
    """The class numbers that the label holds, without the background."""
    findings: tuple[Finding, ...] = ()
    """What is to say about the files of the case; no errors."""
    image_digests: tuple[str, ...] = ()
    """What tells the images apart from those of other cases, as `same_images` digests them."""
    classes_of: str = GLIOMA.name
    """Name of the label set that its class numbers are of."""

    @classmethod
    def read(cls, folder: Path) -> PreparedCase:
        """Read a case from its folder in the cache.

        Args:
            folder: As `preprocess.prepare_cases` wrote it.

        Returns:
            The case.

        Raises:
            UserError: case.json is missing or damaged.
        """
        meta = read_json(
            folder / "case.json",
            CaseJson,
            fix=f"remove the folder {folder}, and the case is prepared again",
        )
        return cls(
            id=meta["id"],
            patient=meta["patient"],
            folder=folder,
            shape=meta["shape"],
            offset=meta["offset"],
            working_shape=meta["working_shape"],
            source_shape=meta["source_shape"],
            source_spacing_mm=meta["source_spacing_mm"],
            source_affine=meta["source_affine"],
            classes=tuple(meta["classes"]),
            findings=tuple(Finding(**finding) for finding in meta["findings"]),
            classes_of=meta["label_set"],
            image_digests=tuple(meta["image_digests"]),
        )

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """((before, after), ...) along x, y, z, as np.pad takes them.

        These are the voxels of the working grid that were cut away.
        """
        return tuple(
            (o, w - o - s)
            for o, w, s in zip(self.offset, self.working_shape, self.shape, strict=True)
        )

    @property
    def label_set(self) -> LabelSet:
        """The label set of its class numbers."""
        return label_set(self.classes_of)

    def image(self) -> np.ndarray:
        """float16 (4, x, y, z), z-scored, 0 outside the brain."""
        return _mapped(self.folder / "image.npy")

    def label(self) -> np.ndarray:
        """uint8 (x, y, z), class numbers on the grid of `image`."""
        return _mapped(self.folder / "label.npy")

    def whole(self, array: np.ndarray) -> np.ndarray:
        """Put an array back into the working grid.

        Args:
            array: (..., x, y, z) on the grid of `image`.

        Returns:
            (..., x, y, z) on the working grid, zeros around the box.
        """
        return np.pad(array, [(0, 0)] * (array.ndim - 3) + [*self.margins])

    def source_label(self) -> np.ndarray:
        """uint8 (x, y, z), class numbers on the source's grid in canonical orientation.

        Predictions are measured against it.
        """
        path = self.folder / "source_label.npy"
        return _mapped(path) if path.exists() else self.whole(self.label())

    def voxels(self, kind: str) -> np.ndarray:
        """Candidates for the centre of a patch.

        Args:
            kind: "tumour", "brain" or, for one of `classes`, "class1" and so on.

        Returns:
            int32 (n,), flat indices into `label`.
        """
        return _mapped(self.folder / f"{kind}_voxels.npy")


_PARSING = threading.Lock()


def _mapped(path: Path) -> Any:
    """Map an array's file into memory.

    One thread at a time: NumPy parses the header with `ast`, which several threads at once may
    break in Python before 3.12 (SystemError: AST constructor recursion depth mismatch).
    """
    with _PARSING:
        return np.load(path, mmap_mode="r")
