"""Starting from weights that something else has learnt."""

from segmamba.errors import UserError

HEADS = ("head.", "deep_heads.")


def start_from(model, state, source):
    """Load the tensors of `state` into `model`. Its heads are taken where they fit, so that other outputs may be learnt; all else must fit.

    UserError that names `source` and the first tensor that does not.
    """
    wanted = model.state_dict()
    fits = {name: tensor for name, tensor in state.items() if name in wanted and wanted[name].shape == tensor.shape}
    misfits = sorted(name for name in wanted.keys() | state.keys() if name not in fits and not name.startswith(HEADS))
    if misfits:
        name = misfits[0]
        have, want = (tuple(s[name].shape) if name in s else "absent" for s in (state, wanted))
        raise UserError(f"{source}: not weights of this network: {name} is {have} there and {want} here, and {len(misfits) - 1} more tensors differ; "
                        "choose the settings of `model` that they were trained with")  # fmt: skip
    model.load_state_dict(fits, strict=False)


def without_heads(state):
    """What of a network's state another task can start from."""
    return {name: tensor for name, tensor in state.items() if not name.startswith(HEADS)}
