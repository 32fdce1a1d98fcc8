"""Reading one NIfTI file: the header first, then as many bytes as it announces and no more.

NIfTI-1 and NIfTI-2 are read, in either byte order, in one file with or without gzip or in a pair of
.hdr and .img; the bytes say which, not the name. Complex and RGB voxels are refused. nibabel
mends faulty headers in silence: here only its tables of fields and its scaling are used.
"""

import logging
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from segmamba.config.header import HeaderRules
from segmamba.data.byte_stream import ByteStream
from segmamba.data.case import INFORMATION, WARNING, Finding
from segmamba.data.image_files import companion_of
from segmamba.data.placement import Placement, place
from segmamba.data.stored_volume import FileFault, StoredVolume, check_size, times

# nibabel prints every header field that it mends; our own checks find what matters.
nibabel.imageglobals.logger.setLevel(logging.CRITICAL)
DAMAGED = (
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    MemoryError,
    zlib.error,
    nibabel.filebasedimages.ImageFileError,
    nibabel.spatialimages.HeaderDataError,
    nibabel.wrapstruct.WrapStructError,
    nibabel.orientations.OrientationError,
)
SPARE_BYTES, SPARE_SHARE = 4096, 0.01
"""So much behind the voxels, the smaller of the two, is padding; more is a wrong header."""


@dataclass(frozen=True)
class Header:
    """A checked header. No voxels."""

    image_class: type[nibabel.Nifti1Image]
    """Nifti1Image or Nifti2Image."""
    fields: nibabel.Nifti1Header
    """As stored, with nothing mended."""
    shape: tuple[int, ...]
    """Voxels along the stored axes; further axes of length 1 are dropped."""
    dtype: np.dtype
    """Of the stored numbers, in the file's byte order."""
    voxels: Path
    """The file that holds the voxels: the header's own, or the .img of a pair."""
    start: int
    """The first voxel's byte in `voxels`."""
    compressed: bool
    """Whether the file is gzip, by its bytes."""
    placement: Placement
    remarks: tuple[Finding, ...]

    @property
    def data_bytes(self) -> int:
        """Length of the voxels' part of the file."""
        return self.dtype.itemsize * int(np.prod(self.shape, dtype=object))


def read_header(path: Path, rules: HeaderRules) -> Header:
    """Read and check the header of a NIfTI file.

    Args:
        path: The file.
        rules: What counts where the header is silent or contradicts itself, and the largest volume.

    Returns:
        The header.

    Raises:
        FileFault: The file is missing, damaged, of another kind, too large, or its grid is in
            doubt.
    """
    try:
        with path.open("rb") as file:
            return _header(ByteStream(file), rules, path)
    except DAMAGED as error:
        raise damage(path, error) from error


def load(path: Path, rules: HeaderRules) -> StoredVolume:
    """Read a NIfTI file.

    Args:
        path: The file.
        rules: What counts where the header is silent or contradicts itself, and the largest volume.

    Returns:
        The volume as it is stored.

    Raises:
        FileFault: As `read_header`, or the voxels are more or fewer than the header says.
    """
    header = read_header(path, rules)
    try:
        with header.voxels.open("rb") as file:
            stream = ByteStream(file)
            stream.read(header.start)
            raw = stream.read(header.data_bytes)
            if len(raw) < header.data_bytes:
                raise EOFError(
                    f"it holds {len(raw)} of the {header.data_bytes} bytes of voxels that its "
                    "header announces"
                )
            spare = _spare_bytes(stream, header, path)
        array = np.frombuffer(raw, header.dtype).reshape(header.shape, order="F")
        slope, inter = header.fields.get_slope_inter()
        with np.errstate(all="ignore"):  # what overflows is found where voxels are checked
            array = nibabel.volumeutils.apply_read_scaling(
                array, *(None if n is None else np.float64(n) for n in (slope, inter))
            )
    except DAMAGED as error:
        raise damage(path, error) from error
    remarks = (*header.remarks, *header.placement.remarks, *spare)
    return StoredVolume(array, header.placement.affine, header.placement.located, remarks)


def damage(path: Path, error: BaseException) -> FileFault:
    """Put an error of DAMAGED into words.

    Args:
        path: The file.
        error: What reading it raised.

    Returns:
        What to raise instead.
    """
    if isinstance(error, FileNotFoundError):
        return FileFault(f"{path}: no such file")
    return FileFault(f"{path}: damaged or not a NIfTI file ({error}); copy or download it again")


def _header(stream: ByteStream, rules: HeaderRules, path: Path) -> Header:
    kind, fields = _fields(stream)
    shape, remarks = _shape(fields, path)
    dtype = _dtype(fields, path)
    if int(fields["bitpix"]) != 8 * dtype.itemsize:
        text = (
            f"{path}: its header says {int(fields['bitpix'])} bits a voxel and {dtype.name}; "
            f"{dtype.name} is read"
        )
        remarks.append(Finding(WARNING, "header", text))
    if stream.compressed != (path.suffix == ".gz"):
        what = "compressed" if stream.compressed else "not compressed"
        text = f"{path}: is {what}, other than its name says; it is read all the same"
        remarks.append(Finding(WARNING, "misnamed file", text))
    voxels, start = _voxels_of(fields, path), _start(fields)
    check_size(path, shape, dtype, rules, other_bytes=start)
    placement = place(fields, shape[:3], rules, path)
    return Header(
        kind, fields, shape, dtype, voxels, start, stream.compressed, placement, tuple(remarks)
    )


def _fields(stream: ByteStream) -> tuple[type[nibabel.Nifti1Image], nibabel.Nifti1Header]:
    """The fields of a header, and nibabel's class of the file."""
    raw = stream.read(348)
    for kind in (nibabel.Nifti1Image, nibabel.Nifti2Image):
        size = kind.header_class.sizeof_hdr
        for endianness, order in (("<", "little"), (">", "big")):
            if int.from_bytes(raw[:4], order) == size:  # type: ignore[arg-type]  # two literals
                raw += stream.read(size - len(raw))
                if len(raw) < size:
                    raise EOFError(f"it ends within its header, after {len(raw)} bytes")
                fields = kind.header_class(bytes(raw), endianness=endianness, check=False)
                _check_magic(fields)
                return kind, fields
    if len(raw) < 348:
        raise EOFError(f"it ends within its header, after {len(raw)} bytes")
    raise ValueError("it does not begin with the length of a NIfTI header, 348 or 540")


def _check_magic(fields: nibabel.Nifti1Header) -> None:
    magic = fields["magic"].item()
    if magic not in (fields.single_magic, fields.pair_magic):
        raise ValueError(f"its header is marked {magic!r} instead of {fields.single_magic!r}")


def _voxels_of(fields: nibabel.Nifti1Header, path: Path) -> Path:
    """The file that holds the voxels."""
    if fields["magic"].item() == fields.single_magic:
        return path
    if image := companion_of(path):
        return image
    raise FileFault(
        f"{path}: is the header of a .hdr/.img pair and has no .img beside it; add it, or convert "
        "the pair to one .nii.gz"
    )


def _shape(fields: nibabel.Nifti1Header, path: Path) -> tuple[tuple[int, ...], list[Finding]]:
    """The sides of the volume, and what is to say about them."""
    axes = int(fields["dim"][0])
    if not 1 <= axes <= 7:
        raise ValueError(f"its header says {axes} dimensions")
    sides = [int(side) for side in fields["dim"][1 : axes + 1]]
    if min(sides) < 1:
        raise ValueError(f"its header says {times(sides)} voxels")
    kept = (*sides[:3], *(side for side in sides[3:] if side > 1))
    if len(kept) == len(sides):
        return kept, []
    text = f"{path}: has shape {times(sides)}; it is read as {times(kept)}"
    return kept, [Finding(INFORMATION, "extra dimensions", text)]


def _dtype(fields: nibabel.Nifti1Header, path: Path) -> np.dtype:
    try:
        dtype = fields.get_data_dtype()
    except KeyError as error:
        raise ValueError(f"its header names no type of voxels ({error})") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise FileFault(
            f"{path}: its voxels are {'colours' if dtype.names else dtype.name}, expected numbers; "
            "export it as a grey-value image"
        )
    return dtype


def _start(fields: nibabel.Nifti1Header) -> int:
    """The byte of the first voxel."""
    offset = float(fields["vox_offset"])
    single = fields["magic"].item() == fields.single_magic
    lowest = fields.single_vox_offset if single else 0
    if not (np.isfinite(offset) and offset == int(offset) and offset >= lowest):
        raise ValueError(f"its header puts the first voxel at byte {offset:g}, before {lowest}")
    return int(offset)


def _spare_bytes(stream: ByteStream, header: Header, path: Path) -> list[Finding]:
    """Read to the file's end, where a checksum is; what is to say about bytes behind the voxels.

    Raises:
        FileFault: They are too many to be padding, which is told without reading them all.
    """
    padding = int(min(SPARE_BYTES, SPARE_SHARE * header.data_bytes))
    spare = len(stream.read(padding + 1))
    if spare > padding:
        raise FileFault(
            f"{path}: holds more voxels than its header announces ({times(header.shape)} of "
            f"{header.dtype.name}, {header.data_bytes} bytes); correct dim or datatype of the "
            "header, or copy the file again",
            "header and length",
        )
    if not spare:
        return []
    text = f"{path}: {spare} bytes follow its last voxel; they are left out"
    return [Finding(INFORMATION, "trailing bytes", text)]
