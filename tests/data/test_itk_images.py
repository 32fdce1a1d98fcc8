"""MetaImage, NRRD and NIfTI pairs: the same voxels at the same place as in NIfTI."""

import json
import sys

import nibabel
import numpy as np
import pytest

from segmamba.config.header import HeaderRules
from segmamba.data import itk_images
from segmamba.data.case import Case
from segmamba.data.cases import find_cases
from segmamba.data.label_sets import GLIOMA
from segmamba.data.labels import MODALITIES
from segmamba.data.volumes import read_scan, read_volume
from segmamba.errors import UserError
from segmamba.inference.nifti_writer import Reference, write_labels
from tests.conftest import BRATS_AFFINE, OLD_NAMES, tumour_case, write_case
from tests.data.test_layouts import NNUNET_JSON

ENDINGS = (".mha", ".mhd", ".nrrd", ".nhdr")
TURNED = (0, 1, 0, -1, 0, 0, 0, 0, 1)


@pytest.fixture
def sitk():
    return pytest.importorskip("SimpleITK")


@pytest.fixture
def image(sitk):
    """5 x 6 x 7 voxels of 1 x 2 x 3 mm on a grid that is turned and moved."""
    array = np.random.default_rng(0).integers(1, 100, (7, 6, 5)).astype(np.int16)
    made = sitk.GetImageFromArray(array)
    made.SetSpacing((1, 2, 3))
    made.SetOrigin((10, 20, 30))
    made.SetDirection(TURNED)
    return made


def write_itk_case(sitk, folder, ending, shape=(16, 18, 20)):
    """Write one case under the names of BraTS 2020 with the ending; return its arrays."""
    images, label = tumour_case(shape, 0)
    folder.mkdir(parents=True, exist_ok=True)
    for array, name in zip((*images, label), OLD_NAMES.values(), strict=True):
        made = sitk.GetImageFromArray(array.transpose(2, 1, 0))
        sitk.WriteImage(made, str(folder / f"BraTS20_Training_000{name}{ending}"))
    return images, label


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_of_itk_lies_where_the_same_nifti_lies(sitk, image, tmp_path, ending):
    sitk.WriteImage(image, str(tmp_path / "x.nii.gz"))
    sitk.WriteImage(image, str(tmp_path / f"x{ending}"))
    expected, affine, spacing_mm = read_volume(tmp_path / "x.nii.gz")
    found, found_affine, found_spacing_mm = read_volume(tmp_path / f"x{ending}")
    assert (found == expected).all() and found.dtype == expected.dtype
    assert np.allclose(found_affine, affine) and np.allclose(found_spacing_mm, spacing_mm)
    grid = itk_images.load_grid(tmp_path / f"x{ending}")
    assert np.allclose(grid.affine, nibabel.load(tmp_path / "x.nii.gz").affine)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_case_of_itk_files_is_found_read_and_written_as_nifti(sitk, tmp_path, ending):
    images, label = write_itk_case(sitk, tmp_path / "data", ending)
    (case,) = find_cases(tmp_path / "data")
    scan = read_scan(case)
    assert (scan.image == images[:, ::-1, ::-1]).all()  # RAS: x and y run the other way
    written = write_labels(
        tmp_path / "p.nii.gz", scan.label, Reference.of(case), "brats2018", GLIOMA
    )
    prediction = nibabel.load(written)
    assert (np.asanyarray(prediction.dataobj) == label).all()
    assert np.allclose(prediction.affine, BRATS_AFFINE)


def test_nnunets_file_ending_is_read(sitk, tmp_path):
    write_itk_case(sitk, tmp_path / "files", ".nrrd")
    root = tmp_path / "Dataset001"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    for channel, part in enumerate(list(OLD_NAMES.values())[:4]):
        source = tmp_path / "files" / f"BraTS20_Training_000{part}.nrrd"
        source.rename(root / "imagesTr" / f"A_{channel:04d}.nrrd")
    source = tmp_path / "files" / "BraTS20_Training_000_seg.nrrd"
    source.rename(root / "labelsTr" / "A.nrrd")
    (root / "dataset.json").write_text(json.dumps(NNUNET_JSON | {"file_ending": ".nrrd"}))
    (case,) = find_cases(root, "brats2018")
    assert set(case.images) == set(MODALITIES) and read_scan(case).label.any()


def test_components_are_channels_and_64_bit_labels_are_read(sitk, image, tmp_path):
    sitk.WriteImage(sitk.Compose([image, image]), str(tmp_path / "two.nrrd"))
    assert itk_images.load(tmp_path / "two.nrrd", HeaderRules()).array.shape == (5, 6, 7, 2)
    sitk.WriteImage(sitk.Cast(image, sitk.sitkInt64), str(tmp_path / "label.nrrd"))
    assert read_volume(tmp_path / "label.nrrd")[0].dtype == np.int64


def test_voxels_beside_their_header_belong_to_the_case(tmp_path):
    (tmp_path / "x.mhd").write_text("NDims = 3\nElementDataFile = x.zraw\n")
    (tmp_path / "x.nhdr").write_text("NRRD0004\ndata file: ./x.raw.gz\n\n")
    for name in ("x.zraw", "x.raw.gz", "x.img"):
        (tmp_path / name).write_bytes(b"voxels")
    images = {"T1": "x.mhd", "T1ce": "x.nhdr", "T2": "x.hdr", "FLAIR": "x.mha"}
    case = Case("x", "x", {m: tmp_path / name for m, name in images.items()}, None, "msd")
    assert [path.name for path in case.files] == [
        *("x.mhd", "x.zraw", "x.nhdr", "x.raw.gz", "x.hdr", "x.img", "x.mha")
    ]


def test_damaged_files_are_one_line(sitk, image, tmp_path, capfd):
    sitk.WriteImage(image, str(tmp_path / "x.mha"))
    (tmp_path / "x.mha").write_bytes((tmp_path / "x.mha").read_bytes()[:-50])
    with pytest.raises(UserError, match=r"x\.mha: damaged") as error:
        read_volume(tmp_path / "x.mha")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        read_volume(tmp_path / "absent.mha")


@pytest.mark.parametrize("name", ["x.mha", "x.nrrd"])
def test_a_header_without_directions_is_refused(sitk, tmp_path, name):
    headers = {
        "x.mha": b"ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_SHORT\n"
        b"ElementDataFile = LOCAL\n",
        "x.nrrd": b"NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n"
        b"endian: little\n\n",
    }
    (tmp_path / name).write_bytes(headers[name] + bytes(16))
    with pytest.raises(UserError, match="does not say how its axes lie"):
        read_volume(tmp_path / name)


def test_without_simpleitk_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    (tmp_path / "x.mha").write_bytes(b"ObjectType = Image\n")
    with pytest.raises(UserError, match=r"pip install 'segmamba\[itk\]'"):
        read_volume(tmp_path / "x.mha")


def test_a_nifti_pair_is_read_without_simpleitk_and_analyze_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    folder = write_case(tmp_path / "data", "X", shape=(16, 16, 16))
    for path in sorted(folder.iterdir()):
        stored = nibabel.load(path)
        pair = nibabel.Nifti1Pair(np.asanyarray(stored.dataobj), stored.affine)
        nibabel.save(pair, folder / f"{path.name.removesuffix('.nii.gz')}.hdr")
        path.unlink()
    (case,) = find_cases(tmp_path / "data")
    scan = read_scan(case)
    written = write_labels(
        tmp_path / "p.nii.gz", scan.label, Reference.of(case), "brats2018", GLIOMA
    )
    assert np.allclose(nibabel.load(written).affine, BRATS_AFFINE)
    analyze = nibabel.AnalyzeImage(np.ones((4, 4, 4), np.int16), np.eye(4))
    nibabel.save(analyze, tmp_path / "a.hdr")
    with pytest.raises(UserError, match=r"a\.hdr: damaged or not a NIfTI file"):
        read_volume(tmp_path / "a.hdr")
