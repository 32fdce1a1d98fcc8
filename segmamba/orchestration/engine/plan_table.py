"""The tables that `--plan` prints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from segmamba.orchestration.engine.resource_plan import ResourcePlan
from segmamba.screen import clock, points, print_line
from segmamba.studies.alpha_spending import FIRST_LOOK

if TYPE_CHECKING:
    from rich.console import Console

    from segmamba.studies.power import PowerTable

GIB, MIB = 2**30, 2**20


def render_plan(plan: ResourcePlan, console: Console) -> None:
    """Print the arms, the executions that were compared, time and disk of a plan.

    Args:
        plan: The plan; where nothing was measured, only its resources are printed.
        console: Where it is printed.
    """
    if plan.arms:
        console.print(_arm_table(plan))
        console.print()
        console.print(_execution_table(plan))
        console.print()
    for name, text in _totals(plan):
        print_line(console, f"{name:9}{text}")
    if plan.power:
        console.print()
        console.print(_power_table(plan, plan.power))
        for name, text in _power_notes(plan.power):
            print_line(console, f"{name:9}{text}")


def _arm_table(plan: ResourcePlan) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("arm")
    for name in ("a step", "validating a case", "testing a case", "memory", "a trial"):
        table.add_column(name, justify="right")
    for arm, cost in plan.arms.items():
        table.add_row(
            arm,
            _short(cost.step_s),
            _short(cost.validate_case_s),
            _short(cost.test_case_s),
            _size(cost.peak_bytes),
            clock(cost.trial_s),
        )
    return table


def _execution_table(plan: ResourcePlan) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("way")
    table.add_column("steps a second", justify="right")
    table.add_column("the study", justify="right")
    table.add_column("")
    soonest = min(plan.executions, key=lambda execution: execution.study_s)
    for execution in plan.executions:
        table.add_row(
            execution.name,
            f"{execution.steps_per_s:.2f}",
            clock(execution.study_s),
            "<- soonest" if execution is soonest and len(plan.executions) > 1 else "",
        )
    return table


def _power_table(plan: ResourcePlan, power: PowerTable) -> Table:
    """What the study would find of each true effect, and what that would cost."""
    table = Table(box=None, pad_edge=False)
    table.add_column("true effect")
    for name in ("found", f"of {power.max_seeds} fixed seeds", "seeds", "the study"):
        table.add_column(name, justify="right")
    for row in power.rows:
        table.add_row(
            f"{points(row.effect)} points",
            f"{100 * row.sequential:.0f} %",
            f"{100 * row.fixed:.0f} %",
            f"{row.expected_seeds:.1f}",
            clock(plan.study_s * row.expected_seeds / FIRST_LOOK) if plan.study_s else "?",
        )
    return table


def _power_notes(power: PowerTable) -> Iterator[tuple[str, str]]:
    """What the table of power rests on, each line as its name and its text."""
    spreads = power.spreads
    yield (
        "power",
        f"{power.patients} test patients, {power.contrasts} "
        f"contrast{'s' * (power.contrasts > 1)}, at most {power.max_seeds} seeds; paired "
        f"differences vary by {points(spreads.seed_sd)} points between seeds and "
        f"{points(spreads.patient_sd)} between patients ({spreads.source})",
    )
    if math.isfinite(power.least_effect):
        yield (
            "limit",
            f"below {points(power.least_effect)} points no number of seeds finds 80 % on so few "
            "patients",
        )
    else:
        yield "limit", "one test patient: no effect can be found"


def _totals(plan: ResourcePlan) -> Iterator[tuple[str, str]]:
    """Each line below the tables, as its name and its text."""
    r = plan.resources
    share = (
        f"{r.gpus:g} GPU and {r.cpus} cores"
        if r.gpus
        else f"{r.threads} core{'s' * (r.threads > 1)}"
    )
    shared = f"{plan.trials}, {r.at_once} at once, {share} each"
    yield "machine", plan.machine
    if not plan.arms:
        yield "trials", shared
        yield "time", plan.why
        yield "start", "the same command without --plan"
        return
    mean_s = sum(cost.trial_s for cost in plan.arms.values()) / len(plan.arms)
    first = f"{FIRST_LOOK} seeds: " if plan.power else ""
    yield "trials", f"{first}{shared}; about {clock(mean_s)} a trial, {clock(plan.study_s)} in all"
    missing = ": NOT ENOUGH" if plan.disk_bytes > plan.disk_free_bytes else ""
    yield (
        "disk",
        f"{_size(plan.disk_bytes)} of checkpoints; {_size(plan.disk_free_bytes)} free{missing}",
    )
    yield (
        "start",
        "the same command without --plan; what was measured is kept and not measured again",
    )


def _short(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _size(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
