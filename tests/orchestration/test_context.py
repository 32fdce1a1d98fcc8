"""Where the trials of a study keep their files."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segmamba.errors import UserError
from segmamba.orchestration.engine.context import StudyContext, arm_folder_name, trial_folder
from segmamba.studies.spec import TrialPlan
from tests.tiny import TINY

STUDY = Path("study")


def folders(*arms):
    return [trial_folder(STUDY, TrialPlan(arm=arm, seed=0)) for arm in arms]


def test_arms_that_differ_only_in_space_dash_or_slash_have_folders_of_their_own():
    assert len(set(folders("a b", "a-b", "a/b"))) == 3


@pytest.mark.parametrize(
    ("arm", "name"),
    [
        ("depth 2", "depth-2_seed0"),
        ("1:1 doubled", "1:1-doubled_seed0"),
        ("without 90° turns", "without-90°-turns_seed0"),
        ("all and the field's", "all-and-the-field's_seed0"),
        ("SegResNet (MONAI)", "SegResNet-(MONAI)_seed0"),
        ("48x48x48, as many voxels", "48x48x48,-as-many-voxels_seed0"),
    ],
)
def test_a_plain_name_is_its_folder_with_dashes_for_spaces(arm, name):
    assert folders(arm) == [STUDY / "trials" / name]


@pytest.mark.parametrize(
    "arm", ["", ".", "..", "../../x", "/", "~", " ", "-x", ".x", "é" * 300, "x" * 300, "a\0b\nc"]
)
def test_any_name_gives_one_visible_folder_below_trials(arm):
    (folder,) = folders(arm)
    assert folder.parent == STUDY / "trials"
    assert len(folder.name.encode()) < 128
    assert not folder.name.startswith((".", "-"))
    assert folder.name.isprintable()


def test_names_that_look_like_seeds_and_folds_are_kept_apart():
    plans = [
        TrialPlan(arm="a", seed=0, fold=1),
        TrialPlan(arm="a_seed0_fold1", seed=0),
        TrialPlan(arm="a_seed0", seed=0, fold=1),
        TrialPlan(arm="a_seed0", seed=0),
    ]
    assert len({trial_folder(STUDY, plan) for plan in plans}) == len(plans)


LETTERS = st.sampled_from("aA -/.~_:é'" + string.digits[:2])


@given(st.lists(st.text(LETTERS, max_size=8), unique=True, max_size=20))
def test_different_arms_never_share_a_folder(arms):
    assert len({arm_folder_name(arm) for arm in arms}) == len(arms)


def test_arms_that_differ_only_in_capitals_are_refused():
    with pytest.raises(UserError, match="'Depth 2' and 'depth 2' differ only in capital letters"):
        StudyContext({"Depth 2": TINY, "depth 2": TINY}, {}, STUDY, None, {}, 1, "auto", "Depth 2")


class Divided:
    """Stands for PreparedData: its split is the configuration that it is asked for."""

    def split(self, config):
        return config


def test_each_seed_divides_the_patients_anew_the_same_for_all_arms():
    varied = TINY.changed({"data.split_by_seed": True, "data.split_seed": 7})
    configs = {"a": varied, "b": varied.changed({"optim.lr": 0.5})}
    context = StudyContext(
        configs, {None: ({}, "of seed 0")}, STUDY, None, {}, 1, "never", "a", data=Divided()
    )
    seeds = {
        arm: [context.split(TrialPlan(arm=arm, seed=seed)).split_seed for seed in range(3)]
        for arm in configs
    }
    assert seeds["a"] == seeds["b"] == [7 + TINY.seed + seed for seed in range(3)]
    fixed = StudyContext(configs, {None: ({}, "one")}, STUDY, None, {}, 1, "never", "a")
    assert {fixed.split(TrialPlan(arm="a", seed=seed)) for seed in range(3)} == {"one"}
