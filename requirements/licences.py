"""Lists the licence of every locked package, and says which licences are allowed.

    python requirements/licences.py

It reads what the installed packages say of themselves, and writes requirements/licences.csv. A row
of another version stays while that version is locked: run it once in an environment of each Python.
tests/test_requirements.py refuses a package whose licence is unknown or not allowed.
"""

import csv
import re
import sys
from collections.abc import Iterable
from importlib.metadata import PackageMetadata, distributions
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE / "licences.csv"
COLUMNS = ("package", "version", "licence", "locked in")

ALLOWED = frozenset(
    {
        *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause"),
        *("BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU"),
        *("PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
        # Copyleft of the package's own files alone, which nothing here changes.
        *("MPL-2.0", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later"),
        # libgfortran and libgcc within wheels: the exception lets any program use them.
        "GPL-3.0-or-later WITH GCC-exception-3.1",
    }
)
"""SPDX identifiers; "BSD" is a package's own word for one of the BSD licences."""
OF_NVIDIA = re.compile(r"nvidia-|cuda-toolkit$")
"""The libraries that torch's CUDA builds bring. NVIDIA's terms let them be used and passed on with
programs (CUDA Toolkit EULA, 1.1 and attachment A); a CPU needs none of them."""
NVIDIA = frozenset({"LicenseRef-NVIDIA-Proprietary", "LicenseRef-Proprietary"})

STATED = {
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",  # no files; it pins NVIDIA's libraries
    "huey": "MIT",  # its file LICENSE
    "skops": "MIT",  # its file LICENSE
}
"""What packages say elsewhere than in their metadata."""
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "GNU Affero General Public License v3": "AGPL-3.0-only",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Other/Proprietary License": "LicenseRef-Proprietary",
    "Python Software Foundation License": "PSF-2.0",
}
"""The end of a classifier, and what it stands for."""
SAY_NOTHING = {"OSI Approved", "DFSG approved"}
TEXTS = {
    "2-clause bsd": "BSD-2-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2": "Apache-2.0",
    "bsd 3-clause license": "BSD-3-Clause",
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD",
    "bsd license": "BSD",
    "isc license": "ISC",
    "mit license": "MIT",
    "nvidia proprietary software": "LicenseRef-NVIDIA-Proprietary",
}
"""The words of the field License, in lower case. A field that quotes a licence at length is left to
the classifiers."""
SHORT = 60
SAYS_OTHERWISE = {"", "unknown", "dual license"}


def normal(name: str) -> str:
    """The name of a package as the index compares names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence_of(metadata: PackageMetadata) -> str:
    """Read a package's licence.

    Args:
        metadata: As importlib.metadata gives it.

    Returns:
        An SPDX expression, all that is stated joined by AND; a statement that is not known in its
        own words; empty where there is none.
    """
    name = normal(metadata["Name"])
    if expression := metadata.get("License-Expression"):
        return expression
    if name in STATED:
        return STATED[name]
    found = []
    text = (metadata.get("License") or "").strip()
    if text.lower() not in SAYS_OTHERWISE and len(text) < SHORT:
        found.append(TEXTS.get(text.lower(), text))
    for classifier in metadata.get_all("Classifier") or []:
        kind, *_, end = classifier.split(" :: ")
        if kind == "License" and end not in SAY_NOTHING:
            found.append(CLASSIFIERS.get(end, end))
    if any(one.startswith("BSD-") for one in found):
        found = [one for one in found if one != "BSD"]
    return " AND ".join(dict.fromkeys(found))


def objection(name: str, licence: str) -> str:
    """Say why a package may not be used.

    Args:
        name: The package.
        licence: As `licence_of` returns it.

    Returns:
        The reason; empty where it may be used.
    """
    if not licence:
        return f"{name}: no licence is stated"
    allowed = ALLOWED | NVIDIA if OF_NVIDIA.match(normal(name)) else ALLOWED
    return "" if _holds(licence, allowed) else f"{name}: the licence {licence} is not allowed"


def _holds(expression: str, allowed: frozenset[str]) -> bool:
    """Whether allowed licences suffice for an SPDX expression. AND binds more tightly than OR."""
    for word, every in ((" OR ", False), (" AND ", True)):
        parts = _split(expression, word)
        if len(parts) > 1:
            return (all if every else any)(_holds(part, allowed) for part in parts)
    if expression.startswith("(") and expression.endswith(")"):
        return _holds(expression[1:-1], allowed)
    return expression in allowed


def _split(expression: str, word: str) -> list[str]:
    """The parts around a word that stands outside of parentheses."""
    parts, depth, start = list[str](), 0, 0
    for at, letter in enumerate(expression):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and expression.startswith(word, at) and at >= start:
            parts.append(expression[start:at].strip())
            start = at + len(word)
    return [*parts, expression[start:].strip()]


def locked() -> dict[tuple[str, str], list[str]]:
    """{(package, version): the files of requirements/ that lock it}."""
    found: dict[tuple[str, str], list[str]] = {}
    for file in sorted(HERE.glob("*.txt")):
        for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", file.read_text(), re.MULTILINE):
            places = found.setdefault((name, version), [])
            if file.stem not in places:
                places.append(file.stem)
    return found


def read_table() -> dict[tuple[str, str], str]:
    """{(package, version): licence} of licences.csv."""
    if not TABLE.is_file():
        return {}
    with TABLE.open(newline="") as file:
        return {(row["package"], row["version"]): row["licence"] for row in csv.DictReader(file)}


def installed() -> dict[tuple[str, str], str]:
    """{(package, version): licence} of this environment."""
    return {
        (normal(found.metadata["Name"]), found.version.partition("+")[0]): licence_of(
            found.metadata
        )
        for found in distributions()
    }


def write_table(known: dict[tuple[str, str], str]) -> list[str]:
    """Write licences.csv; returns what is locked and not known."""
    wanted = locked()
    with TABLE.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for (name, version), places in sorted(wanted.items()):
            if (name, version) in known:
                rows.writerow((name, version, known[name, version], " ".join(places)))
    return [
        f"{name}=={version}" for name, version in sorted(wanted) if (name, version) not in known
    ]


def report(lines: Iterable[str]) -> int:
    """Print lines to stderr; returns 1 where there is one."""
    code = 0
    for line in lines:
        print(line, file=sys.stderr)
        code = 1
    return code


def main() -> int:
    """Write the table; the exit code is 1 where a licence is unknown or not allowed."""
    known = read_table() | installed()
    missing = write_table(known)
    lines = [f"{one}: not installed here; run this where it is" for one in missing]
    objections = [objection(name, licence) for (name, _), licence in read_table().items()]
    return report([*lines, *filter(None, objections)])


if __name__ == "__main__":
    sys.exit(main())
