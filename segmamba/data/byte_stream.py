"""The bytes of a file that may be compressed, no more of them than are asked for."""

import zlib
from typing import BinaryIO

GZIP = b"\x1f\x8b"
GZIP_WINDOW = 16 + zlib.MAX_WBITS  # for zlib: a gzip header and checksum around the stream
READ_BYTES, PIECE_BYTES = 2**20, 2**16


class ByteStream:
    """The bytes of a file in order, inflated where they are gzip, a piece at a time.

    Args:
        file: Open at its start.

    Attributes:
        compressed: Whether the file is gzip, by its first bytes.
        position: How many bytes were given out.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.position = 0
        start = file.read(2)
        file.seek(0)
        self.compressed = start == GZIP
        self._file = file
        self._inflate = zlib.decompressobj(GZIP_WINDOW)

    def read(self, count: int) -> bytearray:
        """Give the next bytes, fewer where the file ends.

        Args:
            count: How many.

        Raises:
            EOFError: The gzip stream is cut off.
            zlib.error: It is damaged; a checksum is compared where its stream ends.
        """
        given = bytearray()
        while len(given) < count and (piece := self._piece(count - len(given))):
            given += piece
        self.position += len(given)
        return given

    def _piece(self, most: int) -> bytes:
        """Give some of the next bytes, none where the file ends."""
        if not self.compressed:
            return self._file.read(min(most, READ_BYTES))
        while True:
            if not (rest := self._compressed_bytes()):
                return b""
            try:
                piece = self._inflate.decompress(rest, most)
            except zlib.error as error:
                raise _plain(error) from error
            if piece:
                return piece

    def _compressed_bytes(self) -> bytes:
        """The next input of the inflation; a new one is begun where a member follows another."""
        if not self._inflate.eof:
            rest = self._inflate.unconsumed_tail or self._file.read(PIECE_BYTES)
            if not rest:
                raise EOFError("its compressed data end before their end-of-stream marker")
            return rest
        rest = self._inflate.unused_data.lstrip(b"\0")  # zeros may follow, as on tapes
        while not rest and (more := self._file.read(PIECE_BYTES)):
            rest = more.lstrip(b"\0")
        if rest:
            self._inflate = zlib.decompressobj(GZIP_WINDOW)
        return rest


def _plain(error: zlib.error) -> zlib.error:
    """The error in words that name the checksum."""
    if "incorrect data check" in str(error):
        return zlib.error("CRC check failed: its voxels are not those that were written")
    if "incorrect header check" in str(error):
        return zlib.error("other bytes follow its compressed data")
    return error
