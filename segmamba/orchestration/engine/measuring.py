"""Rehearsals of a study's arms, kept on disk: what was measured is not measured again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segmamba.errors import UserError
from segmamba.files import write_json
from segmamba.json_files import read_json
from segmamba.leftovers import folder_beside
from segmamba.orchestration.engine.measuring_processes import (
    STEPS,
    Killed,
    LocalMeasurement,
    MeasuringProcesses,
    RehearsalTask,
)

if TYPE_CHECKING:
    from segmamba.config import Config
    from segmamba.data.splits import Split
    from segmamba.training.rehearsal import Rehearsal


class Measure:
    """Gives the Rehearsals of configurations, on one GPU or on CPU cores. Use as a context manager.

    Args:
        data: The split that a trial trains and is tested on.
        kept: Folder of earlier measurements.
        machine: What the measurements depend on beside the settings: plain values.
        at_once: How many may be measured at the same time: one on each GPU, or one on each core,
            where it then shares the memory with others, as trials will.
        compiler: Folder of the compiler's cache, which should hold what is measured compiled.
        say: Called with a line about each measurement.
        processes: Where the rehearsals run; None is this machine.
    """

    def __init__(
        self,
        data: Split,
        kept: str | Path,
        machine: Sequence[object],
        *,
        at_once: int = 1,
        compiler: str = "",
        say: Callable[[str], object] = lambda text: None,
        processes: MeasuringProcesses[Any] | None = None,
    ) -> None:
        self._data, self._kept, self._machine = data, Path(kept), machine
        self._at_once, self._compiler, self._say = at_once, compiler, say
        # Any: a job is passed from `start` to `result` and not looked at.
        self._processes: MeasuringProcesses[Any] = processes or LocalMeasurement()
        self._count = 0

    def __enter__(self) -> Measure:
        return self

    def __exit__(self, *error: object) -> None:
        self._processes.end()

    def __call__(
        self,
        configs: Sequence[Config],
        *,
        threads: int,
        compile: str = "never",
        together: bool = False,
    ) -> list[Rehearsal]:
        """Rehearse a trial of each configuration.

        Args:
            configs: What to rehearse.
            threads: Threads of torch in each process.
            compile: The value of `train.compile`.
            together: Whether all run at the same time on one GPU and are timed while all run.

        Returns:
            A Rehearsal for each configuration, in the same order.

        Raises:
            UserError: A process that measured was killed.
        """
        configs = [config.changed({"train.compile": compile, "seed": 0}) for config in configs]
        return self._together(configs, threads) if together else self._one_by_one(configs, threads)

    def _one_by_one(self, configs: Sequence[Config], threads: int) -> list[Rehearsal]:
        files = [self._file(config, threads, processes=1) for config in configs]
        # Arms that differ in nothing that matters here are measured once.
        config_of = dict(zip(files, configs, strict=True))
        rehearsals = {file: kept[0] for file in config_of if (kept := _read(file))}
        missing = [file for file in config_of if file not in rehearsals]
        for start in range(0, len(missing), self._at_once):
            batch = {file: config_of[file] for file in missing[start : start + self._at_once]}
            measured = self._rehearsed(batch, threads)
            rehearsals |= measured
            for file, rehearsal in measured.items():
                self._write(file, [rehearsal])
            self._processes.renew()
        return [rehearsals[file] for file in files]

    def _rehearsed(self, batch: Mapping[Path, Config], threads: int) -> dict[Path, Rehearsal]:
        """The Rehearsals of a batch, all at the same time, in processes of their own."""
        jobs = {
            file: self._processes.start(slot, self._task(config, threads, gpu=slot))
            for slot, (file, config) in enumerate(batch.items())
        }
        return {file: self._result(job, batch[file]) for file, job in jobs.items()}

    def _together(self, configs: Sequence[Config], threads: int) -> list[Rehearsal]:
        file = self._file(configs[0], threads, processes=len(configs))
        kept = _read(file)
        if kept:
            return kept
        self._kept.mkdir(parents=True, exist_ok=True)
        # The folder lies where a node of a cluster sees it, too.
        with folder_beside(self._kept / "meet") as meet:
            tasks = [
                self._task(config, threads, gpu=0, meet=str(meet), others=len(configs) - 1)
                for config in configs
            ]
            jobs = [self._processes.start(slot, task) for slot, task in enumerate(tasks)]
            rehearsals = [
                self._result(job, config) for job, config in zip(jobs, configs, strict=True)
            ]
        self._write(file, rehearsals)
        return rehearsals

    def _task(self, config: Config, threads: int, **place: Any) -> RehearsalTask:
        return RehearsalTask(
            config=config, data=self._data, threads=threads, compiler=self._compiler, **place
        )

    def _result(self, job: object, config: Config) -> Rehearsal:
        try:
            result = self._processes.result(job)
        except Killed as error:
            self._processes.end()
            raise UserError(
                "--plan: the process that measures was killed, probably for its memory; "
                "lower data.patch_size or train.batch_size, "
                "or set --gpus-per-trial to start without measuring"
            ) from error
        self._count += 1
        compiled = (
            f", compiled, warm after {result.warm_up_s:.0f} s"
            if config.train.compile == "always"
            else ""
        )
        self._say(f"measured {self._count}: {1000 * result.step_s:.0f} ms a step{compiled}")
        return result

    def _file(self, config: Config, threads: int, *, processes: int) -> Path:
        """The file that keeps a measurement; its name is a digest of all that counts."""
        from segmamba.training.rehearsal import shortened

        cases = sorted(
            case.folder.name
            for group in (self._data.train, self._data.validation, self._data.test[:1])
            for case in group
        )
        known = [
            shortened(config, 1).to_flat_dict(),
            cases,
            threads,
            processes,
            STEPS,
            self._machine,
        ]
        digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
        return self._kept / f"{digest[:16]}.json"

    def _write(self, file: Path, rehearsals: Sequence[Rehearsal]) -> None:
        self._kept.mkdir(parents=True, exist_ok=True)
        write_json(file, [dataclasses.asdict(rehearsal) for rehearsal in rehearsals])


def _read(file: Path) -> list[Rehearsal] | None:
    """The Rehearsals in a file; None where it is missing or was written by another version."""
    from segmamba.training.rehearsal import Rehearsal

    try:
        return read_json(file, list[Rehearsal])
    except UserError:
        return None
