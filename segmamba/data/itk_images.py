"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) files, read by SimpleITK.

ITK's coordinates run to the patient's left, posterior and superior (LPS), NIfTI's to the right,
anterior and superior (RAS); the affine is converted. A file whose header does not say how its axes
lie is refused: ITK would take them for LPS in silence.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel
import numpy as np

from segmamba.config.header import HeaderRules
from segmamba.data.image_files import HEADER_BYTES, ITK_ENDINGS, ending_of
from segmamba.data.placement import check_affine
from segmamba.data.stored_volume import FileFault, StoredVolume, check_size

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


def load(path: Path, rules: HeaderRules) -> StoredVolume:
    """Read a file.

    Args:
        path: The file.
        rules: The largest volume; these headers state their grid once, so nothing is to choose.

    Returns:
        The volume as it is stored.

    Raises:
        FileFault: SimpleITK is missing, the file is damaged, too large or says no directions, or
            its grid is implausible.
    """
    sitk = _simple_itk(path)
    reader = _reader(sitk, path)
    channels = reader.GetNumberOfComponents()
    shape = (*reader.GetSize(), *([channels] if channels > 1 else []))
    check_size(path, shape, np.dtype(np.float32), rules)
    check_affine(_affine(reader), path)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise _damaged(path, error) from error
    array = sitk.GetArrayFromImage(image)
    spatial = image.GetDimension()
    # ITK's arrays are (channels of time, z, y, x, components)
    array = array.transpose(*range(spatial)[::-1], *range(spatial, array.ndim))
    if array.dtype.kind not in "biuf":
        raise FileFault(
            f"{path}: its voxels are {array.dtype}, expected numbers; export it as a grey-value "
            "image"
        )
    return StoredVolume(array, _affine(image))


def load_grid(path: Path) -> nibabel.Nifti1Image:
    """Read where the voxels of a file lie, and not the voxels.

    Args:
        path: The file.

    Returns:
        An image of one voxel with the file's affine and a header of the file's shape.

    Raises:
        FileFault: SimpleITK is missing, or the file is damaged or says no directions.
    """
    reader = _reader(_simple_itk(path), path)
    return nibabel.Nifti1Image(np.zeros((1, 1, 1), np.uint8), _affine(reader))


def _simple_itk(path: Path) -> Any:
    """SimpleITK, or the error that says how to install it."""
    try:
        import SimpleITK
    except ImportError as error:
        raise FileFault(
            f"{path}: SimpleITK reads {', '.join(ITK_ENDINGS)} files and is not installed; "
            "pip install 'segmamba[itk]', or convert the file to NIfTI"
        ) from error
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def _reader(sitk: Any, path: Path) -> "SimpleITK.ImageFileReader":
    """SimpleITK's reader of a file, whose header it has read."""
    _check_directions(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _damaged(path, error) from error
    return reader


def _check_directions(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(HEADER_BYTES)
    except FileNotFoundError as error:
        raise FileFault(f"{path}: no such file") from error
    except OSError as error:
        raise _damaged(path, error) from error
    # NRRD's header ends with an empty line, MetaImage's with the name of the data
    header = re.split(rb"\r?\n\r?\n|^ElementDataFile", start, maxsplit=1, flags=re.MULTILINE)[0]
    if not DIRECTIONS[ending_of(path).lower()[1]].search(header):
        raise FileFault(
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


def _damaged(path: Path, error: Exception) -> FileFault:
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith("Reason:")]  # errno, often stale
    reason = told[-1] if told else type(error).__name__
    return FileFault(f"{path}: damaged or not an image ({reason}); copy or download it again")
