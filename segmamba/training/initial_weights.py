"""What a run's network starts from: its own first values, a pretraining, another run's weights."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from segmamba.config import Config, load_config
from segmamba.data.label_sets import counterpart
from segmamba.data.labels import MODALITIES
from segmamba.data.layouts.dataset_json import NAME, DatasetJson
from segmamba.data.layouts.declared_names import class_of, modality_of
from segmamba.data.splits import Split
from segmamba.files import write_json
from segmamba.inference.checkpoint_files import find_beside
from segmamba.json_files import read_json
from segmamba.models.outputs import output_channels
from segmamba.models.released import released_channels
from segmamba.models.state_dicts import network_state
from segmamba.models.transfer import Channels, start_from
from segmamba.models.weights import load_checkpoint
from segmamba.training.callback import Callback
from segmamba.training.pretrain_run import pretrain_run
from segmamba.training.run_folder import RunFolder

Start = Callable[[nn.Module], None]
"""Gives a network its first weights, in place."""


def initial_weights(
    config: Config,
    data: Split,
    folder: RunFolder,
    device: torch.device,
    callback: Callback,
) -> Start | None:
    """Return what gives a run's network its first weights.

    Where `learning.initial_weights` names a file, that is read. Where `learning.pretrain_epochs`
    says so, the network is pretrained first, on the images of data.train and data.unlabelled; this
    goes on from what an earlier process left in `folder`.

    Args:
        config: The configuration of the run.
        data: A Split of PreparedCases.
        folder: The folder of the run, which gets initial_weights.json.
        device: Where to pretrain.
        callback: Watches the run, and is told what was taken.

    Returns:
        A function for `fit`; None for the network's own first weights.
    """
    if config.learning.initial_weights:
        return _from_file(Path(config.learning.initial_weights), config, folder, device, callback)
    if not config.learning.pretrain_epochs:
        return None
    cases = [*data.train, *data.unlabelled]
    for _ in pretrain_run(config, cases, folder, device, callback=callback):
        pass
    state = load_checkpoint(folder.pretrained, device)

    def start(model: nn.Module) -> None:
        start_from(model, state, folder.pretrained)

    return start


def _from_file(
    path: Path, config: Config, folder: RunFolder, device: torch.device, callback: Callback
) -> Start:
    content = load_checkpoint(path, device)
    found, given = network_state(content, path), channels_beside(path)
    notes = found.notes
    if given == Channels() and (released := released_channels(content, found.tensors, path)):
        given, note = released
        notes = (*notes, note)
    outputs = output_channels(config.model)
    wanted = Channels(MODALITIES, outputs.names)
    known = tuple(counterpart(name, outputs.labels) for name in given.outputs)
    given = replace(given, outputs=known)

    def start(model: nn.Module) -> None:
        transfer = start_from(model, found.tensors, path, given=given, wanted=wanted)
        record = {
            "file": str(path),
            "taken": transfer.taken,
            "tensors": transfer.tensors,
            "begun_anew": list(transfer.begun),
            "notes": list(notes),
        }
        write_json(folder.initial_weights, record)
        for note in (*notes, f"{path}: {transfer.summary}"):
            callback.on_note(note)

    return start


def channels_beside(path: Path) -> Channels:
    """Read the names of a checkpoint's channels from what lies beside it.

    Args:
        path: The weights. A config.json of ours beside them or in the folder above names all
            channels; else a dataset.json, as nnU-Net keeps it with its results.

    Returns:
        The names; unknown ones are ().

    Raises:
        UserError: The file beside it is damaged.
    """
    if file := find_beside(path, "config.json"):
        return Channels(MODALITIES, output_channels(load_config(file).model).names)
    if not (file := find_beside(path, NAME)):
        return Channels()
    content = read_json(file, DatasetJson)
    named = content.get("channel_names", content.get("modality")) or {}
    ordered = (
        [named[key] for key in sorted(named, key=_number)] if isinstance(named, dict) else named
    )
    inputs = tuple(modality_of(name) or name for name in ordered)
    values = {v: n for n, v in (content.get("labels") or {}).items() if isinstance(v, int)}
    in_order = sorted(values) == list(range(len(values)))
    outputs = tuple(class_of(values[value]) or values[value] for value in sorted(values))
    return Channels(inputs, outputs if in_order else ())


def _number(key: str) -> int:
    return int(key) if key.isdecimal() and len(key) < 5 else 0
