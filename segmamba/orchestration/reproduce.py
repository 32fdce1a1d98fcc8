"""A run repeated from what MLflow knows of it, and compared with it figure by figure."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from segmamba.config import load_config
from segmamba.data.source import source_changes
from segmamba.errors import UserError
from segmamba.orchestration.single import RunOptions, run_single
from segmamba.orchestration.tracking.store import open_store, store_uri
from segmamba.screen import print_line

COMPARED = ("train/", "val/", "test/")
"""Names of metrics that a repetition must give again; times and memory are the machine's affair."""


@dataclass(frozen=True)
class Row:
    """One thing compared. values: how many numbers it stands for; difference: the largest, or None where there is no distance."""

    name: str
    values: int
    difference: float | None
    same: bool


@dataclass(frozen=True)
class Compared:
    run_id: str
    folder: str
    """The repetition's."""
    rows: tuple

    @property
    def same(self):
        return all(row.same for row in self.rows)

    def as_dict(self):
        return asdict(self) | {"same": self.same}


def reproduce_run(run_id, data, device, output, callback):
    """Repeat MLflow's run `run_id` below `output` and compare. data: where its data are now, None for where they were."""
    uri = store_uri(output)
    open_store(uri, output)
    client = MlflowClient(uri)
    try:
        run = client.get_run(run_id)
        config = load_config(client.download_artifacts(run_id, "config.json"))
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{run_id}: {uri} has no such run with a config.json; give the id of a run or a trial of --output {output}"
        ) from error
    if data:
        config = config.changed(source_changes(data, config.data.labels))
    told = _environment(client, run_id)
    if told:
        import torch

        torch.set_num_threads(
            int(told["environment"]["threads"])
        )  # sums are rounded in another order with another number
    finished = run_single(
        RunOptions(
            config=config,
            name=f"Reproduced_{run.info.run_name}".replace(" ", "-").replace(",", ""),
            output=output,
            device=device,
            tags={"reproduces": run_id},
        ),
        callback,
    )
    again = {
        "history": finished.folder.read_history(config.train.epochs),
        "final": finished.final,
        "environment": json.loads(finished.folder.environment.read_text()),
    }
    return Compared(run_id, str(finished.folder.root), tuple(_rows(client, run, told, again)))


def _rows(client, run, told, again):
    if told:
        for name in ("data_sha256", "split"):
            yield Row(
                {"data_sha256": "data", "split": "split"}[name],
                1,
                None,
                told[name] == again["environment"][name],
            )
    ours = {}
    for entry in again["history"]:
        for name, value in entry.items():
            ours.setdefault(name, {})[entry["epoch"]] = value
    for name, value in again["final"].metrics.items():
        ours.setdefault(name, {})[again["final"].epochs] = value
    for name in sorted(name for name in run.data.metrics if name.startswith(COMPARED)):
        before, now = (
            {m.step: m.value for m in client.get_metric_history(run.info.run_id, name)},
            ours.get(name, {}),
        )
        shared = before.keys() & now.keys()
        difference = max((abs(before[step] - now[step]) for step in shared), default=None)
        yield Row(name, len(shared), difference, before == now)
    for which, digest in again["final"].weights_sha256.items():
        if (tag := f"weights_sha256_{which}") in run.data.tags:
            yield Row(f"weights, {which}", 1, None, run.data.tags[tag] == digest)


def _environment(client, run_id):
    """environment.json of the run, or None where it has none."""
    try:
        return json.loads(Path(client.download_artifacts(run_id, "environment.json")).read_text())
    except (MlflowException, OSError):
        return None


def render(compared, console):
    from rich.table import Table

    table = Table(
        title=f"{compared.run_id} and its repetition",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    for name, side in (
        ("compared", "left"),
        ("values", "right"),
        ("largest difference", "right"),
        ("", "left"),
    ):
        table.add_column(name, justify=side)
    for row in compared.rows:
        distance = "" if row.difference is None else f"{row.difference:.3g}"
        table.add_row(
            row.name,
            str(row.values),
            distance,
            "same" if row.same else "differs",
            style=None if row.same else "red",
        )
    console.print(table)
    print_line(console, f"repetition {compared.folder}")
    console.print("the same" if compared.same else "not the same", markup=False)
