from dataclasses import dataclass

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmamba.config import DataConfig
from segmamba.data import loader
from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.sampling import PatchId, draw, draw_anywhere, patch_slices
from tests.conftest import BRATS_AFFINE, write_case
from tests.tiny import TINY

CONFIG = TINY.changed(
    {"data.patch_size": (32, 32, 16), "train.steps_per_epoch": 6, "train.epochs": 4}
)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Three prepared cases; nothing here changes them."""
    folder = tmp_path_factory.mktemp("sampling")
    for number in range(3):
        write_case(folder / "data", f"BraTS20_Training_{number:03d}", seed=number)
    return prepare_cases(find_cases(folder / "data"), folder / "cache", CONFIG.data)


def draws_of_epoch(cases, seed, epoch, count, share=0.5, **options):
    """All `count` draws of an epoch."""
    return [draw(cases, PatchId(seed, epoch, i, count), share, **options) for i in range(count)]


def test_a_draw_depends_on_nothing_but_seed_epoch_and_index(cases):
    first = draws_of_epoch(cases, 3, 2, 12)
    assert first == [draw(cases, PatchId(3, 2, i, 12), 0.5) for i in reversed(range(12))][::-1]
    assert first != draws_of_epoch(cases, 4, 2, 12)
    assert first != draws_of_epoch(cases, 3, 3, 12)


def test_one_case_gives_other_patches_in_every_epoch_at_every_index_and_for_every_seed(cases):
    places = [(0, 1, 0), (1, 1, 0), (0, 2, 0), (0, 1, 1)]
    centres = {draw(cases[:1], PatchId(*place, 12), 0.5).centre for place in places}
    assert len(centres) == len(places)


def test_passes_go_on_where_an_epoch_ends_and_each_has_an_order_of_its_own(cases):
    passes = []
    for seed in range(5):
        order = [d.case for epoch in (1, 2, 3) for d in draws_of_epoch(cases, seed, epoch, 4)]
        passes += [tuple(order[start : start + 3]) for start in (0, 3, 6, 9)]
    assert all(sorted(p) == [0, 1, 2] for p in passes) and len(set(passes)) > 3


def test_a_case_without_tumour_gives_brain_voxels(tmp_path):
    path = write_case(tmp_path / "data", "X") / "X_seg.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((48, 48, 32), np.uint8), BRATS_AFFINE), path)
    (healthy,) = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())
    draws = [
        draw([healthy], PatchId(0, 1, i, 50), 1.0, balance_classes=balance)
        for i in range(50)
        for balance in (False, True)
    ]
    assert not any(d.on_tumour for d in draws) and all(
        healthy.image()[(0, *d.centre)] != 0 for d in draws
    )


@dataclass(frozen=True)
class InMemory:
    """What `draw` needs of a case."""

    label: np.ndarray

    @property
    def shape(self):
        return self.label.shape

    @property
    def classes(self):
        return tuple(c for c in (1, 2, 3) if (self.label == c).any())

    def voxels(self, kind):
        chosen = {"tumour": self.label > 0, "brain": self.label == 0} | {
            f"class{c}": self.label == c for c in (1, 2, 3)
        }
        return np.flatnonzero(chosen[kind])


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    epoch=st.integers(1, 10_000),
    index=st.integers(0, 11),
    share=st.floats(0, 1),
    balance=st.booleans(),
    sides=st.tuples(*[st.integers(3, 20)] * 3),
    classes=st.sets(st.integers(1, 3)),
)
def test_whatever_is_drawn_is_a_voxel_of_its_kind_and_the_same_again(
    seed, epoch, index, share, balance, sides, classes
):
    label = np.zeros(sides, np.uint8)
    label.ravel()[: len(classes)] = sorted(classes)
    cases = [InMemory(np.roll(label, shift)) for shift in range(3)]
    patch = PatchId(seed, epoch, index, 12)
    drawn = draw(cases, patch, share, balance_classes=balance)
    assert drawn == draw(cases, patch, share, balance_classes=balance)
    assert (
        cases[drawn.case].label[drawn.centre] > 0
    ) == drawn.on_tumour and drawn.on_tumour <= bool(classes)


def test_every_case_is_seen_equally_often(cases):
    seen = [d.case for epoch in (1, 2) for d in draws_of_epoch(cases, 0, epoch, 12)]
    assert sorted(seen) == [0] * 8 + [1] * 8 + [2] * 8


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_tumour_centres_is_the_configured_one(cases, share):
    draws = draws_of_epoch(cases, 0, 1, 1000, share)
    assert abs(np.mean([d.on_tumour for d in draws]) - share) < 0.05
    for d in draws[:50]:
        assert (cases[d.case].label()[d.centre] > 0) == d.on_tumour


def test_balanced_classes_are_drawn_alike_however_small_and_the_share_of_tumour_centres_stays(
    cases,
):
    plain = draws_of_epoch(cases, 0, 1, 1000)
    balanced = draws_of_epoch(cases, 0, 1, 1000, balance_classes=True)
    assert [d.on_tumour for d in plain] == [d.on_tumour for d in balanced]
    assert [d.centre for d in plain if not d.on_tumour] == [
        d.centre for d in balanced if not d.on_tumour
    ]
    seen = [
        np.bincount([cases[d.case].label()[d.centre] for d in draws if d.on_tumour], minlength=4)[
            1:
        ]
        / 500
        for draws in (plain, balanced)
    ]
    assert seen[0].min() < 0.15, "the smallest class is rare among all tumour voxels"
    assert np.allclose(seen[1], 1 / 3, atol=0.07)


@given(st.tuples(*[st.integers(1, 80)] * 3), st.tuples(*[st.integers(1, 64)] * 3), st.data())
def test_a_patch_lies_inside_the_volume_and_holds_its_centre(shape, size, data):
    centre = tuple(data.draw(st.integers(0, n - 1)) for n in shape)
    for window, n, s, c in zip(patch_slices(shape, centre, size), shape, size, centre, strict=True):
        assert 0 <= window.start <= c < window.stop and window.stop - window.start == s
        assert window.stop <= max(n, s)


def test_arms_with_other_patch_sizes_share_their_centres(cases, monkeypatch):
    drawn = {}
    for size in ((16, 16, 16), (32, 32, 16)):
        draws = drawn.setdefault(size, [])
        monkeypatch.setattr(
            loader,
            "draw",
            lambda *args, into=draws, **options: into.append(draw(*args, **options)) or into[-1],
        )
        list(
            loader.batches(
                cases, CONFIG.changed({"data.patch_size": size}), first_epoch=4, pin_memory=False
            )
        )
    assert len(drawn[16, 16, 16]) == 12 and drawn[16, 16, 16] == drawn[32, 32, 16]


def test_chances_say_how_often_a_case_is_drawn(cases):
    draws = draws_of_epoch(cases, 0, 1, 600, chances=np.array([0.7, 0.3, 0.0]))
    drawn = [d.case for d in draws]
    assert [drawn.count(c) / 600 for c in range(3)] == pytest.approx([0.7, 0.3, 0.0], abs=0.06)


def test_without_labels_every_place_of_the_patch_is_as_likely(cases, monkeypatch):
    monkeypatch.setattr(
        type(cases[0]), "voxels", lambda *_: pytest.fail("knows where the tumour is")
    )
    size, shape = (32, 32, 16), cases[0].shape
    draws = [
        draw_anywhere(cases, PatchId(0, epoch, i, 300), size)
        for epoch in (1, 2)
        for i in range(300)
    ]
    starts = np.array(
        [
            [side.start for side in patch_slices(shape, d.centre, size)]
            for d in draws
            if cases[d.case].shape == shape
        ]
    )
    room = np.array(shape) - size
    assert (starts.min(0) == 0).all() and (starts.max(0) == room).all()
    assert np.abs(starts.mean(0) - room / 2).max() < 0.15 * room.max()
    assert sorted(d.case for d in draws) == [0] * 200 + [1] * 200 + [2] * 200
    assert draws[:5] == [draw_anywhere(cases, PatchId(0, 1, i, 300), size) for i in range(5)]
    assert not any(d.on_tumour for d in draws)
