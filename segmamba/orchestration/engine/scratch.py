"""The temporary folder of a study: short, its own, and gone with the study, however that ends."""

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from segmamba.errors import UserError
from segmamba.files import LOCK, check_may_be_made, is_abandoned, is_there, locked, write_text
from segmamba.leftovers import folder_beside, remove_leftovers

PREFIX = ".segmamba-"
MADE = re.compile(re.escape(PREFIX) + r"\w{8}")
"""The name of such a folder, which nobody else gives."""
EARLIER = re.compile(r"segmamba_tune_\w{8}")
TUNES = re.compile(r"\d{4}(-\d\d){2}_\d\d(-\d\d){2}")
"""The folder of a Tune run in it."""
RAY = "r"
"""Ray's own folder in it, which Ray opens to all users."""
SOCKET = f"{RAY}/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""The longest name that Ray gives a socket in its temporary folder."""
TEMPORARY = "t"
"""The folder in it of what libraries write for a moment."""
LISTENER = "pymp-12345678/listener-12345678"
"""The name that multiprocessing gives a socket in the folder for temporary files."""
LONGEST_SOCKET = 103
"""Bytes of a Unix socket's path on every system: `sun_path` has 104 of them on macOS, 108 on
Linux, of which one ends it."""
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
TOKENS = {"RAY_AUTH_TOKEN", TOKEN_PATH}
"""By which the environment gives Ray its token."""


@contextlib.contextmanager
def scratch(place: Path | None = None) -> Iterator[Path]:
    """Make a temporary folder that nobody else can read, and remove it when the block ends.

    What studies that were killed have left there goes, too.

    Args:
        place: The folder to make it in; None is the first in which Ray can have its sockets.

    Yields:
        The folder.

    Raises:
        UserError: There is no place for it.
    """
    place = place or _place()
    remove_leftovers(place)
    for left in place.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            ours = MADE.fullmatch(left.name) and left.lstat().st_uid == os.getuid()
            if ours and (left / LOCK).exists() and is_abandoned(left):
                _remove(left)
    _remove_earlier_versions()
    with folder_beside(place / "segmamba-scratch") as making, locked(making):
        folder = _renamed(making, place)
        try:
            yield folder
        finally:
            _remove(folder)


def _renamed(folder: Path, place: Path) -> Path:
    """Give a folder that is locked the short name by which others see that it is in use."""
    while True:
        name = place / f"{PREFIX}{secrets.token_hex(4)}"
        if not name.exists():
            return folder.rename(name)


def _remove(folder: Path) -> None:
    """Remove a folder, its lock last.

    Processes that are just ending may write into it meanwhile; what they have written goes at the
    next start, which knows the folder by its lock.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink()
        if {path.name for path in folder.iterdir()} <= {LOCK}:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def temporaries_in(folder: Path) -> Iterator[None]:
    """Keep temporary files of libraries in a folder while a block runs.

    MLflow and Python's multiprocessing name theirs so that nobody could tell later whose they were.
    Processes that are started meanwhile do the same. Where the folder's name is too long for
    multiprocessing's sockets, the files stay where they were.

    Args:
        folder: It goes when this process has ended, however it ended.
    """
    own = folder / TEMPORARY
    if len(os.fsencode(own / LISTENER)) > LONGEST_SOCKET:
        yield
        return
    own.mkdir()
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    os.environ["TMPDIR"] = tempfile.tempdir = str(own)
    try:
        yield
    finally:
        named, tempfile.tempdir = before
        if named is None:
            os.environ.pop("TMPDIR", None)
        else:
            os.environ["TMPDIR"] = named


@contextlib.contextmanager
def own_temporaries() -> Iterator[None]:
    """Keep temporary files of libraries in a folder of their own, which goes with the block."""
    with scratch(Path(tempfile.gettempdir())) as folder, temporaries_in(folder):
        yield


def _remove_earlier_versions() -> None:
    """Remove what killed studies of versions before 0.4 have left for Tune.

    Such a folder does not say whose it is. It goes where it holds what Tune keeps and nothing else,
    and nothing in it has changed since the machine was started: nobody can be using it.
    """
    if importlib.util.find_spec("psutil") is None:  # as where there are no studies
        return
    import psutil

    for left in Path(tempfile.gettempdir()).glob("segmamba_tune_*"):
        with contextlib.suppress(OSError):
            ours = EARLIER.fullmatch(left.name) and left.lstat().st_uid == os.getuid()
            if not ours or left.is_symlink():
                continue
            tunes = all(TUNES.fullmatch(path.name) for path in left.iterdir())
            changed = max(path.lstat().st_mtime for path in (left, *left.rglob("*")))
            if tunes and changed < psutil.boot_time():
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def token_where_none_can_be_kept(folder: Path) -> Iterator[None]:
    """Give Ray a token while a block runs, where its own place for one cannot be written.

    Ray keeps the token by which its processes know each other in the user's home, which a
    container's or a batch system's user may lack.

    Args:
        folder: A folder that nobody else can read.
    """
    kept = Path(os.path.expanduser("~/.ray/auth_token"))
    if TOKENS & os.environ.keys() or is_there(kept) or (kept.is_absolute() and _may_be_made(kept)):
        yield
        return
    token = write_text(folder / "auth_token", secrets.token_hex(32))
    os.environ[TOKEN_PATH] = str(token)
    try:
        yield
    finally:
        os.environ.pop(TOKEN_PATH, None)


def _may_be_made(path: Path) -> bool:
    try:
        check_may_be_made(path, "")
    except UserError:
        return False
    return True


def _place() -> Path:
    """The first folder for temporary files in which Ray's sockets have short enough names."""
    places = [os.environ.get("RAY_TMPDIR"), tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"]
    for place in filter(None, places):
        socket = os.path.join(os.path.abspath(place), f"{PREFIX}12345678", SOCKET)
        if len(os.fsencode(socket)) <= LONGEST_SOCKET and os.access(place, os.W_OK | os.X_OK):
            return Path(place).absolute()
    longest = LONGEST_SOCKET - len(SOCKET) - len(PREFIX) - 10
    raise UserError(
        f"Ray's sockets need a folder that can be written, with a name of at most {longest} bytes; "
        f"{tempfile.gettempdir()} is none, set RAY_TMPDIR to one"
    )
