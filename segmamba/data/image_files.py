"""Image files: which endings they have, and where they lie below a folder."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

NIFTI_ENDINGS = (".nii.gz", ".nii", ".hdr")
"""NIfTI: one file, or a header with its .img."""
ITK_ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")
"""MetaImage and NRRD, which SimpleITK reads."""
ENDINGS = (*NIFTI_ENDINGS, *ITK_ENDINGS)
_ENDING = re.compile(rf"({'|'.join(map(re.escape, ENDINGS))})$", re.IGNORECASE)
HEADER_BYTES = 65536
"""The headers of MetaImage and NRRD files are shorter."""
_DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file\s*:)([^\r\n\0]+)", re.M | re.I)
PHANTOM_NOTE = "phantom.json"
"""Lies in a folder of embedded phantoms."""


@dataclass(frozen=True)
class FolderContent:
    """What lies below a folder."""

    images: list[Path] = field(default_factory=list)
    """The image files, sorted."""
    phantoms: list[Path] = field(default_factory=list)
    """Folders of embedded phantoms, sorted; their files are not among `images`."""
    dicom: list[Path] = field(default_factory=list)
    """DICOM files by their ending, sorted."""


def ending_of(path: Path | str) -> str:
    """Take the ending of an image file.

    Args:
        path: Any file.

    Returns:
        One of ENDINGS, in the file's own capitals; empty for a file that is no image.
    """
    match = _ENDING.search(Path(path).name)
    return match[1] if match else ""


def is_image(path: Path | str) -> bool:
    """Tell whether a file is an image by its name, and no hidden file (macOS writes `._*`)."""
    return bool(ending_of(path)) and not Path(path).name.startswith(".")


def stem_of(path: Path | str) -> str:
    """Take the ending off an image file's name.

    Args:
        path: The file.

    Returns:
        Its name without the ending.
    """
    return _ENDING.sub("", Path(path).name)


def companion_of(path: Path) -> Path | None:
    """Find the file that holds the voxels of a header.

    Args:
        path: An image file.

    Returns:
        The .img of a .hdr, or the file that a .mhd or .nhdr names; None where the image is one
        file, or the other is not there.
    """
    ending = ending_of(path).lower()
    if ending == ".hdr":
        found = path.with_suffix(".img")
    elif ending in (".mhd", ".nhdr"):
        try:
            with path.open("rb") as file:
                named = _DATA_FILE.search(file.read(HEADER_BYTES))
        except OSError:
            return None
        if not named:
            return None
        found = path.parent / named[1].decode(errors="replace").strip()
    else:
        return None
    return found if found.is_file() else None


def content_of(folder: Path) -> FolderContent:
    """Find the image files below a folder, through symbolic links too.

    Embedded phantoms below it belong to a study's results, not to the data.

    Args:
        folder: Searched with all its subfolders.

    Returns:
        What lies there.
    """
    content = FolderContent()
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = Path(place)
        if here.resolve() in seen:  # links in a circle
            folders.clear()
            continue
        seen.add(here.resolve())
        phantoms = [name for name in folders if (here / name / PHANTOM_NOTE).exists()]
        content.phantoms.extend(here / name for name in phantoms)
        folders[:] = [name for name in folders if name not in phantoms]
        content.images.extend(here / name for name in files if is_image(name))
        content.dicom.extend(here / name for name in files if name.lower().endswith(".dcm"))
    for found in (content.images, content.phantoms, content.dicom):
        found.sort()
    return content


def shown_files(paths: list[Path], folder: Path, most: int = 3) -> str:
    """Name the first few files for a message.

    Args:
        paths: The files.
        folder: What they are named relative to.
        most: How many are named.

    Returns:
        "a.nii.gz, b/c.nii.gz and 4 more".
    """
    named = [str(p.relative_to(folder) if p.is_relative_to(folder) else p) for p in paths[:most]]
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(ascii(name)[1:-1] if not name.isprintable() else name for name in named) + more
