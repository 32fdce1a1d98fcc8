import pytest
import torch

from segmamba.config import preset
from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.splits import split_cases
from segmamba.models import build_model
from segmamba.training.compiling import computing
from segmamba.training.fit import fit
from segmamba.training.optim import Optimizer
from segmamba.training.step import ForwardLoss

GPU = torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_compiled_step_gives_the_eager_gradients_over_accumulated_passes(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = preset("demo").changed({"train.compile": "always", "model.norm": "instance"})
    config, gradients = config.changed({"train.accumulation": 2}), []
    for compiled in ("never", "always"):
        torch.manual_seed(0)
        wanted = config.changed({"train.compile": compiled})
        loss = ForwardLoss(build_model(config.model), config).train()
        with computing(loss, wanted, GPU) as (network, loss_of):
            optimizer = Optimizer(network.model, config, GPU)
            for _ in range(3):
                optimizer.step(0.0)  # clears the gradients
                torch.manual_seed(1)
                for _ in range(2):
                    image = torch.randn(2, 4, 48, 48, 32, device="cuda")
                    label = torch.randint(0, 4, (2, 48, 48, 32), device="cuda", dtype=torch.uint8)
                    optimizer.backward(loss_of(image, label)[0])
            gradients.append([p.grad.clone() for p in network.parameters()])
    largest = max(g.norm() for g in gradients[0])
    for eager, graph in zip(*gradients, strict=True):
        assert (eager - graph).norm() < 5e-3 * eager.norm() + 1e-4 * largest


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_loop_trains_and_validates_compiled_as_it_does_eager(cases_folder, tmp_path):
    config = preset("demo").changed(
        {
            "data.spacing_mm": 1.0,
            "data.patch_size": (32, 32, 32),
            "train.epochs": 4,
            "train.steps_per_epoch": 4,
            "train.accumulation": 2,
            "train.validate_every_epochs": 2,
            "optim.warmup_epochs": 1,
            "train.compile": "always",
        }
    )
    data = split_cases(
        prepare_cases(find_cases(cases_folder), tmp_path / "cache", config.data), config.data
    )
    losses = {
        how: [
            e.metrics["train/loss"] for e in fit(config.changed({"train.compile": how}), data, GPU)
        ]
        for how in ("always", "never")
    }
    assert len(losses["always"]) == 4
    assert losses["always"] == pytest.approx(losses["never"], rel=0.05)
    assert losses["always"][-1] < losses["always"][0]
