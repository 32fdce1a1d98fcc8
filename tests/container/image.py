"""What the Dockerfile declares, without Docker."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

DOCKERFILE = Path(__file__).parents[2] / "Dockerfile"


@cache
def image() -> dict[str, Any]:
    """{"ENV": variables, "ENTRYPOINT": words, "CMD": words, "USER": text} of the last stage."""
    stage = DOCKERFILE.read_text().rpartition("\nFROM ")[2]
    lines = re.sub(r"\\\n", " ", stage).splitlines()
    of: dict[str, list[str]] = {}
    for line in lines:
        word, _, rest = line.partition(" ")
        of.setdefault(word, []).append(rest)
    variables = dict(text.split("=", 1) for text in of["ENV"])
    return {
        "ENV": {name: value for name, value in variables.items() if name != "PATH"},
        "ENTRYPOINT": json.loads(of["ENTRYPOINT"][-1]),
        "CMD": json.loads(of["CMD"][-1]),
        "USER": of["USER"][-1],
        "COPY": of["COPY"],
    }
