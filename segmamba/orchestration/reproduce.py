"""A run repeated from what MLflow knows of it, and compared with it figure by figure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from segmamba.config import load_config
from segmamba.data.source import source_changes
from segmamba.errors import UserError
from segmamba.orchestration.single import FinishedRun, RunOptions, run_single
from segmamba.orchestration.tracking.log import WEIGHTS_TAG
from segmamba.orchestration.tracking.store import Store, open_store, store_to_read
from segmamba.screen import print_line

if TYPE_CHECKING:
    from rich.console import Console

    from segmamba.orchestration.run_observer import RunObserver

COMPARED = ("train/", "val/", "test/")
"""Names of metrics that a repetition must give again; times and memory depend on the machine."""
NOT_TRAINED = {"arm": "an arm", "study": "a study"}
"""Kinds of runs that have no training of their own."""
SIDES: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("compared", "left"),
    ("values", "right"),
    ("largest difference", "right"),
    ("", "left"),
)


@dataclass(frozen=True)
class Row:
    """One thing that was compared."""

    name: str
    values: int
    """How many numbers it stands for."""
    difference: float | None
    """The largest; None where there is no distance."""
    same: bool
    note: str = ""
    """Why it differs, where that is not a matter of numbers."""


@dataclass(frozen=True)
class Compared:
    """A run and its repetition."""

    run_id: str
    folder: str
    """The repetition's."""
    rows: tuple[Row, ...]

    @property
    def same(self) -> bool:
        """Whether everything is the same."""
        return all(row.same for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self) | {"same": self.same}


def reproduce_run(
    run_id: str, data: Path | None, device: str, output: Path, observer: RunObserver
) -> Compared:
    """Repeat a run and compare.

    Args:
        run_id: MLflow's id of a run or of a study's trial.
        data: Where its data are now; None for where they were.
        device: "auto", "cpu", "cuda" or "cuda:1".
        output: The folder of results, where the repetition goes too.
        observer: Sees the repetition happen.

    Raises:
        UserError: There is no such run, it was never tested, or its data are not there.
    """
    store_to_read(output)  # to look for a run makes no store
    store = open_store(output)
    try:
        run = store.client.get_run(run_id)
        if whole := NOT_TRAINED.get(run.data.tags.get("kind", "")):
            raise UserError(
                f"{run_id}: the run of {whole}, which trained nothing; give the id of a trial"
            )
        with store.artifact(run_id, "config.json") as file:
            config = load_config(file)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{run_id}: {store.uri} has no such run with a config.json; give the id of a run or a "
            f"trial of --output {output}"
        ) from error
    if data:
        config = config.changed(source_changes(data, config.data.labels, config.data.names))
    record = _environment(store, run_id)
    if record:
        import torch

        # Sums are rounded in another order with another number of threads.
        torch.set_num_threads(int(record["environment"]["threads"]))
    name = f"Reproduced_{run.info.run_name}".replace(" ", "-").replace(",", "")
    options = RunOptions(
        config=config, name=name, output=output, device=device, tags={"reproduces": run_id}
    )
    finished = run_single(options, observer)
    rows = (
        *_data_rows(record, finished),
        *_metric_rows(store, run, finished),
        *_weight_rows(run, finished),
    )
    return Compared(run_id, str(finished.folder.root), rows)


def _data_rows(record: dict[str, Any] | None, finished: FinishedRun) -> Iterator[Row]:
    from segmamba.training.record import read_environment

    if record is None:
        return
    again = read_environment(finished.folder.environment)
    for key, name in (("data_sha256", "data"), ("split", "split")):
        yield Row(name, 1, None, record[key] == again[key])


def _metric_rows(store: Store, run: Run, finished: FinishedRun) -> Iterator[Row]:
    """Every metric of the run, at every step."""
    repeated: dict[str, dict[int, float]] = {}
    for entry in finished.folder.read_history(finished.final.epochs):
        for name, value in entry.items():
            repeated.setdefault(name, {})[entry["epoch"]] = value
    for name, value in finished.final.metrics.items():
        repeated.setdefault(name, {})[finished.final.epochs] = value
    for name in sorted(name for name in run.data.metrics if name.startswith(COMPARED)):
        history = store.client.get_metric_history(run.info.run_id, name)
        before, now = {m.step: m.value for m in history}, repeated.get(name, {})
        shared = before.keys() & now.keys()
        difference = max((abs(before[step] - now[step]) for step in shared), default=None)
        yield Row(name, len(shared), difference, before == now)


def _weight_rows(run: Run, finished: FinishedRun) -> Iterator[Row]:
    """The digests of the weights, which every tested run has as tags."""
    recorded = {
        name.removeprefix(WEIGHTS_TAG): digest
        for name, digest in run.data.tags.items()
        if name.startswith(WEIGHTS_TAG)
    }
    for which, digest in finished.final.weights_sha256.items():
        note = "" if which in recorded else "the run recorded no digest of these weights"
        yield Row(f"weights, {which}", 1, None, recorded.get(which) == digest, note)


def _environment(store: Store, run_id: str) -> dict[str, Any] | None:
    """environment.json of the run, or None where it has none."""
    from segmamba.training.record import read_environment

    with (
        contextlib.suppress(MlflowException, OSError),
        store.artifact(run_id, "environment.json") as path,
    ):
        return read_environment(path)
    return None


def render(compared: Compared, console: Console) -> None:
    """Print the comparison as a table."""
    from rich.table import Table

    table = Table(
        title=f"{compared.run_id} and its repetition",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name, side in SIDES:
        table.add_column(name, justify=side)
    for row in compared.rows:
        distance = "" if row.difference is None else f"{row.difference:.3g}"
        verdict = "same" if row.same else row.note or "differs"
        style = None if row.same else "red"
        table.add_row(row.name, str(row.values), distance, verdict, style=style)
    console.print(table)
    print_line(console, f"repetition {compared.folder}")
    console.print("the same" if compared.same else "not the same", markup=False)
