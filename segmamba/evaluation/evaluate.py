"""Two folders of segmentations to tables: every case under the named rules, and their summary."""

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from segmamba.config.header import HeaderRules
from segmamba.data.cases import AUTO
from segmamba.data.parallel import map_cases
from segmamba.errors import UserError
from segmamba.evaluation.folders import ERROR_ON, Pair, match, read_pair
from segmamba.evaluation.result import Evaluation
from segmamba.evaluation.rules import (
    BOTH,
    CHALLENGES,
    RULES,
    Challenge,
    challenge_of,
    rules_named,
)
from segmamba.evaluation.score import COLUMNS, ScoreRow, score_case
from segmamba.evaluation.summary import summarise
from segmamba.files import write_json, write_text
from segmamba.screen import Progress, no_progress

SERIAL_BYTES = 200_000
"""Compressed segmentations up to this size are scored in this process: two real cases, a second or
two of one core."""


def evaluate(
    predictions: str | Path,
    truth: str | Path,
    *,
    rule: str = BOTH,
    challenge: str = AUTO,
    labels: str = AUTO,
    prediction_labels: str = AUTO,
    missing: str = ERROR_ON,
    classes: str = AUTO,
    names: Sequence[str] = (),
    header: HeaderRules | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score a folder of predictions.

    Args:
        predictions: The folder; see `match` for what the folders may hold.
        truth: The data set, or a folder of segmentations.
        rule: A name from RULES, or "both".
        challenge: A name from CHALLENGES; "auto" takes it from the case ids.
        labels: The truth's label convention, as `match` takes it.
        prediction_labels: That of the predictions, as `match` takes it.
        missing: What becomes of a case without prediction, as `match` takes it.
        classes: The name of the label set that is scored, as `match` takes it.
        names: How the truth's files are named, as `find_cases` takes it.
        header: How the headers of all files are read, as `match` takes it.
        progress: Called with (cases done, cases in all) after each case.

    Returns:
        The scores of all cases, and their summary.

    Raises:
        UserError: On an option that does not exist, folders that do not match, or the first case
            that cannot be scored.
    """
    rules, _ = rules_named(rule), challenge_of(challenge, ())  # refused before a file is read
    pairs, notes = match(
        predictions, truth, labels, prediction_labels, missing, classes, names, header
    )
    challenge = challenge_of(challenge, [pair.id for pair in pairs])
    parameters = CHALLENGES[challenge]
    scored: list[list[ScoreRow] | str] = map_cases(
        partial(_score, rules=rules, challenge=parameters),
        pairs,
        lost=_lost,
        progress=progress,
        serial_bytes=SERIAL_BYTES,
    )
    if errors := [result for result in scored if isinstance(result, str)]:
        raise UserError(
            errors[0] + (f" (and {len(errors) - 1} more cases fail)" if len(errors) > 1 else "")
        )
    rows = [row for case_rows in scored if isinstance(case_rows, list) for row in case_rows]
    about = {
        "predictions": str(predictions),
        "truth": str(truth),
        "cases": len(pairs),
        "classes": pairs[0].classes.name,
        "patients": len({pair.patient for pair in pairs}),
        "rules": {name: RULES[name] for name in rules},
        "challenge": {
            "name": challenge,
            "dilation_steps": parameters.dilation_steps,
            "ignored_mm3": parameters.ignored_mm3,
        },
        "notes": notes,
    }
    return Evaluation(pairs, rows, summarise(rows), about)


def _score(pair: Pair, rules: Collection[str], challenge: Challenge) -> list[ScoreRow] | str:
    """Return the rows of a case, or its error in one line."""
    try:
        pred, truth, spacing_mm = read_pair(pair)
    except UserError as error:
        return str(error) if pair.id in str(error) else f"{pair.id}: {error}"
    rows = score_case(pair.id, pred, truth, spacing_mm, rules, challenge, pair.classes)
    return [row | {"patient": pair.patient} for row in rows]


def _lost(pair: Pair) -> str:
    return (
        f"{pair.id}: not scored, the process that read it or a case beside it was killed (memory?);"
        " free some memory and evaluate again"
    )


def write_evaluation(folder: str | Path, evaluation: Evaluation) -> list[Path]:
    """Write cases.csv, summary.csv and evaluation.json.

    evaluation.json holds the content of both tables and what was compared.

    Args:
        folder: Where the files go; it is created where it is missing.
        evaluation: The result of `evaluate`.

    Returns:
        The files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    summary = [
        {"rule": rule, "region": region, "metric": metric} | figures
        for rule, regions in evaluation.summary["scores"].items()
        for region, metrics in regions.items()
        for metric, figures in metrics.items()
    ]
    content = evaluation.about | evaluation.summary | {"rows": evaluation.rows}
    return [
        write_text(folder / "cases.csv", as_csv(evaluation.rows, COLUMNS)),
        write_text(folder / "summary.csv", as_csv(summary, tuple(summary[0]))),
        write_json(folder / "evaluation.json", content),
    ]


def as_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return rows as CSV text; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
