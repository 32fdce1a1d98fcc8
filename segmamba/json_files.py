"""JSON from files that others wrote: read within bounds, checked against a type, or one clear line.

A type is anything that pydantic takes: `dict[str, int]`, a TypedDict, a dataclass. Values are
never converted: the text "1" is no integer. Beyond the type, a document is refused that is larger
than MOST_BYTES, is not UTF-8, says a name twice in one object, or holds a number that is not
finite or needs more than 64 bits. Schemas stand beside the readers that need them.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from segmamba.errors import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

MOST_BYTES = 16 * 2**20
"""The largest text that is read. An evaluation of 1000 cases with all its rows has 2 MB, and Python
needs up to 60 times the bytes of a document."""
MOST_COMMAS = 2**18
"""The most commas in a document: more values are no file of ours, and cost seconds each time."""
STRING = r'"(?:[^"\\]|\\.)*"'
"""A text in a document, whose commas do not count: a git diff has many."""
LARGE = 2**13
"""Commas from which on the beginning of a document is checked first."""
DEEP = 100
"""Levels below which that look does not go; pydantic reads 200."""
MOST_FAULTS = 1000
"""Wrong values up to which a message says how many there are. pydantic needs 1 KB for each."""
MOST_INTEGER = 2**63
"""Integers must be smaller, so that every array takes them."""
LONGEST_VALUE = 60
"""Characters of a wrong value that a message quotes."""
REPAIR = "repair it or copy it again"
UTF_16_OR_32 = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
"""The byte order marks of texts with two or four bytes a character."""


def read_json(path: Path | str, expected: type[T], *, fix: str = REPAIR) -> T:
    """Read a JSON file.

    Args:
        path: The file.
        expected: What it must hold. A TypedDict keeps its own names alone.
        fix: What the user can do about a wrong file; it ends the message.

    Returns:
        The content, of the type that was expected.

    Raises:
        UserError: The file cannot be read or holds something else; the message names the file, the
            place in it and what was expected there.
    """
    return parse_json(read_text(path, fix=fix), expected, source=path, fix=fix)


def read_text(path: Path | str, *, fix: str = REPAIR) -> str:
    """Read a text of moderate length as UTF-8, with or without a byte order mark.

    Args:
        path: The file.
        fix: What the user can do about a wrong file; it ends the message.

    Returns:
        The text.

    Raises:
        UserError: There is no such file, it is no regular file, is too large, or is not UTF-8.
    """
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise UserError(f"{path}: cannot be read (it is {kind}); {fix}")
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # a path with a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); {fix}") from error
    if len(content) > MOST_BYTES:
        raise UserError(
            f"{path}: has {found.st_size / 2**20:.0f} MiB, more than the {MOST_BYTES // 2**20} MiB "
            f"that such a file may have; {fix}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wide = content.startswith(UTF_16_OR_32)
        known = "UTF-16 or UTF-32" if wide else f"no UTF-8, from byte {error.start} on"
        raise UserError(f"{path}: its text is {known}; save it as UTF-8, or {fix}") from error


def parse_json(text: str, expected: type[T], *, source: Path | str, fix: str = REPAIR) -> T:
    """Read a JSON document.

    Args:
        text: The document.
        expected: As `read_json` takes it.
        source: Where the text is from; messages begin with it.
        fix: What the user can do about a wrong document; it ends the message.

    Returns:
        The content.

    Raises:
        UserError: As `read_json`, for what the document holds.
    """
    commas = text.count(",")
    if commas > MOST_COMMAS and re.sub(STRING, "", text).count(",") > MOST_COMMAS:
        raise UserError(f"{source}: has more than {MOST_COMMAS} values; {fix}")
    content = _parsed(text, source, fix)
    from pydantic import ValidationError

    large = commas > LARGE
    adapter: TypeAdapter[T] = _adapter(expected)  # type: ignore[arg-type]  # every type is hashable
    try:
        if large:  # a wrong type is told from the beginning, before each value is a fault
            adapter.validate_json(json.dumps(_beginning(content)), strict=True)
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        problem = _problem(adapter, error, text)
    raise UserError(f"{source}: {problem}; {fix}")


def fault(place: str, expected: str, found: object) -> str:
    """Word what is wrong with a value.

    Args:
        place: Where it stands, for example "$.labels.ET".
        expected: What should stand there, for example "an integer".
        found: The value.

    Returns:
        One clause of a message.
    """
    if isinstance(found, (dict, list)):
        shown = f"{'an object' if isinstance(found, dict) else 'a list'} of {len(found)}"
    else:
        shown = json.dumps(found, ensure_ascii=False, default=str)
        shown = shown if len(shown) <= LONGEST_VALUE else f"{shown[:LONGEST_VALUE]}..."
    return f"{place}: expected {expected}, found {shown}"


@functools.lru_cache(maxsize=64)
def _adapter(expected: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(expected)


class _Doubled(dict[str, Any]):
    """An object that says a name twice."""

    name: str


def _parsed(text: str, source: Path | str, fix: str) -> Any:
    """The content as Python's reader gives it, once nothing is in it that no type forbids."""
    suspicious = False

    def number(digits: str) -> float | int:
        nonlocal suspicious
        value = int(digits) if len(digits) < 20 else MOST_INTEGER
        suspicious |= abs(value) >= MOST_INTEGER
        return value

    def real(digits: str) -> float:
        nonlocal suspicious
        value = float(digits)
        suspicious |= value - value != 0
        return value

    def pairs(entries: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal suspicious
        whole = dict(entries)
        if len(whole) == len(entries):
            return whole
        suspicious, doubled = True, _Doubled(whole)
        doubled.name, _ = Counter(name for name, _ in entries).most_common(1)[0]
        return doubled

    try:
        content = json.loads(
            text, parse_int=number, parse_float=real, parse_constant=real, object_pairs_hook=pairs
        )
    except RecursionError as error:
        raise UserError(f"{source}: is nested too deeply to be read as JSON; {fix}") from error
    except ValueError as error:
        reason = "the file is empty" if not text.strip() else error
        raise UserError(f"{source}: cannot be read as JSON ({reason}); {fix}") from error
    if suspicious:
        for place, value in _walk(content):
            if problem := _forbidden(value):
                raise UserError(f"{source}: {_path(place)}: {problem}; {fix}")
    return content


def _walk(content: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Every value of a document with its place, in the document's order."""
    left: list[tuple[tuple[str | int, ...], Any]] = [((), content)]
    while left:
        place, value = left.pop()
        yield place, value
        below: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, dict):
            below = value.items()
        elif isinstance(value, list):
            below = enumerate(value)
        left += [((*place, name), one) for name, one in below][::-1]


def _forbidden(value: Any) -> str | None:
    if isinstance(value, _Doubled):
        return f"the name {json.dumps(value.name)[:LONGEST_VALUE]} stands twice in one object"
    if isinstance(value, float) and value - value != 0:
        return "a number that is not finite"
    if isinstance(value, int) and abs(value) >= MOST_INTEGER:
        return "an integer of more than 64 bits"
    return None


def _problem(adapter: TypeAdapter[Any], error: ValidationError, text: str) -> str:
    """Word what is wrong in a document, in bounded time however much that is."""
    content = json.loads(text)
    if error.error_count() <= MOST_FAULTS:
        clause, others = _first_fault(error, content)
        return clause + (f" (and {others} more wrong places)" if others else "")
    from pydantic import ValidationError

    content = _beginning(content)
    try:
        adapter.validate_json(json.dumps(content), strict=True)
    except ValidationError as first:
        return f"{_first_fault(first, content)[0]} (and more than {MOST_FAULTS} others)"
    return f"more than {MOST_FAULTS} values are of the wrong type"


def _beginning(content: Any, depth: int = 0) -> Any:
    """The first values of long lists and objects, so few that a type's faults are soon listed."""
    if depth > DEEP:
        return None
    if isinstance(content, dict):
        few = 10 if len(content) > MOST_FAULTS else len(content)
        return {
            name: _beginning(one, depth + 1) for name, one in itertools.islice(content.items(), few)
        }
    if isinstance(content, list):
        return [_beginning(one, depth + 1) for one in content[:10]]
    return content


def _first_fault(error: ValidationError, content: Any) -> tuple[str, int]:
    """Word the first place of a ValidationError; return that and how many other places it has."""
    expected: dict[tuple[int | str, ...], list[str]] = {}
    values: dict[tuple[int | str, ...], Any] = {}
    for one in error.errors(include_url=False, include_context=False):
        if one["type"] == "json_invalid":
            return f"cannot be read as JSON ({one['msg'].removeprefix('Invalid JSON: ')})", 0
        place, value = _resolved(one["loc"], content)
        absent = f"{json.dumps(one['loc'][-1])} is missing" if one["type"] == "missing" else ""
        expected.setdefault(place, []).append(absent or _worded(one["msg"]))
        values[place] = value
    first = next(iter(expected))
    # Where several forms are allowed, the one that fails deepest is what the file tries to be.
    family = [place for place in expected if place[: len(first)] == first]
    place = max(family, key=len)
    words, others = expected[place], len(expected) - len(family)
    if words[0].endswith("is missing"):
        return f"{_path(place)}: {words[0]}", others
    return fault(_path(place), " or ".join(dict.fromkeys(words)), values[place]), others


def _worded(message: str) -> str:
    """A pydantic message as the end of "expected ..."."""
    words = re.sub(r"^Input should be (a valid |an instance of )?", "", message)
    named = {
        "string": "text",
        "array": "a list",
        "dictionary": "an object",
        "integer": "an integer",
    }
    for theirs, ours in named.items():
        if words == theirs:
            return ours
    return words if words.startswith(("a", "'", "greater", "less")) else f"a {words}"


def _resolved(loc: tuple[int | str, ...], content: Any) -> tuple[tuple[int | str, ...], Any]:
    """The place in the document of a pydantic location, which also names branches of unions."""
    place: list[int | str] = []
    for part in loc:
        inside = isinstance(content, (dict, list))
        known = range(len(content)) if isinstance(content, list) else content
        if inside and part in known:
            content = content[part]
            place.append(part)
    return tuple(place), content


def _path(place: tuple[int | str, ...]) -> str:
    """A place as JSONPath writes it: $.labels.ET, $[0]["a b"]."""
    text = "$"
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"\w{1,60}", part):
            text += f".{part}"
        else:
            text += f"[{json.dumps(part[:LONGEST_VALUE], ensure_ascii=False)}]"
    return text
