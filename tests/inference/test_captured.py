"""When forward passes are captured, with a graph that is played back by Python; see test_gpu.py."""

import contextlib
import gc
import warnings
import weakref
from pathlib import Path

import pytest
import torch

from segmamba.inference import captured
from segmamba.inference.captured import Captured, Eager, passes_on
from segmamba.inference.ensemble_member import Member
from tests.tiny import CPU, TINY


class Tape:
    """A stand-in for a captured pass: it knows how often it was replayed."""

    def __init__(self, result):
        self.result, self.replays = result, 0

    def replay(self, x):
        self.replays += 1
        return self.result


@pytest.fixture
def tapes(monkeypatch):
    """The passes that were captured, on a device whose stream is always the default one."""
    made = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "default")
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "default")
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: None)
    monkeypatch.setattr(
        captured, "_record", lambda function, x, device: made.append(Tape(function(x))) or made[-1]
    )
    return made


def doubled(x):
    return 2 * x


def test_a_shape_is_captured_once_it_has_come_often_enough_and_other_shapes_are_not(tapes):
    passes = Captured(torch.device("cuda"), eager_passes=2)
    small, large = torch.ones(1), torch.ones(2)
    for _ in range(2):
        assert torch.equal(passes.run(doubled, small, None), 2 * small)
    passes.run(doubled, large, None)
    passes.run(doubled, small, "another kind")
    assert not tapes
    for _ in range(4):
        assert torch.equal(passes.run(doubled, small, None), 2 * small)
    assert [tape.replays for tape in tapes] == [3], "the pass that is captured runs as well"


def test_what_cannot_be_captured_runs_eagerly_and_is_not_tried_again(tapes, monkeypatch):
    tried = []
    monkeypatch.setattr(captured, "_record", lambda *arguments: tried.append(1))
    passes = Captured(torch.device("cuda", 0), eager_passes=1)
    for _ in range(4):
        assert torch.equal(passes.run(doubled, torch.ones(3), None), torch.full((3,), 2.0))
    assert tried == [1]


@pytest.mark.filterwarnings("ignore:called a synchronizing")
def test_what_waits_for_the_gpu_is_never_captured_unless_it_was_another_thread_that_waited(tapes):
    def waits(x):
        warnings.warn(f"{captured.WAITED} (Triggered internally at ..)", stacklevel=1)
        return 2 * x

    passes = Captured(torch.device("cuda", 0), eager_passes=1)
    for _ in range(1 + captured.MOST_WAITS + 2):
        assert torch.equal(passes.run(waits, torch.ones(3), "waits"), torch.full((3,), 2.0))
    assert not tapes
    for function in (doubled, waits, doubled, doubled):
        passes.run(function, torch.ones(3), "beside a thread that waits once")
    assert [tape.replays for tape in tapes] == [1]


def test_torch_warns_of_a_call_that_waits_in_the_words_that_are_looked_for():
    library = Path(torch.__file__).parent / "lib" / "libtorch_cuda.so"
    c10 = library.with_name("libc10_cuda.so")
    if not c10.exists():
        pytest.skip("this torch has no CUDA")
    assert captured.WAITED.encode() in c10.read_bytes()


def test_another_stream_than_the_default_one_runs_eagerly(tapes, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "another")
    passes = Captured(torch.device("cuda", 0), eager_passes=1)
    for _ in range(3):
        passes.run(doubled, torch.ones(1), None)
    assert not tapes


def test_what_was_captured_is_free_once_it_is_forgotten_or_the_member_is_gone(tapes):
    class Net(torch.nn.Module):
        def forward(self, x):
            return torch.cat([x, x[:, :0]], 1)

    gc.collect()
    gc.disable()  # a cycle would keep a graph's memory until the next collection
    try:
        member = Member(Net(), TINY, CPU)
        member._passes = Captured(torch.device("cuda", 0), eager_passes=1)
        for _ in range(3):
            member.probabilities(torch.randn(4, 16, 16, 16))
        alive = weakref.ref(tapes.pop())
        assert alive() is not None
        member._passes.forget()
        assert alive() is None
        for _ in range(3):
            member.probabilities(torch.randn(4, 16, 16, 16))
        alive = weakref.ref(tapes.pop())
        del member
        assert alive() is None
    finally:
        gc.enable()


def test_a_cpu_captures_nothing():
    assert isinstance(passes_on(CPU, 1), Eager)


def test_a_capture_that_fails_leaves_the_stream_as_it_was_and_keeps_the_unfinished_graph(
    monkeypatch,
):
    entered = []

    class Graph:
        def capture_begin(self, *pool, capture_error_mode):
            assert capture_error_mode == "thread_local"

        def capture_end(self):
            raise RuntimeError("the capture was invalidated")

    class Generator:
        def clone_state(self):
            return "a state outside of the capture"

        def graphsafe_set_state(self, state):
            entered.append(state)
            entered.remove(state)

    @contextlib.contextmanager
    def recorded(what):
        entered.append(what)
        try:
            yield
        finally:
            entered.remove(what)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, recorded)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *device: None)
    monkeypatch.setattr(torch.cuda, "default_generators", (Generator(),))
    monkeypatch.setattr(captured, "_capturing_stream", lambda device: "side")
    monkeypatch.setattr(captured, "_UNFINISHED", [])
    ended = []
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
    for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
        monkeypatch.setattr(torch._C, name, lambda *of: ended.append(of), raising=False)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: None, raising=False)
    device = torch.device("cuda", 0)
    assert captured._record(doubled, torch.ones(1), device) is None
    assert not entered, "torch.cuda.graph would leave its own stream current"
    assert len(captured._UNFINISHED) == 1
    assert ended == [(0, (0, 7))] * 2, "the allocator must know that it is over"
