"""Small files that are there whole or not at all."""

import json
import os
from pathlib import Path


def write_bytes(path, content):
    """Write under a temporary name in the same folder, then rename; what fails half-way leaves nothing."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_text(path, text):
    """`text` as UTF-8, as `write_bytes`."""
    return write_bytes(path, text.encode())


def write_json(path, value):
    """`value` as indented JSON; NaN and infinity are refused, since no other JSON reader takes them."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
