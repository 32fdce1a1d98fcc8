"""Checkpoints of others, and files that only look like checkpoints."""

import copy
import io
import pickle
import random
import resource
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from segmamba.errors import UserError
from segmamba.models import build_model
from segmamba.models.state_dicts import load_into, network_state
from segmamba.models.transfer import Channels, start_from, without_heads
from segmamba.models.weights import load_checkpoint, load_network
from tests.tiny import TINY

WEIGHTS = {"stem.weight": torch.arange(6.0).reshape(2, 3), "stem.steps": torch.tensor(3)}


def saved(path, content):
    torch.save(content, path)
    return path


def prefixed(prefix):
    return OrderedDict((prefix + name, tensor) for name, tensor in WEIGHTS.items())


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (WEIGHTS, ()),
        ({"model": WEIGHTS, "epoch": 3}, ()),
        (prefixed("module."), ("module. was taken off",)),
        (prefixed("_orig_mod."), ("_orig_mod. was taken off",)),
        (prefixed("module._orig_mod."), ("module., _orig_mod. was taken off",)),
        (prefixed("_orig_mod.module."), ("_orig_mod., module. was taken off",)),
        ({"state_dict": prefixed("module."), "epoch": 1}, ('under "state_dict"', "module.")),
        ({"model": {"state_dict": WEIGHTS}}, ('under "state_dict"',)),
        (
            {
                "network_weights": WEIGHTS,
                "logging": {"ema": [np.float64(0.5), np.float32(0.25)], "n": np.int64(3)},
                "init_args": {"fold": "all"},
            },
            ('under "network_weights"',),
        ),
        ({n: torch.nn.Parameter(t) for n, t in WEIGHTS.items() if n == "stem.weight"}, ()),
    ],
)
def test_weights_are_found_in_what_other_programs_wrap_them_in(tmp_path, content, notes):
    found = load_network(saved(tmp_path / "foreign.pth", content))
    assert torch.equal(found.tensors["stem.weight"], WEIGHTS["stem.weight"])
    assert len(found.notes) == len(notes)
    for note, words in zip(found.notes, notes, strict=True):
        assert words in note and "foreign.pth" in note


def test_only_a_part_that_torch_compiled_loses_its_prefix_too():
    names = {"module": torch.ones(1), "encoder._orig_mod.conv": torch.ones(1)}
    found = network_state(names, "f.pth")
    assert set(found.tensors) == {"module", "encoder.conv"}
    with pytest.raises(UserError, match="two of its weights have one name"):
        network_state({"a": torch.ones(1), "_orig_mod.a": torch.ones(1)}, "f.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_read_as_float32_and_it_is_said(tmp_path, dtype):
    found = load_network(saved(tmp_path / "f.pth", {"w": torch.ones(3, dtype=dtype)}))
    assert found.tensors["w"].dtype == torch.float32
    assert found.notes[0].endswith(f"1 of its 1 tensors are {str(dtype)[6:]}, read as float32: w")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": torch.tensor([1.0, float("nan")])}, "1 not finite: w"),
        ({f"w{n}": torch.tensor([float("inf")]) for n in range(9)}, "9 not finite: w0, w1, w2 and"),
        ({"w": torch.ones(1), "name": "x"}, "1 no tensors: name"),
        ({"w": torch.ones(1, dtype=torch.complex64)}, "ComplexFloatStorage"),
        ({"w": torch.eye(3).to_sparse()}, "_rebuild_sparse_tensor"),
        ({"w": torch.ones(3, device="meta")}, "_rebuild_meta_tensor_no_storage"),
        ({"epoch": 3}, "holds no weights"),
        ([torch.ones(1)], "holds no weights"),
        ({}, "holds no weights"),
    ],
)
def test_what_is_no_plain_finite_tensor_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as caught:
        load_network(saved(tmp_path / "f.pth", content))
    assert "f.pth" in str(caught.value)


def test_weights_that_do_not_fit_are_counted_and_the_first_are_named():
    model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(5)))
    state = model.state_dict()
    for number in range(4):
        del state[f"{number}.weight"]
        state[f"{number}.bias"] = torch.ones(7)
    state["other"] = torch.ones(1)
    with pytest.raises(UserError) as caught:
        load_into(model, state, "f.pth: does not fit", "mend it")
    assert str(caught.value) == (
        "f.pth: does not fit (4 missing: 0.weight, 1.weight, 2.weight and 1 more; 1 not of this "
        "network: other; 4 of another shape: 0.bias is 7 there and 2 here, 1.bias is 7 there and "
        "2 here, 2.bias is 7 there and 2 here and 1 more); mend it"
    )


def repacked(path, *, compressed=zipfile.ZIP_DEFLATED, changes=None):
    """Write the archive anew, its members compressed or with other content."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compressed) as archive:
        for name, content in members.items():
            archive.writestr(name, (changes or {}).get(name.partition("/")[2], content))
    return path


def test_a_small_file_that_would_fill_the_memory_is_refused_before_it_does(tmp_path, monkeypatch):
    path = repacked(saved(tmp_path / "bomb.pth", {"w": torch.zeros(2**24)}))
    assert path.stat().st_size < 2**20
    monkeypatch.setenv("SEGMAMBA_CHECKPOINT_MIB", "32")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"would become 64 MiB in memory, more than the 32 MiB"):
        load_checkpoint(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 2**10
    monkeypatch.setenv("SEGMAMBA_CHECKPOINT_MIB", "65")
    assert load_checkpoint(path)["w"].shape == (2**24,)
    monkeypatch.setenv("SEGMAMBA_CHECKPOINT_MIB", "much")
    with pytest.raises(UserError, match="must be a whole number of MiB"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(2**30),
        torch.zeros(1, 1).expand(2**20, 2**20),
        torch.zeros(2**10).as_strided((2**10, 2**10, 2**10), (0, 0, 1)),
    ],
)
def test_a_tensor_that_repeats_its_numbers_without_end_is_refused(tmp_path, tensor):
    with pytest.raises(UserError, match=r"would become .* MiB in memory"):
        load_checkpoint(saved(tmp_path / "f.pth", {"w": tensor}))


class Reduced:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *values):
        self.function, self.values = function, values

    def __reduce__(self):
        return self.function, self.values


@pytest.mark.parametrize("function", [bytearray, torch.Tensor, torch.FloatTensor, set])
def test_functions_that_torch_itself_would_call_are_refused(tmp_path, function):
    value = 10 if function is not set else [1]
    with pytest.raises(UserError, match="no tensor, number or text"):
        load_checkpoint(saved(tmp_path / "f.pth", {"w": Reduced(function, value)}))


def test_a_name_that_takes_for_ever_to_look_up_is_refused_at_once(tmp_path):
    doubled = pickle.EMPTY_TUPLE + 60 * (pickle.DUP + pickle.TUPLE2)
    content = pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + doubled
    content += pickle.NONE + pickle.SETITEM + pickle.STOP
    path = saved(tmp_path / "f.pth", WEIGHTS)
    repacked(path, compressed=zipfile.ZIP_STORED, changes={"data.pkl": content})
    with pytest.raises(UserError, match="neither text nor number"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "a page of the web"),
        (b"epoch 3\n", "it is text"),
        (b'{"a": 1}', "it is JSON"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (bytes(1000), "no zip archive"),
        (b"PK\3\4" + bytes(100), "its end is missing"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_name(tmp_path, content, message):
    (tmp_path / "f.pth").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "f.pth")
    with pytest.raises(UserError, match="a folder"):
        load_checkpoint(tmp_path)


def test_other_archives_are_no_checkpoints(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.pth", "w") as archive:
        archive.writestr("a.txt", "a")
    with pytest.raises(UserError, match="a zip archive without tensors"):
        load_checkpoint(tmp_path / "f.pth")
    torch.save(WEIGHTS, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"a pickle, as torch before 1\.6 wrote"):
        load_checkpoint(tmp_path / "old.pth")


def test_safetensors_are_read_where_their_package_is_and_named_where_it_is_not(tmp_path):
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    content = struct.pack("<Q", len(header)) + header + struct.pack("<f", 2.0)
    (tmp_path / "w.safetensors").write_bytes(content)
    try:
        import safetensors  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install safetensors"):
            load_network(tmp_path / "w.safetensors")
    else:
        assert load_network(tmp_path / "w.safetensors").tensors["w"].tolist() == [2.0]


def mutations(content, count, seed):
    """Yield a checkpoint's bytes with bits flipped, parts cut, and its members changed."""
    rng = random.Random(seed)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    pickled = next(name for name in members if name.endswith("data.pkl"))
    for number in range(count):
        if number % 4 == 0:
            changed = bytearray(content)
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            yield bytes(changed)
        elif number % 4 == 1:
            yield content[: rng.randrange(len(content))]
        else:  # a good archive around a bad pickle, which no checksum finds
            body = bytearray(members[pickled])
            for _ in range(rng.randint(1, 4)):
                body[rng.randrange(len(body))] = rng.randrange(256)
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                for name, value in members.items():
                    archive.writestr(name, bytes(body) if name == pickled else value)
            yield file.getvalue()


def check_mutations(path, count, seed):
    torch.save({"model": WEIGHTS, "epoch": 3, "best": 0.5, "sizes": torch.Size([1, 2])}, path)
    content, refused = path.read_bytes(), 0
    for changed in mutations(content, count, seed):
        path.write_bytes(changed)
        try:
            load_network(path)
        except UserError as error:
            refused += 1
            assert path.name in str(error)
    return refused


def test_a_mutated_checkpoint_is_read_or_refused_in_one_line(tmp_path):
    assert check_mutations(tmp_path / "f.pth", 80, seed=0) > 30


@pytest.mark.slow
def test_no_mutation_of_a_checkpoint_ends_in_a_traceback(tmp_path):
    assert check_mutations(tmp_path / "f.pth", 4000, seed=1) > 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2 * 2**20, "2 GiB"


# Fine-tuning: another's weights in a network of other classes or channels.

FOUR = ("background", "NCR", "ED", "ET")
OTHER = ("background", "ED", "RC", "ET", "NCR")


def with_outputs(model, count):
    """The model with `count` output channels."""
    model = copy.deepcopy(model)
    head = model.head
    model.head = type(head)(head.in_channels, count)
    return model


def test_classes_are_matched_by_name_and_new_ones_begin_anew():
    source = build_model(TINY.model)
    model = with_outputs(build_model(TINY.model), 5)
    before = copy.deepcopy(model.state_dict())
    transfer = start_from(
        model,
        source.state_dict(),
        "f.pth",
        given=Channels((), FOUR),
        wanted=Channels((), OTHER),
    )
    for number, name in enumerate(OTHER):
        expected = before if name == "RC" else source.state_dict()
        row = number if name == "RC" else FOUR.index(name)
        for leaf in ("weight", "bias"):
            got = model.state_dict()[f"head.{leaf}"][number]
            assert torch.equal(got, expected[f"head.{leaf}"][row])
    for name, tensor in without_heads(source.state_dict()).items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert transfer.tensors - transfer.taken == 2
    assert "head.weight (4 → 5 classes, of which taken: background, ED, ET and 1 more)" in (
        transfer.begun
    )


def test_classes_in_another_order_are_put_in_the_networks_order():
    source, model = build_model(TINY.model), build_model(TINY.model)
    swapped = ("background", "ET", "ED", "NCR")
    start_from(
        model,
        source.state_dict(),
        "f.pth",
        given=Channels((), swapped),
        wanted=Channels((), FOUR),
    )
    assert torch.equal(model.head.weight[3], source.head.weight[1])
    assert torch.equal(model.head.weight[1], source.head.weight[3])


def test_input_channels_are_matched_by_name_and_unnamed_ones_begin_anew():
    model = build_model(TINY.model)
    before = copy.deepcopy(model.state_dict())
    state = build_model(TINY.model).state_dict()
    for name in ("stem.conv1.weight", "stem.shortcut.weight"):
        state[name] = state[name][:, :3]
    own = ("T1", "T1ce", "T2", "FLAIR")
    unnamed = start_from(copy.deepcopy(model), state, "f.pth")
    assert "stem.conv1.weight (3 → 4 channels)" in unnamed.begun
    start_from(
        model,
        state,
        "f.pth",
        given=Channels(("FLAIR", "T1", "other"), ()),
        wanted=Channels(own, ()),
    )
    after = model.state_dict()["stem.conv1.weight"]
    assert torch.equal(after[:, 3], state["stem.conv1.weight"][:, 0])
    assert torch.equal(after[:, 0], state["stem.conv1.weight"][:, 1])
    assert torch.equal(after[:, 1:3], before["stem.conv1.weight"][:, 1:3])


def test_weights_of_another_width_are_refused_whatever_their_channels():
    wide = build_model(TINY.changed({"model.base_channels": 4}).model)
    with pytest.raises(UserError, match="not weights of this network"):
        start_from(wide, build_model(TINY.model).state_dict(), "f.pth")
    fewer = dict(list(build_model(TINY.model).state_dict().items())[5:])
    with pytest.raises(UserError, match="5 missing"):
        start_from(build_model(TINY.model), fewer, "f.pth")
