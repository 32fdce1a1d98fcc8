"""The brain is found whatever value lies outside it; what is no image of a brain is named."""

import nibabel
import numpy as np
import pytest

from segmamba.config import DataConfig
from segmamba.data.background import find_background, sample
from segmamba.data.case import ERROR, INFORMATION, WARNING
from segmamba.data.cases import find_cases
from segmamba.data.check import check, would_fail
from segmamba.data.content import summarised
from segmamba.data.preprocess import prepare_cases
from segmamba.data.volumes import read_scan
from segmamba.data.working_grid import to_working_grid, zscore
from tests.conftest import write_case

IMAGES = ("t1", "t1ce", "t2", "flair")
SHAPE = (48, 40, 32)


def head(seed=0, shape=SHAPE):
    """A smooth int16 ellipsoid of a few hundred grey values in a background of 0."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    inside = (grid**2).sum(0) < 0.7
    values = 300 + 100 * np.sin(3 * grid[0] + seed) + rng.normal(0, 20, shape)
    return np.where(inside, values, 0).astype(np.int16)


def over_the_whole_volume(image):
    return ((image - image.mean()) / image.std()).astype(np.float32)


def with_noise(image):
    noise = np.random.default_rng(1).normal(0, 1e-7, image.shape)
    return (over_the_whole_volume(image) + noise).astype(np.float32)


def padded(image):
    whole = over_the_whole_volume(image)
    return np.pad(whole[2:-2, 2:-2, 2:-2], 2).astype(np.float32)


def turned_into_zeros(image):
    """As a registration leaves it that filled the corners of a turned volume with 0."""
    whole = over_the_whole_volume(image)
    x, y = np.indices(image.shape[:2])
    whole[(x + y < 8) | (x + y > sum(image.shape[:2]) - 10)] = 0
    return whole


ALIKE = {
    "z-scored over the whole volume": over_the_whole_volume,
    "-1 outside": lambda image: np.where(image == 0, -1, image).astype(np.float32),
    "moved so that brain is 0": lambda image: (image - 300).astype(np.int16),
    "moved up": lambda image: (image + 1000).astype(np.int16),
    "unsigned, moved": lambda image: (image + 7).astype(np.uint16),
    "scaled": lambda image: (0.01 * image).astype(np.float32),
    "scaled and moved": lambda image: 3e-5 * image.astype(float) - 0.7,
    "rounding noise": with_noise,
    "padded with another value": padded,
    "turned, corners filled with 0": turned_into_zeros,
}


@pytest.mark.parametrize("name", ALIKE)
def test_the_normalised_image_is_that_of_the_image_with_zeros_outside(name):
    image = head()
    changed = ALIKE[name](image)
    found = find_background(changed).removed_from(changed)
    expected, result = zscore(image[None])[0], zscore(found[None])[0]
    assert ((result != 0) == (image != 0)).all()
    assert np.allclose(result, expected, rtol=1e-3, atol=1e-3), "float16 keeps no more"


@pytest.mark.parametrize(
    "image",
    [
        head(),
        head()[12:-12, 10:-10, 8:-8],
        head().astype(np.float32),
        over_the_whole_volume(head()) * (head() != 0),
        np.random.default_rng(0).integers(1, 400, SHAPE).astype(np.int16),
        np.random.default_rng(0).normal(0, 1, SHAPE),
    ],
    ids=["whole", "cut", "float", "z-scored in the brain", "no background", "noise"],
)
def test_an_image_with_zeros_outside_or_nothing_outside_is_not_touched(image):
    assert find_background(image).removed_from(image) is image


def test_zeros_outside_with_noise_of_interpolation_are_background():
    noise = np.random.default_rng(1).normal(0, 1e-6, SHAPE)
    image = np.where(head() == 0, noise, head()).astype(np.float32)
    found = find_background(image)
    assert not found.is_zero and ((found.removed_from(image) != 0) == (head() != 0)).all()


def test_a_large_volume_is_sampled_and_its_border_is_not():
    assert sample(np.zeros((240, 240, 155))).shape == (60, 60, 78)
    image = np.full((130, 130, 70), -1.0, np.float32)
    image[33:100:3, 40:90, 20:50] = np.random.default_rng(0).normal(0, 1, (23, 50, 30))
    found = find_background(image)
    assert found.values == (-1.0,)
    assert (found.brain(image) == (image != -1)).all()


def write_heads(folder, change=lambda image: image, *, case_id="X", label=True):
    """A case of four ellipsoids with a tumour, each image changed."""
    target = write_case(folder, case_id, shape=SHAPE, label=label)
    for seed, name in enumerate(IMAGES):
        edit(target, name, lambda _, seed=seed: change(head(seed)))
    return target


def edit(target, name, change):
    path = target / f"{target.name}_{name}.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(change(np.asanyarray(image.dataobj)), image.affine), path)


@pytest.mark.parametrize("name", ["z-scored over the whole volume", "-1 outside"])
def test_the_cache_of_such_a_case_is_that_of_the_original_and_says_so(tmp_path, name):
    write_heads(tmp_path / "data")
    write_heads(tmp_path / "other", ALIKE[name])
    (original,) = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())
    (other,) = prepare_cases(find_cases(tmp_path / "other"), tmp_path / "cache2", DataConfig())
    assert other.offset == original.offset and other.shape == original.shape
    assert np.allclose(other.image(), original.image(), atol=2e-3)
    for kind in ("brain", "tumour"):
        assert (other.voxels(kind) == original.voxels(kind)).all()
    assert original.findings == ()
    assert [finding.kind for finding in other.findings] == ["background not 0"]


def findings_of(folder):
    (checked,) = check(folder)
    return {(finding.severity, finding.kind): finding.text for finding in checked.findings}


def test_a_background_that_is_not_zero_is_information_with_its_values(tmp_path):
    write_heads(tmp_path, lambda image: (image - 300).astype(np.int16))
    findings = findings_of(tmp_path)
    assert list(findings) == [(INFORMATION, "background not 0")]
    assert "T1 -300, T1ce -300, T2 -300, FLAIR -300" in findings[INFORMATION, "background not 0"]


def test_tumour_outside_the_brain_is_seen_whatever_lies_outside(tmp_path):
    target = write_heads(tmp_path, over_the_whole_volume)

    def at_the_corner(label):
        label = label.copy()
        label[0, 0, :5] = 2
        return label

    edit(target, "seg", at_the_corner)
    assert "5 tumour voxels" in findings_of(tmp_path)[WARNING, "tumour outside brain"]


def copy_of(source, change=lambda image: image):
    """An edit that puts a copy of one image of the case into another's place."""

    def spoil(target, name):
        image = np.asanyarray(nibabel.load(target / f"X_{source}.nii.gz").dataobj)
        edit(target, name, lambda _: change(image))

    return spoil


def replaced(change):
    return lambda target, name: edit(target, name, change)


def one_voxel(image):
    out = np.zeros_like(image)
    out[20, 20, 20] = 300
    return out


def one_slice(image):
    out = np.zeros_like(image)
    out[:, :, 16] = image[:, :, 16]
    return out


def blurred_mask(image):
    mask = (image > 0).astype(np.float32)
    weights = (0.5, 0.2, 0.17, 0.13)
    return sum(weight * np.roll(mask, n, n % 3) for n, weight in enumerate(weights))


def noise_outside(image):
    noise = np.random.default_rng(2).integers(1, 40, SHAPE)
    return np.where(image == 0, noise, image).astype(np.int16)


SAME, NONE, ELSEWHERE = "same image", "not an image", "brain elsewhere"
FAULTS = {
    "constant": (replaced(lambda image: np.full_like(image, 7)), ERROR, NONE, "every voxel is 7"),
    "one voxel": (replaced(one_voxel), ERROR, NONE, "its values are 0, 300"),
    "mask": (replaced(lambda image: (image > 0).astype(np.uint8)), ERROR, NONE, "is a mask"),
    "blurred mask": (replaced(blurred_mask), ERROR, NONE, "mask or saturated"),
    "moved mask": (replaced(lambda i: (i > 0) * 2.5 - 1), ERROR, NONE, "its values are -1, 1.5"),
    "segmentation": (copy_of("seg"), ERROR, NONE, "is the segmentation"),
    "copy": (copy_of("t1"), ERROR, SAME, "are one image, voxel by voxel"),
    "float copy": (copy_of("t1", lambda i: i.astype(np.float32)), ERROR, SAME, "are one image"),
    "scaled": (copy_of("t1", lambda i: i * 0.37), WARNING, SAME, "brightness and contrast"),
    "rounded": (copy_of("t1", lambda i: i // 2), WARNING, SAME, "brightness and contrast"),
    "inverted": (copy_of("t1", lambda i: np.where(i, 999 - i, 0)), WARNING, SAME, "contrast"),
    "one slice": (replaced(one_slice), WARNING, ELSEWHERE, "X_t1ce.nii.gz (T1ce)"),
    "not stripped": (replaced(noise_outside), WARNING, "no background", "T1ce 100 %"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_no_image_of_its_own_is_found_and_errors_are_refused(tmp_path, name):
    spoil, severity, kind, text = FAULTS[name]
    target = write_heads(tmp_path)
    spoil(target, "t1ce")
    findings = findings_of(tmp_path)
    assert text in findings[severity, kind], findings
    errors = {kind for severity, kind in findings if severity == ERROR}
    assert errors == ({kind} if severity == ERROR else set())
    (case,) = find_cases(tmp_path)
    if errors:
        with pytest.raises(Exception, match="X_t1ce"):
            read_scan(case)
    else:
        to_working_grid(read_scan(case), 1.0)


def test_a_moved_copy_is_the_same_image(tmp_path):
    target = write_heads(tmp_path)
    copy_of("t1", lambda image: image + 50)(target, "t1ce")
    assert (ERROR, SAME) in findings_of(tmp_path), "the background is taken off before"


def test_a_grid_that_no_head_needs_is_an_error_before_its_memory_is_asked_for(tmp_path):
    for name, mm in (("microns", 1000.0), ("metres", 0.001)):
        write_case(tmp_path / name, "X", shape=SHAPE, affine=np.diag([mm, mm, mm, 1]))
        (checked,) = check(tmp_path / name)
        assert would_fail([checked])
        assert any("which is no head" in f.text for f in checked.findings)


def test_many_cases_with_one_thing_to_say_are_one_line(tmp_path):
    for number in range(5):
        write_heads(tmp_path, over_the_whole_volume, case_id=f"X{number}")
    cases = [read_scan(case) for case in find_cases(tmp_path)]
    (line,) = summarised([scan.findings for scan in cases])
    assert line.startswith("background not 0 in 5 of 5 cases, as X0: the background is not 0")
