import os
import pickle

import pytest
import torch

from segmamba.errors import UserError
from segmamba.training.checkpoint import load_checkpoint, save_checkpoint


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


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
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
