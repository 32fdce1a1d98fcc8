"""What a user may not do, tested by root too: its capabilities are laid down for a while."""

import contextlib
import ctypes
import os

_VERSION = 0x20080522  # _LINUX_CAPABILITY_VERSION_3


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Sets(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


@contextlib.contextmanager
def unprivileged():
    """Have file permissions count in this thread and those that it starts, whoever runs it."""
    if os.geteuid() != 0:
        yield
        return
    libc, header, sets = ctypes.CDLL(None, use_errno=True), _Header(_VERSION, 0), (_Sets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    before = [one.effective for one in sets]
    try:
        for one in sets:
            one.effective = 0
        assert libc.capset(ctypes.byref(header), sets) == 0
        yield
    finally:
        for one, effective in zip(sets, before, strict=True):
            one.effective = effective
        assert libc.capset(ctypes.byref(header), sets) == 0
