"""Tables of a page that fit wherever it is read.

A table that is wider than the window or the sheet is folded by the style sheet: every row becomes a
block of its cells, each after the title of its column. From which width on that is so cannot be
told in a style sheet. It is estimated here, from the texts of the cells.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

CHARACTER_PX, GAP_PX = 9.2, 14.4
"""Width of a digit and of the space between two columns, in a font as wide as DejaVu Sans."""
DENSE = 0.9
"""The size of a table of the class "dense", as a share of the usual size."""
PRINTED = 0.8
"""The size of a table in print, as a share of that on a screen."""
STEPS_PX = (380, 540, 720, 930, 1100)
"""Widths of the text. Tables that need more than the first one have the class of the step that
they fit into, and fold below it."""
SHEET_PX = 680
"""Width of the text on a sheet of A4."""
LONGEST_WORD = 14
"""Characters of a word after which it may be broken."""


def fit_tables(page: str) -> str:
    """Let every table of a page fold where it does not fit.

    Args:
        page: HTML whose tables have a line of `<th>` in a `<thead>`, and cells of the class
            "number" where a line must not be broken.

    Returns:
        The page; each such table has the classes that the style sheet folds it by, and each of its
        cells the title of its column as `data-name`. Tables without titles are left as they are.
    """
    return re.sub(r"<table\b.*?</table>", _fitted, page, flags=re.DOTALL)


def _fitted(table: re.Match[str]) -> str:
    parser = _Tables()
    parser.feed(table[0])
    parser.close()
    return "".join(parser.parts)


@dataclass
class _Cell:
    """A cell of a table that is being read."""

    place: int
    """Where its start tag stands in the page's parts."""
    whole: bool
    """Whether its lines are never broken."""
    lines: list[str] = field(default_factory=lambda: [""])
    loose: str = ""
    """Its text of the class "words", which is broken between words wherever it stands."""

    @property
    def characters(self) -> int:
        """The least width."""
        breakable = self.loose if self.whole else " ".join([*self.lines, self.loose])
        word = min(LONGEST_WORD, max(map(len, breakable.split()), default=0))
        return max(word, *(len(line.strip()) for line in self.lines)) if self.whole else word


@dataclass
class _Table:
    """A table that is being read."""

    place: int
    classes: str
    heads: list[_Cell] = field(default_factory=list)
    rows: list[list[_Cell]] = field(default_factory=list)

    @property
    def needed_px(self) -> float:
        """The width that it needs on a screen."""
        size = DENSE if "dense" in self.classes.split() else 1.0
        return size * sum(CHARACTER_PX * width + GAP_PX for width in self.widths)

    @property
    def widths(self) -> list[int]:
        """The least characters of each column."""
        columns: dict[int, int] = {}
        for row in (self.heads, *self.rows):
            for column, cell in enumerate(row):
                columns[column] = max(columns.get(column, 0), cell.characters)
        return list(columns.values())

    def folding(self) -> list[str]:
        """The classes by which the style sheet folds it."""
        needed, names = self.needed_px, []
        step = next((step for step in STEPS_PX if needed <= step), None)
        if step != STEPS_PX[0]:
            names.append("fold-always" if step is None else f"fold-{step}")
        return [*names, "fold-print"] if PRINTED * needed > SHEET_PX else names


class _Tables(HTMLParser):
    """Copies a table, and changes its start tag and those of its cells."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.parts: list[str] = []
        self._table: _Table | None = None
        self._cell: _Cell | None = None
        self._in_head = self._in_words = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        place = len(self.parts)
        self.parts.append(self.get_starttag_text() or "")
        if tag == "table":
            self._table = _Table(place, given.get("class", ""))
        elif self._table is None:
            return
        elif tag == "thead":
            self._in_head = True
        elif tag == "tr" and not self._in_head:
            self._table.rows.append([])
        elif tag in ("td", "th"):
            whole = tag == "td" and "number" in given.get("class", "").split()
            self._cell = _Cell(place, whole)
            row = self._table.heads if self._in_head else self._table.rows[-1]
            row.append(self._cell)
        elif tag == "br" and self._cell:
            self._cell.lines.append("")
        elif tag == "span" and "words" in given.get("class", "").split():
            self._in_words = True

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(f"</{tag}>")
        if tag == "thead":
            self._in_head = False
        elif tag == "span":
            self._in_words = False
        elif tag in ("td", "th"):
            self._cell = None
        elif tag == "table" and self._table:
            self._finish(self._table)
            self._table = None

    def _finish(self, table: _Table) -> None:
        if not table.heads:
            return
        names = " ".join([*table.classes.split(), *table.folding()])
        # Its names may be broken anywhere, and a browser would break short ones for the numbers.
        first = f' style="--first: {table.widths[0]}ch"'
        self.parts[table.place] = f'<table class="{names}"{first}>' if names else f"<table{first}>"
        titles = [" ".join("".join(head.lines).split()) for head in table.heads]
        for row in table.rows:
            for title, cell in zip(titles, row, strict=False):
                start = self.parts[cell.place]
                self.parts[cell.place] = f'{start[:-1]} data-name="{html.escape(title)}">'

    def _text(self, shown: str, source: str) -> None:
        self.parts.append(source)
        if self._cell and self._in_words:
            self._cell.loose += shown
        elif self._cell:
            self._cell.lines[-1] += shown

    def handle_data(self, data: str) -> None:
        self._text(data, data)

    def handle_entityref(self, name: str) -> None:
        self._text(html.unescape(f"&{name};"), f"&{name};")

    def handle_charref(self, name: str) -> None:
        self._text(html.unescape(f"&#{name};"), f"&#{name};")
