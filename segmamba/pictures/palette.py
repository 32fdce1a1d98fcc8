"""The colours of classes, regions and errors, the same in every picture and on every page.

Regions have the colours of Okabe & Ito (2008), errors those of IBM's and Tol's palettes that stand
apart from them. Readers with any of the three dichromacies tell apart what stands in one picture:
the tests simulate them (Machado et al. 2009).
"""

from dataclasses import dataclass

from segmamba.errors import UserError

REGION_COLOURS = {
    "ET": "#d55e00",
    "TC": "#f0e442",
    "WT": "#56b4e9",
    "RC": "#cc79a7",
    "NETC": "#009e73",
    "CC": "#0072b2",
    "ED": "#e69f00",
}
"""On black, where an image is."""
CLASS_COLOURS = REGION_COLOURS | {"NCR": REGION_COLOURS["NETC"], "SNFH": REGION_COLOURS["ED"]}
"""The same, with the classes that are no region of their own: two names of one tissue share one."""
COLOURS_ON_WHITE = CLASS_COLOURS | {"TC": "#907840"}
"""The same for dots and lines on white, where that yellow is hardly seen. A darker yellow as bright
would pass for ED or ET."""

AGREED, OTHER_CLASS, MISSED, FALSE = "agreed", "other class", "missed", "false"
ERROR_COLOURS = {
    AGREED: "#d9d9d9",
    OTHER_CLASS: "#ffb000",
    MISSED: "#ee3377",
    FALSE: "#785ef0",
}
"""Where truth and prediction name one class, two classes, only the truth one, only the prediction
one."""


@dataclass(frozen=True)
class Theme:
    """What lies around the images of a picture; they themselves are on black."""

    page: str
    ink: str


DARK = Theme(page="#000000", ink="#e7e9eb")
LIGHT = Theme(page="#ffffff", ink="#1b1c1d")
THEMES = {"dark": DARK, "light": LIGHT}
"""By the names that users give them."""


def theme_named(name: str) -> Theme:
    """Find a theme by its name.

    Args:
        name: What a user wrote.

    Returns:
        The theme.

    Raises:
        UserError: There is none of that name.
    """
    if name not in THEMES:
        raise UserError(f"--theme {name!r}: choose one of {', '.join(THEMES)}")
    return THEMES[name]
