"""Runs a command as a container would: nobody, without network, on a root that cannot be written.

A new mount namespace gets a root of read-only bind mounts: the system's folders, this interpreter
with its packages, and what a test gives it. Only the output and a small /tmp can be written. It
needs the rights of root, and no image.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")
DEVICES = ("null", "zero", "urandom", "random")
CODE = "/opt/segmamba/code"
LIMIT_S = 300


def reason_not_to_run() -> str:
    """Why no sandbox can be made here; empty where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces and mounts need root on Linux"
    made = subprocess.run(
        ["unshare", "-n", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
    )
    return "" if made.returncode == 0 else "this machine makes no namespaces or mounts"


needs_sandbox = pytest.mark.skipif(bool(reason_not_to_run()), reason=reason_not_to_run())


def run_as_container(
    words: list[str],
    *,
    scratch: Path,
    read_only: Mapping[str, Path],
    output: Path,
    tmp_mib: int = 8,
    tmp_options: str = "",
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `python -m segmamba.cli WORDS` in the sandbox.

    Args:
        words: Of the command line.
        scratch: A folder for the new root.
        read_only: Folders by the paths at which the command finds them.
        output: The folder that it finds as /output and may write.
        tmp_mib: The size of /tmp.
        tmp_options: How /tmp is mounted, such as "noexec".
        environment: Variables; HOME is none of them unless it is given.
    """
    python = Path(os.path.realpath(sys.prefix))
    bound = {path: Path(path) for path in SYSTEM if Path(path).exists()}
    bound |= {str(path): path for path in (Path(os.path.realpath(sys.base_prefix)), python)}
    bound |= {f"{CODE}/{name}": ROOT / name for name in ("segmamba", "search_spaces")}
    bound |= dict(read_only)
    new = scratch / "root"
    new.mkdir()
    output.mkdir(exist_ok=True)
    os.chown(output, NOBODY, NOBODY)
    lines = ["set -e", "mount --make-rprivate /", f"cd {shlex.quote(str(scratch))}"]
    lines += ["mount -t tmpfs -o mode=755 root root"]
    lines += ["mkdir -p root/proc root/dev/shm root/tmp root/output"]
    options = f"size={tmp_mib}m,mode=1777" + (f",{tmp_options}" if tmp_options else "")
    lines += [f"mount -t tmpfs -o {options} tmp root/tmp"]
    for target, source in bound.items():
        place, where = shlex.quote(f"root{target}"), shlex.quote(str(source))
        lines += [f"mkdir -p {place}", f"mount --bind {where} {place}"]
        lines += [f"mount -o remount,bind,ro {place}"]
    for device in DEVICES:
        lines += [f"touch root/dev/{device}", f"mount --bind /dev/{device} root/dev/{device}"]
    lines += [
        f"mount --bind {shlex.quote(str(output))} root/output",
        "mount -t proc proc root/proc",
    ]
    lines += ["mount -o remount,ro root"]
    given = {"PATH": "/usr/bin:/bin", "PYTHONPATH": CODE, **(environment or {})}
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in given.items())
    command = shlex.join([str(python / "bin" / "python"), "-m", "segmamba.cli", *words])
    drop = f"setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --no-new-privs"
    lines += [f"exec chroot root {drop} env -i -C / {variables} {command}"]
    return subprocess.run(
        ["unshare", "-n", "-m", "-p", "--fork", "sh", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
