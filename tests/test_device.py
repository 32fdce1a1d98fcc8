"""Which device a name stands for."""

import pytest
import torch

from segmamba.device import choose_device
from segmamba.errors import UserError


@pytest.mark.parametrize(("name", "current"), [("cuda:1", [1]), ("cuda", []), ("auto", [])])
def test_a_gpu_that_is_named_by_its_number_is_the_one_where_kernels_are_launched(
    monkeypatch, name, current
):
    set_to = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: set_to.append(device.index))
    choose_device(name)
    assert set_to == current
    with pytest.raises(UserError, match="there are 2 GPUs"):
        choose_device("cuda:2")
