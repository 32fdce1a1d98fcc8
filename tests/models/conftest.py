"""Fixtures of the tests of networks."""

import pytest

from segmamba.models import narrow_cpu


@pytest.fixture
def torchs_convolutions(monkeypatch):
    """Let torch compute the narrow levels, as on a machine without a compiler."""
    monkeypatch.setattr(narrow_cpu, "_runs", lambda x: False)
