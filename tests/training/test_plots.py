"""The picture of a run's curves shows all that it says, also after a single epoch."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from segmamba.training import plots


def entry(epoch, *, validated):
    scores = {f"val/dice_{name}": 0.5 for name in ("ET", "TC", "WT", "mean")}
    return {"epoch": epoch, "train/loss": 1 / epoch, "train/lr": 1e-4} | (
        scores if validated else {}
    )


def entries(epochs, validated):
    return [entry(e, validated=e in validated) for e in range(1, epochs + 1)]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """draw(history): the figure as it was saved."""
    kept = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: kept.append(figure))

    def draw(history) -> Figure:
        plots.draw_training_curves(history, tmp_path / "training_curves.png")
        kept[-1].draw_without_rendering()
        return kept[-1]

    return draw


@pytest.mark.parametrize("epochs", [1, 2, 3, 30, 300])
def test_every_title_and_label_lies_inside_the_picture_and_epochs_are_whole(drawn, epochs):
    figure = drawn(entries(epochs, {epochs}))
    width, height = figure.bbox.width, figure.bbox.height
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axis in figure.axes:
        texts = [axis.title, axis.xaxis.label, *axis.get_xticklabels(), *axis.get_yticklabels()]
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == round(tick) for tick in ticks)
        for text in (text for text in texts if text.get_text() and text.get_visible()):
            box = text.get_window_extent(renderer)
            if low <= text.get_position()[0] <= high or text is axis.title:
                assert box.x0 >= 0 and box.x1 <= width, text.get_text()
                assert box.y0 >= 0 and box.y1 <= height, text.get_text()


def test_a_single_validation_is_a_point_that_can_be_seen(drawn):
    figure = drawn(entries(5, {5}))
    for line in figure.axes[1].lines:
        assert line.get_marker() not in ("", "None", None)
        assert list(line.get_xdata()) == [5] and list(line.get_ydata()) == [50.0]
