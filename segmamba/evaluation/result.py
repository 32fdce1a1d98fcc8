"""What an evaluation of two folders found."""

from dataclasses import dataclass
from typing import Any

from segmamba.evaluation.folders import Pair
from segmamba.evaluation.score import ScoreRow


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`."""

    pairs: list[Pair]
    """The cases."""
    rows: list[ScoreRow]
    """The scores of each case, region and rule."""
    summary: dict[str, Any]
    """See `summarise`."""
    about: dict[str, Any]
    """What was compared and by which rules, for the tables' head and the JSON."""
