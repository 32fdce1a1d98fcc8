"""Draw every picture of the documentation again, by commands that a user could give.

    python docs/draw_pictures.py                    # all; `make pictures`
    python docs/draw_pictures.py report mlflow      # some
    python docs/draw_pictures.py report --keep      # from the study that is there; seconds

All data are phantoms. The study is experiments/ablate_depth.py; it takes 3 to 10 minutes on two
cores, and seconds where its trials have been trained by the same code. It and its MLflow store are
kept in --work. Pictures of the study hold its question, claims and arms as text in the PNG, which
tests/docs/test_pictures.py compares with what the study asks today.

It needs playwright and a Chromium (`apt install chromium`), and `pip install 'segmamba[viewer]'`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
ASKED = "segmamba-study"
"""Key of the text in a PNG that says what the study asked whose picture it is."""
COLOURS = 256
CASES = ("Phantom_002", "Phantom_005", "Phantom_009")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SERVER_S = 120
PICTURES = {
    "report": ("report.png",),
    "mlflow": ("mlflow_runs.png", "mlflow_comparison.png", "mlflow_study.png"),
    "predictions": ("viewer.png", "overlay.png"),
    "summary": ("data_summary.png",),
    "phantom": ("phantom.png",),
    "augmentations": ("augmentations.png",),
}
"""What can be asked for, and the files that it draws."""
OF_THE_STUDY = ("report.png", "mlflow_runs.png", "mlflow_comparison.png", "mlflow_study.png")


def run(*words: str | Path) -> None:
    """Run a command of this installation's Python and show it."""
    shown = shlex.join([Path(sys.executable).name, *map(str, words)])
    print(f"$ {shown}", flush=True)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [sys.executable, *map(str, words)], check=True, env=os.environ | {"PYTHONPATH": path}
    )


def segmamba(*words: str | Path) -> None:
    """Run a command of segmamba's."""
    run("-m", "segmamba.cli", *words)


def save(picture: Path, name: str, asked: dict[str, Any] | None = None) -> None:
    """Store a picture of at most COLOURS colours, with what its study asked.

    Args:
        picture: The PNG as it was drawn.
        name: Its name in docs/images.
        asked: As `asked_by` returns it; None where it is of no study.
    """
    from PIL import Image, PngImagePlugin

    text = PngImagePlugin.PngInfo()
    if asked is not None:
        text.add_text(ASKED, json.dumps(asked))
    with Image.open(picture) as file:
        drawn = file.convert("RGB")
    drawn = _in_few_colours(drawn)
    drawn.save(IMAGES / name, optimize=True, pnginfo=text)
    print(f"{name}: {(IMAGES / name).stat().st_size / 1024:.0f} KiB", flush=True)


def _in_few_colours(picture: Image.Image) -> Image.Image:
    """A picture of COLOURS colours, those that mean something among them exactly."""
    import numpy as np
    from PIL import Image

    kept = sorted({"#000000", "#ffffff", *_our_colours()})
    ours = bytes.fromhex("".join(colour.lstrip("#") for colour in kept))
    found = picture.quantize(COLOURS - len(kept), kmeans=1).getpalette() or []
    palette = np.array([*ours, *found], float).reshape(-1, 3)[:COLOURS]
    pixels = np.asarray(picture).reshape(-1, 3)
    # Pillow's own search for the nearest colour is approximate: it makes white grey.
    unique, inverse = np.unique(pixels, axis=0, return_inverse=True)
    squared = (palette**2).sum(1) - 2 * unique.astype(float) @ palette.T
    places = squared.argmin(1).astype(np.uint8)[inverse.ravel()]
    drawn = Image.fromarray(places.reshape(picture.height, picture.width), "P")
    drawn.putpalette(palette.astype(np.uint8).tobytes())
    return drawn


def _our_colours() -> set[str]:
    """The colours that mean something, which a picture keeps as they are."""
    from segmamba.pictures.palette import COLOURS_ON_WHITE, ERROR_COLOURS, REGION_COLOURS

    return {*REGION_COLOURS.values(), *COLOURS_ON_WHITE.values(), *ERROR_COLOURS.values()}


def asked_by(study: Any) -> dict[str, Any]:
    """Return what a study, or a study's declaration, asks, as a picture keeps it.

    Args:
        study: A Study or a StudySpec.
    """
    return {
        "study": study.name.rpartition("_Run")[0] or study.name,
        "question": study.question,
        "claims": [claim.claim for claim in (study.hypothesis, *study.secondary)],
        "arms": list(study.arms),
    }


def shown_by(picture: Path) -> dict[str, Any]:
    """Return what `save` kept in a picture of a study; empty of another picture."""
    from PIL import Image

    with Image.open(picture) as file:
        return json.loads(file.text.get(ASKED, "{}"))  # type: ignore[attr-defined]  # a PNG has it


@contextlib.contextmanager
def browsing(width: int, height: int) -> Iterator[Page]:
    """A page of Chromium's."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, CHROMIUM)), None)
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": width, "height": height})
        browser.close()


@contextlib.contextmanager
def mlflow_server(store: str, folder: Path) -> Iterator[str]:
    """Serve a store with `mlflow ui` while the block runs; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["-m", "mlflow", "ui", "--workers", "1", "--port", port, "--backend-store-uri", store]
    with (folder / "mlflow.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, *words], cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + SERVER_S
    try:
        while not _answers(address):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"mlflow ui did not start; see {folder / 'mlflow.log'}")
            time.sleep(0.3)
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # with its workers; they wait for open pages else
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5):
            return True
    except OSError:
        return False


class Work:
    """The folder of the study and of all that is drawn from it; the study is run at most once."""

    def __init__(self, folder: Path, *, keep: bool) -> None:
        """Use a folder.

        Args:
            folder: Of results.
            keep: Whether the study that is there will do; its report is written again.
        """
        self.folder, self._keep = folder.resolve(), keep
        self.scratch = self.folder / "drawn"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._study: Any = None

    @property
    def study(self) -> Any:
        """The Study, run or read."""
        if self._study is None:
            runs = sorted(self.folder.glob("ablate_depth_Run*"))
            if not (self._keep and runs):
                run(ROOT / "experiments" / "ablate_depth.py", "--output", self.folder)
            segmamba("report", "ablate_depth", "--output", self.folder)
            from segmamba.orchestration.tracking.store import open_store
            from segmamba.orchestration.tracking.study_reader import find_study, read_study

            store = open_store(self.folder)
            self._study = read_study(find_study(store, "ablate_depth"), histories=False)
        return self._study

    def phantoms(self) -> Path:
        """The folder of the study's cases."""
        assert self.study
        return next(path for path in (self.folder / "phantom").iterdir() if path.is_dir())


def draw_report(work: Work) -> None:
    """The head of the study's report."""
    page, picture = work.folder / work.study.name / "report.html", work.scratch / "report.png"
    with browsing(1040, 1180) as shown:
        shown.goto(page.as_uri())
        shown.wait_for_load_state("networkidle")
        shown.screenshot(path=picture)
    save(picture, "report.png", asked_by(work.study))


def draw_mlflow(work: Work) -> None:
    """The study's runs, its arms compared, and its own page, as MLflow shows them."""
    study, asked = work.study, asked_by(work.study)
    start, _, query = study.mlflow_page.partition("/runs?")
    experiment = start.rpartition("/")[2]
    with mlflow_server(study.mlflow_uri, work.scratch) as server, browsing(1420, 860) as shown:
        from segmamba.orchestration.tracking.experiment_page import ARMS_VIEW, runs_address

        shown.goto(f"{server}/#/experiments/{experiment}/runs?{query}")
        row = shown.locator(".ag-row", has_text=study.name).first
        row.wait_for(timeout=60_000)
        _close_assistant(shown)
        row.locator("[role=button], button").first.click()
        shown.locator(".ag-row", has_text="seed 0").first.wait_for()
        _photograph(shown, work.scratch / "mlflow_runs.png", asked)
        shown.goto(runs_address(server, experiment, ARMS_VIEW))
        shown.reload()
        shown.get_by_text("test/dice_ET").first.wait_for(timeout=60_000)
        _photograph(shown, work.scratch / "mlflow_comparison.png", asked)
        training = "?workflowType=machine_learning"
        shown.goto(f"{server}/#/experiments/{experiment}/runs/{study.parent_run_id}{training}")
        shown.get_by_role("button", name="Expand description").click(timeout=60_000)
        # Beside it stand the folders of this machine.
        _photograph(shown, work.scratch / "mlflow_study.png", asked, width=720)


def _photograph(
    shown: Page, picture: Path, asked: dict[str, Any], *, width: int | None = None
) -> None:
    """Save the window, or so many pixels of its width from the menu on."""
    shown.wait_for_timeout(2500)  # charts grow to their values
    whole = shown.viewport_size or {"width": 0, "height": 0}
    left, wide = (0, whole["width"]) if width is None else (196, width)
    clip = {"x": left, "y": 0, "width": wide, "height": whole["height"]}
    shown.screenshot(path=picture, clip=clip)  # type: ignore[arg-type]  # a FloatRect
    save(picture, picture.name, asked)


def _close_assistant(shown: Page) -> None:
    """Close the panel that MLflow opens beside the first page of a new reader."""
    from playwright.sync_api import TimeoutError as NotThere

    with contextlib.suppress(NotThere):
        shown.locator("button[aria-label*=lose]:visible").last.click(timeout=5000)
        shown.wait_for_timeout(1000)


def draw_predictions(work: Work) -> None:
    """The viewer, and the overlay of one case, of three phantoms that the best arm segments."""
    cases, out = work.scratch / "cases", work.scratch / "predictions"
    for folder in (cases, out):
        shutil.rmtree(folder, ignore_errors=True)
    for case in CASES:
        shutil.copytree(work.phantoms() / case, cases / case)
    trial = next(t for t in work.study.trials if t.arm == work.study.baseline and t.seed == 0)
    options = ("--labels", "brats2018", "--overlay", "--html", "--uncertainty", "--device", "cpu")
    segmamba(
        *("predict", "--checkpoint", trial.folder, "--input", cases, "--output", out, *options)
    )
    picture = work.scratch / "viewer.png"
    page = ("benchmarks/page_picture.py", out / "predictions.html", "--height", "980")
    run(ROOT / page[0], *page[1:], "--output", picture)
    save(picture, "viewer.png")
    save(out / "overlays" / f"{CASES[0]}.png", "overlay.png")


def draw_summary(work: Work) -> None:
    """What `segmamba data summary` draws of the phantoms."""
    out = work.scratch / "summary"
    shutil.rmtree(out, ignore_errors=True)
    segmamba("data", "summary", work.phantoms(), "--labels", "brats2018", "--output", out)
    save(out / "volumes.png", "data_summary.png")


def draw_phantom(work: Work) -> None:
    """A phantom case in three planes."""
    picture = work.scratch / "phantom.png"
    run(ROOT / "benchmarks" / "phantom_picture.py", "--output", picture)
    save(picture, "phantom.png")


def draw_augmentations(work: Work) -> None:
    """Each augmentation alone."""
    picture = work.scratch / "augmentations.png"
    run(ROOT / "benchmarks" / "augmentations_picture.py", "--output", picture)
    save(picture, "augmentations.png")


DRAWN: dict[str, Callable[[Work], None]] = {
    "report": draw_report,
    "mlflow": draw_mlflow,
    "predictions": draw_predictions,
    "summary": draw_summary,
    "phantom": draw_phantom,
    "augmentations": draw_augmentations,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DRAWN))
    parser.add_argument("--work", type=Path, default=ROOT / "Results" / "pictures")
    parser.add_argument("--keep", action="store_true", help="take the study that is in --work")
    options = parser.parse_args()
    if unknown := set(options.names) - DRAWN.keys():
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(DRAWN)}")
    work = Work(options.work, keep=options.keep)
    for name in options.names or DRAWN:
        began = time.monotonic()
        DRAWN[name](work)
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
