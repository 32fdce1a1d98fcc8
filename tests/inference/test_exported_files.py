"""ONNX files and .pt2 packages compute what the network computes, and say how they are used.

The example of examples/segment_nifti.py turns them into the segmentations of `segmamba predict`,
without this package.
"""

import errno
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import typer

from segmamba.cli import app
from segmamba.config import PostprocessConfig, load_config
from segmamba.data.cases import find_cases
from segmamba.data.volumes import read_scan
from segmamba.errors import UserError
from segmamba.inference import exported_file, onnx_file, pt2_file
from segmamba.inference.exported_network import load_for_export
from segmamba.inference.facts import INPUT, OUTPUTS
from segmamba.inference.onnx_file import export_onnx, onnx_model
from segmamba.inference.predictor import load_predictor
from segmamba.models import build_model
from tests.conftest import write_case
from tests.inference.conftest import CONFIG, write_case_with_background, write_run

onnxruntime = pytest.importorskip("onnxruntime")
EXAMPLE = Path(__file__).parents[2] / "examples" / "segment_nifti.py"
TURNED = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.05, 0.02, -0.1) @ np.diag([-1.0, 1.0, 1.0]), (3, 4, 5)
)


def export(*words):
    typer.main.get_command(app)(["export", *map(str, words)], standalone_mode=False)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run and its ONNX file, written by the command."""
    folder = tmp_path_factory.mktemp("exported")
    write_run(folder / "run", **{"inference.flips": True})
    (folder / "run" / "postprocessing.json").write_text(
        PostprocessConfig(min_component_voxels=(5, 5, 5), min_et_voxels=3).to_json()
    )
    export("--checkpoint", folder / "run", "--onnx", folder / "net.onnx", "--labels", "brats2018")
    return folder


def own_logits(run, image):
    with torch.inference_mode():
        return load_for_export(run).network(image).numpy()


def example(*words):
    """Run the example in a process that cannot import segmamba or torch."""
    blocked = "import sys; sys.modules.update(segmamba=None, torch=None, scipy=None); "
    code = f"{blocked}sys.argv = sys.argv[1:]; exec(compile(open(sys.argv[0]).read(), 'e', 'exec'))"
    return subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE), *map(str, words)], capture_output=True, text=True
    )


def images_of(case):
    return [case.images[name] for name in ("T1", "T1ce", "T2", "FLAIR")]


def test_onnxruntime_computes_what_the_network_computes(exported):
    image = torch.randn(1, 4, 32, 32, 16, generator=torch.Generator().manual_seed(5))
    session = onnxruntime.InferenceSession(exported / "net.onnx")
    probabilities, logits = session.run(["probabilities", "logits"], {"image": image.numpy()})
    expected = own_logits(exported / "run", image)
    assert np.abs(logits - expected).max() < 1e-3 < np.abs(expected).max()
    assert np.abs(probabilities - torch.from_numpy(expected).softmax(1).numpy()).max() < 1e-3


def test_a_file_says_inside_and_beside_it_how_it_is_used(exported):
    beside = json.loads((exported / "net.onnx.json").read_text())
    session = onnxruntime.InferenceSession(exported / "net.onnx")
    inside = json.loads(session.get_modelmeta().custom_metadata_map["segmamba"])
    assert inside == beside
    assert beside["input"]["channels"] == ["T1", "T1ce", "T2", "FLAIR"]
    assert beside["input"]["shape"] == session.get_inputs()[0].shape == [1, 4, 32, 32, 16]
    assert beside["output"] == {
        "names": ["probabilities", "logits"],
        "dtype": "float32",
        "channels": ["background", "NCR", "ED", "ET"],
        "activation": "softmax",
    }
    assert beside["labels"]["convention"] == "brats2018"
    assert beside["labels"]["values"] == [0, 1, 2, 4]
    assert beside["window"]["overlap"] == [0.5] * 3 and beside["window"]["flips"] is True
    assert beside["preprocessing"]["spacing_mm"] == 1.0
    assert beside["postprocessing"]["min_component_voxels"] == [5, 5, 5]
    assert "Research only" in beside["use"] and "phantoms only" in beside["use"]


@pytest.mark.parametrize(
    ("affine", "shape"),
    [(np.diag([-1.0, -1.0, 1.5, 1.0]), (40, 44, 24)), (TURNED, (40, 44, 36))],
    ids=["resampled", "oblique, 1 mm"],
)
def test_the_example_gives_the_segmentation_of_segmamba_predict(exported, tmp_path, affine, shape):
    write_case(tmp_path / "data", "X", shape=shape, affine=affine, label=False)
    (case,) = find_cases(tmp_path / "data")
    done = example(exported / "net.onnx", *images_of(case), tmp_path / "out.nii.gz")
    assert done.returncode == 0, done.stderr[-2000:]
    written, source = nibabel.load(tmp_path / "out.nii.gz"), nibabel.load(case.images["T1ce"])
    assert written.shape == source.shape and written.get_data_dtype() == np.uint8
    assert np.allclose(written.affine, source.affine, atol=1e-5)
    classes = load_predictor(exported / "run", "cpu").predict(read_scan(case))
    theirs = np.asanyarray(nibabel.as_closest_canonical(written).dataobj)
    assert len(np.unique(classes)) > 2
    assert (theirs == np.array([0, 1, 2, 4], np.uint8)[classes]).mean() > 0.9999, "but for ties"


def test_the_example_normalises_over_the_box_where_the_network_does(exported, tmp_path):
    """The network's file is what it was: what it says of normalisation alone is changed."""
    run, net = tmp_path / "run", tmp_path / "net.onnx"
    shutil.copytree(exported / "run", run)
    config = load_config(run / "config.json").changed({"inference.normalise_over": "box"})
    (run / "config.json").write_text(config.to_json())
    facts = json.loads((exported / "net.onnx.json").read_text())
    facts["preprocessing"] = load_for_export(run).facts["preprocessing"]
    shutil.copy(exported / "net.onnx", net)
    (tmp_path / "net.onnx.json").write_text(json.dumps(facts))
    case = write_case_with_background(tmp_path / "data")
    done = example(net, *images_of(case), tmp_path / "out.nii.gz")
    assert done.returncode == 0, done.stderr[-2000:]
    written = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out.nii.gz"))
    theirs, scan = np.asanyarray(written.dataobj), read_scan(case)
    values = np.array([0, 1, 2, 4], np.uint8)
    assert (theirs == values[load_predictor(run, "cpu").predict(scan)]).mean() > 0.9999
    over_brain = load_predictor(exported / "run", "cpu").predict(scan)
    assert (theirs == values[over_brain]).mean() < 0.99


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda words: words[:-1], "usage: python segment_nifti.py"),
        (lambda words: ["absent.onnx", *words[1:]], "absent.onnx: no such file"),
        (lambda words: [*words[:4], "absent.nii.gz", words[5]], "absent.nii.gz: no such file"),
    ],
)
def test_the_example_refuses_what_is_not_there_in_one_line(exported, case, spoil, message):
    done = example(*spoil([exported / "net.onnx", *images_of(case), "out.nii.gz"]))
    assert done.returncode == 1 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_examples_components_are_those_that_share_a_corner():
    from scipy import ndimage

    specification = importlib.util.spec_from_file_location("segment_nifti", EXAMPLE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    mask = np.random.default_rng(0).random((14, 15, 16)) < 0.08
    ours, (theirs, count) = module.components(mask), ndimage.label(mask, np.ones((3, 3, 3)))
    assert count > 20 and len(np.unique(ours)) == count + 1
    pairs = np.unique(np.stack([ours.ravel(), theirs.ravel()]), axis=1)
    assert pairs.shape[1] == count + 1


def test_a_dynamic_file_takes_other_batches_and_windows(tmp_path):
    write_run(tmp_path / "run", **{"model.mamba_depths": (0, 0, 1)})
    export("--checkpoint", tmp_path / "run", "--onnx", tmp_path / "net.onnx", "--dynamic")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert [isinstance(side, int) for side in session.get_inputs()[0].shape] == [
        False,
        True,
        False,
        False,
        False,
    ]
    for shape in ((3, 4, 32, 16, 48), (1, 4, 48, 32, 32)):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(5))
        (logits,) = session.run(["logits"], {"image": image.numpy()})
        assert np.abs(logits - own_logits(tmp_path / "run", image)).max() < 1e-3


@pytest.mark.slow
def test_torch_alone_runs_a_pt2_package_to_the_same_segmentation(tmp_path, case):
    write_run(tmp_path / "run", **{"model.mamba_depths": (0, 0, 1)})
    export("--checkpoint", tmp_path / "run", "--pt2", tmp_path / "net.pt2")
    code = EXAMPLE.read_text().replace(
        "import json", "import json, sys; sys.modules['segmamba']=None"
    )
    words = [tmp_path / "net.pt2", *images_of(case), tmp_path / "out.nii.gz"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out.nii.gz"))
    classes = load_predictor(tmp_path / "run", "cpu").predict(read_scan(case))
    assert (np.asanyarray(written.dataobj) == classes).mean() > 0.9999
    package = torch._inductor.aoti_load_package(str(tmp_path / "net.pt2"))
    assert json.loads(package.get_metadata()["segmamba"]) == json.loads(
        (tmp_path / "net.pt2.json").read_text()
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to write: give --output DIR, --onnx FILE.onnx or --pt2 FILE.pt2"),
        (["--onnx", "net.pt2"], "name a file that ends in .onnx"),
        (["--pt2", "net.onnx"], "name a file that ends in .pt2"),
        (["--onnx", "there.onnx"], "there.onnx: exists already"),
        (["--output", "bundle", "--onnx", "there.onnx"], "there.onnx: exists already"),
        (["--output", "bundle", "--onnx", "new.onnx", "--pt2", "x.onnx"], "ends in .pt2"),
        (["--onnx", "net.onnx", "--labels", "brats1999"], "no known label convention"),
        (["--output", "bundle", "--dynamic"], "--dynamic is for --onnx"),
        (["--onnx", "net.onnx", "--checkpoint", "run"], "holds one network, not 2"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_line_and_writes_nothing(
    run, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").write_text("kept")
    with pytest.raises(UserError, match=re.escape(message)):
        export("--checkpoint", "run", *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "there.onnx"]
    assert (tmp_path / "there.onnx").read_text() == "kept"


def test_a_folder_that_cannot_be_written_is_found_before_the_network_is_read(tmp_path, monkeypatch):
    def read_only(**options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(exported_file.tempfile, "TemporaryFile", read_only)
    with pytest.raises(UserError, match=r"--onnx .*net.onnx: cannot be written \(Read-only"):
        export_onnx("no run", tmp_path / "net.onnx")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(UserError, match=r"--onnx .*net.onnx: the disk is full"),
        exported_file.appearing(tmp_path / "net.onnx", {}),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_what_installs_it(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=re.escape("pip install 'segmamba[export]'")):
        export_onnx(run, tmp_path / "net.onnx")


def test_a_missing_compiler_is_one_line(run, tmp_path, monkeypatch):
    monkeypatch.setattr(pt2_file.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="there is no C\\+\\+ compiler; install g\\+\\+"):
        pt2_file.export_pt2(run, tmp_path / "net.pt2")


def test_a_crf_is_refused(run, tmp_path):
    (run / "postprocessing.json").write_text(PostprocessConfig(crf_steps=2).to_json())
    with pytest.raises(UserError, match="a file has no CRF"):
        export_onnx(run, tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model.scan_path": "hilbert"}, "model.scan_path = 'hilbert' is an order of the voxels"),
        ({"model.name": "umamba_enc", "data.patch_size": (64, 64, 32)}, "every voxel of one size"),
    ],
)
def test_a_network_of_one_size_is_not_exported_for_any(tmp_path, changes, reason):
    config = CONFIG.changed(changes)
    torch.save(build_model(config.model).state_dict(), tmp_path / "best_metric_model.pth")
    (tmp_path / "config.json").write_text(config.to_json())
    with pytest.raises(UserError, match=re.escape(reason)):
        export_onnx(tmp_path, tmp_path / "net.onnx", dynamic=True)
    assert not (tmp_path / "net.onnx").exists()


def test_an_input_that_onnxruntime_refuses_is_one_line(tmp_path):
    from onnx import TensorProto, helper

    sides = (1, 4, 8, 8, 8)
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, sides) for n in (INPUT, *OUTPUTS)]
    nodes = [helper.make_node("Identity", [INPUT], [output]) for output in OUTPUTS]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    opset = [helper.make_opsetid("", 18)]
    file = tmp_path / "net.onnx"
    file.write_bytes(
        helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
    )
    run = onnx_file.runs_onnx(file)
    assert torch.equal(run(torch.ones(sides))[1], torch.ones(sides))
    with pytest.raises(UserError, match=r"net.onnx: not written.*1 x 4 x 8 x 8 x 16 \(.*Got: 16"):
        run(torch.ones(1, 4, 8, 8, 16))


def test_a_file_that_computes_something_else_never_appears(run, tmp_path, monkeypatch):
    def disturbed(exporting):
        model = onnx_model(exporting)
        name = next(
            i.name for i in model.graph.initializer if "head" in i.name and "bias" in i.name
        )
        for tensor in model.graph.initializer:
            if tensor.name == name:
                values = np.frombuffer(tensor.raw_data, np.float32) + np.float32(0.5)
                tensor.raw_data = values.tobytes()
        return model

    monkeypatch.setattr(onnx_file, "onnx_model", disturbed)
    with pytest.raises(UserError, match="not written, for what it computes differs"):
        export_onnx(run, tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
