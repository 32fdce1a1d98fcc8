"""Rehearsals of a study's arms in fresh processes, here or on a node of a cluster, kept on disk: what was measured is not measured again."""

import dataclasses
import hashlib
import json
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from segmamba.errors import UserError
from segmamba.files import write_json

STEPS = {"cpu": 2, "cuda": 40}  # timed, after as many that warm up


class Measure:
    """Called with Configs gives their Rehearsals on one GPU or on CPU cores. Use as a context manager.

    kept: folder of earlier measurements. machine: what they hold for beside the settings, plain values. at_once: on a CPU, how many
    may be measured at the same time; what is measured then shares the memory with others, as trials will. say: told of each.
    processes: where they run, this machine (LocalMeasurement) or a node of a cluster (RemoteMeasurement).
    """

    def __init__(self, data, kept, machine, *, at_once=1, say=lambda text: None, processes=None):
        self._data, self._kept, self._machine, self._at_once, self._say = (
            data,
            Path(kept),
            machine,
            at_once,
            say,
        )
        self._processes, self._count = processes or LocalMeasurement(), 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._processes.end()

    def __call__(self, configs, *, threads, compile="never", together=False):
        """[Rehearsal, ...]. together: all at once on one GPU, timed while all run; otherwise on a GPU one after another."""
        configs = [config.changed({"train.compile": compile, "seed": 0}) for config in configs]
        return self._together(configs, threads) if together else self._one_by_one(configs, threads)

    def _one_by_one(self, configs, threads):
        files = [self._file(config, threads, 1) for config in configs]
        by_file = dict(
            zip(files, configs, strict=True)
        )  # arms that differ in nothing that matters here are measured once
        found = {file: self._read(file) for file in by_file}
        missing = [file for file, rehearsal in found.items() if rehearsal is None]
        for start in range(0, len(missing), self._at_once):
            batch = missing[start : start + self._at_once]
            compiled = by_file[batch[0]].train.compile == "always"
            for file, rehearsal in (self._from_cache if compiled else self._rehearsed)(
                batch, by_file, threads
            ).items():
                found[file] = rehearsal
                self._write(file, [rehearsal])
            self._processes.renew()
        return [found[file] for file in files]

    def _rehearsed(self, batch, by_file, threads):
        """{file: Rehearsal} of the Configs with these files, all at the same time, in processes of their own."""
        jobs = {
            file: self._processes.start(slot, by_file[file], self._data, threads, None, 0)
            for slot, file in enumerate(batch)
        }
        return {file: self._result(job, by_file[file]) for file, job in jobs.items()}

    def _from_cache(self, batch, by_file, threads):
        """The same of compiled networks, as trials find them: the compiler's cache on disk is filled by a first rehearsal."""
        cold = self._rehearsed(batch, by_file, threads)
        self._processes.end()  # what a process has compiled it does not compile again
        warm = self._rehearsed(batch, by_file, threads)
        return {
            file: replace(
                warm[file], compile_s=max(0.0, cold[file].warm_up_s - warm[file].warm_up_s)
            )
            for file in batch
        }

    def _together(self, configs, threads):
        file = self._file(configs[0], threads, len(configs))
        kept = self._read_all(file)
        if kept:
            return kept
        self._kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=self._kept, prefix="meet_"
        ) as meet:  # where a node sees it, too
            jobs = [
                self._processes.start(i, c, self._data, threads, meet, len(configs) - 1)
                for i, c in enumerate(configs)
            ]
            found = [self._result(job, config) for job, config in zip(jobs, configs, strict=True)]
        self._write(file, found)
        return found

    def _result(self, job, config):
        try:
            result = self._processes.result(job)
        except Killed as error:
            self._processes.end()
            raise UserError(
                "--plan: the process that measures was killed, probably for its memory; lower data.patch_size or train.batch_size, "
                "or set --gpus-per-trial to start without measuring"
            ) from error
        self._count += 1
        compiled = (
            f", compiled or found in the cache in {result.warm_up_s:.0f} s"
            if config.train.compile == "always"
            else ""
        )
        self._say(f"measured {self._count}: {1000 * result.step_s:.0f} ms a step{compiled}")
        return result

    def _file(self, config, threads, processes):
        from segmamba.training.rehearsal import shortened

        cases = sorted(
            case.folder.name
            for group in (self._data.train, self._data.validation[:1], self._data.test[:1])
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
        return (
            self._kept
            / f"{hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]}.json"
        )

    def _read(self, file):
        kept = self._read_all(file)
        return kept[0] if kept else None

    def _read_all(self, file):
        from segmamba.training.rehearsal import Rehearsal

        try:
            return [Rehearsal(**entry) for entry in json.loads(file.read_text())]
        except (OSError, ValueError, TypeError):
            return None  # never measured, or written by another version

    def _write(self, file, rehearsals):
        self._kept.mkdir(parents=True, exist_ok=True)
        write_json(file, [dataclasses.asdict(rehearsal) for rehearsal in rehearsals])


class Killed(Exception):
    """The process that measured has died."""


class LocalMeasurement:
    """Processes of this machine, one a slot."""

    def __init__(self):
        self._open, self._pools = ExitStack(), []

    def start(self, slot, config, data, threads, meet, others):
        """A job for `result`, begun."""
        while len(self._pools) <= slot:
            self._pools.append(
                self._open.enter_context(ProcessPoolExecutor(1, mp_context=get_context("spawn")))
            )
        return self._pools[slot].submit(_rehearse, time.time(), config, data, threads, meet, others)

    def result(self, job):
        """The job's Rehearsal. Raises Killed."""
        try:
            return job.result()
        except BrokenProcessPool as error:
            raise Killed from error

    def renew(self):
        """On a CPU the next peak of memory is read from a fresh process."""
        if _device() == "cpu":
            self.end()

    def end(self):
        self._open.close()
        self._open, self._pools = ExitStack(), []


class RemoteMeasurement:
    """Processes of a Node of the connected cluster, each with the cores and the share of a GPU that a trial has.

    cases, cache: as in StudyContext, where each node has a cache of its own.
    """

    def __init__(self, node, cases=(), cache=None):
        self._node, self._cases, self._cache = node, cases, cache

    def start(self, slot, config, data, threads, meet, others):
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        share = 1 / (others + 1) if self._node.gpus else 0
        task = ray.remote(num_cpus=threads, num_gpus=share, max_calls=1, max_retries=0)(
            _rehearse_there
        )  # max_calls: a fresh process for each
        pinned = task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(self._node.id, soft=False)
        )
        return pinned.remote(
            time.time(), config, data, threads, meet, others, self._cases, self._cache
        )

    def result(self, job):
        import ray

        try:
            return ray.get(job)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise Killed from error

    def renew(self):
        """Nothing is left of a process that has measured."""

    end = renew


def _device():
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _rehearse(asked, config, data, threads, meet, others):
    """In a process of its own. asked: when it was asked for, by the clock on the wall, on a cluster another machine's."""
    from segmamba.training.rehearsal import rehearse

    start_s = max(0.0, time.time() - asked)
    return replace(
        rehearse(config, data, steps=STEPS[_device()], threads=threads, meet=meet, others=others),
        start_s=start_s,
    )


def _rehearse_there(asked, config, data, threads, meet, others, cases, cache):
    """On the node."""
    from segmamba.orchestration.engine.caching import split_on_this_node

    began = time.time()
    here = split_on_this_node(data, cases, cache, config.data) if cache else data
    asked += time.time() - began  # a trial's cases are there
    return _rehearse(asked, config, here, threads, meet, others)
