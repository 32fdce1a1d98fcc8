"""predictions.json: who predicted, how, and what became of each case.

It is written before the first case and after the last, so that whoever reads a folder whose
prediction was stopped knows in which values its files are.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import NotRequired, TypedDict

from segmamba.data.case import Case
from segmamba.data.labels import CONVENTIONS, MODALITIES
from segmamba.data.missing import ZEROS
from segmamba.errors import UserError
from segmamba.files import write_json
from segmamba.inference.outputs import FAILED, SKIPPED, Outcome, Outputs, writing_to
from segmamba.json_files import read_json

if TYPE_CHECKING:
    from segmamba.inference.predictor import Predictor

RECORD = "predictions.json"
UNFINISHED = "unfinished"
"""The state of a case that has not been predicted yet."""
OWN = "each case's own"
KEPT = (
    *("case", "state", "error", "labels", "missing"),
    *("volumes_ml", "predict_s", "mean_entropy"),
)
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
    error: NotRequired[str]
    missing: NotRequired[list[str]]
    volumes_ml: NotRequired[dict[str, float]]
    predict_s: NotRequired[float]
    mean_entropy: NotRequired[float | None]
    notes: NotRequired[list[str]]


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
    return {
        case: row["labels"]
        for case, row in _rows(folder / RECORD).items()
        if row.get("labels") in CONVENTIONS
    }


def _rows(path: Path) -> dict[str, _Row]:
    """{case: what a predictions.json says of it}; empty without the file."""
    rows = read_json(path, _Record).get("cases", []) if path.is_file() else []
    return {row["case"]: row for row in rows}


def begin_record(
    predictor: "Predictor", cases: Sequence[Case], outputs: Outputs, names: Sequence[str]
) -> None:
    """Write predictions.json before the first case, with the values that each will be written in.

    Files that the cases have from an earlier prediction are removed, unless they are to be skipped:
    where this one is stopped they would pass for its own.

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
        known.get(case.id)
        or {
            "case": case.id,
            "state": UNFINISHED,
            "labels": outputs.convention_for(case, predictor.labels),
        }
        for case in cases
    ]
    with writing_to(outputs):
        outputs.folder.mkdir(parents=True, exist_ok=True)
        for case in () if outputs.skip_existing else cases:
            for path in outputs.files(case.id, len(predictor)).values():
                path.unlink(missing_ok=True)
        if outputs.record:
            write_json(outputs.folder / RECORD, how | {"cases": rows})


def write_record(
    predictor: "Predictor", outcomes: Sequence[Outcome], outputs: Outputs, names: Sequence[str]
) -> dict[str, Any]:
    """Write predictions.json, unless the outputs are to be without it.

    Args:
        predictor: Who predicted.
        outcomes: What became of each case.
        outputs: What was written, and where.
        names: What to call the predictor's networks.

    Returns:
        What predictions.json holds, or would.

    Raises:
        UserError: The output folder cannot be written.
    """
    known = _rows(outputs.folder / RECORD)
    record = _how(predictor, outputs, names) | {
        "warnings": warnings_on_missing(predictor, outcomes),
        "cases": [
            _row(outcome) | (_of_earlier(known, outcome) if outcome.state == SKIPPED else {})
            for outcome in outcomes
        ],
    }
    if outputs.record:
        with writing_to(outputs):
            write_json(outputs.folder / RECORD, record)
    return record


def _row(outcome: Outcome) -> dict[str, Any]:
    notes = [finding.text for finding in outcome.findings]
    return {name: getattr(outcome, name) for name in KEPT} | {"notes": notes}


def _of_earlier(known: Mapping[str, _Row], outcome: Outcome) -> dict[str, Any]:
    """What the prediction that wrote the files of a skipped case said of it."""
    return {k: v for k, v in known.get(outcome.case, {}).items() if k != "state"}


def warnings_on_missing(predictor: "Predictor", outcomes: Sequence[Outcome]) -> list[str]:
    """Warn of cases that lack what a network never learnt to do without.

    Args:
        predictor: Who predicted.
        outcomes: What became of each case.

    Returns:
        A line, or none where every network was trained with dropout of all that was missing.
    """
    configs = [member.config for member in predictor.members]
    unlearnt = {
        modality
        for place, modality in enumerate(MODALITIES)
        if any(config.augment.modality_dropout[place] == 0 for config in configs)
    }
    found = [outcome for outcome in outcomes if unlearnt & set(outcome.missing)]
    if not found:
        return []
    lacked = [m for m in MODALITIES if m in unlearnt and any(m in o.missing for o in found)]
    cases = f"{len(found)} case{'s' * (len(found) != 1)}"
    lacks = f"{cases} predicted without {', '.join(lacked)} by a network that was trained without "
    if all(config.data.missing == ZEROS for config in configs):
        return [
            f"{lacks}modality dropout: it knows such cases only if the cases that it was trained "
            "on lacked the same"
        ]
    return [
        f"{lacks}modality dropout and without cases that lack a modality: expect worse "
        "segmentations, or train with augment.modality_dropout"
    ]


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


def _refuse_others(outputs: Outputs, how: Mapping[str, Any]) -> dict[str, _Row]:
    """Refuse to mix predictions that were made otherwise; else what is known of the cases."""
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
        case: row
        for case, row in _rows(path).items()
        if row.get("state") not in (FAILED, UNFINISHED)
    }


def _comparable(name: str, value: Any) -> Any:
    """A value of the record; the networks by their absolute paths."""
    return [str(Path(one).resolve()) for one in value] if name == "members" else value


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
