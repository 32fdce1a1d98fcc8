"""Prediction on a CUDA device. Run by `make test-gpu`."""

import copy
import gc
import shutil
import threading

import numpy as np
import pytest
import torch

from segmamba.config import InferenceConfig
from segmamba.data.cases import find_cases
from segmamba.data.preprocess import prepare_cases
from segmamba.data.volumes import read_scan
from segmamba.evaluation import cases as cases_module
from segmamba.evaluation.behind import behind
from segmamba.evaluation.cases import Validator, evaluate
from segmamba.evaluation.dice import dice
from segmamba.inference import captured
from segmamba.inference.ensemble_member import Member
from segmamba.inference.predictor import load_predictor
from segmamba.models import build_model
from tests.conftest import write_case
from tests.inference.conftest import write_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = torch.device("cuda", 0)


# 32: the width of the narrow kernels
@pytest.mark.parametrize("width", [4, 32], ids=lambda w: f"{w} channels")
def test_half_precision_on_the_gpu_gives_the_probabilities_of_the_cpu(case, tmp_path, width):
    folder, _ = write_run(
        tmp_path / "run", **{"model.base_channels": width, "data.patch_size": (32, 32, 64)}
    )
    scan = read_scan(case)
    on_gpu, on_cpu = (load_predictor(folder, name) for name in ("cuda", "cpu"))
    assert torch.allclose(on_gpu.probabilities(scan).cpu(), on_cpu.probabilities(scan), atol=2e-2)
    assert (on_gpu.predict(scan) == on_cpu.predict(scan)).mean() > 0.99


def test_activations_beyond_half_precision_are_computed_again_in_single(case, tmp_path):
    folder, _ = write_run(tmp_path / "run")
    weights = folder / "checkpoints" / "best_metric_model.pth"
    state = torch.load(weights, weights_only=True)
    state["stem.norm2.weight"] *= 1e6  # the stem's output exceeds 65504; the head scales it back
    state["head.weight"] *= 1e-6
    torch.save(state, weights)
    scan = read_scan(case)
    on_gpu, on_cpu = (
        load_predictor(folder, name).probabilities(scan).cpu() for name in ("cuda", "cpu")
    )
    assert on_gpu.isfinite().all() and (on_gpu - on_cpu).abs().mean() < 1e-2


def test_validation_stays_on_the_gpu_between_two_validations_of_a_run(tmp_path):
    _, config = write_run(tmp_path / "run")
    write_case(tmp_path / "data", "X")
    cases = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", config.data)
    model = build_model(config.model).cuda()
    validator = Validator(config, CUDA)
    first = list(validator.scores(model, cases))
    shutil.rmtree(tmp_path / "cache")
    assert list(validator.scores(model, cases)) == first


def test_flips_and_scales_run_on_the_gpu(case, tmp_path):
    folder, _ = write_run(tmp_path / "run")
    scan, changes = (
        read_scan(case),
        {"inference.flips": True, "inference.scales": (1.0, 0.75), "postprocess.crf_steps": 0},
    )
    on_gpu, on_cpu = (
        load_predictor(folder, name, changes=changes).probabilities(scan).cpu().numpy()
        for name in ("cuda", "cpu")
    )
    assert np.allclose(on_gpu, on_cpu, atol=2e-2)


def trained(config):
    """A network on the GPU whose norms have statistics of their own."""
    model = build_model(config.model).cuda().train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(2, 4, *config.data.patch_size, device=CUDA) + 1)
    return model.eval()


def recordings(member):
    """What a member has captured."""
    return [recording for recording in member._passes._recordings.values() if recording]


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {"model.base_channels": 32, "data.patch_size": (32, 32, 64)},
        {"model.base_channels": 8, "model.norm": "instance"},
        {"train.precision": "fp32"},
    ],
    ids=["narrow kernels", "instance norms", "fp32"],
)
def test_captured_passes_give_what_eager_ones_give_also_with_new_weights(tmp_path, changes, flips):
    _, config = write_run(tmp_path / "run", **changes)
    first, second = trained(config), trained(config)
    options = InferenceConfig(flips=flips)
    image = torch.randn(4, 80, 72, 96, device=CUDA)
    eager = {
        model: Member(model, config, CUDA, options, eager_passes=10**9).probabilities(image)
        for model in (first, second)
    }
    member = Member(first, config, CUDA, options, eager_passes=1)
    for _ in range(2):
        got = member.probabilities(image)
        assert torch.allclose(got, eager[first], atol=2e-3)
    assert recordings(member)
    member.refresh(second)
    got = member.probabilities(image)
    assert torch.allclose(got, eager[second], atol=2e-3)
    assert not torch.allclose(eager[first], eager[second], atol=2e-3)


def test_a_run_validates_with_captured_passes_as_it_does_eagerly(tmp_path):
    _, config = write_run(tmp_path / "run")
    for number in range(3):
        write_case(tmp_path / "data", f"X{number}", seed=number)
    cases = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", config.data)
    validator = Validator(config, CUDA)
    for _ in range(3):
        model = trained(config)
        rows = list(validator.scores(model, cases))
        member = Member(model, config, CUDA, InferenceConfig(), eager_passes=10**9)
        for case, row in zip(cases, rows, strict=True):
            image = torch.from_numpy(np.array(case.image())).cuda().float()
            alone, label = member.probabilities(image), torch.from_numpy(np.array(case.label()))
            classes = alone.argmax(0).to(torch.uint8).cpu()
            expected = dice(classes, label, member.outputs.labels)["mean"]
            assert row["dice_mean"] == pytest.approx(expected, abs=0.02)
    assert recordings(validator._member)


def test_scores_made_behind_the_gpu_are_those_of_the_cpu_in_the_order_of_the_cases(
    tmp_path, monkeypatch
):
    _, config = write_run(tmp_path / "run")
    for number in range(5):
        write_case(tmp_path / "data", f"X{number}", seed=number)
    cases = prepare_cases(find_cases(tmp_path / "data"), tmp_path / "cache", config.data)
    model = trained(config)

    def both_ways(device, score, items):
        analyses = list(items)
        rows = list(behind(device, score, analyses))
        assert rows == [score(analysis) for analysis in analyses]
        return rows

    monkeypatch.setattr(cases_module, "behind", both_ways)
    rows = evaluate(model, cases, config, CUDA)
    assert [row["case"] for row in rows] == [case.id for case in cases]


class Waiting(torch.nn.Module):
    """Waits for the GPU in every pass, which no capture allows."""

    def forward(self, x):
        scale = 1.0 if x.sum().item() == float("inf") else 2.0
        return torch.cat([scale * x[:, :1], torch.zeros_like(x[:, :3])], 1)


def test_a_network_that_waits_for_the_gpu_predicts_eagerly_and_others_are_captured_after_it(
    tmp_path,
):
    _, config = write_run(tmp_path / "run")
    image = torch.randn(4, 40, 40, 40, device=CUDA)
    waiting = Member(Waiting(), config, CUDA, eager_passes=1)
    before = torch.cuda.current_stream()
    first = waiting.probabilities(image)
    for _ in range(3):
        assert torch.equal(waiting.probabilities(image), first)
    assert not recordings(waiting) and torch.cuda.current_stream() == before
    model = trained(config)
    expected = Member(model, config, CUDA, eager_passes=10**9).probabilities(image)
    member = Member(model, config, CUDA, eager_passes=1)
    for _ in range(3):
        assert torch.allclose(member.probabilities(image), expected, atol=2e-3)
    assert recordings(member)


def test_a_capture_that_is_broken_off_harms_neither_later_ones_nor_random_numbers_nor_memory():
    x, before = torch.ones(2**20, device=CUDA), torch.cuda.current_stream()
    torch.manual_seed(0)
    expected = torch.rand(4, device=CUDA)
    assert captured._record(lambda x: x * x.sum().item(), x, CUDA) is None
    assert torch.cuda.current_stream() == before
    torch.manual_seed(0)
    assert torch.equal(torch.rand(4, device=CUDA), expected)
    recording = captured._record(lambda x: x * x.sum(), x, CUDA)
    assert recording and torch.equal(recording.replay(2 * x), 2 * x * (2 * x).sum())
    large = torch.empty(2**28, dtype=torch.uint8, device=CUDA)
    reserved = torch.cuda.memory_reserved()
    del large
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() <= reserved - 2**28


def test_the_memory_of_captured_passes_is_shared_by_members_and_goes_with_the_last(tmp_path):
    _, config = write_run(
        tmp_path / "run", **{"model.base_channels": 32, "data.patch_size": (64, 64, 64)}
    )
    image = torch.randn(4, 96, 96, 96, device=CUDA)
    model = trained(config)

    def reserved():
        gc.collect()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    members, after = [Member(model, config, CUDA, eager_passes=1)], []
    for _ in range(2):  # the libraries load their kernels and take their workspaces
        members[0].probabilities(image)
    members.clear()
    before = reserved()
    for _ in range(3):
        members.append(Member(copy.deepcopy(model), config, CUDA, eager_passes=1))
        for _ in range(2):
            members[-1].probabilities(image)
        assert recordings(members[-1])
        after.append(reserved())
    of_one, of_further = after[0] - before, (after[2] - after[0]) / 2
    assert of_further < 0.6 * of_one, (before, after)
    members.clear()
    assert reserved() - before < 2**26, (before, reserved())


def test_passes_are_captured_while_another_thread_uses_the_gpu(tmp_path):
    _, config = write_run(tmp_path / "run")
    model, stop, failed = trained(config), threading.Event(), []

    def load():
        stream, copied = torch.cuda.Stream(), torch.cuda.Event()
        try:
            while not stop.is_set():
                with torch.cuda.stream(stream):
                    torch.randn(4, 2**16).pin_memory().to(CUDA, non_blocking=True).sum()
                    copied.record()
                copied.synchronize()
        except RuntimeError as error:
            failed.append(error)

    loader = threading.Thread(target=load)
    loader.start()
    try:
        image = torch.randn(4, 40, 40, 40, device=CUDA)
        for _ in range(5):
            member = Member(model, config, CUDA, eager_passes=1)
            for _ in range(3):
                member.probabilities(image)
            assert recordings(member)
    finally:
        stop.set()
        loader.join()
    assert not failed


def test_too_little_memory_for_a_batch_that_is_captured_halves_it(tmp_path):
    _, config = write_run(tmp_path / "run")

    class Bright(torch.nn.Module):
        most = 8

        def __deepcopy__(self, memo):
            return self

        def forward(self, x):
            if len(x) > self.most:
                raise torch.OutOfMemoryError
            return torch.cat([x[:, :1], torch.zeros_like(x[:, :3])], 1)

    network, images = Bright(), [torch.randn(4, 40, 40, 40, device=CUDA) for _ in range(3)]
    member = Member(network, config, CUDA, eager_passes=1)
    expected = list(member.probabilities_of(images))
    assert recordings(member)
    network.most = 3
    member._passes.forget()
    for one, other in zip(expected, member.probabilities_of(images), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    assert member._batch == 2 and recordings(member)
