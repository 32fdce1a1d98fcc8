"""predictions.json: who predicted, how, and what became of each case.

It is written before the first case and after the last, so that whoever reads a folder whose
prediction was stopped knows in which values its files are.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import NotRequired, TypedDict

from segmamba.data.case import Case
from segmamba.data.labels import CONVENTIONS
from segmamba.errors import UserError
from segmamba.files import write_json
from segmamba.inference.outputs import FAILED, SKIPPED, Outcome, Outputs, writing_to
from segmamba.inference.page import write_page
from segmamba.json_files import read_json

if TYPE_CHECKING:
    from segmamba.inference.predictor import Predictor

RECORD = "predictions.json"
UNFINISHED = "unfinished"
"""The state of a case that has not been predicted yet."""
OWN = "each case's own"
KEPT = ("case", "state", "error", "labels", "volumes_ml", "predict_s", "mean_entropy")
SAME = {
    "members": "networks",
    "classes": "classes",
    "labels": "--labels",
    "inference": "inference settings",
    "postprocessing": "post-processing",
}
"""What the predictions of one folder have in common, and how a message calls it."""


class _Row(TypedDict):
    case: str
    state: NotRequired[str]
    labels: NotRequired[str]


class _Record(TypedDict):
    """What is read of a predictions.json."""

    members: NotRequired[list[str]]
    classes: NotRequired[str]
    labels: NotRequired[str]
    inference: NotRequired[list[dict[str, Any]]]
    postprocessing: NotRequired[dict[str, Any]]
    cases: NotRequired[list[_Row]]


def recorded_conventions(folder: Path) -> dict[str, str]:
    """Read the label conventions that predictions.json names.

    Args:
        folder: The folder of predictions.

    Returns:
        {case: label convention}; empty without the file.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / RECORD
    rows = read_json(path, _Record).get("cases", []) if path.is_file() else []
    return {row["case"]: row["labels"] for row in rows if row.get("labels") in CONVENTIONS}


def begin_record(
    predictor: "Predictor", cases: Sequence[Case], outputs: Outputs, names: Sequence[str]
) -> None:
    """Write predictions.json before the first case, with the values that each will be written in.

    Args:
        predictor: Who predicts.
        cases: The cases.
        outputs: What is written, and where.
        names: What to call the predictor's networks.

    Raises:
        UserError: A prediction would overwrite a file that it is made from, the files that are to
            be skipped were made otherwise, or the output folder cannot be written.
    """
    for case in cases:
        _refuse_sources(case, outputs.files(case.id, len(predictor)).values())
    how = _how(predictor, outputs, names)
    known = _refuse_others(outputs, how) if outputs.skip_existing else {}
    rows = [
        {
            "case": case.id,
            "state": UNFINISHED,
            "labels": known.get(case.id) or outputs.convention_for(case, predictor.labels),
        }
        for case in cases
    ]
    with writing_to(outputs):
        outputs.folder.mkdir(parents=True, exist_ok=True)
        write_json(outputs.folder / RECORD, how | {"cases": rows})


def write_record(
    predictor: "Predictor", outcomes: Sequence[Outcome], outputs: Outputs, names: Sequence[str]
) -> dict[str, Any]:
    """Write predictions.json, and the page where it is asked for.

    Args:
        predictor: Who predicted.
        outcomes: What became of each case.
        outputs: What was written, and where.
        names: What to call the predictor's networks.

    Returns:
        What predictions.json holds.

    Raises:
        UserError: The output folder cannot be written.
    """
    known = recorded_conventions(outputs.folder)
    outcomes = [
        replace(outcome, labels=known.get(outcome.case, outcome.labels))
        if outcome.state == SKIPPED
        else outcome
        for outcome in outcomes
    ]
    record = _how(predictor, outputs, names) | {
        "cases": [
            {name: getattr(outcome, name) for name in KEPT}
            | {"notes": [finding.text for finding in outcome.findings]}
            for outcome in outcomes
        ],
    }
    with writing_to(outputs):
        write_json(outputs.folder / RECORD, record)
        if outputs.page:
            page = outputs.folder / "predictions.html"
            write_page(page, outcomes, predictor.summary, predictor.labels)
    return record


def _how(predictor: "Predictor", outputs: Outputs, names: Sequence[str]) -> dict[str, Any]:
    return {
        "members": list(names),
        "classes": predictor.labels.name,
        "channels": list(predictor.channels),
        "labels": outputs.labels or OWN,
        "inference": [asdict(member.inference) for member in predictor.members],
        "postprocessing": asdict(predictor.postprocessing),
    }


def _refuse_sources(case: Case, files: Iterable[Path]) -> None:
    """Refuse to write over a file of the case."""
    own = {path.resolve() for path in case.files}
    for path in files:
        if path.resolve() in own:
            raise UserError(
                f"{case.id}: its prediction would overwrite {path}, a file of the case itself; "
                "choose another --output"
            )


def _refuse_others(outputs: Outputs, how: Mapping[str, Any]) -> dict[str, str]:
    """Refuse to mix predictions that were made otherwise; else {case: its label convention}."""
    path = outputs.folder / RECORD
    if not path.is_file():
        return {}
    earlier = read_json(path, _Record)
    now = json.loads(json.dumps(how))
    for name, called in SAME.items():
        before = earlier.get(name)
        if before is not None and _comparable(name, before) != _comparable(name, now[name]):
            raise UserError(
                f"--skip-existing: the predictions in {outputs.folder} were made with other "
                f"{called} ({_shown(before)}; now {_shown(now[name])}); choose another --output, "
                "or leave out --skip-existing to predict all of them anew"
            )
    return {
        row["case"]: row["labels"]
        for row in earlier.get("cases", [])
        if row.get("state") != FAILED and row.get("labels") in CONVENTIONS
    }


def _comparable(name: str, value: Any) -> Any:
    """A value of the record; the networks by their absolute paths."""
    return [str(Path(one).resolve()) for one in value] if name == "members" else value


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
