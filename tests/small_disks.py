"""Real disks of a few MiB, which can be filled, made larger and made read-only."""

import contextlib
import errno
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PRIVATE_MOUNTS = """
import ctypes, subprocess
assert ctypes.CDLL(None, use_errno=True).unshare(0x00020000) == 0  # CLONE_NEWNS
subprocess.run(["mount", "--make-rprivate", "/"], check=True)
"""
"""The beginning of a program whose mounts nobody else sees."""


class SmallDisk:
    """A tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def remount(self, options: str) -> None:
        """Change it, as "size=40m" or "ro"."""
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True)

    def fill(self, *, leaving: int = 0) -> Path:
        """Fill it but for so many bytes; return the file that does."""
        ballast = self.folder / "ballast"
        with (
            contextlib.suppress(OSError) if leaving else pytest.raises(OSError) as full,
            ballast.open("wb", buffering=0) as file,
        ):
            while shutil.disk_usage(self.folder).free > leaving or not leaving:
                file.write(bytes(4096))
        assert leaving or full.value.errno == errno.ENOSPC
        return ballast


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[SmallDisk]:
    """Mount a disk at a new folder, or skip the test where that is not allowed."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def needs_private_mounts() -> None:
    """Skip the test where a program may not have mounts of its own."""
    allowed = ["unshare", "-m", "true"]
    if shutil.which("unshare") is None or subprocess.run(allowed, capture_output=True).returncode:
        pytest.skip("needs the right to have mounts of its own (unshare -m)")
