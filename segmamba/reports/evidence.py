"""A page of evidence: what several studies of the same data found, in Markdown with pictures.

The numbers of a study come from its Study, that is from MLflow; a note brings its own. So writing
the page again gives the same page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmamba.files import write_bytes, write_text
from segmamba.reports.difference_rows import difference_table, estimate_and_interval
from segmamba.reports.pages import template
from segmamba.reports.patient_rows import patient_table
from segmamba.reports.study_words import decided_by, summary, test_size
from segmamba.reports.tables import EXPLORATORY, PHANTOM_NOTICE, arm_table, duration
from segmamba.studies.contrasts import Difference
from segmamba.studies.results import Study
from segmamba.studies.verdict import verdict
from segmamba.studies.words import DASH, amount, count

MISSING = "It has not run yet."
MARK = "<!-- part {} -->"
"""Begins a section of the page; a reader does not see it."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One part of the page: a study, or another answer whose words are kept elsewhere."""

    name: str
    """Names its section and its picture."""
    title: str
    command: str = ""
    """What ran it, without the places where the data and results were."""
    study: Study | None = None
    """On the data; None where it has not run, or is no study."""
    twin: Study | None = None
    """The same study on phantoms, where it ran on both."""
    day: str = ""
    """When it began, as 2026-11-29."""
    note: str = ""
    """Markdown of an answer that is no study's."""
    answer: str = ""
    """Such an answer in a sentence, where the note does not begin with it in bold."""
    picture: bytes = b""
    """The PNG that shows such an answer."""

    @property
    def has_run(self) -> bool:
        """Whether there is a result to tell."""
        trials = self.study.trials if self.study else ()
        return bool(self.note) or any(trial.status == "FINISHED" for trial in trials)


def write_evidence(page: Path, parts: Sequence[Part]) -> Path:
    """Write the page and the pictures that it shows.

    What the page holds already of a part that has not run in these results stays as it is, so that
    parts may come from several machines.

    Args:
        page: The Markdown file. Pictures go into images/evidence beside it.
        parts: What it tells, in its order.

    Returns:
        The page's path.
    """
    before = _sections(page.read_text(encoding="utf-8")) if page.exists() else {}
    sections = {
        part.name: _section(part, page.parent)
        if part.has_run or part.name not in before
        else before[part.name]
        for part in parts
    }
    answers = [(part.title, _answer(sections[part.name])) for part in parts]
    text = [_filled("evidence.md.j2", answers=answers)]
    for name, section in sections.items():
        text.append(f"{MARK.format(name)}\n\n{section.strip()}\n")
    return write_text(page, "\n".join(text))


def _sections(text: str) -> dict[str, str]:
    """The sections of a page by the names of their parts."""
    _, *rest = re.split(MARK.format(r"(\S+)"), text)
    return {name: section.strip() for name, section in zip(rest[::2], rest[1::2], strict=True)}


def _answer(section: str) -> str:
    """What a section sets in bold first, the verdict of a study, as Markdown in one line."""
    bold = re.search(r"\*\*(.+?)\*\*", section, re.DOTALL)
    return " ".join(bold[1].split()) if bold else MISSING if MISSING in section else ""


def _filled(name: str, **content: Any) -> str:
    return template(name, autoescape=False).render(content)


def _section(part: Part, folder: Path) -> str:
    """The section of a part; its picture is written beside the page."""
    shown: dict[str, Any] = {"part": part, "picture": _picture(part, folder), "missing": MISSING}
    study = part.study
    if study is None:
        return _filled("evidence_part.md.j2", study=None, **shown)
    headers, rows = arm_table(study)
    return _filled(
        "evidence_part.md.j2",
        **shown,
        study=study,
        verdict=verdict(study).sentence,
        notice=PHANTOM_NOTICE if study.data.phantom else "",
        decided_by=decided_by(study.hypothesis, study.max_seeds),
        further=[
            f"{EXPLORATORY}. {verdict(study, claim).sentence}"
            for claim in study.secondary
            if claim.contrasts
        ],
        summary=summary(study, "from plan to report"),
        machine=machine_of(study),
        cost=cost_of(study),
        test_size=test_size(study),
        headers=headers,
        rows=rows,
        **difference_table(study),
        patients=patient_table(study, Path()),
        unseen=unseen(study),
        effects=effect_rows(part),
    )


def _picture(part: Part, folder: Path) -> str:
    """Draw what the verdict rests on; the file's path from the page, or nothing."""
    from segmamba.reports.answer_figure import draw_answer
    from segmamba.reports.images import save_png
    from segmamba.reports.style import any_letters, report_style

    file = folder / "images" / "evidence" / f"{part.name}.png"
    with report_style(), any_letters():
        figure = draw_answer(part.study) if part.study else None
    if figure is None and not part.picture:
        return ""
    file.parent.mkdir(parents=True, exist_ok=True)
    if figure is None:
        write_bytes(file, part.picture)
    else:
        save_png(figure, file)
    return file.relative_to(folder).as_posix()


def machine_of(study: Study) -> str:
    """What a study ran on, and with which torch."""
    made = study.environment
    gpu = made.get("gpu", "none")
    device = f"{made.get('cpu cores', '?')} CPU cores" if gpu == "none" else gpu
    return f"{device}, torch {made.get('torch', '?')}"


def cost_of(study: Study) -> str:
    """The wall time of a study beside what its plan expected, where one was made."""
    took = duration(study.seconds)
    planned = study.resource_plan.get("study_s")
    if not isinstance(planned, (int, float)) or not planned:
        return took
    return f"{took} (planned: {duration(planned)}, {100 * (study.seconds / planned - 1):+.0f} %)"


def unseen(study: Study) -> str:
    """What the patients of a study cannot tell.

    Args:
        study: The study.

    Returns:
        A sentence on the difference that its verdict leads with. The half of an interval over
        patients shrinks with the root of their number; of few it says nothing about other data.
    """
    difference = verdict(study).difference
    patients = len(difference.patients)
    metric = difference.metric
    if not patients:
        return "Nothing was paired, so it tells nothing."
    if not difference.can_decide or not math.isfinite(difference.low):
        return (
            f"{count(patients, 'patient')} and {count(len(difference.seeds), 'seed')} give no "
            "interval for other seeds and other patients; it cannot tell whether another run would "
            "say the same."
        )
    half = (difference.high - difference.low) / 2
    margin = study.hypothesis.margin
    needed = math.ceil(patients * (half / margin) ** 2)
    more = (
        f"; to tell a difference of the margin, {amount(margin, metric)}, from none takes about "
        f"{needed:,} patients of this spread"
        if needed > patients
        else ""
    )
    return (
        f"{count(patients, 'patient')} and {count(len(difference.seeds), 'seed')} leave "
        f"± {amount(half, metric)} {metric.unit} around the estimate{more}."
    )


def effect_rows(part: Part) -> list[dict[str, str]]:
    """Each contrast of a part that ran on real data and on phantoms: both effects, one row each.

    Args:
        part: The part; without a twin there are no rows.
    """
    if part.study is None or part.twin is None:
        return []
    real, phantom = _effects(part.study), _effects(part.twin)
    return [
        {
            "contrast": label,
            "real": _shown(real[label]),
            "phantom": _shown(phantom[label]),
            "same": _same(real[label], phantom[label]),
        }
        for label in real
        if label in phantom
    ]


def _effects(study: Study) -> Mapping[str, Difference]:
    """Each contrast's Difference on the region that decides."""
    decides = study.hypothesis.regions[0]
    rows = difference_table(study)["pairs"]
    return {row["contrast"]: row["regions"][decides] for row in rows}


def _shown(difference: Difference) -> str:
    """An estimate with its interval."""
    return " ".join(estimate_and_interval(difference)).rstrip()


def _same(real: Difference, phantom: Difference) -> str:
    """Whether the phantom says what the patients say; intervals that hold 0 leave it open."""
    if not (math.isfinite(real.mean) and math.isfinite(phantom.mean)):
        return DASH
    if any(one.low <= 0 <= one.high or not math.isfinite(one.low) for one in (real, phantom)):
        sign = "same" if real.mean * phantom.mean > 0 else "other"
        return f"open ({sign} sign)"
    return "yes" if real.mean * phantom.mean > 0 else "NO"
