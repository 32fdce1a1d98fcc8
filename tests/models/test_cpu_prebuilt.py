"""The CPU's kernels, compiled beforehand and found without a compiler."""

import pytest
import torch

from segmamba.models import cpu_library, cpu_prebuilt
from segmamba.models.cpu_build import build_libraries
from segmamba.models.cpu_library import digest_of, kernel_sources
from segmamba.models.cpu_prebuilt import LEVELS, file_name, levels_of, prebuilt_library
from segmamba.models.scan import selective_scan
from tests.models.kernels import needs_kernels

ALL = "flags : fpu " + " ".join(sorted(set().union(*LEVELS.values())))
V3 = "flags : fpu " + " ".join(sorted(LEVELS["x86-64-v3"]))


@pytest.mark.parametrize(
    ("flags", "levels"),
    [
        (ALL, ["x86-64-v4", "x86-64-v3"]),
        (V3, ["x86-64-v3"]),
        (V3.replace(" fma", ""), []),
        (ALL.replace(" avx2", ""), []),  # a level includes those behind it
        ("", []),
    ],
)
def test_a_processors_levels_are_those_whose_every_feature_it_has(flags, levels):
    assert levels_of(flags) == levels


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a file for each level, named as the search wants it."""
    for level in LEVELS:
        (tmp_path / file_name(level, "0" * 64)).write_bytes(b"")
    monkeypatch.setenv(cpu_prebuilt.VARIABLE, str(tmp_path))
    return tmp_path


def test_the_best_library_of_the_same_sources_is_taken(folder):
    assert prebuilt_library(ALL, "0" * 64) == folder / file_name("x86-64-v4", "0" * 64)
    assert prebuilt_library(V3, "0" * 64) == folder / file_name("x86-64-v3", "0" * 64)
    assert prebuilt_library(V3, "1" * 64) is None
    assert prebuilt_library("", "0" * 64) is None


@pytest.mark.parametrize("harm", ["the file", "the folder", "another's"])
def test_a_library_that_others_may_write_is_left(folder, monkeypatch, harm):
    best = folder / file_name("x86-64-v4", "0" * 64)
    if harm == "another's":
        for path in folder.iterdir():
            path.chmod(0o755)
        monkeypatch.setattr(cpu_prebuilt, "ROOT", -1)
        monkeypatch.setattr(cpu_prebuilt.os, "geteuid", lambda: best.stat().st_uid + 1)
    else:
        (best if harm == "the file" else folder).chmod(0o777)
    found = prebuilt_library(ALL, "0" * 64)
    assert found is None or (harm == "the file" and found != best)


def test_no_variable_no_library(monkeypatch):
    monkeypatch.delenv(cpu_prebuilt.VARIABLE, raising=False)
    assert prebuilt_library(ALL, "0" * 64) is None


@needs_kernels
def test_kernels_that_were_compiled_beforehand_compute_without_a_compiler(tmp_path, monkeypatch):
    built = build_libraries(tmp_path)
    here = levels_of(cpu_library._features())
    if not built or not here:
        pytest.skip("this processor has none of the levels")
    assert {path.name for path in built} == {
        file_name(level, digest_of(kernel_sources())) for level in LEVELS
    }
    inputs = torch.randn(2, 40, 16), torch.randn(2, 40, 16), -torch.rand(16, 4) - 0.1
    inputs = *inputs, torch.randn(2, 40, 4), torch.randn(2, 40, 4), torch.ones(16), torch.zeros(16)
    expected = selective_scan(*inputs, implementation="sequential")
    monkeypatch.setenv(cpu_prebuilt.VARIABLE, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    library, reason = cpu_library.find_library.__wrapped__()
    assert library is not None and reason == str(
        tmp_path / file_name(here[0], digest_of(kernel_sources()))
    )
    monkeypatch.setattr(cpu_library, "cpu_library", lambda: library)
    found = selective_scan(*inputs, implementation="native")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
