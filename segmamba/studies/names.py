"""Which names a study and its arms may have.

A study's name becomes a folder, a registered model of MLflow (`segmamba-NAME`) and part of a search
in MLflow's store, so it is limited to the characters that all of them take. An arm's name is shown
to people and may hold anything that a folder and a page can carry.
"""

import re
import unicodedata

from segmamba.errors import UserError

LONGEST = 100  # characters of a name
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Control characters, halves of surrogate pairs, and separators of lines and paragraphs.
UNUSABLE = ("Cc", "Cs", "Zl", "Zp")


def check_study_name(name: str) -> None:
    """Refuse a name that no study can have.

    Args:
        name: The study's name.

    Raises:
        UserError: If it is empty, too long, or has a character other than a letter, a digit,
            "_", "." and "-", or begins with one of these three.
    """
    if not STUDY_NAME.fullmatch(name):
        wrong = next((c for c in name[:1] if not c.isascii() or not c.isalnum()), "") or next(
            (c for c in name if not STUDY_NAME.fullmatch("a" + c)), ""
        )
        where = f"{_character(wrong)} cannot stand there" if wrong else "it is empty"
        raise UserError(
            f"study {name!r}: {where}; name it with letters, digits, _ . and -, "
            "beginning with a letter or digit"
        )
    _check_length(name, f"study {name!r}")


def check_arm_name(name: str, study: str) -> None:
    """Refuse a name that no arm can have.

    Args:
        name: The arm's name.
        study: The study's name, for the message.

    Raises:
        UserError: If it is empty, too long, begins or ends with a blank, or has a character that
            no folder or page can carry.
    """
    where = f"study {study}: arm {name!r}"
    for character in name:
        if unicodedata.category(character) in UNUSABLE:
            raise UserError(
                f"{where}: {_character(character)} cannot stand in a folder's name or on a page; "
                "leave it out"
            )
    if not name.strip():
        raise UserError(f"{where}: the name is empty; give the arm a name")
    if name != name.strip():
        blank = name[0] if name[0].isspace() else name[-1]
        raise UserError(f"{where}: {_character(blank)} begins or ends the name; leave it out")
    _check_length(name, where)


def _check_length(name: str, where: str) -> None:
    if len(name) > LONGEST:
        raise UserError(
            f"{where}: the name has {len(name)} characters; shorten it to at most {LONGEST}"
        )


def _character(character: str) -> str:
    """A character as a message shows it: escaped, with its code point."""
    return f"the character {character!a} (U+{ord(character):04X})"
