"""What MLflow's pages say of a study, of an arm and of a registered model, in Markdown."""

import re

from segmamba.reports.tables import PHANTOM_NOTICE, dice_columns, result_table
from segmamba.studies.champion import champion_words
from segmamba.studies.results import Study
from segmamba.studies.verdict import verdict
from segmamba.studies.words import DASH, count, points

NOTE_TAG = "mlflow.note.content"
"""The tag that MLflow shows as a run's description."""
MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~>-])")
"""Characters that mean something in Markdown."""


def text(value: object) -> str:
    """Return words on one line that Markdown and HTML show as they are.

    Args:
        value: The words, for example the name of an arm.
    """
    words = " ".join(str(value).split())
    return MARKUP.sub(r"\\\1", words.replace("&", "&amp;").replace("<", "&lt;"))


def begun(study: Study) -> str:
    """Return the description of a study that has no answer yet.

    Args:
        study: The study.
    """
    return f"**{text(study.question)}**\n\nNo answer yet. The claim: {text(study.hypothesis.claim)}"


def answered(study: Study, viewer: str = "") -> str:
    """Return the description of a study that has ended: verdict, arms and limits.

    Args:
        study: The study, with its trials.
        viewer: A sentence on where the page of its cases is.
    """
    parts = [
        f"**{text(study.question)}**",
        text(verdict(study).sentence),
        f"The claim: {text(study.hypothesis.claim)}",
        _arms(study),
        "test/… of this run are the scores of the one trial that the validation set likes best, "
        "named in its tags best\\_arm and best\\_seed. Below it are a run for each arm, with means "
        "over its seeds, and a run for each trial. report.html is among its artifacts"
        + (f"; {text(viewer)}" if viewer else "."),
        limits(study),
    ]
    return "\n\n".join(parts)


def limits(study: Study) -> str:
    """Return on what data a study stands, and what it cannot show.

    Args:
        study: The study.
    """
    data = study.data
    sentences = [
        f"Data: {text(data.source)}, labels {text(data.convention)}, "
        f"{len(data.train)} training, {len(data.validation)} validation and "
        f"{count(len(data.test), 'test case')}; preset {study.preset}."
    ]
    if data.phantom:
        sentences.append(f"{PHANTOM_NOTICE[0].upper()}{PHANTOM_NOTICE[1:]}.")
    if data.test_is_validation:
        sentences.append("The test set had to serve as validation set too.")
    return " ".join([*sentences, *(f"{_closed(text(note))}" for note in data.notes)])


def described_model(study: Study) -> str:
    """Return what a reader has to know of the model that a study registers.

    Args:
        study: The study, with its trials.
    """
    return "\n\n".join(
        [
            f"The best network of each run of the study: {text(study.question)}",
            "Each version says which arm and seed it is, what the verdict was, and on which data.",
            "It segments brain MRI for research. It is no medical device and has been checked on "
            "no data but those of its study.",
            LOADING,
        ]
    )


def described_version(study: Study) -> str:
    """Return the description of the version that a study registers: run, verdict, data, limits.

    Args:
        study: The study, with its trials.
    """
    answer = f"The study's verdict: {verdict(study).sentence}"
    return "\n\n".join([text(champion_words(study)), text(answer), limits(study)])


LOADING = (
    "`mlflow.pyfunc.load_model` runs the code that is stored beside the weights, as it does for "
    "every pyfunc model: load only models whose origin you trust. `segmamba predict --model` reads "
    "the weights and the settings alone and runs no stored code."
)
"""The warning that every registered model carries."""


def _arms(study: Study) -> str:
    """The table of the arms: mean and standard deviation over seeds, and the mean's interval."""
    columns = dice_columns(study)
    titles = [
        "arm",
        "seeds",
        *(f"{c.title} (Dice points)" for c in columns),
        f"95 % interval of the {columns[0].title}",
    ]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    for row in result_table(study):
        mark = " (baseline)" if row["baseline"] and row["arm"] != "baseline" else ""
        seeds = f"{row['seeds_finished']} of {row['seeds_planned']}"
        cells = [text(row["arm"]) + mark, seeds, *(_score(row[c.name]) for c in columns)]
        lines.append(f"| {' | '.join([*cells, _interval(row[columns[0].name])])} |")
    return "\n".join(lines)


def _score(score: dict) -> str:
    spread = "" if score["sd"] is None else f" ± {100 * score['sd']:.1f}"
    return points(score["mean"]) + spread


def _interval(score: dict) -> str:
    if score["low"] is None:
        return DASH
    return f"{points(score['low'])} to {points(score['high'])}"


def _closed(sentence: str) -> str:
    """A note as a sentence: with a capital and a full stop."""
    return f"{sentence[:1].upper()}{sentence[1:].rstrip('.')}."
