"""The preprocessing cache on the nodes of a Ray cluster.

The nodes may share the cache's folder, or each may have its own. The path of the cache is the same
everywhere, or holds environment variables that each node fills in (`$TMPDIR/segmamba`). Sharing
needs no option: a node skips the cases that it finds. Each node starts at a different case, so that
nodes with one folder divide the work.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segmamba.data.preprocess import prepare_again, prepare_cases
from segmamba.data.splits import SETS, Split
from segmamba.errors import UserError
from segmamba.screen import Progress, no_progress

if TYPE_CHECKING:
    import ray

    from segmamba.config import DataConfig
    from segmamba.data.case import Case
    from segmamba.data.preprocess import PreparedCase

READ = (*SETS, "unlabelled")
"""The sets of a split whose files a trial reads."""


def prepare_on_nodes(
    cases: Sequence[Case],
    cache: str | Path,
    config: DataConfig,
    *,
    progress: Progress = no_progress,
) -> list[PreparedCase]:
    """Build what the cache of each node lacks, on all nodes of the connected cluster at once.

    Args:
        cases: The cases to prepare.
        cache: The path of the cache, as described at the top of this file.
        config: The settings of preprocessing.
        progress: Called after each case of each node; a case counts once for every node.

    Returns:
        The cases as this node's cache holds them.

    Raises:
        UserError: A case is bad or a node was lost. The message names the first case and counts
            the others. What was built stays in the cache.
    """
    waiting = _submit_builds(cases, cache, config)
    total = len(waiting)
    errors: dict[str, str] = {}
    while waiting:
        case, error = _next_result(waiting)
        errors |= {case.id: error} if error else {}
        progress(total - len(waiting), total)
    if errors:
        first = next(errors[case.id] for case in cases if case.id in errors)
        more = f" (and {len(errors) - 1} more cases fail)" if len(errors) > 1 else ""
        raise UserError(first + more)
    return prepare_cases(cases, on_this_node(cache), config)


def _submit_builds(
    cases: Sequence[Case], cache: str | Path, config: DataConfig
) -> dict[ray.ObjectRef[str | None], Case]:
    """Start one task for each case on each node; every task with its case."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    ]
    build = ray.remote(num_cpus=1)(_build_here)
    tasks: dict[ray.ObjectRef[str | None], Case] = {}
    for place, node in enumerate(nodes):
        first = place * len(cases) // len(nodes)
        pinned = build.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
        tasks |= {
            pinned.remote(case, str(cache), config): case
            for case in [*cases[first:], *cases[:first]]
        }
    return tasks


def _next_result(waiting: dict[ray.ObjectRef[str | None], Case]) -> tuple[Case, str | None]:
    """Take the next task that ends out of `waiting`: its case, and its error or None."""
    import ray

    (ready,), _ = ray.wait(list(waiting), num_returns=1)
    case = waiting.pop(ready)
    try:
        return case, ray.get(ready)
    except ray.exceptions.RayError as lost:
        return case, (
            f"{case.id}: not prepared, its node or process was lost "
            f"({str(lost).splitlines()[0]}); start again, what is built stays"
        )


def split_on_this_node(
    split: Split, cases: Iterable[Case], cache: str | Path, config: DataConfig
) -> Split:
    """The split with its cases prepared in this node's cache; fast where they are prepared already.

    Args:
        split: A split of PreparedCases of any node.
        cases: The cases that the split was made from, or more.
        cache: The path of the cache, as described at the top of this file.
        config: The settings of preprocessing.

    Returns:
        The same split, whose PreparedCases lie on this node.
    """
    groups = {name: getattr(split, name) for name in READ}
    wanted = {case.id: case for group in groups.values() for case in group}
    sources = {case.id: case for case in cases if case.id in wanted}
    here = prepare_again(
        [wanted[case_id] for case_id in sources], [*sources.values()], on_this_node(cache), config
    )
    prepared = {case.id: case for case in here}
    return dataclasses.replace(
        split,
        **{
            name: type(group)(prepared[case.id] for case in group) for name, group in groups.items()
        },
    )


def on_this_node(cache: str | Path) -> Path:
    """The cache's path with this node's environment variables filled in.

    Raises:
        UserError: The path names a variable that is not set on this node.
    """
    path = os.path.expandvars(str(cache))
    if "$" in path:
        raise UserError(
            f"cache {cache}: {os.uname().nodename} lacks one of its environment variables; "
            "set it on every node"
        )
    return Path(path)


def _build_here(case: Case, cache: str, config: DataConfig) -> str | None:
    """Prepare one case in this node's cache. Returns None, or the error message."""
    try:
        prepare_cases([case], on_this_node(cache), config, workers=1)
    except UserError as error:
        return str(error)
    return None
