"""A MONAI datalist: a JSON file that lists images, labels and folds; paths are relative to the file.

    {"channel_names": ["FLAIR", "T1", "T1ce", "T2"], "labels": {"ED": 1, ...},
     "training": [{"image": "BRATS_001.nii.gz" or [four files], "label": "...", "fold": 0}, ...], "testing": [{"image": ...}]}

`channel_names` (or `modality`) may be left out where four files are named as BraTS names them, and `labels` too, or stated by --labels.
"""

from segmamba.data.case import ERROR, Case, Finding, patient_of, stem_of
from segmamba.data.labels import MODALITIES
from segmamba.data.layouts.dataset_json import channel_order, declared_convention, read_json
from segmamba.data.layouts.names import convention_name, part_of
from segmamba.errors import UserError

SECTIONS = ("training", "validation", "testing", "test")


def list_cases(path, labels):
    """Every Case of all sections, whole or with its errors among its findings."""
    told = read_json(path)
    return sorted(
        (_case(entry, told, path, labels) for _, entry in entries(told, path)),
        key=lambda case: case.id,
    )


def folds_of(path):
    """{case id: fold} of the entries that have a fold."""
    return {
        case_id(entry, path): entry["fold"]
        for _, entry in entries(read_json(path), path)
        if "fold" in entry
    }


def entries(told, path):
    """(section, entry) pairs; an entry is {"image": a file or files, "label", "fold"}."""
    found = [
        (s, e if isinstance(e, dict) else {"image": e}) for s in SECTIONS for e in told.get(s, [])
    ]
    if not found:
        raise UserError(
            f'{path}: lists no cases; expected a MONAI datalist with "training": [{{"image": ..., "label": ...}}, ...]'
        )
    return found


def case_id(entry, path):
    """The case's id: its own "id", else that of its BraTS file name, else the name of its first image."""
    images = _images(entry, path)
    told = part_of(images[0])
    return str(entry.get("id") or (told[0] if told and len(images) > 1 else stem_of(images[0])))


def _images(entry, path):
    images = entry.get("image")
    images = [images] if isinstance(images, str) else images
    if not images or not all(isinstance(image, str) for image in images):
        raise UserError(
            f'{path}: the entry {entry} has no "image", a 4-D file or a list of four files'
        )
    return [path.parent / image for image in images]


def _case(entry, told, path, labels):
    images, name = _images(entry, path), case_id(entry, path)
    parts = [part_of(image) for image in images]
    named = told.get("channel_names", told.get("modality"))
    findings = ()
    if named is None and len(images) > 1 and all(parts):
        by_modality, channels = (
            {part: image for (_, _, part), image in zip(parts, images, strict=True)},
            {},
        )
    elif len(images) == 1:
        by_modality, channels = dict.fromkeys(MODALITIES, images[0]), channel_order(named, path)
    else:
        by_modality, channels = (
            {
                m: images[place]
                for m, place in channel_order(named, path).items()
                if place < len(images)
            },
            {},
        )
    if missing := [m for m in MODALITIES if m not in by_modality]:
        findings = (
            Finding(
                ERROR,
                "missing modality",
                f"{name}: {path} lists no {', '.join(missing)} for it; add the file or remove the case",
            ),
        )
    label = path.parent / entry["label"] if entry.get("label") else None
    if labels == "auto" and "labels" not in told and all(parts):
        convention, note = convention_name(name, parts[0][1]), None
    else:
        convention, note = declared_convention(told.get("labels"), labels, path)
    return Case(
        name,
        patient_of(name),
        by_modality,
        label,
        convention,
        channels,
        (*findings, note) if note else findings,
    )
