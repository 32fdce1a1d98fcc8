"""Learning beyond the plain loop as a user asks for it, in real processes.

Runs have cases without a segmentation, and are killed and resumed.
"""

import json
import random
import sys

import pytest

from segmamba.config import Config
from segmamba.data.source import prepare_split, unlabelled_cases
from segmamba.models.weights import load_checkpoint
from segmamba.orchestration.engine.options import StudyOptions
from segmamba.orchestration.engine.planning import splits_of
from segmamba.screen import no_progress
from tests import warm
from tests.conftest import NEW_NAMES, write_case
from tests.test_train_command import KILLED, arguments, record_of, run
from tests.tiny import TINY

EVERYTHING = {
    "learning.pretrain_epochs": 2,
    "learning.ema_decay": 0.9,
    "learning.consistency_weight": 1.0,
    "learning.hard_case_factor": 5.0,
    "model.outputs": "regions",
    "model.deep_supervision": 1,
    "train.accumulation": 2,
}
OPTIONS = [word for name, value in EVERYTHING.items() for word in ("--set", f"{name}={value}")]
KILLED_IN_PRETRAINING_TOO = KILLED.replace('("on_begin", ', '("on_begin", "on_pretraining_step", ')
assert KILLED_IN_PRETRAINING_TOO != KILLED


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Six labelled cases, two without a segmentation, and a second time point of the first patient.

    The second time point has no segmentation either.
    """
    folder = tmp_path_factory.mktemp("data")
    for number in range(8):
        write_case(
            folder,
            f"BraTS-GLI-{number:05d}-000",
            seed=number,
            names=NEW_NAMES,
            et_value=3,
            label=number < 6,
        )
    write_case(folder, "BraTS-GLI-00000-001", seed=9, names=NEW_NAMES, et_value=3, label=False)
    return folder


def killed_at(cwd, event, source):
    command = [
        sys.executable,
        "-c",
        KILLED_IN_PRETRAINING_TOO,
        event,
        *arguments(source, *OPTIONS, "--resume"),
    ]
    return warm.run(command, cwd=cwd)


@pytest.mark.slow
def test_a_run_with_every_option_killed_anywhere_ends_as_if_nothing_had_happened(source, tmp_path):
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    calm.mkdir()
    stormy.mkdir()
    whole = killed_at(calm, 0, source)
    assert whole.returncode == 0, whole.stderr
    total, rng = int(whole.stdout.split()[-1]), random.Random(0)
    while_pretraining = (8, 14)
    for event in (*while_pretraining, *(rng.randrange(total // 4, total) for _ in range(4))):
        killed_at(stormy, event, source)
    finished = run(stormy, *arguments(source, *OPTIONS, "--resume"))
    assert finished.returncode == 0, finished.stderr
    assert record_of(stormy) == record_of(calm)
    last = load_checkpoint(stormy / "Results" / "SegMamba_Run01" / "checkpoints" / "last.pth")
    assert any(not (last["model"][name] == value).all() for name, value in last["trained"].items())


@pytest.mark.slow
def test_cases_without_a_segmentation_are_learnt_from_where_an_option_asks_for_images(
    source, tmp_path
):
    short = ["--set", "train.epochs=1", "--set", "train.steps_per_epoch=1"]
    process = run(tmp_path, *arguments(source, *OPTIONS, *short))
    assert process.returncode == 0, process.stderr
    environment = json.loads(
        (tmp_path / "Results" / "SegMamba_Run01" / "environment.json").read_text()
    )
    split = environment["split"]
    assert {"BraTS-GLI-00006-000", "BraTS-GLI-00007-000"} <= set(split["unlabelled"])
    assert ("BraTS-GLI-00000-001" in split["unlabelled"]) == (
        "BraTS-GLI-00000-000" in split["train"]
    ), "nothing of a tested patient"
    assert "cases without a segmentation serve as unlabelled" in process.stdout + process.stderr


def test_unlabelled_cases_are_looked_for_only_where_an_arm_learns_from_images(source):
    base = Config().changed({"data.source": str(source)})
    pretrained = base.changed({"learning.pretrain_epochs": 1})
    assert [case.id for case in unlabelled_cases(base, [base, pretrained])] == [
        "BraTS-GLI-00000-001",
        "BraTS-GLI-00006-000",
        "BraTS-GLI-00007-000",
    ]
    assert (
        unlabelled_cases(base, [base]) == [] and unlabelled_cases(Config(), [pretrained]) == []
    ), "the phantom has labels throughout"


def test_a_studys_splits_hold_its_unlabelled_cases(source, tmp_path):
    config = TINY.changed({"data.source": str(source)})
    data = prepare_split(
        config,
        tmp_path,
        steps=lambda label: no_progress,
        learners=[config.changed({"learning.pretrain_epochs": 1})],
        workers=1,
    )
    split = splits_of(data, StudyOptions(), config)[None]
    assert {"BraTS-GLI-00006-000", "BraTS-GLI-00007-000"} <= {case.id for case in split.unlabelled}
