"""What the files of a case hold, as digests, each file read once for as long as it stays the same.

The digest of the contents identifies a file: no time, owner, link or folder does. `touch`, `chmod`,
`cp -al` and a move of the data set change nothing; a changed voxel does, whatever the times say.

A record of size, times and inode beside the cached case saves reading a file again. It is trusted
only where the file was last changed well before it was read, since two changes within one tick of
the file system's clock leave the same times.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmamba.data.case import Case
from segmamba.errors import UserError
from segmamba.files import write_json

TICK_S = 2  # the coarsest clock of a file system: FAT's
CHUNK_BYTES = 2**20

Stamps = dict[str, list[int]]
"""{path: [size, time of change, time of the inode's change, inode, device]}, times in ns."""


def stamps_of(case: Case) -> Stamps:
    """Look at the files of a case without reading them.

    Args:
        case: The case.

    Returns:
        The stamp of each file.

    Raises:
        UserError: A file is missing.
    """
    try:
        return {
            str(path.absolute()): [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev]
            for path in case.files
            for s in [path.stat()]
        }
    except OSError as error:
        raise _unreadable(case, error) from error


def read_digests(case: Case) -> dict[str, str]:
    """Digest the files of a case.

    Args:
        case: The case.

    Returns:
        {path: SHA-256 of the contents}.

    Raises:
        UserError: A file is missing or cannot be read.
    """
    try:
        return {str(path.absolute()): _digest(path) for path in case.files}
    except OSError as error:
        raise _unreadable(case, error) from error


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _unreadable(case: Case, error: OSError) -> UserError:
    return UserError(
        f"{case.id}: {error.filename}: {error.strerror}; add the file or remove the case"
    )


def write_record(path: Path, stamps: Stamps, digests: Mapping[str, str], read_ns: int) -> None:
    """Remember the digests of files.

    Args:
        path: Where the record goes.
        stamps: Of the files, before they were read.
        digests: Of their contents.
        read_ns: When they were read, ns since the epoch.
    """
    write_json(path, {"stamps": stamps, "digests": dict(digests), "read_ns": read_ns})


def recorded_digests(path: Path, stamps: Stamps) -> dict[str, str] | None:
    """Recall the digests of files that have not changed since.

    Args:
        path: The record.
        stamps: Of the files as they are now.

    Returns:
        The digests; None where the record does not know these files, or cannot be sure.
    """
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        last_change_ns = max(max(stamp[1:3]) for stamp in stamps.values())
        if record["stamps"] != stamps or last_change_ns > record["read_ns"] - TICK_S * 10**9:
            return None
        digests: dict[str, str] = record["digests"]
        return digests if digests.keys() == stamps.keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # no record, or one that another version wrote
