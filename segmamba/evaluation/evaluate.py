"""Two folders of segmentations to tables: every case under the named rules, then what they come to."""

import csv
import io
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segmamba.data.cases import AUTO
from segmamba.data.parallel import map_cases
from segmamba.errors import UserError
from segmamba.evaluation.folders import ERROR_ON, match, read_pair
from segmamba.evaluation.rules import BOTH, CHALLENGES, RULES, challenge_of, rules_named
from segmamba.evaluation.score import COLUMNS, score_case
from segmamba.evaluation.summary import summarise
from segmamba.files import write_json, write_text

SERIAL_BYTES = 200_000  # of compressed segmentations: two real cases; a second or two of one core


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. pairs: the cases; rows: dicts of COLUMNS; summary: see `summarise`."""

    pairs: list
    rows: list
    summary: dict
    about: dict
    """What was compared and by which rules, for the tables' head and the JSON."""


def evaluate(
    predictions,
    truth,
    *,
    rule=BOTH,
    challenge=AUTO,
    labels=AUTO,
    prediction_labels=AUTO,
    missing=ERROR_ON,
    progress=lambda done, total: None,
):
    """The Evaluation of a folder of predictions; see `match` for what the folders may hold. UserError for the first bad case.

    progress: called with (cases done, cases in all) after each case.
    """
    rules, _ = rules_named(rule), challenge_of(challenge, ())  # refused before a file is read
    pairs, notes = match(predictions, truth, labels, prediction_labels, missing)
    challenge = challenge_of(challenge, [pair.id for pair in pairs])
    parameters = CHALLENGES[challenge]
    scored = map_cases(
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
    rows = [row for case_rows in scored for row in case_rows]
    about = {
        "predictions": str(predictions),
        "truth": str(truth),
        "cases": len(pairs),
        "rules": {name: RULES[name] for name in rules},
        "challenge": {
            "name": challenge,
            "dilation_steps": parameters.dilation_steps,
            "ignored_mm3": parameters.ignored_mm3,
        },
        "notes": notes,
    }
    return Evaluation(pairs, rows, summarise(rows), about)


def _score(pair, rules, challenge):
    """The rows of a Pair, or its error in one line."""
    try:
        pred, truth, spacing_mm = read_pair(pair)
    except UserError as error:
        return str(error) if pair.id in str(error) else f"{pair.id}: {error}"
    return score_case(pair.id, pred, truth, spacing_mm, rules, challenge)


def _lost(pair):
    return f"{pair.id}: not scored, the process that read it or a case beside it was killed (memory?); free some memory and evaluate again"


def write_evaluation(folder, evaluation):
    """cases.csv, summary.csv and evaluation.json (both, and what was compared) in `folder`; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    summary = [
        {"rule": rule, "region": region, "metric": metric} | figures
        for rule, regions in evaluation.summary["scores"].items()
        for region, metrics in regions.items()
        for metric, figures in metrics.items()
    ]
    return [
        write_text(folder / "cases.csv", as_csv(evaluation.rows, COLUMNS)),
        write_text(folder / "summary.csv", as_csv(summary, tuple(summary[0]))),
        write_json(
            folder / "evaluation.json",
            evaluation.about | evaluation.summary | {"rows": evaluation.rows},
        ),
    ]


def as_csv(rows, columns):
    """Dicts as CSV text; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
