import os
import pickle
import random
import resource
import zipfile

import pytest
import torch

from segmamba.errors import UserError
from segmamba.models.weights import load_checkpoint
from segmamba.training.checkpoint import resume_state, save_checkpoint, weights_digest


def test_what_is_saved_comes_back(tmp_path):
    save_checkpoint({"model": {"w": torch.arange(3.0)}, "epoch": 4}, tmp_path / "last.pth")
    state = load_checkpoint(tmp_path / "last.pth")
    assert state["epoch"] == 4 and state["model"]["w"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["last.pth"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    save_checkpoint({"epoch": 1}, tmp_path / "last.pth")
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        save_checkpoint({"epoch": 2, "bad": lambda: None}, tmp_path / "last.pth")
    assert load_checkpoint(tmp_path / "last.pth") == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pth"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99, 0.999])
def test_a_truncated_checkpoint_is_named(tmp_path, share):
    path = tmp_path / "last.pth"
    save_checkpoint({"w": torch.randn(1000)}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"last\.pth: damaged or not a checkpoint"):
        load_checkpoint(path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_strangers_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "stranger.pth")
    with pytest.raises(UserError, match=r"stranger\.pth"):
        load_checkpoint("stranger.pth")
    assert not (tmp_path / "evil").exists()


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pth")


def test_a_single_flipped_bit_is_noticed_where_torch_notices_nothing(tmp_path):
    path = tmp_path / "last.pth"
    save_checkpoint({"w": torch.zeros(10_000)}, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["w"].any(), "what this guards against"
    with pytest.raises(UserError, match=r"last\.pth: damaged .*its digest is another"):
        load_checkpoint(path)


def test_weights_load_in_one_line_without_this_program(tmp_path):
    weights = {"conv.weight": torch.randn(3, 3), "norm.bias": torch.zeros(2)}
    save_checkpoint(weights, tmp_path / "best_metric_model.pth")
    loaded = torch.load(tmp_path / "best_metric_model.pth", weights_only=True)
    assert weights_digest(loaded) == weights_digest(weights)
    assert zipfile.ZipFile(tmp_path / "best_metric_model.pth").comment.startswith(
        b"segmamba sha256 "
    )


def test_weights_of_another_program_load_without_a_digest(tmp_path):
    torch.save({"w": torch.arange(3)}, tmp_path / "foreign.pth")
    assert load_checkpoint(tmp_path / "foreign.pth")["w"].tolist() == [0, 1, 2]


def resumable(epoch):
    return {"model": {}, "trained": {}, "epoch": epoch, "best": 0.5, "best_epoch": 1, "random": {}}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "foreign", "other contents", "gone"])
def test_a_bad_checkpoint_is_named_and_the_one_before_it_is_gone_on_from(tmp_path, damage):
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    for epoch in (1, 2, 3):
        save_checkpoint(resumable(epoch), last, previous=previous)
    assert resume_state([last, previous], "cpu")[0]["epoch"] == 3
    if damage == "truncated":
        last.write_bytes(last.read_bytes()[:500])
    elif damage == "flipped":
        content = bytearray(last.read_bytes())
        content[random.Random(0).randrange(len(content) // 2)] ^= 4
        last.write_bytes(content)
    elif damage == "foreign":
        torch.save(resumable(9), last)
    elif damage == "other contents":
        save_checkpoint({"w": torch.zeros(3)}, last)
    else:
        last.unlink()
    state, damaged = resume_state([last, previous], "cpu")
    assert state["epoch"] == 2
    assert len(damaged) == (damage != "gone")
    assert all("last.pth" in line and "\n" not in line for line in damaged)


@pytest.mark.parametrize(
    ("name", "value"), [("epoch", "3"), ("best", None), ("model", [1]), ("random", 0)]
)
def test_a_checkpoint_whose_values_are_of_another_type_is_not_gone_on_from(tmp_path, name, value):
    save_checkpoint(resumable(3) | {name: value}, tmp_path / "last.pth")
    state, damaged = resume_state([tmp_path / "last.pth"], "cpu")
    assert state is None and f"({name} is missing or wrong)" in damaged[0]


def test_a_full_disk_leaves_both_checkpoints_as_they_were(tmp_path):
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    for epoch in (1, 2):
        save_checkpoint(resumable(epoch), last, previous=previous)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses to write on in the middle of the file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_checkpoint(resumable(3) | {"big": torch.zeros(100_000)}, last, previous=previous)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [load_checkpoint(path)["epoch"] for path in (last, previous)] == [2, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.pth", "previous.pth"]


def test_the_digest_of_weights_tells_values_names_and_types_apart():
    base = {"a": torch.zeros(2), "b": torch.ones(2)}
    others = [
        base | {"b": torch.tensor([1, 1.0001])},
        {"a": torch.zeros(2), "c": torch.ones(2)},
        base | {"a": torch.zeros(2).half()},
    ]
    assert len({weights_digest(w) for w in [base, *others]}) == 4
    assert weights_digest(dict(reversed(base.items()))) == weights_digest(base)
