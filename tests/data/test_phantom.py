import functools
import json

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from segmamba.data import phantom
from segmamba.data.cases import find_cases
from segmamba.data.labels import MODALITIES
from segmamba.data.phantom import make_case, spacing_mm_for, write_phantom
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError

SMALL = (48, 48, 48)
DEMO = (64, 64, 48)
MANY = range(24)


@functools.cache
def case(index, size=SMALL, seed=0):
    return make_case(seed, index, size)


@pytest.fixture
def folder(tmp_path):
    return write_phantom(tmp_path / "phantom", cases=2, size=SMALL, seed=3)


def test_the_same_seed_and_index_give_the_same_voxels():
    images, label, affine = make_case(5, 2, SMALL)
    again, label_again, affine_again = make_case(5, 2, SMALL)
    assert all(np.array_equal(images[m], again[m]) for m in MODALITIES)
    assert np.array_equal(label, label_again) and np.array_equal(affine, affine_again)


@pytest.mark.parametrize(("seed", "index"), [(5, 3), (6, 2)])
def test_another_index_or_seed_is_another_patient(seed, index):
    images, label, _ = make_case(seed, index, SMALL)
    other, other_label, _ = make_case(5, 2, SMALL)
    assert not np.array_equal(label, other_label)
    assert not any(np.array_equal(images[m], other[m]) for m in MODALITIES)


def test_a_patient_is_the_same_at_any_voxel_size():
    fine, coarse = case(4, (96, 96, 72))[1], case(4, SMALL)[1]
    assert spacing_mm_for((96, 96, 72)) == 2 and spacing_mm_for(SMALL) == 4
    block_tumour_share = (fine > 0).reshape(48, 2, 48, 2, 36, 2).mean(axis=(1, 3, 5))
    tumour = coarse[:, :, 6:42] > 0  # 36 slices of 4 mm hold the head box
    expected = block_tumour_share >= 0.5
    assert 2 * (tumour & expected).sum() / (tumour.sum() + expected.sum()) > 0.8


def test_arrays_have_brats_types_and_labels():
    images, label, affine = case(0)
    assert tuple(images) == MODALITIES
    assert all(image.shape == SMALL and image.dtype == np.int16 for image in images.values())
    assert (
        label.shape == SMALL and label.dtype == np.uint8 and set(np.unique(label)) == {0, 1, 2, 4}
    )
    assert np.array_equal(affine, [[-4, 0, 0, 0], [0, -4, 0, 4 * 47], [0, 0, 4, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("index", range(6))
def test_background_is_zero_in_all_modalities_and_brain_in_none(index):
    images, label, _ = case(index)
    brain = images["T1"] > 0
    assert all(np.array_equal(image != 0, brain) and image.min() == 0 for image in images.values())
    assert 1.0e6 < np.count_nonzero(brain) * 4**3 < 2.0e6  # mm^3
    assert not label[~brain].any()
    faces = [brain[0], brain[-1], brain[:, 0], brain[:, -1], brain[:, :, -1]]
    assert not any(face.any() for face in faces)  # nothing but the brain stem leaves the volume


def test_ncr_and_et_lie_inside_the_oedema_of_one_tumour():
    for index in range(6):
        label = case(index)[1]
        pieces, _ = ndimage.label(label > 0)
        with_core = set(np.unique(pieces[(label == 1) | (label == 4)]))
        assert with_core == set(range(1, pieces.max() + 1))  # no oedema without a core
        core = (label == 1) | (label == 4)
        surface = ndimage.binary_dilation(core) & ~core & (case(index)[0]["T1"] > 0)
        assert (label[surface] == 2).mean() > 0.6


def test_the_rim_encloses_the_necrosis_two_voxels_thick():
    label = case(4, DEMO)[1]
    outside = ~np.isin(label, (1, 4))
    from_outside = ndimage.distance_transform_edt(~outside)
    assert np.median(from_outside[label == 1]) > np.median(from_outside[label == 4])
    assert from_outside[label == 1].mean() > 2


def test_tumours_are_large_enough_to_learn_on_the_demo_grid():
    volumes_mm3 = np.array(
        [
            [np.isin(case(i, DEMO)[1], values).sum() * 27 for values in ((1, 4), (1, 2, 4))]
            for i in range(8)
        ]
    )
    diameters_mm = np.cbrt(volumes_mm3 * 6 / np.pi)  # of spheres of that volume
    core_mm, whole_mm = np.median(diameters_mm, axis=0)
    assert 20 < core_mm < 45 and 40 < whole_mm < 75


def test_a_minority_of_tumours_does_not_enhance():
    without_et = [not (case(i)[1] == 4).any() for i in MANY]
    assert 0.02 <= np.mean(without_et) <= 0.35
    assert all((case(i)[1] == 1).any() for i in MANY if without_et[i])


def test_some_tumours_are_multifocal():
    cores = [ndimage.label(np.isin(case(i)[1], (1, 4)), np.ones((3, 3, 3)))[1] for i in MANY]
    assert 0.05 <= np.mean(np.array(cores) > 1) <= 0.5


def test_intensities_of_tumour_and_normal_tissue_overlap():
    images, label, _ = case(1, DEMO)
    brain = images["T1"] > 0
    for values, modality in (((4,), "T1ce"), ((2,), "FLAIR"), ((1,), "T2")):
        typical = np.median(images[modality][np.isin(label, values)])
        normal = images[modality][brain & (label == 0)]
        assert np.count_nonzero(normal > typical) > 0.2 * np.isin(label, values).sum()


def test_files_are_brats_cases_that_the_reader_takes(folder):
    assert sorted(p.name for p in folder.iterdir()) == [
        "Phantom_000",
        "Phantom_001",
        "phantom.json",
    ]
    names = {f"Phantom_001_{suffix}.nii.gz" for suffix in ("t1", "t1ce", "t2", "flair", "seg")}
    assert {p.name for p in (folder / "Phantom_001").iterdir()} == names
    images, label, affine = make_case(3, 1, SMALL)
    for suffix, array in {"t1ce": images["T1ce"], "seg": label}.items():
        nifti = nibabel.load(folder / "Phantom_001" / f"Phantom_001_{suffix}.nii.gz")
        assert (
            nifti.get_data_dtype() == array.dtype
            and np.array_equal(nifti.dataobj, array)
            and np.array_equal(nifti.affine, affine)
        )
    first, second = find_cases(folder)
    assert (first.id, second.patient, second.convention) == (
        "Phantom_000",
        "Phantom_001",
        "brats2018",
    )
    assert read_scan(second).spacing_mm == (4, 4, 4)


def test_a_killed_call_is_continued_without_touching_finished_cases(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed_at_the_second_case(seed, index, size, kind):
        if index == 1:
            raise Killed
        return make_case(seed, index, size, kind)

    arguments = {"cases": 2, "size": SMALL, "seed": 3}
    monkeypatch.setattr(phantom, "make_case", killed_at_the_second_case)
    with pytest.raises(Killed):
        write_phantom(tmp_path / "p", **arguments)
    assert not (tmp_path / "p" / "phantom.json").exists()
    before = (tmp_path / "p" / "Phantom_000").stat().st_mtime_ns

    monkeypatch.setattr(phantom, "make_case", make_case)
    steps = []
    write_phantom(
        tmp_path / "p", **arguments, progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(1, 2), (2, 2)]
    assert (tmp_path / "p" / "Phantom_000").stat().st_mtime_ns == before
    assert len(find_cases(tmp_path / "p")) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_cases_made_at_once_are_those_made_one_by_one(tmp_path, monkeypatch):
    together = write_phantom(tmp_path / "together", cases=4, size=SMALL, seed=3)
    monkeypatch.setattr(phantom, "MOST_AT_ONCE", 1)
    alone = write_phantom(tmp_path / "alone", cases=4, size=SMALL, seed=3)
    files = sorted(path.relative_to(alone) for path in alone.rglob("*.nii.gz"))
    assert len(files) == 20
    assert all(
        np.array_equal(nibabel.load(alone / f).dataobj, nibabel.load(together / f).dataobj)
        for f in files
    )


def test_an_interrupt_ends_the_making_and_leaves_whole_cases_only(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom, "MOST_AT_ONCE", 1)

    def interrupted(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "p", cases=12, size=SMALL, seed=3, progress=interrupted)
    made = list((tmp_path / "p").glob("Phantom_*"))
    assert len(made) < 12 and all(len(list(case.iterdir())) == 5 for case in made)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert len(find_cases(write_phantom(tmp_path / "p", cases=12, size=SMALL, seed=3))) == 12


def test_a_case_whose_writing_failed_is_not_there_at_all(tmp_path, monkeypatch):
    save = nibabel.save

    def disk_full_at_the_label(nifti, path):
        if "_seg" in path.name:
            raise OSError("no space left on device")
        save(nifti, path)

    monkeypatch.setattr(nibabel, "save", disk_full_at_the_label)
    with pytest.raises(OSError, match="no space"):
        write_phantom(tmp_path / "p", cases=1, size=SMALL, seed=3)
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_a_complete_folder_is_returned_at_once(folder, monkeypatch):
    monkeypatch.setattr(phantom, "make_case", None)
    assert write_phantom(folder, cases=2, size=list(SMALL), seed=3) == folder


@pytest.mark.parametrize("change", [{"seed": 4}, {"cases": 3}, {"size": DEMO}])
def test_a_folder_of_other_parameters_is_refused(folder, change):
    with pytest.raises(UserError, match="other folder"):
        write_phantom(folder, **{"cases": 2, "size": SMALL, "seed": 3} | change)


def test_a_folder_of_an_older_generator_is_refused(folder):
    note = json.loads((folder / "phantom.json").read_text())
    (folder / "phantom.json").write_text(json.dumps(note | {"generator": 0}))
    with pytest.raises(UserError, match="'generator': 0"):
        write_phantom(folder, cases=2, size=SMALL, seed=3)


@pytest.mark.parametrize(
    ("size", "spacing_mm"),
    [
        ((64, 64, 48), 3.0),
        ((240, 240, 155), 1.0),
        ((48, 48, 48), 4.0),
        ((128, 128, 96), 1.5),
        ((240, 240, 64), 2.3),
    ],
)
def test_voxel_size_follows_from_the_size(size, spacing_mm):
    assert spacing_mm_for(size) == spacing_mm


@pytest.mark.parametrize("size", [(48, 80, 64), (100, 48, 155), (61, 53, 49)])
def test_an_asymmetric_size_holds_the_whole_brain(size):
    images, label, affine = make_case(0, 0, size)
    spacing_mm = affine[2, 2]
    assert label.shape == images["FLAIR"].shape == size
    assert np.count_nonzero(images["T1"]) * spacing_mm**3 == pytest.approx(
        np.count_nonzero(case(0)[0]["T1"]) * 4**3, rel=0.05
    )


@pytest.mark.parametrize("size", [(47, 64, 64), (241, 240, 155), (240, 240, 156), (64, 64)])
def test_a_size_out_of_bounds_is_refused(size, tmp_path):
    with pytest.raises(UserError, match=r"phantom\.size"):
        write_phantom(tmp_path / "p", cases=2, size=size, seed=0)
    assert not (tmp_path / "p").exists()


def test_without_nilearn_the_error_names_the_package(monkeypatch):
    from segmamba.data import phantom_head

    phantom_head.templates.cache_clear()
    monkeypatch.setattr(phantom_head.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install nilearn"):
        make_case(0, 0, SMALL)
