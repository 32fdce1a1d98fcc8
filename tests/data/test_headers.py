"""What a header says of grid, unit, type and length is checked before a voxel is believed."""

import gzip
import resource
import struct
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from segmamba.config import DataConfig
from segmamba.config.header import HeaderRules
from segmamba.data.case import ERROR, INFORMATION, WARNING
from segmamba.data.cases import find_cases, list_cases
from segmamba.data.check import check
from segmamba.data.preprocess import prepare_cases
from segmamba.data.summary import summarise
from segmamba.data.volumes import read_scan, read_volume
from segmamba.errors import UserError
from tests.conftest import BRATS_AFFINE, write_case

SHAPE = (24, 24, 20)
PARTS = ("t1", "t1ce", "t2", "flair", "seg")
# Bytes of the NIfTI-1 header (nifti1.h).
DIM, DATATYPE, BITPIX, PIXDIM, OFFSET, SLOPE, INTER, UNITS = 40, 70, 72, 76, 108, 112, 116, 123
QFORM, SFORM, SROW_X, SROW_Z, MAGIC = 252, 254, 280, 312, 344


def patched(*fields):
    """A spoiler of all files, or of those named last, that sets (byte, format, values...)."""

    def spoil(folder, parts=PARTS):
        for part in parts:
            path = folder / f"X_{part}.nii.gz"
            raw = bytearray(gzip.decompress(path.read_bytes()))
            for at, form, *values in fields:
                struct.pack_into(form, raw, at, *values)
            path.write_bytes(gzip.compress(bytes(raw), 1))

    return spoil


def placed(sform, qform=None, *, codes=(1, 1), unit="mm"):
    """A spoiler of all files that sets both descriptions of the grid."""

    def spoil(folder):
        for part in PARTS:
            path = folder / f"X_{part}.nii.gz"
            raw = gzip.decompress(path.read_bytes())
            header = nibabel.Nifti1Header(raw[:348])
            header.set_xyzt_units(unit)
            header.set_qform(np.asarray(sform if qform is None else qform, float), codes[1])
            header.set_sform(np.asarray(sform, float), codes[0])
            path.write_bytes(gzip.compress(header.binaryblock + raw[348:], 1))

    return spoil


def bare(folder):
    """No orientation: both codes 0."""
    patched((QFORM, "<hh", 0, 0))(folder)


THIN, THICK = np.diag([-3.0, -3, 3, 1]), np.diag([-3.0, -3, 6, 1])
SHEARED = BRATS_AFFINE + [[0, 0.1, 0, 0], [0] * 4, [0] * 4, [0] * 4]
MOVED = BRATS_AFFINE + [[0, 0, 0, 5], [0] * 4, [0] * 4, [0] * 4]
METRES = np.diag([-0.001, -0.001, 0.002, 1])

REFUSED = {
    "no orientation": (bare, "no orientation", "codes are 0 and 0", "--orientation LPS"),
    "unknown codes": (
        patched((QFORM, "<hh", 77, -3)),
        "no orientation",
        "codes are -3 and 77",
        "--orientation",
    ),
    "sform and qform differ in size": (
        placed(THICK, THIN),
        "header disagrees",
        "voxels of 3 x 3 x 6 mm by its sform and of 3 x 3 x 3 mm by its qform",
        "--set data.header=sform or --set data.header=qform",
    ),
    "sform and qform differ in place": (
        placed(BRATS_AFFINE, MOVED),
        "header disagrees",
        "lie 5 mm apart",
        "data.header=qform",
    ),
    "sform and qform differ in direction": (
        placed(np.diag([1.0, 1, 1, 1]), BRATS_AFFINE),
        "header disagrees",
        "(axes RAS and LPS)",
        "data.header=qform",
    ),
    "sform and pixdim differ": (
        placed(THICK, THIN, codes=(1, 0)),
        "header disagrees",
        "3 x 3 x 6 mm by its sform and of 3 x 3 x 3 mm by pixdim",
        "--set data.header=sform,",
    ),
    "sheared": (
        placed(SHEARED, codes=(1, 0)),
        "sheared grid",
        "stand 5.7 degrees off the right angle",
        "resample it",
    ),
    "sheared with a qform": (
        placed(SHEARED, BRATS_AFFINE),
        "sheared grid",
        "5.7 degrees",
        "--set data.header=qform",
    ),
    "metres without a unit": (
        placed(METRES, unit="unknown"),
        "implausible spacing",
        "0.001 x 0.001 x 0.002 mm",
        "in metres its voxels would be 1 x 1 x 2 mm",
    ),
    "mm that are called metres": (
        placed(BRATS_AFFINE, unit="meter"),
        "implausible spacing",
        "1000 x 1000 x 1000 mm (its header is in metres)",
        "in mm its voxels would be 1 x 1 x 1 mm",
    ),
    "500 mm": (placed(np.diag([500.0, 500, 500, 1])), "implausible spacing", "500 x 500", "0.1 to"),
    "0.01 mm": (placed(np.diag([0.01, 1, 1, 1])), "implausible spacing", "0.01 x 1 x 1", "voxel"),
    "no grid": (
        patched((QFORM, "<h", 0), (SROW_Z, "<4f", 0, 0, 0, 0)),
        "unreadable file",
        "no grid in space (spacing 1 x 1 x 0 mm)",
        "correct its header",
    ),
    "announces too much": (
        patched((DIM, "<4h", 3, 30000, 30000, 30000)),
        "too large",
        "30000x30000x30000 voxels",
        "--set data.max_volume_mib=",
    ),
    "announces more than it holds": (
        patched((DIM, "<4h", 3, 24, 24, 21)),
        "unreadable file",
        "of the ",
        "copy or download",
    ),
    "announces part of what it holds": (
        patched((DATATYPE, "<hh", 2, 8)),
        "header and length",
        "24x24x20 of uint8, 11520 bytes",
        "correct dim or datatype",
    ),
    "complex": (patched((DATATYPE, "<hh", 32, 64)), "unreadable file", "complex64", "grey-value"),
    "colours": (patched((DATATYPE, "<hh", 128, 24)), "unreadable file", "colours", "grey-value"),
    "unknown type": (patched((DATATYPE, "<h", 999)), "unreadable file", "type of voxels", "copy"),
    "no voxels": (patched((DIM + 4, "<h", 0)), "unreadable file", "24x0x20 voxels", "copy"),
    "negative side": (patched((DIM + 2, "<h", -5)), "unreadable file", "-5x24x20", "copy"),
    "no dimensions": (patched((DIM, "<h", 0)), "unreadable file", "0 dimensions", "copy"),
    "nine dimensions": (patched((DIM, "<h", 9)), "unreadable file", "9 dimensions", "copy"),
    "voxels within the header": (patched((OFFSET, "<f", 100)), "unreadable file", "byte 100", ""),
    "voxels at no place": (patched((OFFSET, "<f", np.nan)), "unreadable file", "byte nan", ""),
    "half of a pair": (patched((MAGIC, "4s", b"ni1\0")), "unreadable file", "no .img", ".nii.gz"),
    "Analyze": (patched((MAGIC, "4s", b"\0" * 4)), "unreadable file", "is marked", "copy"),
    "intercept is no number": (
        patched((SLOPE, "<ff", 1, np.nan)),
        "unreadable file",
        "intercept nan",
        "copy",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_header_in_doubt_is_an_error_that_names_file_and_fix(tmp_path, name):
    spoil, kind, text, fix = REFUSED[name]
    folder = write_case(tmp_path / "data", "X", shape=SHAPE)
    if kind == "header and length":
        spoil(folder, PARTS[:4])
    else:
        spoil(folder)
    (checked,) = check(tmp_path / "data")
    errors = [finding for finding in checked.findings if finding.severity == ERROR]
    assert {finding.kind for finding in errors} == {kind}, errors
    first = errors[0].text
    assert text in first and fix in first and first.startswith(f"X: {folder}/X_t1.nii.gz: ")
    with pytest.raises(UserError, match="none of its 1 cases can be read"):
        summarise(tmp_path / "data")
    with pytest.raises(UserError) as refused:
        read_scan(find_cases(tmp_path / "data")[0])
    assert str(refused.value) == first
    with pytest.raises(UserError):
        prepare_cases(list_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())


RESOLVED = {
    "stated": (bare, {"orientation": "lps"}, BRATS_AFFINE),
    "sform is taken": (placed(THICK, THIN), {"header": "sform"}, THICK),
    "qform is taken": (placed(THICK, THIN), {"header": "qform"}, THIN),
    "pixdim is left": (placed(THICK, THIN, codes=(1, 0)), {"header": "sform"}, THICK),
    "shear is left": (placed(SHEARED, BRATS_AFFINE), {"header": "qform"}, BRATS_AFFINE),
    "one that agrees": (placed(THIN), {"header": "qform"}, THIN),
    "one with a sform alone": (placed(THIN, codes=(1, 0)), {"header": "qform"}, THIN),
    "one with a qform alone": (placed(THIN, codes=(0, 1)), {"header": "sform"}, THIN),
    "metres": (placed(METRES, unit="meter"), {}, np.diag([-1.0, -1, 2, 1])),
    "microns": (placed(1000 * THIN, unit="micron"), {}, THIN),
}


@pytest.mark.parametrize("name", RESOLVED)
def test_what_the_user_or_the_unit_says_is_read_and_remarked(tmp_path, name):
    spoil, stated, affine = RESOLVED[name]
    folder = write_case(tmp_path / "data", "X", shape=SHAPE)
    before = read_scan(find_cases(tmp_path / "data")[0])
    spoil(folder)
    config = DataConfig(**stated)
    (case,) = find_cases(tmp_path / "data", header=config.header_rules)
    scan = read_scan(case)
    assert np.allclose(scan.spacing_mm, nibabel.affines.voxel_sizes(affine)[:3])
    assert np.array_equal(scan.image, before.image) and np.array_equal(scan.label, before.label)
    (checked,) = check(tmp_path / "data", config=config)
    found = {(finding.severity, finding.kind) for finding in checked.findings} - {
        (WARNING, "spacing"),
        (WARNING, "anisotropic spacing"),
    }
    expected = {
        "stated": {(INFORMATION, "stated orientation")},
        "metres": {(WARNING, "units")},
        "microns": {(WARNING, "units")},
    }
    assert found == expected.get(name, set())
    prepare_cases([case], tmp_path / "cache", config)


def test_the_stated_orientation_turns_the_voxels_and_holds_for_silent_headers_alone(tmp_path):
    folder = write_case(tmp_path, "X", shape=(20, 24, 28))
    stored = np.asarray(nibabel.load(folder / "X_t1.nii.gz").dataobj)
    patched((QFORM, "<hh", 0, 0))(folder, ["t1"])
    rules = HeaderRules(orientation="PIR")
    array, affine, _ = read_volume(folder / "X_t1.nii.gz", rules)
    assert np.array_equal(array, stored.transpose(2, 0, 1)[:, ::-1, ::-1])
    assert nibabel.aff2axcodes(affine) == ("R", "A", "S")
    other, _, _ = read_volume(folder / "X_t2.nii.gz", rules)
    assert np.array_equal(other, read_volume(folder / "X_t2.nii.gz")[0])


def test_a_silent_header_beside_good_ones_takes_their_place_and_not_another_shape(tmp_path):
    offset = BRATS_AFFINE + [[0] * 4, [0, 0, 0, 239], [0] * 4, [0] * 4]
    folder = write_case(tmp_path, "X", shape=SHAPE, affine=offset)
    good = read_scan(find_cases(tmp_path)[0])
    for part in ("t1", "flair", "seg"):
        patched((QFORM, "<hh", 0, 0))(folder, [part])
        scan = read_scan(find_cases(tmp_path, header=HeaderRules(orientation="LPS"))[0])
        assert np.array_equal(scan.image, good.image) and np.array_equal(scan.label, good.label)
    patched((PIXDIM + 12, "<f", 3))(folder, ["seg"])
    with pytest.raises(UserError, match=r"X_seg\.nii\.gz lies 38\.00 mm away"):
        read_scan(find_cases(tmp_path, header=HeaderRules(orientation="LPS"))[0])


@pytest.mark.parametrize("codes", ["RAR", "RA", "RASL", "XYZ", "LRS"])
def test_an_orientation_that_names_no_three_axes_is_refused(codes):
    with pytest.raises(UserError, match=f"data.orientation = '{codes}'"):
        DataConfig(orientation=codes)


def test_a_header_that_rounds_is_no_contradiction(tmp_path):
    turn = nibabel.eulerangles.euler2mat(0.1, 0.05, -0.1) @ np.diag([-0.9375, -0.9375, 1.2])
    affine = nibabel.affines.from_matvec(turn, (3, 4, 5))
    image = nibabel.Nifti1Image(np.ones((256, 256, 128), np.uint8), affine)
    image.set_qform(affine, 1)
    image.set_sform(np.round(affine, 4), 1)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii")[2] == pytest.approx((0.9375, 0.9375, 1.2), abs=1e-3)


def test_a_working_grid_above_the_bound_is_refused_by_check_and_cache_alike(tmp_path):
    write_case(tmp_path / "data", "X", shape=SHAPE, affine=np.diag([-9.0, -9, 9, 1]))
    config = DataConfig(spacing_mm=0.2)
    (checked,) = check(tmp_path / "data", config=config)
    (error,) = [f.text for f in checked.findings if f.kind == "size"]
    assert "1080 x 1080 x 900 voxels of 0.2 mm, 4005 MiB a channel" in error
    assert "data.max_volume_mib = 512" in error
    (case,) = find_cases(tmp_path / "data")
    with pytest.raises(UserError) as refused:
        prepare_cases([case], tmp_path / "cache", config)
    assert str(refused.value) == error
    coarse = DataConfig(spacing_mm=500)
    with pytest.raises(
        UserError,
        match=r"X: 24 x 24 x 20 voxels of 9 x 9 x 9 mm are .* choose a smaller data\.spacing_mm",
    ):
        prepare_cases([case], tmp_path / "cache", coarse)


def test_a_bound_below_a_volume_names_the_setting_that_raises_it(tmp_path):
    write_case(tmp_path, "X", shape=(96, 96, 64))  # 2.25 MiB of float32
    rules = HeaderRules(max_volume_mib=2)
    with pytest.raises(UserError, match=r"--set data\.max_volume_mib=3"):
        read_scan(find_cases(tmp_path, header=rules)[0])
    assert read_scan(find_cases(tmp_path, header=replace(rules, max_volume_mib=3))[0])


def _peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("honest", [True, False], ids=["by its header", "against its header"])
def test_a_file_that_inflates_to_gigabytes_is_refused_without_reading_them(tmp_path, honest):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((1024, 1024, 1024) if honest else SHAPE)
    header.set_sform(BRATS_AFFINE, 1)
    header["magic"], header["vox_offset"] = b"n+1", 352
    zeros = gzip.compress(bytes(2**26), 1)
    packed = gzip.compress(header.binaryblock + bytes(4), 1) + 16 * zeros
    path = tmp_path / "a.nii.gz"
    path.write_bytes(packed)
    before = _peak_mib()
    with pytest.raises(UserError, match="1024x1024x1024" if honest else "holds more voxels"):
        read_volume(path)
    assert _peak_mib() - before < 100


def test_a_checksum_behind_the_last_voxel_is_compared(tmp_path):
    folder = write_case(tmp_path, "X", shape=SHAPE)
    path = folder / "X_t1.nii.gz"
    packed = bytearray(path.read_bytes())
    packed[-6] ^= 1  # within the CRC32 of RFC 1952, which ends before the last four bytes
    path.write_bytes(packed)
    with pytest.raises(UserError, match="CRC check failed"):
        read_volume(path)


@pytest.mark.parametrize("cut", [0, 100, 352, 5000])
def test_members_of_a_gzip_file_are_read_as_one(tmp_path, cut):
    folder = write_case(tmp_path, "X", shape=SHAPE)
    path = folder / "X_t1.nii.gz"
    expected = read_volume(path)[0]
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:cut]) + gzip.compress(raw[cut:]) + bytes(512))
    assert np.array_equal(read_volume(path)[0], expected)


def rename(old, new):
    return lambda folder: (folder / old).rename(folder / new)


def unpack(folder):
    path = folder / "X_t2.nii.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))


def pad(folder):
    path = folder / "X_t2.nii.gz"
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(64)))


REMARKED = {
    "plain under .nii.gz": (unpack, WARNING, "misnamed file", "X_t2.nii.gz: is not compressed"),
    "gzip under .nii": (
        rename("X_t2.nii.gz", "X_t2.nii"),
        WARNING,
        "misnamed file",
        "X_t2.nii: is compressed",
    ),
    "one volume": (
        lambda folder: patched((DIM, "<5h", 4, *SHAPE, 1))(folder, ["t2"]),
        INFORMATION,
        "extra dimensions",
        "has shape 24x24x20x1; it is read as 24x24x20",
    ),
    "bits": (
        lambda folder: patched((BITPIX, "<h", 8))(folder, ["t2"]),
        WARNING,
        "header",
        "says 8 bits a voxel and int16",
    ),
    "padding": (pad, INFORMATION, "trailing bytes", "64 bytes follow its last voxel"),
}


@pytest.mark.parametrize("name", REMARKED)
def test_a_harmless_oddity_is_read_and_said(tmp_path, name):
    spoil, severity, kind, text = REMARKED[name]
    folder = write_case(tmp_path, "X", shape=SHAPE)
    before = read_scan(find_cases(tmp_path)[0])
    spoil(folder)
    (checked,) = check(tmp_path)
    assert [(f.severity, f.kind) for f in checked.findings] == [(severity, kind)]
    assert text in checked.findings[0].text
    after = read_scan(find_cases(tmp_path)[0])
    assert np.array_equal(after.image, before.image) and after.spacing_mm == before.spacing_mm


@pytest.mark.parametrize(("slope", "intercept"), [(1e38, 0), (1, 3.4e38), (3.4e38, -3.4e38)])
def test_values_that_overflow_float32_are_an_error(tmp_path, slope, intercept):
    folder = write_case(tmp_path, "X", shape=SHAPE)
    patched((SLOPE, "<ff", slope, intercept))(folder, ["t2"])
    if slope == 1:  # float64 voxels
        path = folder / "X_t2.nii.gz"
        voxels = np.asarray(nibabel.load(path).dataobj, np.float64) * 1e36
        nibabel.save(nibabel.Nifti1Image(voxels, BRATS_AFFINE), path)
    (checked,) = check(tmp_path)
    assert [(f.severity, f.kind) for f in checked.findings] == [(ERROR, "overflow")]
    assert "X_t2.nii.gz has values up to" in checked.findings[0].text
    with pytest.raises(UserError, match="above what float32 holds"):
        read_scan(find_cases(tmp_path)[0])


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", ">f4", "<u2", "<f8", "<i8", ">u4", "i1"])
def test_each_type_and_byte_order_is_read_and_scaled_as_nibabel_does(tmp_path, kind, ending, dtype):
    array = np.arange(-30, 30).reshape(3, 4, 5)
    header = kind.header_class(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(np.dtype(dtype))
    if dtype != "i1":
        header.set_slope_inter(0.1, -3.5)
    image = kind(np.abs(array) if "u" in dtype else array, np.diag([1.0, 1, 2, 1]), header)
    path = tmp_path / f"a{ending}"
    nibabel.save(image, path)
    expected = np.asanyarray(nibabel.load(path).dataobj)
    read, affine, _ = read_volume(path)
    assert read.dtype == expected.dtype and np.array_equal(read, expected)
    assert np.array_equal(affine, np.diag([1.0, 1, 2, 1]))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Nifti2Pair])
def test_a_pair_is_read_and_its_voxels_are_counted(tmp_path, kind):
    array = np.arange(24000, dtype=np.int16).reshape(20, 30, 40)
    nibabel.save(kind(array, np.diag([1.0, 1, 2, 1])), tmp_path / "a.hdr")
    read, affine, _ = read_volume(tmp_path / "a.hdr")
    assert np.array_equal(read, array) and np.array_equal(affine, np.diag([1.0, 1, 2, 1]))
    voxels = (tmp_path / "a.img").read_bytes()
    (tmp_path / "a.img").write_bytes(voxels[:-2])
    with pytest.raises(UserError, match="holds 47998 of the 48000 bytes"):
        read_volume(tmp_path / "a.hdr")
    (tmp_path / "a.img").write_bytes(2 * voxels)
    with pytest.raises(UserError, match="holds more voxels than its header announces"):
        read_volume(tmp_path / "a.hdr")
    (tmp_path / "a.img").unlink()
    with pytest.raises(UserError, match=r"has no \.img beside it"):
        read_volume(tmp_path / "a.hdr")


@pytest.mark.parametrize(
    ("spacing_mm", "shear", "message"),
    [
        ((0.001, 0.001, 0.001), 0, r"a\.mha: its voxels are 0\.001 x 0\.001"),
        ((1, 1, 1), 0.1, r"a\.mha: its grid is sheared"),
        ((1, 1, 1), 0, r"announces 90x80x70 voxels of float32, 2 MiB"),
    ],
)
def test_itks_formats_are_held_to_the_same_rules(tmp_path, spacing_mm, shear, message):
    sitk = pytest.importorskip("SimpleITK")
    image = sitk.GetImageFromArray(np.ones((70, 80, 90), np.int16))
    image.SetSpacing(spacing_mm)
    path = tmp_path / "a.mha"
    sitk.WriteImage(image, str(path))
    if shear:
        raw = path.read_bytes()
        path.write_bytes(raw.replace(b"Matrix = 1 0 0 0 1 0", b"Matrix = 1 0 0 0.1 1 0"))
    with pytest.raises(UserError, match=message):
        read_volume(path, HeaderRules(max_volume_mib=1 if "announces" in message else 512))


def labelled(folder, change):
    """Pass the label's voxels through `change` and write what it gives."""
    path = folder / "X_seg.nii.gz"
    array = change(np.asarray(nibabel.load(path).dataobj))
    nibabel.save(nibabel.Nifti1Image(array, BRATS_AFFINE, dtype=array.dtype), path)


@pytest.mark.parametrize(
    "change",
    [
        lambda label: label.astype(np.float32) * np.float32(0.99999994),
        lambda label: label + 9e-4,
        lambda label: (label - 9e-4).astype(np.float32),
        lambda label: label.astype(np.int64),
        lambda label: label.astype(">u4"),
    ],
)
def test_labels_that_are_nearly_whole_are_rounded(tmp_path, change):
    folder = write_case(tmp_path, "X", shape=SHAPE)
    before = read_scan(find_cases(tmp_path)[0]).label
    labelled(folder, change)
    assert np.array_equal(read_scan(find_cases(tmp_path)[0]).label, before)
    assert check(tmp_path)[0].findings == ()


@pytest.mark.parametrize(
    ("dtype", "value", "shown"),
    [
        (np.float32, 3.998, "3.998"),
        (np.float64, 4.0010001, "4.0010001"),
        (np.float32, -1, "-1"),
        (np.int16, -1, "-1"),
        (np.int16, 255, "255"),
        (np.int32, 260, "260"),
        (np.int64, 2**40 + 1, "1099511627777"),
        (np.float64, 1e300, "1e+300"),
        (np.float32, np.nan, "nan"),
        (np.float32, np.inf, "inf"),
    ],
)
def test_a_label_of_no_class_is_printed_in_full(tmp_path, dtype, value, shown):
    folder = write_case(tmp_path, "X", shape=SHAPE)

    def change(label):
        label = label.astype(dtype)
        label[1, 2, 3] = value
        return label

    path = folder / "X_seg.nii.gz"
    stored = nibabel.Nifti1Image(np.zeros(SHAPE, dtype), BRATS_AFFINE, dtype=dtype)
    array = change(np.asarray(nibabel.load(path).dataobj))
    header = stored.header
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + array.tobytes(order="F"), 1))
    (checked,) = check(tmp_path)
    assert [(f.severity, f.kind) for f in checked.findings] == [(ERROR, "unknown label")]
    assert f"label value {shown} is not in convention" in checked.findings[0].text


def test_a_scaled_label_is_read_by_its_scaled_values(tmp_path):
    folder = write_case(tmp_path, "X", shape=SHAPE)
    before = read_scan(find_cases(tmp_path)[0]).label
    labelled(folder, lambda label: label.astype(np.int16) * 10)
    patched((SLOPE, "<ff", 0.1, 0))(folder, ["seg"])
    assert np.array_equal(read_scan(find_cases(tmp_path)[0]).label, before)


def test_what_is_stated_has_prepared_cases_of_its_own_and_a_bound_has_not(tmp_path):
    write_case(tmp_path / "data", "X", shape=SHAPE)
    folders = set()
    for stated in ({}, {"max_volume_mib": 99}, {"orientation": "LPS"}, {"header": "sform"}):
        config = DataConfig(**stated)
        cases = find_cases(tmp_path / "data", header=config.header_rules)
        folders.add(prepare_cases(cases, tmp_path / "cache", config)[0].folder)
    assert len(folders) == 3
