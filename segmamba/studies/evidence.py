"""What a page of evidence asks: its parts, each one of the studies with its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MEMBERS = "{members}"
"""In a part's options: each network of the ensemble, behind the option before it."""
PHANTOMS_WEIGHTS = "{weights from phantoms}"
"""In a part's options: the weights of a network that was trained on phantoms for it."""


@dataclass(frozen=True, kw_only=True)
class EvidencePart:
    """One part of the page."""

    name: str
    """The script's and the study's name; of a note, its file without .md."""
    title: str
    kind: Literal["study", "ensemble", "inference", "note"] = "study"
    """study: takes folds, seeds and arms, and can run on phantoms too. ensemble: trains on one
    split. inference: trains nothing. note: its words are a file beside the results."""
    arms: tuple[str, ...] = ()
    """The arms that answer the question first; () is the study's own choice."""
    options: tuple[str, ...] = ()
    """Further options of its command line."""
    picture: str = ""
    """The artifact that shows the answer, where the answer is no study's."""

    @property
    def from_phantoms(self) -> bool:
        """Whether its networks start from one that was trained on phantoms."""
        return any(PHANTOMS_WEIGHTS in option for option in self.options)

    @property
    def has_twin(self) -> bool:
        """Whether it asks the same of phantoms as of real cases."""
        return self.kind == "study" and not self.from_phantoms
