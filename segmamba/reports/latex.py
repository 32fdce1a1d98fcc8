"""Tables as LaTeX for papers: `booktabs` rules, and text that no name can break."""

import re
import unicodedata
from collections.abc import Sequence

from segmamba.studies.hypothesis import MINUS

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "_": r"\_",
    "#": r"\#",
    "$": r"\$",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    MINUS: "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
    "\N{DEGREE SIGN}": r"$^\circ$",
    "\N{GREATER-THAN OR EQUAL TO}": r"$\geq$",
    "\N{LESS-THAN OR EQUAL TO}": r"$\leq$",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    "\N{LEFTWARDS ARROW}": r"$\leftarrow$",
    "\N{INFINITY}": r"$\infty$",
    "\N{MICRO SIGN}": r"$\mu$",
    "\N{SUPERSCRIPT TWO}": "$^2$",
    "\N{SUPERSCRIPT THREE}": "$^3$",
    "\N{SUPERSCRIPT ONE}": "$^1$",
    "\N{NO-BREAK SPACE}": "~",
}
LIGATURES = "-'"
"""Characters of which LaTeX makes two into another one."""
GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (\w+)")
LIKE_LATIN = frozenset(
    ("omicron", "Alpha", "Beta", "Epsilon", "Zeta", "Eta", "Iota")
    + ("Kappa", "Mu", "Nu", "Omicron", "Rho", "Tau", "Chi")
)
"""Greek letters without a command of their own in LaTeX."""
ALIASES = {"lamda": "lambda", "final sigma": "varsigma"}
LATIN = re.compile(r"[\x20-\x7e\u00c0-\u017e]*")
"""What pdfLaTeX takes: ASCII and the accented letters of European languages."""


def escaped(text: str) -> str:
    """Text as LaTeX prints it.

    Args:
        text: Any text.

    Returns:
        LaTeX. Characters that pdfLaTeX does not know are left as they are: XeLaTeX and LuaLaTeX
        print them.
    """
    following = [*text[1:], ""]
    return "".join(
        f"{c}{{}}" if c == after and c in LIGATURES else _character(c)
        for c, after in zip(text, following, strict=False)
    )


def needs_unicode(text: str) -> bool:
    """Whether LaTeX has characters that XeLaTeX or LuaLaTeX print and pdfLaTeX refuses.

    Args:
        text: LaTeX.

    Returns:
        Whether it has.
    """
    return not LATIN.fullmatch(text.replace("\n", " "))


def _character(character: str) -> str:
    if character in SPECIAL:
        return SPECIAL[character]
    letter = GREEK.fullmatch(unicodedata.name(character, ""))
    if letter:
        name = ALIASES.get(letter[2].lower(), letter[2].lower())
        name = name if letter[1] == "SMALL" else name.capitalize()
        return character if name in LIKE_LATIN else rf"$\{name}$"
    return character


def booktabs(
    headers: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    comments: Sequence[str],
    notes: str = "",
) -> str:
    """A table with the rules of `booktabs`.

    Args:
        headers: LaTeX of each column's head; the first column is aligned left, the others right.
        rows: LaTeX of each row, as many cells as headers.
        comments: Lines that stand before the table, in plain text.
        notes: LaTeX that stands below the table; empty for none.

    Returns:
        The text of a file that a paper takes by \\input.
    """
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(headers) - 1)}}}",
        r"\toprule",
        _line(headers),
        r"\midrule",
        *(_line(row) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if notes:
        lines += ["", notes]
    needed = (r"needs \usepackage{booktabs} and \usepackage[T1]{fontenc}", *comments)
    if needs_unicode("\n".join(lines)):
        needed += ("has characters that XeLaTeX or LuaLaTeX print, and pdfLaTeX does not",)
    return "\n".join([*(f"% {' '.join(line.split())}" for line in needed), *lines, ""])


def _line(cells: Sequence[str]) -> str:
    # At the start of a row, [ and * would belong to the \\ before.
    protected = "{}" if cells[0].startswith(("[", "*")) else ""
    return protected + " & ".join(cells) + r" \\"
