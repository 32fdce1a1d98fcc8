"""Faulty JSON files: what editors, tools and broken disks make of a good one."""

import copy
import json
import random

PLACE = "@@place@@"
"""Stands where a raw text is put in, which Python's own writer would refuse to write."""
RAW = (
    "null",
    "true",
    "-1",
    "0.5",
    "1e999",
    "-Infinity",
    "NaN",
    "1" + "0" * 400,
    "9" * 5000,
    '""',
    '"x"',
    '"\\ud800"',
    '"../../x"',
    "[]",
    "[null]",
    "{}",
    '{"a": 1}',
    '{"a": 1, "a": 2}',
    "[" * 300 + "]" * 300,
    "[" * 20_000,
)
"""What may stand in place of any value."""


def places(content, at=()):
    """Yield the path of every value in a document, itself first."""
    yield at
    below = content.items() if isinstance(content, dict) else ()
    below = enumerate(content) if isinstance(content, list) else below
    for name, one in below:
        yield from places(one, (*at, name))


def _replaced(content, at, value):
    if not at:
        return value
    changed = copy.deepcopy(content)
    owner = changed
    for name in at[:-1]:
        owner = owner[name]
    owner[at[-1]] = value
    return changed


def _without(content, at):
    changed = copy.deepcopy(content)
    owner = changed
    for name in at[:-1]:
        owner = owner[name]
    del owner[at[-1]]
    return changed


def whole_files(content):
    """Yield (name, bytes) of faults of a file as a whole."""
    text = json.dumps(content, indent=1)
    plain = text.encode()
    yield "empty", b""
    yield "spaces", b" \n"
    yield "zeros", bytes(len(plain))
    yield "UTF-16", text.encode("utf-16")
    yield "UTF-16 without a mark", text.encode("utf-16-le")
    yield "UTF-32", text.encode("utf-32")
    yield "byte order mark", b"\xef\xbb\xbf" + plain
    yield "two marks", b"\xef\xbb\xbf\xef\xbb\xbf" + plain
    yield "Latin-1", plain[:-1] + b'\xe9"' + plain[-1:]
    yield "no UTF-8", b"\xff" + plain
    yield "truncated", plain[: len(plain) // 2]
    yield "one byte short", plain.rstrip()[:-1]
    yield "twice", plain * 2
    yield "HTML", b"<html><body>404</body></html>"
    yield "Python", repr(content).encode()
    yield "trailing comma", plain.rstrip()[:-1] + b"," + plain.rstrip()[-1:]
    yield "many values", b"[" + b"1," * 260_000 + b"1]"
    yield "many objects", b"[" + b"{}," * 250_000 + b"{}]"
    yield "many names", b"{" + b",".join(b'"%d":null' % n for n in range(250_000)) + b"}"


def inner(content, rng):
    """Yield (name, bytes) of faults of single values, in a random order without an end."""
    everywhere = list(places(content))
    while True:
        at = rng.choice(everywhere)
        kind = rng.randrange(10)
        if kind == 0 and at:
            yield f"{at} absent", json.dumps(_without(content, at)).encode()
        elif kind == 1 and at and isinstance(at[-1], str):
            text = json.dumps(_replaced(content, at, PLACE))
            name = json.dumps(at[-1])
            yield f"{at} twice", text.replace(f'"{PLACE}"', f"1, {name}: 2").encode()
        else:
            raw = rng.choice(RAW)
            text = json.dumps(_replaced(content, at, PLACE))
            yield f"{at} = {raw[:20]}", text.replace(f'"{PLACE}"', raw).encode()


def faulty(content, count, seed):
    """Return `count` (name, bytes): whole files first, then single values."""
    rng = random.Random(seed)
    whole = list(whole_files(content))
    rng.shuffle(whole)
    taken = whole[: max(count // 3, 1)]
    values = inner(content, rng)
    return taken + [next(values) for _ in range(count - len(taken))]
