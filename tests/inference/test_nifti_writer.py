"""What is written has its source's grid, header and order of axes."""

import tempfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmamba.data.case import Case
from segmamba.data.label_sets import GLIOMA
from segmamba.data.labels import CONVENTIONS, MODALITIES
from segmamba.data.volumes import read_volume
from segmamba.errors import UserError
from segmamba.inference.nifti_writer import Reference, write_labels, write_shares

ANGLE = np.deg2rad(12)
OBLIQUE = np.array(
    [
        [np.cos(ANGLE), -np.sin(ANGLE), 0, 5],
        [np.sin(ANGLE), np.cos(ANGLE), 0, -7],
        [0, 0, 1.5, 3],
        [0, 0, 0, 1],
    ]
)
AFFINES = {
    "BraTS": np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 239], [0, 0, 1.0, 0], [0, 0, 0, 1]]),
    "permuted and flipped": np.array(
        [[0, 0, -2.0, 9], [1.0, 0, 0, -4], [0, -1.0, 0, 2], [0, 0, 0, 1]]
    ),
    "oblique": OBLIQUE,
    "oblique and permuted": OBLIQUE[:, [2, 0, 1, 3]],
}


def source(path, affine, *, shape=(5, 6, 7), kind=nibabel.Nifti1Image, codes=(1, 1), channels=()):
    """A stored file of int16 with all that a scanner puts into a header: (Case, image)."""
    image = kind(
        np.arange(np.prod((*shape, *channels)), dtype=np.int16).reshape(*shape, *channels), affine
    )
    image.set_qform(affine, code=codes[0])
    image.set_sform(affine, code=codes[1])
    image.header["descrip"], image.header["cal_max"], image.header["toffset"] = b"scanner", 900, 2.5
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(2.0, -3.0)
    nibabel.save(image, path)
    images = dict.fromkeys(MODALITIES, path) if channels else {"T1ce": path}
    return Case("X", "X", images, None, "brats2018"), nibabel.load(path)


def voxels(path):
    return np.asanyarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_what_was_read_in_canonical_orientation_is_written_as_it_was_stored(
    tmp_path, affine, ending
):
    case, stored = source(tmp_path / f"t1ce{ending}", affine)
    canonical, _, _ = read_volume(case.images["T1ce"])
    classes = (canonical.astype(int) % 4).astype(np.uint8)
    path = write_labels(tmp_path / "out.nii.gz", classes, Reference.of(case), "brats2023", GLIOMA)
    assert np.array_equal(voxels(path), np.asanyarray(stored.dataobj).astype(int) % 4)


@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2), (4, 1)], ids=str)
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_affine_and_header_are_the_sources_but_for_what_describes_its_values(
    tmp_path, affine, codes, kind
):
    case, stored = source(tmp_path / "t1ce.nii.gz", affine, kind=kind, codes=codes)
    canonical, _, _ = read_volume(case.images["T1ce"])
    written = nibabel.load(
        write_labels(
            tmp_path / "out.nii.gz",
            np.zeros(canonical.shape, np.uint8),
            Reference.of(case),
            "brats2018",
            GLIOMA,
        )
    )
    assert (
        type(written) is kind
        and written.shape == stored.shape
        and written.get_data_dtype() == np.uint8
    )
    assert np.array_equal(written.affine, stored.affine)
    header, wanted = written.header, stored.header
    changed = {"datatype", "bitpix", "scl_slope", "scl_inter", "cal_max", "vox_offset"}
    assert {
        name
        for name in wanted
        if not np.array_equal(header[name], wanted[name], equal_nan=wanted[name].dtype.kind == "f")
    } <= changed
    assert header["cal_max"] == 0 and written.dataobj.slope == 1 and written.dataobj.inter == 0


@pytest.mark.parametrize("name", CONVENTIONS)
def test_values_are_those_of_the_convention(tmp_path, name):
    case, _ = source(tmp_path / "t1ce.nii.gz", np.eye(4), shape=(4, 2, 2))
    classes = np.broadcast_to(np.arange(4, dtype=np.uint8)[:, None, None], (4, 2, 2))
    written = voxels(
        write_labels(tmp_path / "out.nii.gz", classes, Reference.of(case), name, GLIOMA)
    )
    known = CONVENTIONS[name]
    names = [
        known.labels.as_glioma.get(known.values[value], "background") for value in written[:, 0, 0]
    ]
    assert tuple(names) == GLIOMA.classes


def test_a_channel_of_a_four_d_file_gives_a_three_d_segmentation(tmp_path):
    case, stored = source(tmp_path / "all.nii.gz", AFFINES["oblique and permuted"], channels=(4,))
    reference = Reference.of(case)
    path = write_labels(
        tmp_path / "out.nii.gz", reference_canonical(stored), reference, "msd", GLIOMA
    )
    written = nibabel.load(path)
    assert written.shape == stored.shape[:3] and np.array_equal(written.affine, stored.affine)


def reference_canonical(stored):
    return np.zeros(nibabel.as_closest_canonical(stored).shape[:3], np.uint8)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_shares_come_back_to_their_scale(values):
    reference = Reference(nibabel.Nifti1Image, nibabel.Nifti1Header(), np.eye(4))
    shares = np.array(values)[:, None, None]
    with tempfile.TemporaryDirectory() as folder:
        written = nibabel.load(write_shares(Path(folder) / "out.nii.gz", shares, reference))
        assert np.abs(written.get_fdata() - shares).max() <= 0.51 / 65535
        assert written.header.get_data_dtype() == np.uint16


def test_channels_of_probabilities_are_the_fourth_axis_on_the_stored_grid(tmp_path):
    case, stored = source(tmp_path / "t1ce.nii.gz", AFFINES["permuted and flipped"])
    canonical, _, _ = read_volume(case.images["T1ce"])
    shares = np.stack([canonical / 1000, 1 - canonical / 1000], -1)
    written = nibabel.load(write_shares(tmp_path / "out.nii.gz", shares, Reference.of(case)))
    assert written.shape == (*stored.shape, 2)
    assert np.allclose(
        written.get_fdata()[..., 0], np.clip(np.asanyarray(stored.dataobj) / 1000, 0, 1), atol=1e-5
    )


def test_the_same_prediction_is_the_same_file_byte_for_byte(tmp_path):
    case, _ = source(tmp_path / "t1ce.nii.gz", np.eye(4))
    classes = np.ones((5, 6, 7), np.uint8)
    first, second = (
        write_labels(tmp_path / name, classes, Reference.of(case), "msd", GLIOMA).read_bytes()
        for name in ("a.nii.gz", "b.nii.gz")
    )
    assert first == second


def test_a_folder_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    case, _ = source(tmp_path / "t1ce.nii.gz", np.eye(4))
    with pytest.raises(UserError, match="cannot be written"):
        write_labels(
            tmp_path / "absent" / "out.nii.gz",
            np.ones((5, 6, 7), np.uint8),
            Reference.of(case),
            "msd",
            GLIOMA,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["t1ce.nii.gz"]
