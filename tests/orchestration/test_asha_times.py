"""When ASHA decides about a trial."""

import pytest

from segmamba.config import PRESETS, preset
from segmamba.orchestration.engine.launch import asha_times


@pytest.mark.parametrize("name", PRESETS)
def test_asha_decides_after_the_warm_up_at_an_evaluation_and_never_at_the_end(name):
    base = preset(name)
    times = asha_times(base)
    assert base.optim.warmup_epochs < times["grace_period"] < base.train.epochs < times["max_t"]
    assert times["grace_period"] % base.train.validate_every_epochs == 0
    assert times["time_attr"] == "epoch"
