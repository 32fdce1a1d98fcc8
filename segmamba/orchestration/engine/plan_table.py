"""What `--plan` prints."""

from rich.table import Table

from segmamba.orchestration.engine.resource_plan import clock
from segmamba.screen import print_line

GIB, MIB = 2**30, 2**20


def render_budget(budget, console):
    """The arms, the ways that were compared, time and disk of a Budget, on a rich Console; what it has of them where nothing was measured."""
    if budget.arms:
        _render_measured(budget, console)
    for name, text in _totals(budget):
        print_line(console, f"{name:9}{text}")


def _render_measured(budget, console):
    arms = Table(box=None, pad_edge=False)
    for name, side in (
        ("arm", "left"),
        ("a step", "right"),
        ("validating a case", "right"),
        ("testing a case", "right"),
        ("memory", "right"),
        ("a trial", "right"),
    ):
        arms.add_column(name, justify=side)
    for arm, cost in budget.arms.items():
        arms.add_row(
            arm,
            _short(cost["step_s"]),
            _short(cost["validate_case_s"]),
            _short(cost["test_case_s"]),
            _size(cost["peak_bytes"]),
            clock(cost["trial_s"]),
        )
    console.print(arms)
    console.print()
    ways = Table(box=None, pad_edge=False)
    for name, side in (
        ("way", "left"),
        ("steps a second", "right"),
        ("the study", "right"),
        ("", "left"),
    ):
        ways.add_column(name, justify=side)
    soonest = min(budget.ways, key=lambda way: way["study_s"])
    for way in budget.ways:
        ways.add_row(
            way["way"],
            f"{way['steps_per_s']:.2f}",
            clock(way["study_s"]),
            "<- soonest" if way is soonest and len(budget.ways) > 1 else "",
        )
    console.print(ways)
    console.print()


def _totals(budget):
    r = budget.resources
    share = (
        f"{r.gpus:g} GPU and {r.cpus} cores"
        if r.gpus
        else f"{r.threads} core{'s' * (r.threads > 1)}"
    )
    shared = f"{budget.trials}, {r.at_once} at once, {share} each"
    yield "machine", budget.machine
    if not budget.arms:
        yield "trials", shared
        yield "time", budget.why
        yield "start", "the same command without --plan"
        return
    hours = sum(cost["trial_s"] for cost in budget.arms.values()) / len(budget.arms)
    yield "trials", f"{shared}; about {clock(hours)} a trial, {clock(budget.study_s)} in all"
    yield (
        "disk",
        f"{_size(budget.disk_bytes)} of checkpoints; {_size(budget.disk_free_bytes)} free"
        + (": NOT ENOUGH" if budget.disk_bytes > budget.disk_free_bytes else ""),
    )
    yield (
        "start",
        "the same command without --plan; what was measured is kept and not measured again",
    )


def _short(seconds):
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _size(size):
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
