"""What a dataset.json means by the names that it gives to its channels and its labels."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segmamba.data.labels import CONVENTIONS, MODALITIES, Convention
from segmamba.data.missing import REFUSED, ZEROS
from segmamba.errors import UserError

# Names in dataset.json files, compared in lower case with only their letters and digits.
MODALITY_NAMES = {
    "T1": ("t1", "t1w", "t1n", "t1native"),
    "T1ce": ("t1ce", "t1c", "t1gd", "t1wce", "t1cw", "t1post"),
    "T2": ("t2", "t2w"),
    "FLAIR": ("flair", "t2f", "t2flair", "fla", "t2wflair"),
}
LABEL_NAMES = {
    "ET": (
        "et",
        "enhancingtumor",
        "enhancingtumour",
        "gdenhancingtumor",
        "enhancing",
        "enhancingtissue",
    ),
    "TC": ("tc", "tumorcore", "tumourcore"),
    "WT": ("wt", "wholetumor", "wholetumour"),
    "ED": ("ed", "edema", "oedema", "peritumoraledema", "snfh"),
    "NCR": (
        "ncr",
        "ncrnet",
        "net",
        "netc",
        "necrosis",
        "necroticcore",
        "nonenhancingtumor",
        "nonenhancingtumour",
        "nonenhancingtumorcore",
    ),
    "CC": ("cc", "cysticcomponent", "cyst"),
    "RC": ("rc", "resectioncavity", "cavity"),
    "background": ("background", "bg"),
}


def modality_of(name: object) -> str | None:
    """Look up the modality that a data set calls `name` (T1w, t1gd, FLAIR ...).

    Args:
        name: The data set's name of a channel.

    Returns:
        One of MODALITIES, or None for an unknown name.
    """
    return _look_up(name, MODALITY_NAMES)


def named_channels(content: Mapping[str, Any], path: Path) -> Any:
    """Take the channels' names, which nnU-Net calls channel_names and the Decathlon modality.

    Args:
        content: The file's content.
        path: The file, for the message.

    Returns:
        The names as the file gives them, or None.

    Raises:
        UserError: It gives both, and they differ.
    """
    both = [content[key] for key in ("channel_names", "modality") if key in content]
    if len(both) == 2 and channel_order(both[0], path, missing=ZEROS) != channel_order(
        both[1], path, missing=ZEROS
    ):
        raise UserError(
            f"{path}: channel_names and modality contradict each other; remove the wrong one"
        )
    return both[0] if both else None


def channel_order(named: Any, path: Path, *, missing: str = REFUSED) -> dict[str, int]:
    """Read which channel holds which modality.

    Args:
        named: The channels' names as the file gives them: {"0": "FLAIR", ...}, a list of names, or
            None.
        path: The file, for the message.
        missing: The setting `data.missing`; with zeros, up to three modalities need no name.

    Returns:
        Modality to channel, in the order of MODALITIES.

    Raises:
        UserError: The names are not those of the four modalities; or some are missing that may be,
            but a name is unknown, which may be one of them.
    """
    if not isinstance(named, (list, dict)):
        raise UserError(
            f'{path}: names no channels; add "channel_names": '
            '{"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"} in the files\' order'
        )
    order: dict[str | None, int] = {}
    by_number = numbered_channels(named)
    for number, name in by_number.items():
        modality = modality_of(name)
        if modality and modality in order:
            raise UserError(
                f"{path}: names {modality} twice, as channels {order[modality]} and {number}; "
                "correct the names of the channels"
            )
        order[modality] = number
    known = {modality: order[modality] for modality in MODALITIES if modality in order}
    if len(known) < len(MODALITIES) and (missing != ZEROS or None in order or not known):
        raise UserError(
            f"{path}: its channels are {', '.join(map(str, by_number.values()))}; "
            f"needed are {', '.join(MODALITIES)}, each once"
        )
    return known


def numbered_channels(named: list[Any] | dict[Any, Any]) -> dict[int, Any]:
    """Number the channels.

    Args:
        named: The channels' names as a file gives them, a list or {"0": name, ...}.

    Returns:
        Channel to name, without entries whose key is no number.
    """
    if isinstance(named, list):
        return dict(enumerate(named))
    return {int(k): name for k, name in named.items() if re.fullmatch(r"[0-9]{1,4}", str(k))}


def class_of(name: object) -> str | None:
    """Look up the class or region that a data set calls `name` (edema, SNFH, enhancing ...).

    Args:
        name: The data set's name of a label.

    Returns:
        Its short name (ET, ED, NCR, background ...), or None for an unknown name.
    """
    return _look_up(name, LABEL_NAMES)


def convention_of(named_values: Mapping[str, int | Sequence[int]]) -> Convention | None:
    """Find the convention that a dataset.json declares.

    Args:
        named_values: Name to value or list of values, as in nnU-Net's `labels`.

    Returns:
        The convention, or None where no known one says the same. An unknown name, which might mean
        anything, gives None too.
    """
    declared = {
        _look_up(name, LABEL_NAMES): frozenset(v if isinstance(v, (list, tuple)) else [v])
        for name, v in named_values.items()
    }
    if None in declared:
        return None
    every_value = frozenset().union(*declared.values()) | {0}
    for candidate in CONVENTIONS.values():
        if every_value == set(candidate.values) and all(
            declared[name] == values
            for name, values in _meanings(candidate).items()
            if name in declared
        ):
            return candidate
    return None


def _meanings(known: Convention) -> dict[str, set[int]]:
    """Map each name in LABEL_NAMES to its values in the file, for regions and single classes."""
    of_class = {
        name if name in LABEL_NAMES else known.labels.as_glioma[name]: {value}
        for value, name in known.values.items()
    }
    return {**{region: set(values) for region, values in known.regions.items()}, **of_class}


def _look_up(name: object, table: Mapping[str, Sequence[str]]) -> str | None:
    plain = "".join(letter for letter in str(name).lower() if letter.isalnum())
    return next((key for key, names in table.items() if plain in names), None)
