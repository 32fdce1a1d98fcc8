"""Small files that are there whole or not at all."""

import json
import os
from pathlib import Path


def write_text(path, text):
    """Write under a temporary name in the same folder, then rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
    return path


def write_json(path, value):
    """`value` as indented JSON; NaN and infinity are refused, since no other JSON reader takes them."""
    return write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")
