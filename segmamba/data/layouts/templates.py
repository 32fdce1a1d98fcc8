"""Cases whose files are named as the user says: a template for each modality and the segmentation.

    {case}_T1GD.nii.gz                       any folder below the data
    {case}/{case}_t1.nii.gz                  in a folder of the case's name
    {patient}/{session}/CT1.nii.gz           the case's id is PATIENT_SESSION, of this patient
    images/{case}*T1GD*.nii.gz               * and ? stand for letters of one name, ** for folders

A template is matched against the end of a file's path, from a folder's name on.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segmamba.data.case import ERROR, Case, Finding, patient_of
from segmamba.data.image_files import ENDINGS, ending_of, stem_of
from segmamba.data.labels import MODALITIES
from segmamba.data.layouts.declared_names import modality_of
from segmamba.data.layouts.names import part_findings
from segmamba.data.layouts.namings import LABEL
from segmamba.data.layouts.stated import convention_or_finding
from segmamba.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PARTS = (*MODALITIES, LABEL)
FIELDS = ("case", "patient", "session")
LABEL_WORDS = ("label", "labels", "mask", "seg", "segm", "segmentation", "segmentations", "truth")
EXAMPLE = "T1ce={case}_T1GD.nii.gz"


def resolve_names(given: Iterable[str | Path]) -> tuple[str, ...]:
    """Turn what --names was given into the setting `data.names`.

    Args:
        given: Templates, PART=TEMPLATE or a template whose last word names the part; several may
            stand in one text, separated by blanks. Or a file (.toml or .json) that maps the parts
            to templates.

    Returns:
        PART=TEMPLATE for each part, in the order T1, T1ce, T2, FLAIR, label.

    Raises:
        UserError: A template is wrong, or the part that it is for is not known or named twice.
    """
    templates: dict[str, str] = {}
    for text in given:
        for part, template in _parts_of(str(text)):
            if templates.get(part, template) != template:
                raise UserError(
                    f"--names: {part} has two templates, {templates[part]} and {template}; give "
                    "one, with * where the files' names differ"
                )
            _check(part, template)
            templates[part] = template
    return tuple(f"{part}={templates[part]}" for part in PARTS if part in templates)


def list_cases(
    folder: Path, files: Sequence[Path], names: Sequence[str], labels: str
) -> list[Case]:
    """List the cases whose files fit the templates.

    Args:
        folder: The data set.
        files: Its image files.
        names: The setting `data.names`, PART=TEMPLATE for each part.
        labels: A label convention, or "auto".

    Returns:
        The cases, sorted by id, whole or with their errors among their findings.

    Raises:
        UserError: A template is wrong.
    """
    templates = dict(name.split("=", 1) for name in resolve_names(names))
    patterns = {part: _pattern(template) for part, template in templates.items()}
    groups: dict[str, dict[str, list[Path]]] = {}
    patients: dict[str, str] = {}
    used: dict[Path, tuple[str, str]] = {}
    twice: dict[str, list[Finding]] = {}
    for path in files:
        relative = path.relative_to(folder).as_posix()
        for part, pattern in patterns.items():
            if not (match := pattern.search(relative)):
                continue
            case_id = _case_id(match)
            patients[case_id] = match.groupdict().get("patient") or patient_of(case_id)
            groups.setdefault(case_id, {}).setdefault(part, []).append(path)
            if path in used:
                text = (
                    f"{case_id}: {path} fits the templates of {used[path][1]} and of {part}; make "
                    "them narrower"
                )
                twice.setdefault(case_id, []).append(Finding(ERROR, "contradicting names", text))
            used[path] = (case_id, part)
    return [
        _case(case_id, patients[case_id], parts, templates, labels, twice.get(case_id, ()))
        for case_id, parts in sorted(groups.items())
    ]


def _case(
    case_id: str,
    patient: str,
    parts: Mapping[str, Sequence[Path]],
    templates: Mapping[str, str],
    labels: str,
    twice: Sequence[Finding],
) -> Case:
    findings = [*twice]
    for part in PARTS:
        expected = templates.get(part, "a template for it in --names")
        findings += part_findings(case_id, part, parts.get(part, ()), expected)
    label = parts[LABEL][0] if LABEL in parts else None
    told = None if labels == "auto" else labels
    convention, unknown = convention_or_finding(case_id, told, label, "--names")
    images = {part: paths[0] for part, paths in parts.items() if part != LABEL}
    return Case(case_id, patient, images, label, convention, findings=(*findings, *unknown))


def _case_id(match: re.Match[str]) -> str:
    """The id that a template's fields give: {case}, else {patient} and {session}."""
    found = match.groupdict()
    return "_".join(found[name] for name in FIELDS if found.get(name))


def _parts_of(text: str) -> list[tuple[str, str]]:
    """Split one value of --names into parts and their templates."""
    if "{" not in text:
        return list(_read(Path(text)).items())
    return [_named(word) for word in text.split()] if _several(text) else [_named(text)]


def _several(text: str) -> bool:
    """Whether every blank-separated word is a template of its own."""
    return all("{" in word and ending_of(word) for word in text.split())


def _named(text: str) -> tuple[str, str]:
    """Tell which part a template is for, by what stands before = or by its last word."""
    part, sign, template = text.partition("=")
    if sign and "{" not in part:
        known = {name.lower(): name for name in PARTS}
        if part.strip().lower() not in known:
            raise UserError(
                f"--names {text!r}: {part!r} is none of {', '.join(PARTS)}; write it as {EXAMPLE}"
            )
        return known[part.strip().lower()], template.strip()
    words = re.split(r"[^A-Za-z0-9]+", re.sub(r"\{\w+\}", " ", stem_of(Path(text).name)))
    words = [word for word in words if word]
    told = {
        LABEL if word.lower() in LABEL_WORDS else found
        for word in words
        if (found := modality_of(word)) or word.lower() in LABEL_WORDS
    }
    if len(told) != 1:
        raise UserError(
            f"--names {text!r}: its words do not tell which of {', '.join(PARTS)} it is for; "
            f"write it as {EXAMPLE}"
        )
    return str(told.pop()), text


def _read(path: Path) -> dict[str, str]:
    """Read a file that maps parts to templates."""
    if path.suffix.lower() not in (".toml", ".json"):
        raise UserError(
            f"--names {path}: is neither a template, which holds {{case}} as in {EXAMPLE}, nor a "
            ".toml or .json file of templates"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        content: Any = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"--names {path}: cannot be read ({error}); it holds a line like "
            'T1ce = "{case}_T1GD.nii.gz" for each modality and label'
        ) from error
    known = {name.lower(): name for name in PARTS}
    if not isinstance(content, dict) or not all(
        name.lower() in known and isinstance(template, str) for name, template in content.items()
    ):
        raise UserError(
            f"--names {path}: must map {', '.join(PARTS)} to one template each, as in "
            'T1ce = "{case}_T1GD.nii.gz"'
        )
    if len({name.lower() for name in content}) < len(content):
        raise UserError(f"--names {path}: names a modality twice; give one template for each")
    return {known[name.lower()]: template for name, template in content.items()}


def _check(part: str, template: str) -> None:
    """Refuse a template that can match no file or names no case."""
    fields = re.findall(r"\{(.*?)\}", template)
    if wrong := [name for name in fields if name not in FIELDS]:
        raise UserError(
            f"--names {part}={template}: {{{wrong[0]}}} is no field; the fields are {{case}}, or "
            "{patient} and {session}"
        )
    if not fields or ("case" in fields and len(set(fields)) > 1) or set(fields) == {"session"}:
        raise UserError(
            f"--names {part}={template}: must hold {{case}}, or {{patient}} and perhaps {{session}}"
        )
    if not ending_of(template) and not template.endswith("*"):
        raise UserError(
            f"--names {part}={template}: must end as an image file does ({', '.join(ENDINGS)})"
        )
    if template.startswith("/") or ".." in template.split("/"):
        raise UserError(
            f"--names {part}={template}: is matched below --data; leave out leading / and .."
        )


def _pattern(template: str) -> re.Pattern[str]:
    """A template as a regular expression for the end of a path."""
    text, seen = "", set()
    for piece in re.split(r"(\{\w+\}|\*\*/|\*|\?)", template.removeprefix("./")):
        if re.fullmatch(r"\{\w+\}", piece):
            name = piece[1:-1]
            text += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+)"
            seen.add(name)
        else:
            wild = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
            text += wild.get(piece, re.escape(piece))
    return re.compile(f"(?:^|/){text}$")
