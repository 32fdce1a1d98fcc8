"""Whether a MetaImage or NRRD file holds as many voxels as its header announces.

SimpleITK reads as many as are announced and says nothing of the others: a header with a wrong size
or type of voxels would pass for a smaller image.
"""

import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from segmamba.data.image_files import HEADER_BYTES, companion_of, ending_of
from segmamba.data.stored_volume import FileFault

SPARE_BYTES, SPARE_SHARE = 4096, 0.01
"""So much behind the voxels, the smaller of the two, is padding, as in NIfTI files."""
ANY_WINDOW = 32 + zlib.MAX_WBITS  # for zlib: either its own header or that of gzip
PIECE_BYTES = 2**20
_LOCAL = re.compile(rb"^ElementDataFile\s*=[ \t]*LOCAL[ \t]*\r?\n", re.MULTILINE)
_EMPTY_LINE = re.compile(rb"\r?\n\r?\n")
_ENCODING = re.compile(rb"^encoding\s*:\s*(\w+)", re.MULTILINE | re.IGNORECASE)
_COMPRESSED = re.compile(rb"^CompressedData\s*=\s*True", re.MULTILINE | re.IGNORECASE)
_SKIPS = re.compile(
    rb"^(?:HeaderSize\s*=|byte ?skip\s*:|line ?skip\s*:)\s*(?!0\s*$)\S",
    re.MULTILINE | re.IGNORECASE,
)
"""A line that puts the voxels elsewhere than at the start of the data."""


def check_length(path: Path, announced: int) -> None:
    """Refuse a file that holds another number of bytes of voxels than its header announces.

    Voxels that are text, in another compression than zlib's or in several files are not counted.

    Args:
        path: The file, whose header SimpleITK has read.
        announced: Bytes of the voxels in memory.

    Raises:
        FileFault: It holds more or fewer.
    """
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    place = _data_of(path, start)
    if place is None:
        return
    data, offset, compressed = place
    most = announced + int(min(SPARE_BYTES, SPARE_SHARE * announced))
    try:
        held = _inflated(data, offset, most) if compressed else data.stat().st_size - offset
    except zlib.error as error:
        raise FileFault(f"{path}: damaged ({error}); copy or download it again") from error
    if announced <= held <= most:
        return
    more = "more" if held > announced else "fewer"
    raise FileFault(
        f"{path}: holds {more} voxels than its header announces ({announced} bytes); correct the "
        "size or type of voxels in the header, or copy the file again",
        "header and length",
    )


def _data_of(path: Path, start: bytes) -> tuple[Path, int, bool] | None:
    """(file of the voxels, their first byte, whether zlib packed them); None if that is unknown."""
    is_nrrd = ending_of(path).lower()[1] == "n"
    local = (_EMPTY_LINE if is_nrrd else _LOCAL).search(start)
    header = start[: local.end()] if local else start
    if _SKIPS.search(header):
        return None
    compressed = bool(_COMPRESSED.search(header))
    if is_nrrd:
        encoding = _ENCODING.search(header)
        name = encoding[1].lower() if encoding else b""
        if name not in (b"raw", b"gzip", b"gz"):
            return None
        compressed = name != b"raw"
    if companion := companion_of(path):
        return companion, 0, compressed
    return (path, local.end(), compressed) if local else None


def _inflated(data: Path, offset: int, most: int) -> int:
    """Count the inflated bytes, to a little above `most` at most."""
    inflate, count = zlib.decompressobj(ANY_WINDOW), 0
    for piece in _pieces(data, offset):
        while piece and count <= most and not inflate.eof:
            count += len(inflate.decompress(piece, PIECE_BYTES))
            piece = inflate.unconsumed_tail
        if count > most or inflate.eof:
            break
    return count


def _pieces(data: Path, offset: int) -> Iterator[bytes]:
    with data.open("rb") as file:
        file.seek(offset)
        while piece := file.read(PIECE_BYTES):
            yield piece
