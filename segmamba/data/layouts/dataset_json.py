"""Folders with a dataset.json that says what the channels and the labels are.

    Decathlon (Task01_BrainTumour)   imagesTr/BRATS_001.nii.gz (4-D)           labelsTr/BRATS_001.nii.gz   imagesTs/
    nnU-Net raw                      imagesTr/CASE_0000.nii.gz ... _0003       labelsTr/CASE.nii.gz        imagesTs/

`modality` (Decathlon, nnU-Net 1) or `channel_names` (nnU-Net 2) names the channels; `labels` is {"1": name} or {name: 1 or [1, 2]}.
imagesTs has no labels. macOS's `._*` files are skipped.
"""

import json
import re

from segmamba.data.case import ERROR, INFORMATION, Case, Finding, patient_of, stem_of
from segmamba.data.labels import CONVENTIONS, MODALITIES, convention_of, modality_of
from segmamba.errors import UserError

NAME = "dataset.json"


def root_of(folder):
    """`folder`, or its one subfolder, that holds a dataset.json beside imagesTr; None for neither."""
    candidates = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]
    roots = [
        path for path in candidates if (path / NAME).is_file() and (path / "imagesTr").is_dir()
    ]
    return roots[0] if roots[:1] == [folder] or len(roots) == 1 else None


def list_cases(root, labels):
    """Every Case of imagesTr and imagesTs, whole or with its errors among its findings."""
    told = read_json(root / NAME)
    channels = channel_order(told.get("channel_names", told.get("modality")), root / NAME)
    convention, note = declared_convention(told.get("labels"), labels, root / NAME)
    cases = []
    for images, label_folder in (("imagesTr", "labelsTr"), ("imagesTs", "labelsTs")):
        volumes = _volumes(root / images)
        numbered = [re.fullmatch(r"(.+)_(\d{4})", stem) for stem in volumes]
        labelled = _volumes(root / label_folder)
        if volumes and all(numbered):
            cases += _one_file_a_channel(volumes, numbered, channels, labelled, convention)
        else:
            cases += [
                _four_d(stem, path, channels, labelled.get(stem), convention)
                for stem, path in volumes.items()
            ]
        if images == "imagesTr":
            cases += [
                _without_images(stem, path, root / images, convention)
                for stem, path in labelled.items()
                if stem not in {c.id for c in cases}
            ]
    return [_with_note(case, note) for case in sorted(cases, key=lambda case: case.id)]


def read_json(path):
    """The object that a JSON file holds."""
    try:
        told = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as JSON ({error}); repair it or copy it again"
        ) from error
    if not isinstance(told, dict):
        raise UserError(
            f"{path}: holds a {type(told).__name__}, expected an object with named fields; repair it or copy it again"
        )
    return told


def channel_order(named, path):
    """{modality: channel} from {"0": "FLAIR", ...}, a list of names, or None (an error that names `path`)."""
    by_number = dict(enumerate(named)) if isinstance(named, list) else named
    if not isinstance(by_number, dict):
        raise UserError(
            f'{path}: names no channels; add "channel_names": {{"0": "T1", "1": "T1ce", "2": "T2", "3": "FLAIR"}} in the files\' order'
        )
    order = {
        modality_of(name): int(number)
        for number, name in by_number.items()
        if str(number).isdigit()
    }
    if not set(MODALITIES) <= set(order):
        raise UserError(
            f"{path}: its channels are {', '.join(map(str, by_number.values()))}; needed are {', '.join(MODALITIES)}, each once"
        )
    return {modality: order[modality] for modality in MODALITIES}


def declared_convention(named, labels, path):
    """(convention's name, Finding or None): --labels where it is stated, else what the file's `labels` declare; never a guess."""
    values = _by_name(named or {})
    declared = convention_of(values) if values else None
    if labels == "auto":
        if declared:
            return declared.name, None
        known = ", ".join(CONVENTIONS)
        raise UserError(
            f"{path}: its labels ({values or 'none'}) are those of no known convention; state one with --labels ({known})"
        )
    if declared and declared.name != labels:
        return labels, Finding(
            INFORMATION,
            "stated labels",
            f"labels are read as {labels}, as stated, although {path.name} declares {declared.name}",
        )
    return labels, None


def _by_name(named):
    """{name: value or values} from either direction in which a dataset.json gives its labels."""
    if all(str(key).isdigit() for key in named):
        return {name: int(value) for value, name in named.items()}
    return named


def _volumes(folder):
    """{stem: path} of the NIfTI files in a folder that may be absent."""
    return {
        stem_of(p): p
        for p in sorted(folder.glob("*.nii*"))
        if not p.name.startswith(".") and re.search(r"\.nii(\.gz)?$", p.name)
    }


def _four_d(stem, path, channels, label, convention):
    return Case(
        stem, patient_of(stem), dict.fromkeys(MODALITIES, path), label, convention, channels
    )


def _one_file_a_channel(volumes, numbered, channels, labelled, convention):
    groups = {}
    for match, path in zip(numbered, volumes.values(), strict=True):
        groups.setdefault(match[1], {})[int(match[2])] = path
    for case_id, paths in groups.items():
        images = {
            modality: paths[channel] for modality, channel in channels.items() if channel in paths
        }
        missing = [
            (m, next(iter(paths.values())).parent / f"{case_id}_{channels[m]:04d}.nii.gz")
            for m in MODALITIES
            if m not in images
        ]
        findings = [
            Finding(
                ERROR,
                "missing modality",
                f"{case_id}: modality {modality} is missing, expected {path}; add the file or remove the case",
            )
            for modality, path in missing
        ]
        yield Case(
            case_id,
            patient_of(case_id),
            images,
            labelled.get(case_id),
            convention,
            findings=tuple(findings),
        )


def _without_images(stem, path, folder, convention):
    finding = Finding(
        ERROR,
        "missing modality",
        f"{stem}: {path} has no images in {folder}; add them or remove the segmentation",
    )
    return Case(stem, patient_of(stem), {}, path, convention, findings=(finding,))


def _with_note(case, note):
    return Case(**{**vars(case), "findings": (*case.findings, note)}) if note else case
