"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) files, read by SimpleITK as if they were NIfTI.

ITK's coordinates run to the patient's left, posterior and superior (LPS), NIfTI's to the right,
anterior and superior (RAS); the affine is converted. A file whose header does not say how its axes
lie is refused: ITK would take them for LPS in silence.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np

from segmamba.data.image_files import HEADER_BYTES, ITK_ENDINGS, ending_of
from segmamba.errors import UserError

if TYPE_CHECKING:
    import SimpleITK

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
DIRECTIONS = {
    "m": re.compile(rb"^(TransformMatrix|Rotation|Orientation)\s*=", re.MULTILINE),
    "n": re.compile(rb"^space\s*:", re.MULTILINE),
}
"""First letter of an ending to the line of its header that says how the axes lie."""


def is_itk(path: Path) -> bool:
    """Tell whether a file is one of those that SimpleITK reads, by its ending."""
    return ending_of(path).lower() in ITK_ENDINGS


def load(path: Path) -> nibabel.Nifti1Image:
    """Read a file.

    Args:
        path: The file.

    Returns:
        Its voxels (x, y, z), or (x, y, z, channels), with the affine to RAS.

    Raises:
        UserError: SimpleITK is missing, or the file is damaged or says no directions.
    """
    sitk = _simple_itk(path)
    _check_directions(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _damaged(path, error) from error
    array = sitk.GetArrayFromImage(image)
    spatial = image.GetDimension()
    # ITK's arrays are (channels of time, z, y, x, components)
    array = array.transpose(*range(spatial)[::-1], *range(spatial, array.ndim))
    return nibabel.Nifti1Image(_storable(array), _affine(image))


def load_grid(path: Path) -> nibabel.Nifti1Image:
    """Read where the voxels of a file lie, and not the voxels.

    Args:
        path: The file.

    Returns:
        An image of one voxel with the file's affine and a header of the file's shape.

    Raises:
        UserError: SimpleITK is missing, or the file is damaged or says no directions.
    """
    sitk = _simple_itk(path)
    _check_directions(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path, error) from error
    return nibabel.Nifti1Image(np.zeros((1, 1, 1), np.uint8), _affine(reader))


def _simple_itk(path: Path) -> Any:
    """SimpleITK, or the error that says how to install it."""
    try:
        import SimpleITK
    except ImportError as error:
        raise UserError(
            f"{path}: SimpleITK reads {', '.join(ITK_ENDINGS)} files and is not installed; "
            "pip install 'segmamba[itk]', or convert the file to NIfTI"
        ) from error
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def _check_directions(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(HEADER_BYTES)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise _damaged(path, error) from error
    # NRRD's header ends with an empty line, MetaImage's with the name of the data
    header = re.split(rb"\r?\n\r?\n|^ElementDataFile", start, maxsplit=1, flags=re.MULTILINE)[0]
    if not DIRECTIONS[ending_of(path).lower()[1]].search(header):
        raise UserError(
            f"{path}: its header does not say how its axes lie; convert it to NIfTI with the "
            "orientation that you know"
        )


def _affine(image: "SimpleITK.Image | SimpleITK.ImageFileReader") -> np.ndarray:
    """The affine to RAS of the first three axes."""
    dimension = len(image.GetOrigin())
    affine = np.eye(4)
    axes = min(dimension, 3)
    directions = np.reshape(image.GetDirection(), (dimension, dimension))[:axes, :axes]
    affine[:axes, :axes] = directions * np.asarray(image.GetSpacing())[:axes]
    affine[:axes, 3] = image.GetOrigin()[:axes]
    return RAS_FROM_LPS @ affine


def _storable(array: np.ndarray) -> np.ndarray:
    """The array in a type that NIfTI has and viewers know: 64-bit integers are none."""
    if array.dtype not in (np.int64, np.uint64):
        return array
    bounds = np.iinfo(np.int32)
    fits = array.size and bounds.min <= array.min() and array.max() <= bounds.max
    return array.astype(np.int32 if fits else np.float64)


def _damaged(path: Path, error: Exception) -> UserError:
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith("Reason:")]  # errno, often stale
    reason = told[-1] if told else type(error).__name__
    return UserError(f"{path}: damaged or not an image ({reason}); copy or download it again")
