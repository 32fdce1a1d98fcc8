"""The viewer as a part of a page: a list of cases, and NiiVue with what belongs to each.

The page needs no server, no network and no other file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from segmamba.pictures.encode import ViewerCase
from segmamba.pictures.niivue import how_to_install, niivue_script
from segmamba.pictures.pages import template
from segmamba.pictures.palette import ERROR_COLOURS

if TYPE_CHECKING:
    from markupsafe import Markup

PAGE_BYTES = 28_000_000
"""What the cases of a page and NiiVue may take, so that a page stays under 30 MB."""
WORST, MEDIAN, BEST = "worst", "median", "best"


def by_interest(dice: Mapping[str, float]) -> list[str]:
    """Order cases so that the first few say most: worst, median, best, then from worse to better.

    Args:
        dice: {case: mean Dice}.

    Returns:
        The cases.
    """
    ordered = sorted(dice, key=lambda case: (dice[case], case))
    return list(dict.fromkeys((*named_cases(dice).values(), *ordered)))


def named_cases(dice: Mapping[str, float]) -> dict[str, str]:
    """Name the worst, the median and the best case; fewer where there are fewer cases.

    Args:
        dice: {case: mean Dice}.

    Returns:
        {"worst": case, "median": case, "best": case}, each case once.
    """
    ordered = sorted(dice, key=lambda case: (dice[case], case))
    if not ordered:
        return {}
    named = {WORST: ordered[0]}
    if len(ordered) > 2:
        named[MEDIAN] = ordered[len(ordered) // 2]
    if len(ordered) > 1:
        named[BEST] = ordered[-1]
    return named


def fitting(cases: Iterator[ViewerCase], taken: int = 0) -> list[ViewerCase]:
    """Take cases, the first ones first, as long as the page stays small enough.

    Args:
        cases: They are made one by one, and none after the first that does not fit.
        taken: Bytes that the page takes without them.

    Returns:
        The cases that fit; nothing without NiiVue.
    """
    held: list[ViewerCase] = []
    if how_to_install():
        return held
    taken += len(niivue_script())
    for case in cases:
        taken += case.size
        if taken > PAGE_BYTES:
            break
        held.append(case)
    return held


def viewer_section(cases: Sequence[ViewerCase], of: int, sentence: str = "") -> Markup:
    """Make the viewer, as a part of a page.

    Args:
        cases: What can be looked at; those with a Dice are listed from the worst.
        of: How many cases there are, in the page and left out.
        sentence: What is to be known of the cases, in a sentence.

    Returns:
        HTML with its styles and scripts; a line on how to get the viewer where it is not installed.
    """
    from markupsafe import Markup

    ordered = sorted(cases, key=lambda case: (case.dice is None, case.dice or 0.0))
    text = template("viewer.html.j2").render(
        cases=ordered,
        of=of,
        sentence=sentence,
        install=how_to_install(),
        niivue=niivue_script() if ordered else "",
        errors=ERROR_COLOURS,
    )
    return Markup(text)
