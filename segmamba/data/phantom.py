"""Phantom: the embedded data. BraTS-format cases of real anatomy with an invented disease.

A case is a deformed head (`phantom_head`) with a glioma (`phantom_tumour`) or another disease
(`phantom_disease`), as a scanner of its own shows it in four contrasts (`phantom_scanner`).

A case is a pure function of (seed, index, size). All shapes are drawn in mm: (seed, index) is one
patient at any size.
"""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from typing_extensions import NotRequired, TypedDict

from segmamba import disks
from segmamba.data.image_files import PHANTOM_NOTE
from segmamba.data.label_sets import label_set
from segmamba.data.labels import from_classes
from segmamba.data.layouts.namings import BRATS_2018, BRATS_2023, LABEL, Naming
from segmamba.data.parallel import Progress, no_progress
from segmamba.data.phantom_disease import of_a_child, resect
from segmamba.data.phantom_grid import HEAD_BOX_MM, Grid
from segmamba.data.phantom_head import load_templates, make_head
from segmamba.data.phantom_scanner import scan_head
from segmamba.data.phantom_tumour import grow_tumour, plan_tumour
from segmamba.errors import UserError
from segmamba.files import write_json
from segmamba.json_files import read_json
from segmamba.leftovers import folder_beside

GENERATOR_VERSION = 2  # raise it whenever the voxels of a case change
SMALLEST_SIZE, LARGEST_SIZE = (48, 48, 48), (240, 240, 155)
MOST_AT_ONCE = 16  # a case of the largest size takes 0.4 GiB while it is made
ANOTHER = "choose another folder or delete this one"


@dataclass(frozen=True)
class Kind:
    """How the cases of one disease are named and labelled, as those of its challenge are."""

    convention: str
    naming: Naming
    case_id: str
    """Pattern of a case's id, from which the layouts tell the label convention."""


KINDS = {
    "glioma": Kind("brats2018", BRATS_2018, "Phantom_{:03d}"),
    "post_treatment": Kind("brats2024", BRATS_2023, "BraTS-GLI-Phantom{:03d}-100"),
    "pediatric": Kind("brats2024ped", BRATS_2023, "BraTS-PED-Phantom{:03d}-000"),
}
"""By `phantom.kind`, which is the name of a label set as well."""


class _Note(TypedDict):
    """What phantom.json holds."""

    generator: int
    cases: int
    size: list[int]
    seed: int
    kind: NotRequired[str]


def spacing_mm_for(size: Sequence[int]) -> float:
    """The voxel size at which the head box fits into a volume: 64x64x48 -> 3.0, 240x240x155 -> 1.0.

    Args:
        size: Voxels along x, y and z.

    Returns:
        Isotropic voxel size in mm, in tenths of a mm and at least 1.

    Raises:
        UserError: The size is out of bounds.
    """
    if len(size) != 3 or not all(
        low <= n <= high for low, n, high in zip(SMALLEST_SIZE, size, LARGEST_SIZE, strict=True)
    ):
        low, high = ("x".join(map(str, bound)) for bound in (SMALLEST_SIZE, LARGEST_SIZE))
        raise UserError(
            f"phantom.size = {tuple(size)}: must be three numbers of voxels between {low} and "
            f"{high}"
        )
    needed_mm = max(mm / n for mm, n in zip(HEAD_BOX_MM, size, strict=True))
    return max(1.0, math.ceil(round(needed_mm * 10, 6)) / 10)


def make_case(
    seed: int, index: int, size: Sequence[int], kind: str = "glioma"
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Make one case.

    Args:
        seed: The seed of the phantom.
        index: Which patient of the phantom.
        size: Voxels along x, y and z.
        kind: The disease, one of KINDS.

    Returns:
        (images, label, affine). images: modality to int16 array of shape `size`, exactly 0 outside
        the brain and at least 1 inside. label: uint8 of shape `size`, in the values of the kind's
        convention: for a glioma those of BraTS 2018-2021, 0, 1 NCR, 2 ED, 4 ET. affine:
        (4, 4), diag(-s, -s, s) for a voxel size of s mm, with the offset
        of BraTS files.

    Raises:
        UserError: The size is out of bounds, or nilearn is not installed.
    """
    spacing_mm = spacing_mm_for(size)
    grid = Grid(
        tuple(min(n, int(mm / spacing_mm)) for n, mm in zip(size, HEAD_BOX_MM, strict=True)),
        spacing_mm,
    )
    head_rng, tumour_rng, scanner_rng, disease_rng = (
        np.random.default_rng(s) for s in np.random.SeedSequence((seed, index)).spawn(4)
    )
    foci, enhancing = plan_tumour(tumour_rng, spacing_mm)
    head = make_head(head_rng, grid, foci)
    classes = grow_tumour(tumour_rng, grid, head, foci, enhancing=enhancing)
    if kind == "post_treatment":
        classes = resect(disease_rng, grid, classes, foci)
    elif kind == "pediatric":
        classes = of_a_child(disease_rng, grid, classes, foci)
    labels = label_set(kind)
    images = {
        modality: _placed(image, size)
        for modality, image in scan_head(scanner_rng, grid, head, classes, labels).items()
    }
    affine = np.diag((-spacing_mm, -spacing_mm, spacing_mm, 1.0))
    affine[1, 3] = (size[1] - 1) * spacing_mm
    values = from_classes(classes, KINDS[kind].convention, labels)
    return images, _placed(values, size), affine


def _placed(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """The head box in the middle of a volume of `size`, zeros around it."""
    starts = [(n - side) // 2 for n, side in zip(size, array.shape, strict=True)]
    box = tuple(slice(at, at + side) for at, side in zip(starts, array.shape, strict=True))
    whole = np.zeros(size, array.dtype)
    whole[box] = array
    return whole


def write_phantom(
    folder: str | Path,
    *,
    cases: int,
    size: Sequence[int],
    seed: int,
    kind: str = "glioma",
    progress: Progress = no_progress,
) -> Path:
    """Write cases as folder/Phantom_000/Phantom_000_{t1,t1ce,t2,flair,seg}.nii.gz and so on.

    Cases of other kinds are named as their challenge names them, BraTS-PED-Phantom000-000 for one,
    by which every command reads their labels rightly.

    Each case appears in one step and phantom.json last. A call that was killed is therefore
    continued by the next, and a complete folder is returned at once. Cases are made in threads, one
    for each core: what takes the time is array arithmetic.

    Args:
        folder: Where the cases go; made if need be.
        cases: How many cases.
        size: Voxels along x, y and z.
        seed: Which heads and tumours.
        kind: The disease, one of KINDS.
        progress: Called with (cases done, cases in all) after each case.

    Returns:
        The folder.

    Raises:
        UserError: The folder was begun with other parameters, of which nothing is touched, the size
            is out of bounds, or nilearn is not installed.
    """
    folder, size = Path(folder), tuple(size)
    spacing_mm = spacing_mm_for(size)
    parameters = {"generator": GENERATOR_VERSION, "cases": cases, "size": list(size), "seed": seed}
    parameters |= {} if kind == "glioma" else {"kind": kind}
    begun, complete = folder / "phantom_begun.json", folder / PHANTOM_NOTE
    for note in (complete, begun):
        if note.exists() and (existing := read_json(note, _Note, fix=ANOTHER)) != parameters:
            raise UserError(
                f"{folder}: holds a phantom made with {existing}, asked for {parameters}; {ANOTHER}"
            )
    if complete.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_json(begun, parameters)
    load_templates(spacing_mm)
    with ThreadPoolExecutor(min(cases, os.cpu_count() or 1, MOST_AT_ONCE)) as pool:
        jobs = [
            pool.submit(_complete_case, folder, seed, index, size, kind) for index in range(cases)
        ]
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                job.result()
                progress(done, cases)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    write_json(complete, parameters)
    begun.unlink(missing_ok=True)
    return folder


def _complete_case(folder: Path, seed: int, index: int, size: Sequence[int], kind: str) -> None:
    case_folder = folder / KINDS[kind].case_id.format(index)
    if not case_folder.exists():
        _write_case(case_folder, KINDS[kind].naming, *make_case(seed, index, size, kind))


def _write_case(
    case_folder: Path,
    naming: Naming,
    images: dict[str, np.ndarray],
    label: np.ndarray,
    affine: np.ndarray,
) -> None:
    # The scratch folder lies beside `folder`: what a killed call leaves is never taken for a case.
    folder = case_folder.parent
    parts = images | {LABEL: label}
    arrays = {naming.suffix_of(part): array for part, array in parts.items()}
    with folder_beside(folder) as scratch:
        half_done = scratch / case_folder.name
        half_done.mkdir()
        for suffix, array in arrays.items():
            name = f"{case_folder.name}{naming.separator}{suffix}.nii.gz"
            with disks.naming(case_folder / name):
                nibabel.save(nibabel.Nifti1Image(array, affine), half_done / name)
        try:
            os.replace(half_done, case_folder)
        except OSError:
            if not case_folder.exists():  # else another process was faster, with the same voxels
                raise
