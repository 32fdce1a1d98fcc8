"""The preprocessing cache on the nodes of a Ray cluster, whether they share the cache's folder or each has its own.

The cache's path is the same everywhere, or holds environment variables that each node fills in (`$TMPDIR/segmamba`). Nothing needs to be
told about sharing: a node skips what it finds, and starts at a place of its own, so that nodes with one folder divide the work.
"""

import dataclasses
import os
from pathlib import Path

from segmamba.data.preprocess import prepare_cases
from segmamba.errors import UserError


def prepare_on_nodes(cases, cache, config, *, progress=lambda done, total: None):
    """Build what the cache of each node lacks, on all nodes of the connected cluster at once; the PreparedCases of this node.

    cache: a path as above; config: a DataConfig. progress: called with (done, in all), a case on each node counting as one.
    Raises UserError for the first bad case or lost node, saying how many more there are; what is built stays.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    ]
    build = ray.remote(num_cpus=1)(_build_here)
    waiting = {}
    for place, node in enumerate(nodes):
        first = place * len(cases) // len(nodes)
        pinned = build.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        waiting |= {
            pinned.remote(case, str(cache), config): case
            for case in [*cases[first:], *cases[:first]]
        }
    total, errors = len(waiting), {}
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        case = waiting.pop(ready)
        try:
            error = ray.get(ready)
        except ray.exceptions.RayError as lost:
            error = f"{case.id}: not prepared, its node or process was lost ({str(lost).splitlines()[0]}); start again, what is built stays"
        errors |= {case.id: error} if error else {}
        progress(total - len(waiting), total)
    if errors:
        first = next(errors[case.id] for case in cases if case.id in errors)
        raise UserError(
            first + (f" (and {len(errors) - 1} more cases fail)" if len(errors) > 1 else "")
        )
    return prepare_cases(cases, on_this_node(cache), config)


def split_on_this_node(split, cases, cache, config):
    """The Split with its cases prepared in this node's cache; fast where they are. cases: the Cases that it was made from, or more."""
    groups = {name: getattr(split, name) for name in ("train", "validation", "test", "unlabelled")}
    wanted = {case.id for group in groups.values() for case in group}
    prepared = {
        case.id: case
        for case in prepare_cases([c for c in cases if c.id in wanted], on_this_node(cache), config)
    }
    return dataclasses.replace(
        split,
        **{
            name: type(group)(prepared[case.id] for case in group) for name, group in groups.items()
        },
    )


def on_this_node(cache):
    """The path with this node's environment variables filled in; one that is not set is the user's mistake."""
    path = os.path.expandvars(str(cache))
    if "$" in path:
        raise UserError(
            f"cache {cache}: {os.uname().nodename} lacks one of its environment variables; set it on every node"
        )
    return Path(path)


def _build_here(case, cache, config):
    """One case in this node's cache: None, or the error message."""
    try:
        prepare_cases([case], on_this_node(cache), config, workers=1)
    except UserError as error:
        return str(error)
    return None
