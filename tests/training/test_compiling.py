"""Which runs are compiled, what a process keeps of them, and what the compiler's cache knows."""

import collections
import gc
import importlib
import json
import os
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch

from segmamba.config import preset
from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import Split
from segmamba.models import build_model
from segmamba.models.peers import NOT_ONE_GRAPH
from segmamba.orchestration.engine.gpu_processes import process_on_gpu
from segmamba.training import compiler_cache, compiling
from segmamba.training.compile_ahead import compile_ahead
from segmamba.training.compiler_cache import CompilerCache, graph_of
from segmamba.training.compiling import compile_decision, computing, decision_of_run
from segmamba.training.fit import fit
from segmamba.training.pretrain import Reconstruction
from segmamba.training.step import ForwardLoss
from tests.conftest import write_case
from tests.tiny import CPU, TINY

GPU = torch.device("cuda")
COMPILED = TINY.changed({"train.compile": "always", "train.epochs": 2})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A split with one case in each set."""
    folder = tmp_path_factory.mktemp("cases")
    for number in range(3):
        write_case(folder, f"BraTS20_Training_{number:03d}", shape=(24, 24, 24), seed=number)
    cases = prepare_cases(find_cases(folder), folder / "cache", TINY.data, workers=1)
    return Split(cases[:1], cases[1:2], cases[2:], False, ())


@pytest.fixture
def compilations(monkeypatch):
    """The modules that were compiled, in their order; traced as for the compiler, but not built."""
    compiled, compile_module = [], torch.compile

    def traced(module, *, options, fullgraph):
        compiled.append(module)
        return compile_module(module, backend="eager", fullgraph=fullgraph)

    monkeypatch.setattr(torch, "compile", traced)
    compiling.forget_compiled()
    yield compiled
    compiling.forget_compiled()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A compiler's cache that this process uses."""
    for name in compiler_cache.VARIABLES:
        monkeypatch.setenv(name, "")
    made = CompilerCache(tmp_path / "compiler")
    made.use(threads=2)
    return made


@pytest.fixture
def triton(monkeypatch):
    """A machine with triton and a GPU, as far as decisions ask for them."""
    monkeypatch.setattr(compiling, "device_kind", {GPU: "H100", CPU: "cpu"}.get)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


def test_what_the_compiler_advises_its_developers_stays_out_of_a_runs_output(compilations):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with computing(torch.nn.Identity(), COMPILED, CPU):
            pass
        for module in ("torch._inductor.lowering", "torch._inductors"):
            warnings.warn_explicit("Online softmax is disabled", UserWarning, module, 1, module)
    assert [warning.filename for warning in seen] == ["torch._inductors"] and compilations


def losses(config, data):
    return [epoch.metrics["train/loss"] for epoch in fit(config, data, CPU)]


@pytest.mark.parametrize(
    ("preset_name", "changes", "device", "expected"),
    [
        ("paper", {}, CPU, False),
        ("paper", {"train.compile": "always"}, CPU, True),
        ("paper", {"train.compile": "never"}, GPU, False),
        ("paper", {"model.name": "swinunetr", "train.compile": "always"}, GPU, False),
        ("demo", {}, GPU, False),
    ],
)
def test_only_long_runs_on_a_gpu_are_compiled_unless_it_is_asked_for(
    preset_name, changes, device, expected, triton
):
    wanted, reason = compile_decision(preset(preset_name).changed(changes), device)
    assert wanted == expected and reason


def test_a_long_run_on_a_gpu_with_triton_is_compiled(monkeypatch, triton):
    assert compile_decision(preset("paper"), GPU)[0]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert compile_decision(preset("paper"), GPU) == (False, "eager: triton is not installed")


def test_a_short_run_is_compiled_where_the_compiler_has_its_graph_already(cache, triton):
    short = preset("demo")
    assert not compile_decision(short, GPU)[0]
    cache.add(graph_of(short), "H100")
    assert compile_decision(short.changed({"seed": 7, "optim.lr": 1.0}), GPU) == (
        True,
        "compiled: the compiler's cache has the network",
    )
    for other in ({"model.base_channels": 4}, {"train.batch_size": 3}, {"loss.ce_weight": 0.5}):
        assert not compile_decision(short.changed(other), GPU)[0]
    assert not cache.holds(graph_of(short, "pretraining"), "H100")
    assert not cache.holds(graph_of(short), "cpu")


def test_a_run_goes_on_as_it_began_whatever_the_cache_holds_by_then(cache, triton, tmp_path):
    short, run = preset("demo"), tmp_path / "run"
    began = decision_of_run(short, GPU, run)
    assert not began[0]
    cache.add(graph_of(short), "H100")  # by another run
    assert compile_decision(short, GPU)[0]
    assert decision_of_run(short, GPU, run) == began
    assert decision_of_run(short, GPU, tmp_path / "other")[0]
    assert decision_of_run(short.changed({"train.compile": "always"}), GPU, run)[0]
    assert decision_of_run(short, CPU, run)[1] == "eager: compiling is for GPUs, this is cpu"


def test_a_run_that_goes_on_on_another_gpu_decides_anew(cache, triton, tmp_path, monkeypatch):
    short = preset("demo")
    assert not decision_of_run(short, GPU, tmp_path)[0]
    monkeypatch.setattr(compiling, "device_kind", {GPU: "A100"}.get)
    cache.add(graph_of(short), "A100")
    assert decision_of_run(short, GPU, tmp_path)[0]


def test_pretraining_asks_the_cache_for_its_own_graph(cache, triton):
    short = preset("demo")
    cache.add(graph_of(short), "H100")
    assert not compile_decision(short, GPU, "pretraining")[0]
    assert graph_of(short) != graph_of(short.changed({"train.deterministic": True}))


def test_the_cache_lies_with_the_results_unless_the_user_has_chosen_a_folder(tmp_path, monkeypatch):
    assert CompilerCache.below(tmp_path).folder == tmp_path / "cache" / "compiler"
    monkeypatch.setattr(compiler_cache, "USERS", {"TORCHINDUCTOR_CACHE_DIR": "/there"})
    assert CompilerCache.below(tmp_path).folder == Path("/there")


def test_triton_assembles_with_what_torch_brings_whoever_compiled_before(tmp_path, monkeypatch):
    torchs, users = tmp_path / "bin" / "ptxas", "/opt/ptxas"
    torchs.parent.mkdir()
    torchs.touch(mode=0o755)
    package = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", {"torch": package}.get)
    CompilerCache(tmp_path).use(threads=1)
    assert os.environ["TRITON_PTXAS_PATH"] == str(torchs)
    monkeypatch.setattr(compiler_cache, "USERS", {"TRITON_PTXAS_PATH": users})
    CompilerCache(tmp_path).use(threads=1)
    assert os.environ["TRITON_PTXAS_PATH"] == users


def test_the_list_of_graphs_says_which_they_are(cache):
    cache.add(graph_of(TINY), "cpu")
    (file,) = (cache.folder / "graphs").iterdir()
    assert json.loads(file.read_text())["model.base_channels"] == 2


def test_the_next_run_of_a_process_takes_the_compiled_network_over(data, compilations, cache):
    first = [losses(COMPILED.changed({"seed": seed}), data) for seed in (0, 1)]
    assert len(compilations) == 1 and cache.holds(graph_of(COMPILED), "cpu")
    compiling.forget_compiled()
    fresh = [losses(COMPILED.changed({"seed": seed}), data) for seed in (1, 0)]
    assert len(compilations) == 2 and fresh == [first[1], first[0]], "to the last bit"
    eager = losses(COMPILED.changed({"train.compile": "never"}), data)
    assert first[0] == pytest.approx(eager, rel=1e-4)


class Scale(torch.nn.Module):
    """Stands in for a network with its loss."""

    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return (self.factor * x).sum()


def test_a_process_trains_more_graphs_than_torch_takes_by_itself(compilations):
    for again in range(2):
        for channels in range(1, 11):
            config = COMPILED.changed({"model.base_channels": channels})
            with computing(Scale(), config, CPU) as (_, function):
                assert float(function(torch.ones(3)).detach()) == 3
        assert len(compilations) == 10, "all are kept" if again else ""


def test_a_run_that_failed_leaves_nothing_compiled_behind(data, compilations):
    runs = fit(COMPILED, data, CPU)
    next(runs)
    with pytest.raises(RuntimeError):
        runs.throw(RuntimeError("an illegal memory access"))
    losses(COMPILED, data)
    assert len(compilations) == 2


def test_a_run_that_is_not_iterated_to_its_end_leaves_its_network_to_the_next(data, compilations):
    runs = fit(COMPILED, data, CPU)
    next(runs)
    runs.close()
    losses(COMPILED, data)
    assert len(compilations) == 1


def test_two_runs_at_once_share_no_network(data, compilations):
    alone = losses(COMPILED, data)
    both = zip(fit(COMPILED, data, CPU), fit(COMPILED, data, CPU), strict=True)
    together = [[epoch.metrics["train/loss"] for epoch in pair] for pair in both]
    assert together[0] == [alone[0]] * 2 and len(compilations) == 2


def test_a_network_that_was_only_built_is_not_taken_for_compiled(compilations, cache):
    with computing(ForwardLoss(build_model(TINY.model), TINY), COMPILED, CPU):
        pass
    assert len(compilations) == 1 and not cache.holds(graph_of(COMPILED), "cpu")


def test_pretraining_and_training_are_graphs_of_their_own(compilations, cache):
    model = build_model(TINY.model)
    with computing(ForwardLoss(model, TINY), COMPILED, CPU) as (first, _):
        pass
    with computing(Reconstruction(model), COMPILED, CPU, part="pretraining") as (second, _):
        assert second is not first


def test_memory_of_a_run_is_gone_when_the_next_begins(data, compilations):
    list(fit(COMPILED, data, CPU))
    (kept,) = compiling._idle.values()
    assert all(parameter.grad is None for parameter in kept.module.parameters())


def test_the_networks_that_branch_on_their_tensors_are_known(compilations):
    pytest.importorskip("monai")
    pytest.importorskip("einops")
    for name in ("dynunet", *NOT_ONE_GRAPH):
        config = preset("demo").changed({"model.name": name, "data.patch_size": (32, 32, 32)})
        module = ForwardLoss(build_model(config.model), config)
        function = torch.compile(module, options={}, fullgraph=True)
        image, label = torch.zeros(1, 4, 32, 32, 32), torch.zeros(1, 32, 32, 32, dtype=torch.uint8)
        if name in NOT_ONE_GRAPH:
            with pytest.raises(torch._dynamo.exc.Unsupported):
                function(image, label)
        else:
            function(image, label)


def test_what_is_compiled_ahead_is_the_graph_that_a_run_needs(data, compilations, cache):
    compile_ahead(COMPILED, CPU)
    assert cache.holds(graph_of(COMPILED), "cpu")
    counted = torch._dynamo.utils.counters["stats"]
    before = counted["unique_graphs"]
    losses(COMPILED, data)
    traced = counted["unique_graphs"] - before
    assert len(compilations) == 1 and traced == 0, "the loop's batches are like the noise"


def _gpu_losses(folder, seeds):
    """Train one run after the other in this process: the losses of the last, and the memory."""
    CompilerCache(Path(folder) / "compiler").use(threads=4)
    cases = prepare_cases(find_cases(folder), Path(folder) / "cache", TINY.data, workers=1)
    data, memory = Split(cases[:1], cases[1:2], cases[2:], False, ()), []
    config = COMPILED.changed({"model.base_channels": 16, "data.patch_size": (32, 32, 32)})
    for seed in seeds:
        epochs = fit(config.changed({"seed": seed}), data, GPU)
        found = [epoch.metrics["train/loss"] for epoch in epochs]
        del epochs
        gc.collect()
        memory.append(torch.cuda.memory_allocated())
    return found, memory


def test_a_run_can_say_what_its_compiler_found(monkeypatch):
    import torch._dynamo.utils

    counters = collections.defaultdict(collections.Counter)
    monkeypatch.setattr(torch._dynamo.utils, "counters", counters)
    assert compiling.compiler_record() == {}
    counters["aot_autograd"].update(total=3, autograd_cache_hit=1, autograd_cache_miss=2)
    counters["inductor"].update(fxgraph_cache_miss=4)
    assert compiling.compiler_record() == {"compiler": "networks found 1, made 2, passes made 4"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_peak_of_memory_is_that_of_the_run_alone(data):
    torch.empty(2**30, device=GPU)  # as the test of the trial before, in this process
    epoch = next(fit(TINY, data, GPU))
    assert 0 < epoch.metrics["memory/gpu_peak_gib"] < 0.9


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_reused_process_trains_as_a_fresh_one_and_frees_what_a_run_held(tmp_path):
    for number in range(3):
        write_case(tmp_path, f"BraTS20_Training_{number:03d}", shape=(40, 40, 40), seed=number)
    with process_on_gpu(0) as reused, process_on_gpu(0) as fresh:
        (third, memory) = reused.submit(_gpu_losses, str(tmp_path), [0, 1, 2]).result()
        alone, _ = fresh.submit(_gpu_losses, str(tmp_path), [2]).result()
    assert third == pytest.approx(alone, rel=0.01)
    assert memory[2] <= memory[1] + 2**20 and memory[1] <= memory[0] + 2**20, memory


def test_a_graph_has_the_same_key_whatever_else_a_process_has_imported(compilations, monkeypatch):
    """There are modules that find any name, such as Cython's `cython.cimports.libc`."""
    from torch._inductor.codecache import FxGraphCachePickler
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        image = torch.empty(2, 4, 8, 8, 8).to(memory_format=torch.channels_last_3d)

    def key():
        empty = torch.fx.GraphModule({}, torch.fx.Graph())
        return FxGraphCachePickler(empty).get_hash(image)

    with computing(ForwardLoss(build_model(TINY.model), TINY), COMPILED, CPU):
        before = key()
        finds_any = types.ModuleType("finds_any")
        finds_any.__getattr__ = lambda name: importlib.import_module(name)
        monkeypatch.setattr(sys, "modules", {"finds_any": finds_any} | sys.modules)
        assert key() == before
