import dataclasses
import json

import pytest

from segmamba.config import (
    PRESETS,
    Config,
    field_docs,
    from_flat_dict,
    load_config,
    parse_assignments,
    preset,
)
from segmamba.errors import UserError


def test_the_paper_preset_is_the_documented_table():
    flat = preset("paper").to_flat_dict()
    documented = {
        "model.base_channels": 32,
        "model.conv_depths": (2, 2, 2),
        "model.mamba_depths": (2, 2, 2),
        "model.d_state": 16,
        "model.d_conv": 4,
        "model.expand": 2,
        "model.norm": "batch",
        "data.patch_size": (128, 128, 64),
        "data.spacing_mm": 1.0,
        "data.tumour_centre_share": 0.5,
        "train.batch_size": 2,
        "train.accumulation": 2,
        "train.epochs": 300,
        "train.steps_per_epoch": 250,
        "train.validate_every_epochs": 2,
        "train.early_stop_epochs": 50,
        "train.keep_every_epochs": 10,
        "train.precision": "mixed",
        "optim.lr": 1e-4,
        "optim.min_lr": 1e-6,
        "optim.weight_decay": 1e-2,
        "optim.warmup_epochs": 10,
        "optim.clip_norm": 0.0,
        "loss.dice_weight": 1.0,
        "loss.ce_weight": 1.0,
        "augment.flip_probability": 0.5,
        "augment.rotate90_probability": 0.5,
        "augment.scale_range": (0.9, 1.1),
        "augment.brightness": 0.1,
        "augment.contrast_range": (0.9, 1.1),
    }
    assert {name: flat[name] for name in documented} == documented


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_round_trips_through_flat_dict_and_json(name, tmp_path):
    config = preset(name)
    assert from_flat_dict(config.to_flat_dict()) == config
    (tmp_path / "config.json").write_text(config.to_json())
    assert load_config(tmp_path / "config.json") == config


def test_every_field_has_a_docstring():
    assert set(field_docs()) == set(Config().to_flat_dict())
    assert all(len(text) > 10 and "\n" not in text for text in field_docs().values())


def test_a_docstring_over_several_lines_is_one_sentence_of_the_docs():
    docs = field_docs()
    assert docs["loss.ce_weight"].endswith("where `model.outputs` is regions; 0 is off.")
    assert docs["seed"] == "Decides initial weights, patches and augmentation of one run."


def test_every_field_that_can_be_off_says_so():
    config = Config()
    off = {name: doc for name, doc in field_docs().items() if " off" in doc}
    switches = {name for name, value in config.to_flat_dict().items() if isinstance(value, bool)}
    chances = {name for name in config.to_flat_dict() if name.endswith("_probability")}
    weights = {"loss.dice_weight", "loss.ce_weight", "learning.consistency_weight"}
    assert switches | chances | weights <= off.keys()


def test_a_change_touches_only_what_it_names():
    changed = Config().changed({"model.mamba_depths": (0, 0, 0)})
    assert changed.model.mamba_depths == (0, 0, 0)
    assert changed.changed({"model.mamba_depths": (2, 2, 2)}) == Config()


def test_configuration_cannot_be_edited_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().optim.lr = 1.0


def test_assignments_are_parsed_as_literals_or_words():
    parsed = parse_assignments(
        [
            "optim.lr=3e-4",
            "data.patch_size=96,96,96",
            "model.norm=instance",
            "data.pad_to_patch=true",
        ]
    )
    config = Config().changed(parsed)
    assert config.optim.lr == 3e-4 and config.data.patch_size == (96, 96, 96)
    assert config.model.norm == "instance" and config.data.pad_to_patch is True


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("optm.lr=1", "did you mean optim.lr"),
        ("data.patchsize=1", "did you mean data.patch_size"),
        ("lr=1", "did you mean optim.lr"),
        ("nonsense_entirely=1", "the sections are"),
        ("optim.lr=fast", "optim.lr = 'fast': must be a float"),
        ("optim.lr=-1", "optim.lr = -1.0: must be above 0"),
        ("optim.lr=1e999", "must be finite"),
        ("train.epochs=1.5", "train.epochs = 1.5: must be an int"),
        ("train.epochs=true", "train.epochs = True: must be an int"),
        ("train.epochs=5", "must not exceed train.epochs"),
        ("data.patch_size=100,96,96", "multiple of 16"),
        ("data.patch_size=96", "must be 3 values"),
        ("model.norm=layer", "must be one of batch, instance"),
        ("optim.lr", "write it as name=value"),
        ("augment.scale_range=1.1,0.9", "0 < low <= high"),
        ("data.test_share=0.9", "validation_share is 0.15"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_field_value_and_rule(assignment, message):
    with pytest.raises(UserError) as error:
        Config().changed(parse_assignments([assignment]))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(UserError, match="paper, strong, quick, demo"):
        preset("huge")


def test_a_config_file_written_before_0_2_is_read_with_its_own_meaning(tmp_path):
    old = dataclasses.asdict(preset("demo"))
    data, train = old["data"], old["train"]
    for name in ("validation_cases", "validation_share", "holdout_share", "holdout_file"):
        del data[name]
    del train["test_last"]
    data |= {
        "minival_cases": 7,
        "minival_share": 0.25,
        "judge_cases": 5,
        "judge_share": 0.3,
        "test_share": 0.1,
        "test_file": "",
    }
    del data["test_cases"]
    train["judge_last"] = False
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert load_config(tmp_path / "config.json") == preset("demo").changed(
        {
            "data.validation_cases": 7,
            "data.validation_share": 0.25,
            "data.test_cases": 5,
            "data.test_share": 0.3,
            "data.holdout_share": 0.1,
            "train.test_last": False,
        }
    )
    data |= {"test_share": 0.0, "test_file": "kept.txt"}
    (tmp_path / "config.json").write_text(json.dumps(old))
    read = load_config(tmp_path / "config.json")
    assert (read.data.holdout_file, read.data.test_share) == ("kept.txt", 0.3)


def test_a_test_share_of_today_is_no_holdout(tmp_path):
    (tmp_path / "config.json").write_text('{"data": {"test_share": 0.4}}')
    read = load_config(tmp_path / "config.json")
    assert (read.data.test_share, read.data.holdout_share) == (0.4, 0.0)


def test_a_config_file_with_an_unknown_field_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"optim": {"lrr": 1}}')
    with pytest.raises(UserError, match=r"optim\.lr"):
        load_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        load_config(tmp_path / "config.json")
