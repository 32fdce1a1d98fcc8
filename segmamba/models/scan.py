"""The selective scan: one function, several implementations behind it.

    h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t        y_t = C_t h_t + D x_t        (Gu & Dao 2023, section 3; h_0 = 0)

with delta = softplus(raw delta + bias): the zero-order hold of A and the Euler step of B that the paper's code uses.

Legend: b batch, l tokens, c channels, n states (N). x, delta (b, l, c); A (c, n), negative; B, C (b, l, n); D, bias (c).
"""

from contextlib import nullcontext

import torch
import torch.nn.functional as F

from segmamba.models.scan_portable import portable_scan


def sequential_scan(x, delta, A, B, C, D, bias):
    """The recurrence, token by token, differentiated by autograd: the oracle. Computes in the dtype of A; use float64 to judge others."""
    x, delta, B, C = (t.to(A.dtype) for t in (x, delta, B, C))
    delta = F.softplus(delta + bias)
    state, outputs = x.new_zeros(x.shape[0], *A.shape), []
    for t in range(x.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * A)
        state = decay * state + (delta[:, t] * x[:, t])[..., None] * B[:, t, None, :]
        outputs.append((state * C[:, t, None, :]).sum(-1))
    return torch.stack(outputs, dim=1) + D * x


IMPLEMENTATIONS = {"sequential": sequential_scan, "portable": portable_scan}


def selective_scan(x, delta, A, B, C, D, bias, *, implementation="auto"):
    """y (b, l, c) in the dtype of x. State and softplus are at least fp32, whatever autocast says."""
    scan = IMPLEMENTATIONS["portable" if implementation == "auto" else implementation]
    has_autocast = torch.amp.is_autocast_available(x.device.type)  # a meta tensor has none
    with torch.autocast(x.device.type, enabled=False) if has_autocast else nullcontext():
        return scan(x, delta, A, B, C, D, bias).to(x.dtype)
