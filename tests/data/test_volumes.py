import gzip

import nibabel
import numpy as np
import pytest

from segmamba.data.cases import find_cases
from segmamba.data.volumes import read_scan, read_volume
from segmamba.errors import UserError
from tests.conftest import write_case


def save(path, array, affine):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def world_of(array, affine, value):
    """The position in mm of the one voxel that has `value`."""
    (voxel,) = np.argwhere(array == value)
    return affine @ [*voxel, 1]


ANGLE = np.deg2rad(12)
OBLIQUE = np.array(
    [
        [np.cos(ANGLE), -np.sin(ANGLE), 0, 5],
        [np.sin(ANGLE), np.cos(ANGLE), 0, -7],
        [0, 0, 1.5, 3],
        [0, 0, 0, 1],
    ]
)


@pytest.mark.parametrize(
    ("affine", "shape"),
    [
        (np.diag([-1.0, -1.0, 1.0, 1.0]), (6, 8, 10)),
        (np.array([[0, 0, -2.0, 9], [1.0, 0, 0, -4], [0, -1.0, 0, 2], [0, 0, 0, 1]]), (10, 6, 8)),
        (OBLIQUE, (6, 8, 10)),
        (OBLIQUE[:, [2, 0, 1, 3]], (10, 6, 8)),
    ],
    ids=["lps", "permuted and flipped", "oblique", "oblique and permuted"],
)
def test_axes_are_x_y_z_whatever_the_file_says(tmp_path, affine, shape):
    stored = np.zeros(shape, np.int16)
    stored[1, 2, 3] = 7
    before = world_of(stored, affine, 7)
    array, canonical, spacing = read_volume(save(tmp_path / "a.nii.gz", stored, affine))
    assert nibabel.aff2axcodes(canonical) == ("R", "A", "S")
    assert np.allclose(world_of(array, canonical, 7), before), (
        "the marked voxel stays where it is in the patient"
    )
    lengths_mm = {axis: n * s for axis, n, s in zip("xyz", array.shape, spacing, strict=True)}
    columns = np.abs(affine[:3, :3]) / nibabel.affines.voxel_sizes(affine)
    for axis, row in zip("xyz", columns, strict=True):
        along = int(row.argmax())
        assert np.isclose(
            lengths_mm[axis], shape[along] * nibabel.affines.voxel_sizes(affine)[along]
        )


def test_64_voxels_along_z_are_the_last_axis(tmp_path):
    sideways = np.array(
        [[0, 0, 1.0, 0], [1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1]]
    )  # stored as (y, z, x)
    array, _, _ = read_volume(save(tmp_path / "a.nii", np.ones((48, 64, 32), np.int16), sideways))
    assert array.shape == (32, 48, 64)


def test_modalities_stored_on_differently_ordered_axes_come_out_aligned(tmp_path):
    folder = write_case(tmp_path, "X", shape=(40, 44, 36))
    image = nibabel.load(folder / "X_t2.nii.gz")
    expected = nibabel.as_closest_canonical(image).get_fdata()
    turned = image.as_reoriented(nibabel.orientations.axcodes2ornt(("S", "R", "P")))
    nibabel.save(turned, folder / "X_t2.nii.gz")
    (case,) = find_cases(tmp_path)
    scan = read_scan(case)
    assert (scan.image[2] == expected).all()


def spoil_truncated(folder):
    path = folder / "X_flair.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])


def spoil_header(folder):
    (folder / "X_flair.nii.gz").write_bytes(b"this is no NIfTI file at all")


def spoil_turned(folder):
    """Turned about the diagonal: two opposite corners stay where they are."""
    axis, angle = np.ones(3) / np.sqrt(3), np.deg2rad(20)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    turn = np.eye(4)
    turn[:3, :3] += np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    for path in sorted(folder.iterdir()):
        save(path, np.ones((40, 40, 40), np.uint8), turn if "flair" in path.name else np.eye(4))


def spoil_shape(folder):
    save(folder / "X_flair.nii.gz", np.ones((48, 48, 30), np.int16), np.diag([-1.0, -1, 1, 1]))


def spoil_affine(folder):
    image = nibabel.load(folder / "X_flair.nii.gz")
    save(folder / "X_flair.nii.gz", image.get_fdata().astype(np.int16), np.diag([-1.0, -1, 2, 1]))


def spoil_nan(folder):
    array = nibabel.load(folder / "X_flair.nii.gz").get_fdata().astype(np.float32)
    array[3, 4, 5] = np.nan
    save(folder / "X_flair.nii.gz", array, np.diag([-1.0, -1, 1, 1]))


def spoil_empty(folder):
    save(folder / "X_flair.nii.gz", np.zeros((48, 48, 32), np.int16), np.diag([-1.0, -1, 1, 1]))


def spoil_4d(folder):
    save(folder / "X_flair.nii.gz", np.ones((48, 48, 32, 2), np.int16), np.diag([-1.0, -1, 1, 1]))


def spoil_label(folder):
    label = np.zeros((48, 48, 32), np.uint8)
    label[0, 0, 0] = 3
    save(folder / "X_seg.nii.gz", label, np.diag([-1.0, -1, 1, 1]))


def test_nifti_2_is_read_as_nifti_1_is(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([1.0, 1, 2, 1])
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(nibabel.Nifti2Image(array, affine), tmp_path / name)
        read, read_affine, spacing = read_volume(tmp_path / name)
        assert (read == array).all() and (read_affine == affine).all() and spacing == (1, 1, 2)


def spoil_bit(folder):
    """Change one voxel and keep the old file's checksum and length.

    They are the last eight bytes of a .gz (RFC 1952).
    """
    path = folder / "X_flair.nii.gz"
    whole = path.read_bytes()
    raw = bytearray(gzip.decompress(whole))
    raw[-100] ^= 1
    path.write_bytes(gzip.compress(bytes(raw))[:-8] + whole[-8:])


BAD_FILES = {
    "flipped bit": (spoil_bit, r"X_flair\.nii\.gz: damaged or not a NIfTI file \(CRC check failed"),
    "truncated": (spoil_truncated, r"X_flair\.nii\.gz: damaged or not a NIfTI file"),
    "no nifti": (spoil_header, r"X_flair\.nii\.gz: damaged or not a NIfTI file"),
    "shape": (spoil_shape, r"X: .*X_flair\.nii\.gz is 48x48x30 but X_t1\.nii\.gz is 48x48x32"),
    "affine": (spoil_affine, r"X: .*X_flair\.nii\.gz lies 31\.00 mm away"),
    "turned": (spoil_turned, r"X: .*X_flair\.nii\.gz lies \d+\.\d\d mm away"),
    "nan": (spoil_nan, r"X: .*X_flair\.nii\.gz has 1 voxels that are not finite"),
    "empty": (spoil_empty, r"X: .*X_flair\.nii\.gz is empty"),
    "4-D": (spoil_4d, r"X_flair\.nii\.gz: has 4 dimensions"),
    "label": (spoil_label, r"X_seg\.nii\.gz: label value 3 is not in convention brats2018"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, kind):
    spoil, message = BAD_FILES[kind]
    spoil(write_case(tmp_path, "X"))
    with pytest.raises(UserError, match=message):
        read_scan(find_cases(tmp_path)[0])
