"""Every study in search_spaces/: it holds in every preset, its arms differ, a script runs it."""

import ast
import importlib
from math import prod
from pathlib import Path

import pytest
import torch

from segmamba.config import PRESETS, Config, preset
from segmamba.errors import UserError
from segmamba.models import build_model, side_multiples
from segmamba.models.segmamba import check_sides
from segmamba.studies.spec import ALL_ARMS, resolve

ROOT = Path(__file__).parents[2]
STUDIES = sorted(
    path.stem
    for path in (ROOT / "search_spaces").glob("*.py")
    if path.stem not in ("__init__", "ensemble", "ablate_inference", "evidence")
)


def study(name, preset_name, chosen=None):
    base = preset(preset_name).changed(chosen or {})
    return resolve(importlib.import_module(f"search_spaces.{name}").STUDY, base), base


RECIPES_OWN = {"ablate_architecture", "ablate_augmentation", "ablate_recipe", "ablate_learning"}
"""Studies with an arm whose change the preset `strong` has already."""
AS_AUTHORS_BUILD = {"compare_baselines", "compare_mamba"}
"""Studies with networks that take no part of `strong` which is the network's."""


@pytest.mark.parametrize(
    ("preset_name", "name"),
    [
        (preset_name, name)
        for preset_name in PRESETS
        for name in STUDIES
        if preset_name != "strong" or name not in RECIPES_OWN | AS_AUTHORS_BUILD
    ],
)
def test_every_arm_is_a_valid_configuration_of_its_own_that_can_be_built_or_lacks_a_package(
    preset_name, name
):
    spec, base = study(name, preset_name)
    assert spec.name == name
    configs = spec.configs(base, {})
    for arm, config in configs.items():
        try:
            check_sides(config.data.patch_size, side_multiples(config.model))
        except UserError as error:
            assert "pip install" in str(error), arm  # the arm is infeasible where it is missing
    claimed = {arm for claim in spec.claims for arm in claim.arms}
    assert claimed <= set(spec.arms)


@pytest.mark.parametrize("name", sorted(RECIPES_OWN | AS_AUTHORS_BUILD))
def test_a_study_that_cannot_start_from_the_strong_recipe_says_so_in_one_line(name):
    spec, base = study(name, "strong")
    same, own = r"the arms .* and .* would be the same$", "has no effect on .*, which is built as"
    with pytest.raises(UserError, match=same if name in RECIPES_OWN else own):
        spec.configs(base, {})


@pytest.mark.parametrize("name", STUDIES)
def test_the_demos_arms_can_answer_something(name):
    spec, _ = study(name, "demo")
    core, everything = spec.only((), "demo"), spec.only((ALL_ARMS,), "demo")
    assert everything is spec and spec.only((), "paper") is spec
    assert core.hypothesis.contrasts
    if spec.demo:
        assert core is spec.demo and "--arms all" in " ".join(core.notes)
        return
    assert set(core.arms) == (set(spec.demo_arms) or set(spec.arms))
    assert len(core.arms) == len(spec.arms) or "--arms all runs them" in " ".join(core.notes)


@pytest.mark.parametrize("name", STUDIES)
def test_its_script_is_a_dozen_lines_about_its_file(name):
    source = (ROOT / "experiments" / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 14
    assert f"from search_spaces.{name} import STUDY" in source
    assert f"experiments/{name}.py" in ast.get_docstring(ast.parse(source))


def test_every_depth_stands_against_a_control_of_its_own_size():
    spec, base = study("ablate_depth", "demo")
    configs = spec.configs(base, {})
    sizes = {
        arm: sum(p.numel() for p in build_model(c.model).parameters()) for arm, c in configs.items()
    }
    assert len(spec.hypothesis.contrasts) == 6
    for pair in spec.hypothesis.contrasts:
        assert configs[pair.versus].model.name == "control" and sizes[pair.arm] == pytest.approx(
            sizes[pair.versus], rel=0.02
        )


@pytest.mark.parametrize("preset_name", ["demo", "paper"])
def test_every_mixer_and_path_stands_against_a_convolution_and_nothing_of_its_own_size(preset_name):
    spec, base = study("ablate_mixer", preset_name)
    with torch.device("meta"):
        sizes = {
            arm: sum(p.numel() for p in build_model(c.model).parameters())
            for arm, c in spec.configs(base, {}).items()
        }
    assert all(size == pytest.approx(sizes["Mamba"], rel=0.02) for size in sizes.values()), sizes
    assert {pair.versus for pair in spec.hypothesis.contrasts} == {"conv"}


def test_mixers_of_a_network_without_mamba_blocks_are_refused_as_one():
    chosen = {"model.name": "unet"}
    spec, base = study("ablate_mixer", "demo", chosen)
    with pytest.raises(UserError, match=r"unet has no Mamba blocks, so the arms .* the same"):
        spec.configs(base, chosen)


@pytest.mark.parametrize("preset_name", ["demo", "paper"])
def test_patches_share_steps_or_voxels_and_the_overlap_in_voxels(preset_name):
    spec, base = study("ablate_patch_size", preset_name)
    configs = spec.configs(base, {})
    flat, cube, as_many = (configs[arm] for arm in list(spec.arms)[:3])
    seen = {
        name: prod(c.data.patch_size) * c.train.steps_per_epoch
        for name, c in (("flat", flat), ("as many", as_many))
    }
    assert flat.train.steps_per_epoch == cube.train.steps_per_epoch and seen[
        "as many"
    ] == pytest.approx(seen["flat"], rel=0.02)
    assert as_many.data.patch_size == cube.data.patch_size
    patches = [(c.inference, c.data.patch_size) for c in configs.values()]
    voxels = [
        [o * side for o, side in zip(inference.overlaps(patch), patch, strict=True)]
        for inference, patch in patches
    ]
    assert voxels == [pytest.approx([16 if preset_name == "demo" else 32] * 3)] * len(configs)
    assert (
        {"128x128x64", "96x96x96"} <= set(spec.arms)
        if preset_name == "paper"
        else {"64x64x32", "48x48x48"} <= set(spec.arms)
    )


def test_as_many_voxels_follows_the_steps_that_are_set_and_says_where_a_whole_number_is_off():
    chosen = {"train.steps_per_epoch": 100}
    spec, base = study("ablate_patch_size", "demo", chosen)
    steps = {
        arm: config.train.steps_per_epoch for arm, config in spec.configs(base, chosen).items()
    }
    assert steps.pop("48x48x48, as many voxels") == 119 and set(steps.values()) == {100}
    assert spec.plain(base).notes == spec.notes
    chosen = {"train.steps_per_epoch": 4}
    spec, base = study("ablate_patch_size", "demo", chosen)
    assert spec.plain(base).notes[-1] == (
        "48x48x48, as many voxels: train.steps_per_epoch is 5, a whole number: "
        "5.5% more than 1.185 times 4"
    )
    chosen = {"train.steps_per_epoch": 2}
    spec, base = study("ablate_patch_size", "demo", chosen)
    with pytest.raises(
        UserError,
        match=r"48x48x48, as many voxels.* would be the same; set train\.steps_per_epoch higher",
    ):
        spec.configs(base, chosen)


def test_the_doubled_batch_is_twice_the_batch_that_is_set():
    chosen = {"train.batch_size": 3}
    spec, base = study("ablate_architecture", "quick", chosen)
    batches = {arm: config.train.batch_size for arm, config in spec.configs(base, chosen).items()}
    assert (
        batches["batch norm, batch x2"] == batches["instance norm, batch x2"] == 6
        and batches["default"] == batches["instance norm"] == 3
    )
    assert spec.plain(base).arms["batch norm, batch x2"] == {"train.batch_size": 6}, (
        "what MLflow and --resume see"
    )


def test_patch_centres_do_not_depend_on_the_patch_size():
    import numpy as np

    from segmamba.data.sampling import PatchId, draw

    class Case:
        shape = (64, 64, 48)

        def voxels(self, kind):
            return np.arange(1000)

    spec, base = study("ablate_patch_size", "demo")
    drawn = [
        [
            draw(
                [Case(), Case()],
                PatchId(0, 1, i, c.train.steps_per_epoch * c.train.batch_size),
                c.data.tumour_centre_share,
            ).centre
            for i in range(10)
        ]
        for c in list(spec.configs(base, {}).values())[:2]
    ]
    assert drawn[0] == drawn[1]


def test_loss_ratios_keep_the_sum_but_for_the_doubled_one():
    spec, base = study("ablate_loss_weights", "paper")
    sums = {arm: c.loss.dice_weight + c.loss.ce_weight for arm, c in spec.configs(base, {}).items()}
    assert sums.pop("1:1 doubled") == pytest.approx(4)
    assert set(sums.values()) == {2.0}


def test_leaving_out_each_transform_leaves_out_all_of_them_together():
    spec, _ = study("ablate_augmentation", "paper")
    single = {
        name: value
        for arm, changes in spec.arms.items()
        if arm.startswith("without ")
        for name, value in changes.items()
    }
    assert single == spec.arms["none"]
    off = Config().changed(spec.arms["none"]).augment
    assert (
        off.flip_probability,
        off.rotate90_probability,
        off.scale_range,
        off.brightness,
        off.contrast_range,
    ) == (0, 0, (1, 1), 0, (1, 1))


def test_the_learning_curve_starts_from_weights_where_they_are_given_and_only_there():
    spec, base = study("learning_curve", "demo")
    assert set(spec.arms) == {"a third", "two thirds", "all"} and not spec.secondary
    chosen = {"learning.initial_weights": "/runs/best.pth"}
    spec, base = study("learning_curve", "demo", chosen)
    starts = {
        arm: (config.learning.training_share, config.learning.initial_weights)
        for arm, config in spec.configs(base, chosen).items()
    }
    scratch = {arm: share for arm, (share, weights) in starts.items() if not weights}
    tuned = {arm: share for arm, (share, weights) in starts.items() if weights}
    assert scratch == {"a third": 1 / 3, "two thirds": 2 / 3, "all": 1.0}
    assert tuned == {f"{arm}, fine-tuned": share for arm, share in scratch.items()}
    with pytest.raises(UserError, match=r"--set learning\.training_share: .* varies this setting"):
        spec.configs(base, {"learning.training_share": 0.5})
