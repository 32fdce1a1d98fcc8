"""segmamba demo: the depth study on embedded data. Imports nothing slow."""

import typer

from segmamba.commands.shared import (
    RESULTS,
    CpusOption,
    FreshOption,
    JsonOption,
    OutputOption,
    ResumeOption,
    ViewerOption,
)
from segmamba.commands.study import run_declared


def demo(
    cpus: CpusOption = 0,
    output: OutputOption = RESULTS,
    resume: ResumeOption = False,
    fresh: FreshOption = False,
    viewer: ViewerOption = True,
    as_json: JsonOption = False,
) -> None:
    """Run the depth study on embedded data, to its answer.

    It takes minutes on a CPU and needs neither GPU nor data. It is the study of
    search_spaces/ablate_depth.py, as `python experiments/ablate_depth.py` runs it without options.
    """
    from search_spaces.ablate_depth import STUDY
    from segmamba.orchestration.engine.options import StudyOptions

    options = StudyOptions(cpus=cpus, output=output, resume=resume, fresh=fresh, viewer=viewer)
    raise typer.Exit(run_declared(STUDY, options, as_json=as_json))
