"""Which cases the pictures of a run show, and what they look like to its network."""

from collections.abc import Mapping, Sequence

import torch

from segmamba.config import Config
from segmamba.data.preprocess import PreparedCase
from segmamba.evaluation.cases import CaseScores, make_predictor, prepared_scan
from segmamba.models import build_model
from segmamba.training.drawing import PictureDrawer
from segmamba.training.fit import Epoch
from segmamba.training.plots import PredictedCase, worst_and_median
from segmamba.training.run_folder import RunFolder


def order_picture(
    epoch: Epoch,
    cases: Sequence[PreparedCase],
    config: Config,
    folder: RunFolder,
    device: torch.device,
    drawer: PictureDrawer,
) -> None:
    """Order the picture of an epoch whose weights are kept, the best so far or the last.

    It shows the worst and the median validation case.

    Args:
        epoch: The epoch that has just ended.
        cases: The validation set.
        config: The configuration of the run.
        folder: The folder of the run.
        device: Where the network predicts.
        drawer: Draws while the run trains.
    """
    keep = config.train.keep_every_epochs
    is_kept = (
        epoch.is_best or epoch.number == config.train.epochs or (keep and epoch.number % keep == 0)
    )
    if not (drawer.draws and epoch.rows and is_kept):
        return
    model = build_model(config.model).to(device)
    model.load_state_dict(epoch.checkpoint["model"])
    predicted = worst_and_median_predicted(model, cases, epoch.rows, config, device)
    drawer.order(predicted, folder.val_predictions(epoch.number))


def worst_and_median_predicted(
    model: torch.nn.Module,
    cases: Sequence[PreparedCase],
    rows: Sequence[CaseScores],
    config: Config,
    device: torch.device,
) -> list[PredictedCase]:
    """Predict the worst and the median case as the test would, for a picture.

    Args:
        model: The network, on `device`.
        cases: The cases that `rows` are about.
        rows: Their scores; at least one.
        config: The configuration of the run.
        device: Where the network predicts.

    Returns:
        The two cases; one where there is only one.
    """
    by_id: Mapping[str, PreparedCase] = {case.id: case for case in cases}
    predictor = make_predictor(model, config, device)
    return [
        PredictedCase(
            by_id[case_id],
            predictor.predict(prepared_scan(by_id[case_id], config)),
            name,
            predictor.labels,
        )
        for name, case_id in worst_and_median(rows).items()
    ]
