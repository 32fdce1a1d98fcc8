"""Which names a study and its arms may have.

A study's name becomes a folder, a registered model of MLflow (`segmamba-NAME`) and part of a search
in MLflow's store, so it is limited to the characters that all of them take. An arm's name is shown
to people and may hold anything that a folder and a page can carry.
"""

import re
import unicodedata
from collections.abc import Iterable

from segmamba.errors import UserError

LONGEST = 100  # characters of a name
STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names of devices, which no folder has on Windows and on shares that Windows serves."""
# Control characters, those that have no width or turn the direction of what follows, halves of
# surrogate pairs, and separators of lines and paragraphs.
UNUSABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
JOINERS = "\u200c\u200d"
"""Characters without a width that words of some languages, and emoji, need within."""
BLANK = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters and symbols that show nothing."""


def check_study_name(name: str) -> None:
    """Refuse a name that no study can have.

    Args:
        name: The study's name.

    Raises:
        UserError: If it is empty, too long, has a character other than a letter, a digit,
            "_", "." and "-", begins with one of these three, ends with ".", or is a device's.
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
    if name.endswith("."):
        raise UserError(f"study {name!r}: a dot ends the name; leave it out")
    if DEVICE.fullmatch(name):
        raise UserError(f"study {name!r}: a device has this name on Windows; choose another one")
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
        if unicodedata.category(character) in UNUSABLE and character not in JOINERS:
            raise UserError(
                f"{where}: {_character(character)} cannot stand in a folder's name or on a page; "
                "leave it out"
            )
    if not any(_shows(character) for character in name):
        raise UserError(f"{where}: the name is empty; give the arm a name")
    if name != name.strip():
        blank = name[0] if name[0].isspace() else name[-1]
        raise UserError(f"{where}: {_character(blank)} begins or ends the name; leave it out")
    _check_length(name, where)


def check_arms_apart(arms: Iterable[str], study: str) -> None:
    """Refuse arms that people, or a file system, would take for one.

    Args:
        arms: The arms' names, each of which `check_arm_name` has passed.
        study: The study's name, for the message.

    Raises:
        UserError: If two differ only in capital letters, or in how Unicode writes the same letters.
    """
    known: dict[str, str] = {}
    for arm in arms:
        other = known.setdefault(_looks(arm), arm)
        if other != arm:
            raise UserError(
                f"study {study}: the arms {other!a} and {arm!a} differ only in capital letters or "
                "in how the same letters are written; rename one"
            )


def arm_called(name: str, arms: Iterable[str]) -> str:
    """Return the arm of a name that was typed, which may write the same letters otherwise.

    Args:
        name: What was typed. A keyboard may give é as one character or as two.
        arms: The arms' names.

    Returns:
        The arm; the name itself where there is none.
    """
    typed = unicodedata.normalize("NFC", name)
    same = (arm for arm in arms if unicodedata.normalize("NFC", arm) == typed)
    return next(same, name)


def _shows(character: str) -> bool:
    """Whether a character by itself is seen."""
    return unicodedata.category(character)[0] in "LNPSC" and character not in JOINERS + BLANK


def _looks(arm: str) -> str:
    """What two names have in common that are taken for one."""
    plain = "".join(character for character in arm if character not in JOINERS)
    folded = unicodedata.normalize("NFC", plain).casefold()
    return " ".join(unicodedata.normalize("NFC", folded).split())


def _check_length(name: str, where: str) -> None:
    if len(name) > LONGEST:
        raise UserError(
            f"{where}: the name has {len(name)} characters; shorten it to at most {LONGEST}"
        )


def _character(character: str) -> str:
    """A character as a message shows it: escaped, with its code point."""
    return f"the character {character!a} (U+{ord(character):04X})"
