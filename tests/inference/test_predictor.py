"""From a scan to a segmentation on its own grid, by one network and by several."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segmamba.config import InferenceConfig, PostprocessConfig, load_config
from segmamba.data.label_sets import GLIOMA
from segmamba.data.preprocess import prepare_cases
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.evaluation.cases import make_predictor, prepared_scan
from segmamba.inference.predictor import load_predictor
from segmamba.models import build_model
from segmamba.models.weights import load_checkpoint
from tests.inference.conftest import write_run
from tests.tiny import CPU


@pytest.mark.parametrize("spacing_mm", [1.0, 1.7])
def test_a_scan_from_files_is_predicted_as_the_test_predicts_it_from_the_cache(
    case, tmp_path, spacing_mm
):
    folder, config = write_run(tmp_path / "run", **{"data.spacing_mm": spacing_mm})
    (cached,) = prepare_cases([case], tmp_path / "cache", config.data)
    model = build_model(config.model)
    model.load_state_dict(load_checkpoint(folder / "checkpoints" / "best_metric_model.pth"))
    classes = load_predictor(folder, CPU).predict(read_scan(case))
    assert (
        classes.dtype == np.uint8 and classes.shape == (40, 44, 24) and len(np.unique(classes)) > 1
    )
    assert np.array_equal(
        classes, make_predictor(model, config, CPU).predict(prepared_scan(cached, config))
    )


def test_probabilities_lie_on_the_sources_grid_and_outside_the_brain_is_certain_background(
    run, case
):
    predictor = load_predictor(run, CPU)
    probability = predictor.probabilities(read_scan(case))
    assert probability.shape == (4, 40, 44, 24) and predictor.channels == GLIOMA.classes
    assert torch.allclose(probability.sum(0), torch.ones(40, 44, 24), atol=1e-5)
    assert (probability[0, :2] == 1).all() and (probability[0, 4:-4, 4:-4, 4:-4] < 1).all()


def test_resampled_probabilities_equal_the_interpolation_of_the_whole_working_grid(run, case):
    predictor = load_predictor(run, CPU)
    scan = predictor.prepare(read_scan(case))
    (member,), grids = predictor.members, scan.grids[1.0]
    boxed = member.probabilities(torch.from_numpy(scan.images[1.0]).float())
    whole = torch.zeros(4, *grids.working_shape)
    whole[0] = 1
    whole[
        (slice(None), *(slice(o, o + s) for o, s in zip(grids.offset, grids.shape, strict=True)))
    ] = boxed
    expected = F.interpolate(whole[None], size=grids.source_shape, mode="trilinear")[0]
    assert grids.working_shape != grids.source_shape
    assert torch.allclose(predictor.probabilities(scan), expected, atol=1e-5)


def test_members_of_other_spacings_patches_and_scans_vote_with_equal_weight(case, tmp_path):
    variants = [
        {},
        {
            "data.spacing_mm": 2.0,
            "data.patch_size": (16, 32, 16),
            "model.scan_order": "bidirectional",
        },
        {"model.scan": "sequential", "data.patch_size": (16, 16, 16)},
    ]
    folders = [
        write_run(tmp_path / f"run{seed}", seed, **changes)[0]
        for seed, changes in enumerate(variants)
    ]
    scan = read_scan(case)
    ensemble = load_predictor(folders, CPU)
    singles = torch.stack([load_predictor(folder, CPU).probabilities(scan) for folder in folders])
    assert len(ensemble) == 3 and ensemble.spacings_mm == (1.0, 2.0)
    assert torch.allclose(ensemble.probabilities(scan), singles.mean(0), atol=1e-5)
    assert np.array_equal(ensemble.predict(scan), singles.mean(0).argmax(0).numpy())
    assert not np.array_equal(ensemble.predict(scan), singles[0].argmax(0).numpy())


def test_test_time_options_come_from_the_run_unless_given(case, tmp_path):
    folder, _ = write_run(tmp_path / "run", **{"inference.flips": True})
    scan = read_scan(case)
    own, plain = (
        load_predictor(folder, CPU),
        load_predictor(folder, CPU, inference=InferenceConfig()),
    )
    assert own.members[0].inference.flips and not plain.members[0].inference.flips
    assert not torch.equal(own.probabilities(scan), plain.probabilities(scan))


def test_post_processing_beside_a_checkpoint_is_applied_unless_another_is_given(run, case):
    chosen = PostprocessConfig(thresholds=(0.9, 0.9, 0.9), min_component_voxels=(5, 6, 7))
    (run / "postprocessing.json").write_text(chosen.to_json())
    scan = read_scan(case)
    assert load_predictor(run, CPU).postprocessing == chosen
    plain = load_predictor(run, CPU, postprocessing=PostprocessConfig())
    assert not np.array_equal(load_predictor(run, CPU).predict(scan), plain.predict(scan))
    assert load_predictor([run, run], CPU).postprocessing.is_off, (
        "chosen for one member, not for two"
    )


@pytest.mark.parametrize(
    "path", ["", "checkpoints", "checkpoints/best_metric_model.pth", "checkpoints/last.pth"]
)
def test_a_checkpoint_is_found_from_its_folder_or_its_file(run, path):
    weights = run / "checkpoints" / "best_metric_model.pth"
    torch.save(
        {"model": load_checkpoint(weights), "optimizer": {}, "epoch": 3},
        run / "checkpoints" / "last.pth",
    )
    member = load_predictor(run / path, "cpu").members[0]
    resolved = {"model.classes": "glioma"}  # the file has the default, auto
    assert member.config == load_config(run / "config.json").changed(resolved)


def test_weights_and_config_in_one_folder_are_enough(run, tmp_path):
    for file in (run / "checkpoints" / "best_metric_model.pth", run / "config.json"):
        (tmp_path / "export").mkdir(exist_ok=True)
        shutil.copy(file, tmp_path / "export")
    assert len(load_predictor(tmp_path / "export", CPU)) == 1


def break_config(run):
    (run / "config.json").write_text(
        (run / "config.json").read_text().replace('"base_channels": 4', '"base_channels": 8')
    )


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda run: shutil.rmtree(run), "no such checkpoint"),
        (
            lambda run: shutil.rmtree(run / "checkpoints"),
            "holds no checkpoints/best_metric_model.pth",
        ),
        (
            lambda run: (run / "config.json").unlink(),
            "no config.json beside it or in the folder above",
        ),
        (
            lambda run: (run / "config.json").write_text("[1]"),
            r"config\.json: \$: expected an object, found a list of 1; give a config\.json",
        ),
        (
            lambda run: (run / "checkpoints" / "best_metric_model.pth").write_bytes(b"junk"),
            "best_metric_model.pth: damaged",
        ),
        (break_config, "do not fit the network of"),
        (
            lambda run: (run / "postprocessing.json").write_text('{"min_et_voxel": 3}'),
            "postprocessing.json: unknown setting",
        ),
    ],
    ids=[
        "run",
        "weights",
        "config",
        "configuration",
        "damaged",
        "other network",
        "post-processing",
    ],
)
def test_what_is_missing_or_does_not_fit_is_one_line(run, break_it, message):
    break_it(run)
    with pytest.raises(UserError, match=message):
        load_predictor(run, CPU)


def test_no_checkpoint_at_all_is_one_line():
    with pytest.raises(UserError, match="no checkpoint given"):
        load_predictor([], CPU)


def test_a_diverged_member_is_named(run, case):
    weights = run / "checkpoints" / "best_metric_model.pth"
    state = load_checkpoint(weights)
    torch.save(
        {
            name: value * float("nan") if value.is_floating_point() else value
            for name, value in state.items()
        },
        weights,
    )
    with pytest.raises(UserError, match="not finite"):
        load_predictor(run, CPU).predict(read_scan(case))


def test_a_member_that_predicts_regions_votes_with_them_and_nests_what_it_decides(case, tmp_path):
    regions, _ = write_run(tmp_path / "regions", **{"model.outputs": "regions"})
    classes, _ = write_run(tmp_path / "classes")
    scan = read_scan(case)
    alone = load_predictor(regions, CPU)
    probability = alone.probabilities(scan)
    assert (
        alone.channels == GLIOMA.region_names
        and probability.shape == (3, 40, 44, 24)
        and (probability.sum(0) > 1).any()
    ), "regions overlap"
    et, tc, wt = (probability > 0.5).numpy()
    expected = np.where(wt & tc & et, 3, np.where(wt & tc, 1, np.where(wt, 2, 0)))
    assert np.array_equal(alone.predict(scan), expected) and len(np.unique(expected)) > 1
    softmax = load_predictor(classes, CPU).probabilities(scan)
    as_regions = torch.stack([softmax[3], softmax[1] + softmax[3], softmax[1:].sum(0)])
    assert torch.allclose(
        load_predictor([regions, classes], CPU).probabilities(scan),
        (probability + as_regions) / 2,
        atol=1e-5,
    )
