"""Fine-tuning: a run that starts from a network of other classes and channels."""

import copy
import json

import pytest
import torch

from segmamba.data.label_sets import GLIOMA, PEDIATRIC, POST_TREATMENT, counterpart
from segmamba.data.labels import MODALITIES
from segmamba.errors import UserError
from segmamba.models import build_model
from segmamba.models.transfer import without_heads
from segmamba.models.weights import load_checkpoint
from segmamba.training.callback import Callback
from segmamba.training.initial_weights import channels_beside, initial_weights
from segmamba.training.run import train_run
from segmamba.training.run_folder import RunFolder
from tests.tiny import CPU, TINY

REGIONS_RUN = TINY.changed({"model.outputs": "regions", "train.epochs": 2})


class Told(Callback):
    """Keeps the notes of a run."""

    def __init__(self):
        self.notes = []

    def on_note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A network of three regions, trained."""
    folder = RunFolder(tmp_path_factory.mktemp("regions"))
    list(train_run(REGIONS_RUN, data, folder, CPU))
    return folder


def starting_from(path, **changes):
    return TINY.changed(
        {"learning.initial_weights": str(path), "train.epochs": 4, "optim.lr": 3e-3} | changes
    )


def begun(config, data, folder, told):
    """A network of `config` as it is before its first step."""
    torch.manual_seed(0)
    model = build_model(config.model)
    before = copy.deepcopy(model.state_dict())
    initial_weights(config, data, folder, CPU, told)(model)
    return before, model.state_dict()


def test_a_run_goes_on_from_a_network_of_other_classes_and_says_what_it_took(
    data, trained, tmp_path
):
    config, told = starting_from(trained.best), Told()
    folder = RunFolder(tmp_path)
    before, after = begun(config, data, folder, told)
    source = load_checkpoint(trained.best)
    for name, tensor in without_heads(source).items():
        assert torch.equal(after[name], tensor), name
    enhancing = GLIOMA.classes.index("ET")
    assert torch.equal(after["head.weight"][enhancing], source["head.weight"][0])
    assert torch.equal(after["head.weight"][0], before["head.weight"][0])
    count = len(after)
    assert told.notes == [
        f"{trained.best}: taken {count - 2} of {count} tensors; begun anew: head.weight (3 → 4 "
        "classes, of which taken: ET), head.bias (3 → 4 classes, of which taken: ET)"
    ]
    record = json.loads(folder.initial_weights.read_text())
    assert record["taken"] == count - 2 and len(record["begun_anew"]) == 2
    history = [epoch.metrics["train/loss"] for epoch in train_run(config, data, folder, CPU)]
    assert history[-1] < history[0]


def foreign(trained, folder, names):
    """A checkpoint as nnU-Net leaves it, of three input channels and five labels."""
    state = load_checkpoint(trained.best)
    for layer in ("stem.conv1.weight", "stem.shortcut.weight"):
        state[layer] = state[layer][:, 1:]
    rng = torch.Generator().manual_seed(0)
    state["head.weight"] = 0.1 * torch.randn(5, *state["head.weight"].shape[1:], generator=rng)
    state["head.bias"] = 0.1 * torch.randn(5, generator=rng)
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    path = folder / "fold_0" / "checkpoint_final.pth"
    path.parent.mkdir(parents=True)
    torch.save({"network_weights": wrapped, "current_epoch": 3}, path)
    (folder / "dataset.json").write_text(json.dumps(names))
    return path, state


def test_channels_and_classes_of_another_program_are_matched_by_its_dataset_json(
    data, trained, tmp_path
):
    names = {
        "channel_names": {"0": "T1c", "1": "T2w", "2": "flair"},
        "labels": {"background": 0, "NETC": 1, "SNFH": 2, "cavity": 3, "enhancing": 4},
    }
    path, state = foreign(trained, tmp_path / "nnunet", names)
    assert channels_beside(path).inputs == MODALITIES[1:]
    assert channels_beside(path).outputs == ("background", "NCR", "ED", "RC", "ET")
    config, told = starting_from(path), Told()
    before, after = begun(config, data, RunFolder(tmp_path / "run"), told)
    stem = "stem.conv1.weight"
    assert torch.equal(after[stem][:, 1:], state[stem])
    assert torch.equal(after[stem][:, 0], before[stem][:, 0])
    rows = [(0, "background"), (1, "NCR"), (2, "ED"), (4, "ET")]
    for row, name in rows:
        assert torch.equal(after["head.bias"][GLIOMA.classes.index(name)], state["head.bias"][row])
    assert 'under "network_weights"' in told.notes[0] and "module." in told.notes[1]
    assert "stem.conv1.weight (3 → 4 channels, of which taken: T1ce, T2, FLAIR)" in told.notes[2]
    epochs = list(train_run(config, data, RunFolder(tmp_path / "run"), CPU))
    assert epochs[-1].metrics["train/loss"] < epochs[0].metrics["train/loss"]


def test_channels_that_nothing_names_begin_anew(data, trained, tmp_path):
    path, _ = foreign(trained, tmp_path / "other", {})
    (tmp_path / "other" / "dataset.json").unlink()
    told = Told()
    before, after = begun(starting_from(path), data, RunFolder(tmp_path / "run"), told)
    for name in ("stem.conv1.weight", "stem.shortcut.weight", "head.weight", "head.bias"):
        assert torch.equal(after[name], before[name])
    assert "head.weight (5 → 4 classes)" in told.notes[-1]


def test_weights_of_other_settings_are_refused_before_anything_is_trained(data, trained, tmp_path):
    config = starting_from(trained.best, **{"model.base_channels": 4})
    with pytest.raises(UserError, match="not weights of this network"):
        list(train_run(config, data, RunFolder(tmp_path), CPU))


@pytest.mark.parametrize(
    ("name", "labels", "expected"),
    [
        ("ED", POST_TREATMENT, "SNFH"),
        ("NCR", PEDIATRIC, "NETC"),
        ("CC", POST_TREATMENT, "NETC"),
        ("RC", POST_TREATMENT, "RC"),
        ("WT", PEDIATRIC, "WT"),
        ("edema", GLIOMA, "edema"),
    ],
)
def test_a_class_of_another_set_is_matched_by_its_counterpart(name, labels, expected):
    assert counterpart(name, labels) == expected
