"""Whether the trials of a study are compiled, and the processes that compile their graphs."""

import dataclasses
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from segmamba.config import preset
from segmamba.errors import UserError
from segmamba.orchestration.engine import compiling_ahead
from segmamba.orchestration.engine.compile_choice import CompileChoice, compile_choice
from segmamba.orchestration.engine.compiling_ahead import StudyGraphs
from segmamba.orchestration.engine.gpu_processes import process_on_gpu
from segmamba.orchestration.engine.machine import Machine
from segmamba.orchestration.engine.progress import SilentProgress
from segmamba.orchestration.engine.study_runner import StudyRunner
from segmamba.studies.search_space import Between
from segmamba.studies.spec import TrialPlan
from segmamba.training.compiler_cache import CompilerCache, graph_of
from tests.tiny import TINY

H100 = Machine(name="1 x H100", gpu="H100", gpus=1, gpu_bytes=1, cores=16, memory_bytes=1)
CPUS = Machine(name="2 CPU cores", gpus=0, gpu_bytes=0, cores=2, memory_bytes=1)
QUICK = preset("quick")  # 3,000 forward passes
ARMS = {
    "deep": QUICK,
    "no flips": QUICK.changed({"augment.flip_probability": 0.0}),
    "shallow": QUICK.changed({"model.mamba_depths": (0, 0, 0)}),
}


@pytest.fixture(autouse=True)
def triton(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())


@pytest.fixture
def cache(tmp_path):
    return CompilerCache(tmp_path)


def choose(cache, arms=("deep",), *, seeds=1, machine=H100, space=(), **changes):
    configs = {arm: ARMS[arm].changed(changes) for arm in arms}
    trials = [TrialPlan(arm=arm, seed=seed) for seed in range(seeds) for arm in arms]
    return compile_choice(configs, trials, dict(space), machine, cache)


def test_the_passes_of_all_trials_that_share_a_graph_count(cache):
    assert choose(cache).compile == "never", "3,000 passes"
    both = choose(cache, ["deep", "no flips"])
    assert both.compile == "always" and len(both.missing) == 1, "one graph: augmentation is none"
    assert both.reason == (
        "compiled: 6000 forward passes of 2 trials share 1 network, 1 of them new to the compiler"
    )
    assert choose(cache, ["deep", "shallow"]).compile == "never", "3,000 passes a graph"
    four = choose(cache, ["deep", "shallow"], seeds=4)
    assert four.compile == "always" and len(four.missing) == 2


def test_more_gpus_share_the_gain_but_one_waits_for_each_graph(cache):
    two = dataclasses.replace(H100, gpus=2)
    assert choose(cache, seeds=2).compile == "always"
    assert choose(cache, seeds=2, machine=two).compile == "never"
    assert choose(cache, seeds=3, machine=two).compile == "always"
    arms = ["deep", "shallow"]
    assert choose(cache, arms, seeds=2, machine=two).compile == "always", "compiled side by side"


def test_a_graph_that_the_compiler_has_is_taken_however_short_the_study(cache):
    cache.add(graph_of(QUICK), "H100")
    found = choose(cache)
    assert found.compile == "always" and not found.missing
    assert found.reason == "compiled: the compiler's cache has 1 network of 1 trials"
    other = dataclasses.replace(H100, gpu="A100")
    assert choose(cache, machine=other).compile == "never", "made for another GPU"


def test_what_the_user_says_counts(cache):
    never = choose(cache, seeds=99, **{"train.compile": "never"})
    assert (never.compile, never.reason) == ("never", "train.compile = never")
    always = choose(cache, **{"train.compile": "always"})
    assert always.compile == "always" and len(always.missing) == 1


def test_a_network_that_does_not_compile_trains_eager_beside_others_that_do(cache):
    alone = choose(cache, seeds=9, **{"model.name": "swinunetr"})
    assert alone.compile == "never" and "swinunetr does not compile" in alone.reason
    configs = {"swin": QUICK.changed({"model.name": "swinunetr"}), "deep": QUICK}
    trials = [TrialPlan(arm=arm, seed=seed) for arm in configs for seed in range(2)]
    both = compile_choice(configs, trials, {}, H100, cache)
    assert both.compile == "always" and [c.model.name for c in both.missing] == ["segmamba"]


def test_a_search_that_changes_the_network_leaves_the_choice_to_each_trial(cache):
    rate = {"optim.lr": Between(1e-4, 1e-2)}
    assert choose(cache, seeds=9, space=rate).compile == "always"
    loss = {"loss.ce_weight": Between(0.1, 1.0)}
    assert choose(cache, seeds=9, space=loss).compile == "auto"


def test_without_a_gpu_nothing_is_compiled_unless_it_is_asked_for(cache):
    for wanted in ("auto", "always", "never"):
        choice = choose(cache, seeds=99, machine=CPUS, **{"train.compile": wanted})
        assert choice.compile == wanted and not choice.missing, "each trial compiles its own"


class Said(SilentProgress):
    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


def graphs(cache, config=TINY):
    choice = CompileChoice(compile="always", reason="", missing=(config,))
    return StudyGraphs(choice, H100, cache)


def _compiles(config, folder, threads):
    """Stands in for compile_here in the other process."""
    time.sleep(1)
    if config.seed == 1:
        raise ValueError("no such kernel")
    if config.seed == 2:
        time.sleep(600)
    CompilerCache(Path(folder)).add(f'"{os.getpid()}"', "cpu")


def test_graphs_are_compiled_in_another_process_and_waited_for(cache, monkeypatch):
    monkeypatch.setattr(compiling_ahead, "compile_here", _compiles)
    progress = Said()
    with graphs(cache) as study:
        assert study.settled(progress) and study.settled(progress)
    (file,) = (cache.folder / "graphs").iterdir()
    assert int(json.loads(file.read_text())) != os.getpid()
    waiting, done = progress.lines
    assert waiting.startswith("compile  1 network new to the compiler: ")
    assert done.startswith("compile  done, after ")


def test_a_graph_that_cannot_be_made_leaves_all_trials_eager(cache, monkeypatch):
    monkeypatch.setattr(compiling_ahead, "compile_here", _compiles)
    progress = Said()
    with graphs(cache, TINY.changed({"seed": 1})) as study:
        assert not study.settled(progress) and study.choice.compile == "never"
    assert progress.lines[-1] == (
        "compile  failed, so that all trials run eager: ValueError: no such kernel"
    )


def test_a_study_that_goes_on_eager_compiles_nothing_beside_its_trials(cache, monkeypatch):
    monkeypatch.setattr(compiling_ahead, "compile_here", _compiles)
    with graphs(cache, TINY.changed({"seed": 2})) as study:
        (job,) = study._jobs
        runner = object.__new__(StudyRunner)
        runner.context, runner.graphs = SimpleNamespace(compile="never", workers=0), study
        runner.ready, runner.resources = SimpleNamespace(base=TINY), SimpleNamespace(at_once=1)
        runner.options = SimpleNamespace(ray_address=None)
        runner.progress = runner.trial = None
        runner._launcher()
        assert isinstance(job.exception(timeout=30), Exception)


def test_a_study_that_ends_stops_what_still_compiles(cache, monkeypatch):
    monkeypatch.setattr(compiling_ahead, "compile_here", _compiles)
    with graphs(cache, TINY.changed({"seed": 2})) as study:
        (job,) = study._jobs
        while not job.running():
            time.sleep(0.01)
    assert isinstance(job.exception(timeout=30), Exception)


def test_nothing_starts_where_the_compiler_has_all(cache):
    with StudyGraphs(CompileChoice(compile="always", reason=""), CPUS, cache) as study:
        assert study.settled(Said()) and not study._jobs


def _seen(_):
    return os.environ["CUDA_VISIBLE_DEVICES"]


def test_a_process_sees_the_gpu_that_it_was_given(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with process_on_gpu(1) as process:
        assert process.submit(_seen, None).result() == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    with process_on_gpu(1) as process:
        assert process.submit(_seen, None).result() == "7", "of those that the user left"


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_a_process_sees_no_gpu_that_the_user_hides(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    for number in (0, 1):
        with process_on_gpu(number) as process:
            assert process.submit(_seen, None).result() == hidden


def runner(cache, **parts):
    """A StudyRunner with no more than what decides how its trials are compiled."""
    made = object.__new__(StudyRunner)
    made.progress, made.trial, made.resources = Said(), None, SimpleNamespace(gpus=1.0)
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def test_a_study_that_began_compiled_does_not_go_on_eager(cache, monkeypatch):
    monkeypatch.setattr(compiling_ahead, "compile_here", _compiles)
    with graphs(cache, TINY.changed({"seed": 1})) as study:
        resumed = runner(
            cache,
            context=SimpleNamespace(compile="always"),
            study=SimpleNamespace(name="ablate_depth_Run01"),
            graphs=study,
        )
        with pytest.raises(UserError, match=r"ablate_depth_Run01 began compiled.*no such kernel"):
            resumed._launcher()


def test_the_arms_after_a_search_run_the_same_way(cache):
    searched = runner(cache, context=SimpleNamespace(compile="auto"))
    long = QUICK.changed({"train.epochs": 60})
    assert searched._compile({"a": long, "found": long}) == "always"
    assert searched._compile({"a": long, "found": QUICK}) == "never"
    searched.resources = SimpleNamespace(gpus=0)
    assert searched._compile({"a": long}) == "auto"
