"""Which ids a case may have: an id becomes the name of files, whatever layout it comes from.

An id is a single part of a path, on every system that results may be copied to. A faulty id is
replaced by a harmless one in the case that reports it, so that nothing behind the layouts can write
outside its folder.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from segmamba.data.case import ERROR, Case, Finding

LONGEST_BYTES = 150
"""Bytes of an id in UTF-8. File systems take 255 for a name; endings, digests and the names of
temporary files are added to the id."""
# Control characters, formats, halves of surrogate pairs, separators of lines and paragraphs.
UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
SEPARATORS = '/\\:*?"<>|'
"""Separators of paths, and what Windows and its shares take in no file's name."""
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices, with any ending."""


def id_fault(case_id: str) -> str | None:
    """Say why an id cannot be the name of a file.

    Args:
        case_id: The id of a case.

    Returns:
        The fault in words that follow "the case id ...", or None for a good id.
    """
    if not case_id.strip():
        return "is empty"
    for character in case_id:
        if character in SEPARATORS or unicodedata.category(character) in UNPRINTABLE:
            return f"holds {character!a}, which cannot stand in a file's name"
    if case_id[0] in ".-" or case_id[0].isspace():
        return f"begins with {case_id[0]!a}"
    if case_id[-1] == "." or case_id[-1].isspace():
        return f"ends with {case_id[-1]!a}"
    if RESERVED.fullmatch(case_id):
        return "is the name of a device on Windows"
    if (length := len(case_id.encode())) > LONGEST_BYTES:
        return f"has {length} bytes, at most {LONGEST_BYTES} fit into a file's name"
    return None


def with_checked_ids(cases: Sequence[Case], origin: str) -> list[Case]:
    """Check the ids of all cases of a data set, each alone and against the others.

    Args:
        cases: The cases, from whichever layout.
        origin: The data set, for the messages.

    Returns:
        The cases, sorted by id. One with a faulty id has an error among its findings and a harmless
        id and patient; one whose id another case has, or has but for capitals, has an error.
    """
    checked = sorted((_checked(case, origin) for case in cases), key=lambda case: case.id)
    same = Counter(case.id for case in checked)
    alike: dict[str, set[str]] = {}
    for case in checked:
        alike.setdefault(_folded(case.id), set()).add(case.id)
    return [_against_others(case, same[case.id], alike[_folded(case.id)]) for case in checked]


def harmless(case_id: str) -> str:
    """Turn any text into an id without fault, the same for the same text.

    Args:
        case_id: A faulty id.

    Returns:
        Its letters and digits, and a digest that tells it from others.
    """
    kept = re.sub(r"[^A-Za-z0-9]+", "_", case_id).strip("_")[:40]
    digest = hashlib.sha256(case_id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"faulty_{kept}_{digest}" if kept else f"faulty_{digest}"


def _checked(case: Case, origin: str) -> Case:
    if not (fault := id_fault(case.id)):
        return case
    shown = ascii(case.id) if len(case.id) <= LONGEST_BYTES else f"{case.id[:60]!a}..."
    file = f" (with {ascii(str(case.files[0]))[1:-1]})" if case.files else ""
    text = f"{origin}: the case id {shown}{file} {fault}; rename the case"
    safe = harmless(case.id)
    return replace(case, id=safe, patient=safe, findings=(Finding(ERROR, "case id", text),))


def _against_others(case: Case, count: int, alike: set[str]) -> Case:
    if count > 1:
        file = f", one with {case.files[0]}" if case.files else ""
        text = f"{case.id}: {count} cases have this id{file}; rename or remove one"
        return replace(case, findings=(*case.findings, Finding(ERROR, "duplicate case", text)))
    if len(alike) > 1:
        text = (
            f"{case.id}: the ids {', '.join(sorted(alike))} differ only in capitals or accents, "
            "which is one file on macOS and Windows; rename one"
        )
        return replace(case, findings=(*case.findings, Finding(ERROR, "duplicate case", text)))
    return case


def _folded(case_id: str) -> str:
    """The form in which file systems that ignore capitals compare names."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", case_id).casefold())
