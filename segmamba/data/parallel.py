"""One function over many cases, on all cores where that pays, whatever happens to the processes that run it."""

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

SERIAL_BYTES = 32 * 2**20  # below this, starting worker processes costs more than it saves


def map_cases(
    function, cases, *, lost, workers=0, progress=lambda done, total: None, serial_bytes=None
):
    """[function(case), ...] in the order of `cases`; function must be importable and must not raise on bad data.

    lost: lost(case) stands for the result of a case whose process was killed. workers: at most so many processes; 0 is one for each
    core, 1 is this process alone. progress: called with (done, in all) after each. serial_bytes: size of all files below which this
    process does it alone; None is SERIAL_BYTES.
    """
    workers, least = (
        workers or os.cpu_count(),
        SERIAL_BYTES if serial_bytes is None else serial_bytes,
    )
    if (
        workers == 1
        or sum(path.stat().st_size for case in cases for path in case.files if path.is_file())
        < least
    ):
        results = []
        for case in cases:
            results.append(function(case))
            progress(len(results), len(cases))
        return results
    results = [None] * len(cases)
    with ProcessPoolExecutor(min(len(cases), workers), mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(function, case): place for place, case in enumerate(cases)}
        try:
            for done, job in enumerate(as_completed(jobs), 1):
                results[jobs[job]] = _result(job, cases[jobs[job]], lost)
                progress(done, len(cases))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return results


def _result(job, case, lost):
    try:
        return job.result()
    except BrokenProcessPool:
        return lost(case)
