"""A look at a checkpoint before torch reads it: what it holds, and how much memory that takes.

torch allocates what a file declares. A file of 5 MB may declare 4 GB: its zip members are
compressed, its members overlap, or a tensor repeats one number. `check_archive` reads the archive's
directory and follows its pickle with stand-ins that allocate nothing. It passes the few names that
checkpoints need (SAFE), and no others.
"""

import io
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from segmamba.errors import UserError

LIMIT_VARIABLE = "SEGMAMBA_CHECKPOINT_MIB"
LIMIT_MIB = 256
"""Memory that a checkpoint may take beyond REPEATS times its size on the disk, in MiB."""
REPEATS = 4
"""How often a byte of a file may count: averaged and trained weights, for example, are stored once
where they are the same."""
MOST_PICKLE_BYTES = 16 * 2**20
"""The largest description of the tensors, without their values; ours has 0.1 MB."""
ITEM_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
"""Bytes of an element in each kind of storage."""
ALLOCATING = (pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)
FOREIGN_CODES = (
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ, pickle.PERSID),
    *(pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET),
)
"""Pickle's codes that torch.save never writes."""
SAVE_AGAIN = "read it with the program that wrote it, and torch.save its state_dict alone"
HINTS = (
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself"),
    (b"<", "a page of the web; download the file itself"),
    (b"{", "JSON"),
)
"""How files begin that are no checkpoints."""


class Stored:
    """Stands for a storage or a tensor in one: `elements` of `item_bytes` each."""

    def __init__(self, elements: int, item_bytes: int) -> None:
        self.elements, self.item_bytes = elements, item_bytes


def check_archive(path: str | Path) -> None:
    """Refuse a file that torch should not read.

    Args:
        path: A checkpoint.

    Raises:
        UserError: It is no archive of torch, holds other things than tensors, numbers and texts,
            or would take more memory than the limit.
        OSError: It cannot be read.
    """
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path}: damaged or not a checkpoint of this program ({_kind(path)})")
    file_bytes = os.stat(path).st_size
    limit = max(REPEATS * file_bytes, _limit_bytes())
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info.file_size for info in archive.infolist()}
        declared = sum(members.values())
        _check_size(path, declared, file_bytes, limit)
        name = next((name for name in members if name.rpartition("/")[2] == "data.pkl"), None)
        if name is None:
            raise UserError(f"{path}: a zip archive without tensors, no checkpoint; {SAVE_AGAIN}")
        if members[name] > MOST_PICKLE_BYTES:
            raise UserError(f"{path}: describes its tensors in {members[name]} bytes; {SAVE_AGAIN}")
        content = archive.read(name)
    follower = _Follower(content, name.removesuffix("data.pkl"), members)
    follower.load()
    _check_size(path, follower.tensor_bytes, file_bytes, limit)


def is_safetensors(path: str | Path) -> bool:
    """Tell whether a file begins as safetensors do: the length of a JSON object, and the object."""
    with Path(path).open("rb") as file:
        head = file.read(9)
    length = int.from_bytes(head[:8], "little")
    return head[8:] == b"{" and length < os.stat(path).st_size


def _limit_bytes() -> int:
    text = os.environ.get(LIMIT_VARIABLE, str(LIMIT_MIB))
    if not text.isdecimal():
        raise UserError(f"{LIMIT_VARIABLE} = {text!r}: must be a whole number of MiB")
    return int(text) * 2**20


def _check_size(path: str | Path, declared: int, file_bytes: int, limit: int) -> None:
    if declared > limit:
        raise UserError(
            f"{path}: its {file_bytes / 2**20:.1f} MiB would become {declared / 2**20:.0f} MiB in "
            f"memory, more than the {limit // 2**20} MiB allowed; set {LIMIT_VARIABLE} above that "
            "if you trust it"
        )


def _kind(path: str | Path) -> str:
    """What a file is that is no zip archive."""
    with Path(path).open("rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty"
    for begin, words in HINTS:
        if head.lstrip().startswith(begin):
            return f"it is {words}"
    if head.startswith(b"PK\3\4"):
        return "its end is missing; copy it again"
    if head.startswith(pickle.PROTO):
        return f"a pickle, as torch before 1.6 wrote; {SAVE_AGAIN}"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "it is text"
    return "no zip archive, as torch.save writes"


def _plainly_named(method: Callable[[Any], None], names: slice) -> Callable[[Any], None]:
    """Let a method of an unpickler enter values only under texts and numbers.

    Others may take for ever to look up: a tuple of tuples may have billions of entries.
    """

    def load(unpickler: Any) -> None:
        if not all(isinstance(name, (str, int, float)) for name in unpickler.stack[names]):
            raise ValueError("a value stands under a name that is neither text nor number")
        method(unpickler)

    return load


class _Follower(pickle._Unpickler):
    """Follows a pickle of torch.save with stand-ins, and adds up what its tensors would take.

    It is the unpickler in Python: the one in C allocates as much as an index of its memo asks for.
    """

    dispatch = {
        code: method
        for code, method in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (*ALLOCATING, *FOREIGN_CODES)
    } | {
        code[0]: _plainly_named(pickle._Unpickler.dispatch[code[0]], names)
        for code, names in ((pickle.SETITEM, slice(-2, -1)), (pickle.SETITEMS, slice(0, None, 2)))
    }

    def __init__(self, content: bytes, folder: str, members: dict[str, int]) -> None:
        super().__init__(io.BytesIO(content))
        self._folder, self._members = folder, members
        self.tensor_bytes = 0

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in ITEM_BYTES:
            return ITEM_BYTES[name]
        full = f"{module}.{name}"
        if full == "torch._utils._rebuild_tensor_v2":
            return self._tensor
        if full in SAFE:
            return SAFE[full]
        if module == "torch" and name in DTYPES:
            return full
        raise UnsafeName(f"it holds {full}, no tensor, number or text; {SAVE_AGAIN}")

    def persistent_load(self, key: Any) -> Stored:
        _, item_bytes, name, _, elements = key
        stored = self._members[f"{self._folder}data/{name}"]
        if not 0 <= elements * item_bytes <= stored:
            raise ValueError(f"data/{name} has {stored} bytes, not {elements * item_bytes}")
        return Stored(elements, item_bytes)

    def _tensor(
        self, storage: Stored, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
    ) -> Stored:
        elements = math.prod(size)
        reach = sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
        if min((offset, *size, *stride)) < 0 or (elements and offset + reach > storage.elements):
            raise ValueError("a tensor reaches beyond its values")
        self.tensor_bytes += elements * storage.item_bytes
        return Stored(elements, storage.item_bytes)


class UnsafeName(ValueError):
    """A pickle names something that no checkpoint needs."""


class _Plain:
    """Stands for a numpy scalar or its type."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _first(value: Any, *_: Any) -> Any:
    return value


SAFE: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: OrderedDict(),
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch.Size": tuple,
    "torch.device": _Plain,
    "_codecs.encode": lambda text, coding: b"",
    "numpy.dtype": _Plain,
    "numpy.core.multiarray.scalar": _Plain,
    "numpy._core.multiarray.scalar": _Plain,
}
"""What a checkpoint may call, and what stands for it."""
DTYPES = (
    *("float64", "float32", "float16", "bfloat16"),
    *("int64", "int32", "int16", "int8"),
    "bool",
)
