"""The data sets around BraTS, and files that are named as the user says."""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from typer.testing import CliRunner

from segmamba.cli import app
from segmamba.config import Config
from segmamba.data.cases import find_cases, list_cases, notes_on, unused_files
from segmamba.data.labels import MODALITIES
from segmamba.data.layouts.templates import resolve_names
from segmamba.data.source import find_data, source_changes
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.evaluation.segmentations import true_segmentations
from tests.conftest import BRATS_AFFINE, tumour_case, write_case

SHAPE = (16, 16, 16)


def write(folder, files, et_value=4):
    """Write the five files of a case, {modality or label: path}; return nothing."""
    images, label = tumour_case(SHAPE, 0, et_value)
    arrays = {**dict(zip(MODALITIES, images, strict=True)), "label": label}
    for part, name in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(arrays[part], BRATS_AFFINE), path)


def extra(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, np.int16), BRATS_AFFINE), folder / name)


UPENN, PDGM, TCGA = "UPENN-GBM-00001_11", "UCSF-PDGM-0433_FU001d", "TCGA-02-0006_1996.08.23"
MU, RHUH, BIDS = "PatientID_0003_Timepoint_1", "RHUH-0001_0", "sub-01_ses-02"
DATA_SETS = {
    "UPENN-GBM": (
        UPENN,
        "brats2018",
        {
            "T1": f"images_structural/{UPENN}/{UPENN}_T1.nii.gz",
            "T1ce": f"images_structural/{UPENN}/{UPENN}_T1GD.nii.gz",
            "T2": f"images_structural/{UPENN}/{UPENN}_T2.nii.gz",
            "FLAIR": f"images_structural/{UPENN}/{UPENN}_FLAIR.nii.gz",
            "label": f"images_segm/{UPENN}_segm.nii.gz",
        },
        (
            f"automated_segm/{UPENN}_automated_approx_segm.nii.gz",
            f"images_structural_unstripped/{UPENN}/{UPENN}_T1GD_unstripped.nii.gz",
        ),
    ),
    "UCSF-PDGM": (
        PDGM,
        "brats2018",
        {
            "T1": f"{PDGM}_nifti/{PDGM}_T1.nii.gz",
            "T1ce": f"{PDGM}_nifti/{PDGM}_T1c.nii.gz",
            "T2": f"{PDGM}_nifti/{PDGM}_T2.nii.gz",
            "FLAIR": f"{PDGM}_nifti/{PDGM}_FLAIR.nii.gz",
            "label": f"{PDGM}_nifti/{PDGM}_tumor_segmentation.nii.gz",
        },
        (
            f"{PDGM}_nifti/{PDGM}_ADC.nii.gz",
            f"{PDGM}_nifti/{PDGM}_T1_bias.nii.gz",
            f"{PDGM}_nifti/{PDGM}_brain_segmentation.nii.gz",
        ),
    ),
    "BraTS-TCGA": (
        TCGA,
        "brats2018",
        {
            "T1": f"TCGA-02-0006/{TCGA}_t1.nii.gz",
            "T1ce": f"TCGA-02-0006/{TCGA}_t1Gd.nii.gz",
            "T2": f"TCGA-02-0006/{TCGA}_t2.nii.gz",
            "FLAIR": f"TCGA-02-0006/{TCGA}_flair.nii.gz",
            "label": f"TCGA-02-0006/{TCGA}_GlistrBoost_ManuallyCorrected.nii.gz",
        },
        (f"TCGA-02-0006/{TCGA}_GlistrBoost.nii.gz",),
    ),
    "MU-Glioma-Post": (
        MU,
        "brats2024",
        {
            "T1": f"PatientID_0003/Timepoint_1/{MU}_brain_t1n.nii.gz",
            "T1ce": f"PatientID_0003/Timepoint_1/{MU}_brain_t1c.nii.gz",
            "T2": f"PatientID_0003/Timepoint_1/{MU}_brain_t2w.nii.gz",
            "FLAIR": f"PatientID_0003/Timepoint_1/{MU}_brain_t2f.nii.gz",
            "label": f"PatientID_0003/Timepoint_1/{MU}_tumorMask.nii.gz",
        },
        (),
    ),
    "RHUH-GBM": (
        RHUH,
        None,
        {
            "T1": f"RHUH-0001/0/{RHUH}_t1.nii.gz",
            "T1ce": f"RHUH-0001/0/{RHUH}_t1ce.nii.gz",
            "T2": f"RHUH-0001/0/{RHUH}_t2.nii.gz",
            "FLAIR": f"RHUH-0001/0/{RHUH}_flair.nii.gz",
            "label": f"RHUH-0001/0/{RHUH}_segmentations.nii.gz",
        },
        (f"RHUH-0001/0/{RHUH}_adc.nii.gz",),
    ),
    "BIDS": (
        BIDS,
        None,
        {
            "T1": f"sub-01/ses-02/anat/{BIDS}_T1w.nii.gz",
            "T1ce": f"sub-01/ses-02/anat/{BIDS}_ce-gadolinium_T1w.nii.gz",
            "T2": f"sub-01/ses-02/anat/{BIDS}_T2w.nii.gz",
            "FLAIR": f"sub-01/ses-02/anat/{BIDS}_FLAIR.nii.gz",
            "label": f"derivatives/truth/sub-01/ses-02/anat/{BIDS}_desc-tumor_dseg.nii.gz",
        },
        (
            f"derivatives/fmriprep/sub-01/ses-02/anat/{BIDS}_desc-preproc_T1w.nii.gz",
            f"derivatives/fmriprep/sub-01/ses-02/anat/{BIDS}_desc-brain_mask.nii.gz",
            f"derivatives/fmriprep/sub-01/ses-02/anat/{BIDS}_desc-aparcaseg_dseg.nii.gz",
        ),
    ),
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_known_data_set_is_read_as_it_is_published(tmp_path, name):
    case_id, labels, files, others = DATA_SETS[name]
    write(tmp_path, files)
    extra(tmp_path, *others)
    (case,) = find_cases(tmp_path, labels or "brats2018")
    assert case.id == case_id
    found = {part: path.relative_to(tmp_path).as_posix() for part, path in case.images.items()}
    assert found | {"label": case.label.relative_to(tmp_path).as_posix()} == files
    assert read_scan(case).label.any()
    assert len(unused_files(tmp_path, "brats2018")[0]) == len(others)
    assert true_segmentations(tmp_path, labels or "brats2018")[case_id].path == case.label


@pytest.mark.parametrize("name", DATA_SETS)
def test_what_labels_mean_is_published_or_asked_for(tmp_path, name):
    case_id, labels, files, _ = DATA_SETS[name]
    write(tmp_path, files)
    if labels:
        assert find_cases(tmp_path)[0].convention == labels
        return
    with pytest.raises(UserError, match=rf"{case_id}: the naming {name} does not tell what .*--l"):
        find_cases(tmp_path)
    with pytest.raises(UserError, match="does not tell what the values"):
        true_segmentations(tmp_path)
    (tmp_path / files["label"]).unlink()
    (note,) = notes_on(find_cases(tmp_path))
    assert "predictions are written as brats2023 unless --labels" in note


def test_two_bids_images_of_one_modality_are_an_error_that_names_the_way_out(tmp_path):
    write(tmp_path, DATA_SETS["BIDS"][2])
    extra(tmp_path, f"sub-01/ses-02/anat/{BIDS}_acq-3D_T2w.nii.gz")
    with pytest.raises(UserError, match=r"two files for T2, .*say which with --names"):
        find_cases(tmp_path, "brats2018")


def test_renamed_files_of_a_known_data_set_stay_one_case(tmp_path):
    write_case(tmp_path, UPENN, shape=SHAPE)
    assert [case.id for case in find_cases(tmp_path)] == [UPENN]


TEMPLATES = (
    "{case}/{case}_pre.nii.gz",
    "{case}/{case}_post*.nii.gz",
    "{case}/{case}_T2.nii.gz",
    "{case}/{case}_FLAIR.nii.gz",
    "masks/{case}-tumour.nii.gz",
)
NAMED = tuple(f"{p}={t}" for p, t in zip((*MODALITIES, "label"), TEMPLATES, strict=True))


@pytest.fixture
def own_names(tmp_path):
    """A folder of two cases that no known layout names."""
    data = tmp_path / "data"
    for case in ("P01", "P02"):
        files = ("pre", "post_gd", "T2", "FLAIR")
        images = {
            m: f"deeper/{case}/{case}_{file}.nii.gz"
            for m, file in zip(MODALITIES, files, strict=True)
        }
        write(data, {**images, "label": f"masks/{case}-tumour.nii.gz"})
    extra(data, "masks/P01-brain.nii.gz")
    return data


def test_templates_name_every_part_of_a_case(own_names):
    cases = find_cases(own_names, "brats2018", NAMED)
    assert [case.id for case in cases] == ["P01", "P02"]
    assert cases[0].images["T1ce"].name == "P01_post_gd.nii.gz"
    assert read_scan(cases[1]).label.any()
    assert [path.name for path in unused_files(own_names, "brats2018", NAMED)[0]] == [
        "P01-brain.nii.gz"
    ]
    with pytest.raises(UserError, match="--names does not tell what the values"):
        find_cases(own_names, "auto", NAMED)


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_templates_come_from_a_file_too(own_names, tmp_path, ending):
    content = dict(name.split("=", 1) for name in NAMED)
    path = tmp_path / f"names.{ending}"
    toml = "".join(f"{part} = {json.dumps(template)}\n" for part, template in content.items())
    path.write_text(toml if ending == "toml" else json.dumps(content))
    assert resolve_names([path]) == NAMED
    config = Config().changed(source_changes(own_names, "brats2018", [str(path)]))
    assert config.data.names == NAMED  # the run knows the templates, not where the file was
    found = find_data(config, tmp_path, steps=lambda label: lambda done, total: None)
    assert len(found.labelled) == 2 and any("P01-brain" in note for note in found.notes)


def test_a_template_tells_its_modality_by_its_last_words():
    given = "{case}_T1.nii.gz {case}_T1GD.nii.gz {case}_T2.nii.gz {case}_FLAIR.nii.gz"
    assert resolve_names([given, "{case}_segm.nii.gz"]) == (
        "T1={case}_T1.nii.gz",
        "T1ce={case}_T1GD.nii.gz",
        "T2={case}_T2.nii.gz",
        "FLAIR={case}_FLAIR.nii.gz",
        "label={case}_segm.nii.gz",
    )


def test_a_patient_and_a_session_make_the_id(tmp_path):
    for week in range(2):
        write(tmp_path, {m: f"Imaging/P-1/week-{week}/{m}.nii.gz" for m in MODALITIES})
    names = resolve_names(f"{m}={{patient}}/{{session}}/{m}.nii.gz" for m in MODALITIES)
    cases = find_cases(tmp_path, "msd", names)
    assert [case.id for case in cases] == ["P-1_week-0", "P-1_week-1"]
    assert {case.patient for case in cases} == {"P-1"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["{case}_x.nii.gz"], "do not tell which of T1, T1ce, T2, FLAIR, label"),
        (["{case}_T1_T2.nii.gz"], "do not tell which"),
        (["CT={case}.nii.gz"], "'CT' is none of T1, T1ce"),
        (["T1={case}.nii.gz", "T1={case}_b.nii.gz"], "T1 has two templates"),
        (["T1={subject}.nii.gz"], r"\{subject\} is no field"),
        (["T1={session}.nii.gz"], "must hold"),
        (["T1={case}.png"], "must end as an image file does"),
        (["T1=/{case}.nii.gz"], "leave out leading / and"),
        (["T1=../{case}.nii.gz"], "leave out leading / and"),
        (["names.yaml"], "neither a template"),
        (["absent.toml"], "cannot be read"),
    ],
)
def test_a_wrong_template_is_refused(given, message):
    with pytest.raises(UserError, match=message):
        resolve_names(given)


@pytest.mark.parametrize(
    "content", ["[1]", '{"T1": 1}', '{"CT": "{case}.nii.gz"}', "{", "[" * 9999]
)
def test_a_wrong_file_of_templates_is_refused(tmp_path, content):
    (tmp_path / "names.json").write_text(content)
    with pytest.raises(UserError, match=r"names\.json"):
        resolve_names([tmp_path / "names.json"])


def test_a_file_that_two_templates_fit_is_an_error(own_names):
    names = (*NAMED[:3], "FLAIR={case}/{case}_T2.nii.gz", NAMED[4])
    with pytest.raises(UserError, match="fits the templates of T2 and of FLAIR"):
        find_cases(own_names, "brats2018", names)


def test_templates_that_fit_nothing_say_what_the_folder_holds(own_names):
    with pytest.raises(UserError, match=r"no file fits --names .*it holds 11 image files"):
        list_cases(own_names, "auto", ("T1={case}_absent.nii.gz",))


def test_the_setting_takes_named_templates_alone():
    with pytest.raises(UserError, match=r"data\.names = .* each must be PART=TEMPLATE"):
        Config().changed({"data.names": ("{case}_T1.nii.gz",)})
    with pytest.raises(UserError, match=r"--names: .*give --data too"):
        source_changes(None, "auto", NAMED)


def test_names_reach_the_commands(own_names, tmp_path):
    options = [part for name in NAMED for part in ("--names", name)]
    options += ["--labels", "brats2018"]
    checked = CliRunner().invoke(app, ["data", "check", str(own_names), *options, "--json"])
    assert {row["case"] for row in json.loads(checked.output)["findings"]} == {"P01", "P02"}
    shutil.copytree(own_names / "masks", tmp_path / "predictions")
    for path in (tmp_path / "predictions").iterdir():
        path.rename(path.with_name(path.name.replace("-tumour", "")))
    (tmp_path / "predictions" / "P01-brain.nii.gz").unlink()
    arguments = ["--predictions", str(tmp_path / "predictions"), "--truth", str(own_names)]
    scored = CliRunner().invoke(
        app, ["evaluate", *arguments, *options, "--output", str(tmp_path / "out"), "--json"]
    )
    assert scored.exit_code == 0 and json.loads(scored.output)["cases"] == 2


STUDY = str(Path(__file__).parents[2] / "search_spaces" / "ablate_depth.py")


@pytest.mark.parametrize(
    "arguments",
    [
        ["data", "check", "DATA"],
        ["data", "summary", "DATA"],
        ["data", "splits", "DATA"],
        ["train", "--data", "DATA"],
        ["pretrain", "--data", "DATA"],
        ["study", STUDY, "--data", "DATA"],
        ["evaluate", "--predictions", "DATA", "--truth", "DATA"],
        ["compare", "DATA", "DATA", "--truth", "DATA"],
    ],
    ids=lambda arguments: "-".join(arguments[:2]).replace(STUDY, ""),
)
def test_every_command_that_reads_cases_takes_names(own_names, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    arguments = [str(own_names) if word == "DATA" else word for word in arguments]
    result = CliRunner().invoke(app, [*arguments, "--names", "{case}_unknown.nii.gz"])
    said = f"{result.exception} {result.output}"
    assert result.exit_code != 0 and "its words do not tell which of T1, T1ce" in said
    assert not (tmp_path / "Results").exists()
