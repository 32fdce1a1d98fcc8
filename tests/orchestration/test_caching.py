"""A real Ray cluster of two nodes on one machine; what is in `NODE` differs between them."""

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from search_spaces import ablate_depth
from segmamba.config import DataConfig
from segmamba.data import source
from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import split_cases
from segmamba.errors import UserError
from segmamba.orchestration import study
from segmamba.orchestration.engine import caching
from segmamba.orchestration.engine.caching import on_this_node, prepare_on_nodes, split_on_this_node
from tests.conftest import write_case

SETS = ("train", "validation", "test", "unlabelled")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """Two folders, one for each node of a cluster that this process has joined at the first."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    folders = [tmp_path_factory.mktemp("node") for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("NODE", str(folders[0]))
        cluster = Cluster()
        try:
            for folder in folders:
                cluster.add_node(
                    num_cpus=1,
                    object_store_memory=80 * 2**20,
                    include_dashboard=False,
                    env_vars={"NODE": str(folder)},
                )
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            yield folders
        finally:
            ray.shutdown()
            cluster.shutdown()


def built(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.slow
def test_nodes_with_folders_of_their_own_each_build_all_cases(nodes, cases_folder):
    steps = []
    prepared = prepare_on_nodes(
        find_cases(cases_folder),
        "$NODE/cache",
        DataConfig(),
        progress=lambda *step: steps.append(step),
    )
    assert (
        built(nodes[0] / "cache")
        == built(nodes[1] / "cache")
        == [case.folder.name for case in prepared]
    )
    assert {case.folder.parent for case in prepared} == {nodes[0] / "cache"} and steps == [
        (n, 6) for n in range(1, 7)
    ]
    assert prepared == prepare_cases(find_cases(cases_folder), nodes[0] / "cache", DataConfig())


def _build_and_sign(case, cache, config):
    """As caching._build_here; the node's first case is written down in its folder."""
    first = Path(os.environ["NODE"]) / "first_case"
    if not first.exists():
        first.write_text(case.id)
    return prepare_cases([case], cache, config, workers=1) and None


@pytest.mark.slow
def test_nodes_with_one_folder_divide_the_work(nodes, tmp_path, monkeypatch):
    for number in range(6):
        write_case(tmp_path / "data", f"BraTS20_Training_{number:03d}", seed=number)
    monkeypatch.setattr(caching, "_build_here", _build_and_sign)
    prepared = prepare_on_nodes(find_cases(tmp_path / "data"), tmp_path / "cache", DataConfig())
    assert [case.id for case in prepared] == [
        f"BraTS20_Training_{number:03d}" for number in range(6)
    ]
    assert built(tmp_path / "cache") == [case.folder.name for case in prepared], (
        "no unfinished folder is left"
    )
    firsts = {(node / "first_case").read_text() for node in nodes}
    assert firsts == {"BraTS20_Training_000", "BraTS20_Training_003"}, (
        "the second node starts half-way"
    )


@pytest.mark.slow
def test_a_bad_case_is_one_line_however_many_nodes_find_it_and_the_others_stay(nodes, cases_folder):
    path = cases_folder / "BraTS20_Training_001" / "BraTS20_Training_001_t1.nii.gz"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"BraTS20_Training_001_t1\.nii\.gz: damaged[^\n]*again$"):
        prepare_on_nodes(find_cases(cases_folder), "$NODE/bad", DataConfig())
    assert [len(built(node / "bad")) for node in nodes] == [2, 2]


@pytest.mark.slow
def test_a_trial_finds_the_cases_of_its_split_on_its_own_node(nodes, cases_folder):
    import ray

    cases = find_cases(cases_folder)
    split = split_cases(prepare_on_nodes(cases, "$NODE/cache", DataConfig()), DataConfig())
    there = ray.remote(num_cpus=1)(split_on_this_node).options(scheduling_strategy="SPREAD")
    splits = ray.get([there.remote(split, cases, "$NODE/cache", DataConfig()) for _ in range(2)])
    assert {case.folder.parents[1] for s in splits for case in s.train} == set(nodes)
    for s in splits:
        for name in SETS:
            assert [case.id for case in getattr(s, name)] == [
                case.id for case in getattr(split, name)
            ]


def test_a_split_keeps_its_order_its_notes_and_its_sets(cases_folder, tmp_path):
    write_case(cases_folder, "BraTS20_Training_009", label=False)
    cases = find_cases(cases_folder)
    *labelled, unlabelled = prepare_cases(cases, tmp_path / "driver", DataConfig())
    split = split_cases(labelled, DataConfig(), [unlabelled])
    here = split_on_this_node(split, cases[::-1], tmp_path / "node", DataConfig())
    assert {case.folder.parent for name in SETS for case in getattr(here, name)} == {
        tmp_path / "node"
    }
    back = {case.id: case for case in (*labelled, unlabelled)}
    moved = {
        name: type(getattr(here, name))(back[case.id] for case in getattr(here, name))
        for name in SETS
    }
    assert here.unlabelled and dataclasses.replace(here, **moved) == split


def test_a_path_takes_this_nodes_variables_and_misses_none_silently(monkeypatch, tmp_path):
    monkeypatch.setenv("SCRATCH_HERE", str(tmp_path))
    assert on_this_node("$SCRATCH_HERE/a") == on_this_node(tmp_path / "a") == tmp_path / "a"
    with pytest.raises(UserError, match=r"cache \$NOT_SET_ANYWHERE/a: .* lacks one"):
        on_this_node("$NOT_SET_ANYWHERE/a")


def test_cpus_bounds_the_processes_that_prepare(monkeypatch, cases_folder, tmp_path):
    class Asked(Exception):
        pass

    def record(cases, cache, config, *, workers, progress):
        raise Asked(workers)

    monkeypatch.setattr(source, "prepare_cases", record)
    options = study.StudyOptions(data=cases_folder, cpus=3, output=tmp_path / "Results")
    with pytest.raises(Asked, match="3"):
        study.run_study(ablate_depth.STUDY, options, SimpleNamespace(steps=lambda label: None))
