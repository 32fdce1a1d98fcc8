"""One trained network, ready to predict whole volumes."""

import contextlib
import itertools
from functools import partial

import torch
import torch.nn.functional as F

from segmamba.device import autocast
from segmamba.errors import UserError
from segmamba.inference.fold import folded, in_half
from segmamba.inference.sliding_window import predict_windows
from segmamba.models.outputs import output_channels, probabilities

MIRRORS = tuple(
    axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)
)  # axes of (B, C, x, y, z); 8 of them
BATCH = {
    "cuda": 8,
    "cpu": 2,
}  # windows in one forward pass; measured: benchmarks/inference.py --sweep
AUTOTUNE = True  # cuDNN tries its kernels on the first batch of a shape


class Member:
    """A network with its Config on a device; the weights are those of the moment it is made. Knows its own grid, not the source's.

    inference: the InferenceConfig that counts, in place of the Config's own.
    """

    def __init__(self, model, config, device, inference=None):
        self.config, self.device = config, device
        self.inference = inference or config.inference
        self.channels = output_channels(config.model)
        self._networks = {None: folded(model, device.type).to(device)}
        if half := self._half():
            self._networks[half] = in_half(self._networks[None], half)
        self._batch = self.inference.window_batch or BATCH[device.type]

    @torch.inference_mode()
    def probabilities(self, image):
        """float32 (K, x, y, z) on the device, on the grid of `image` (4, x, y, z), which is float on the device; channels are `self.channels`."""
        dtype = self._half()
        with _autotuned():
            result = self._over_scales(image, dtype)
            if (
                dtype is not None and not result.isfinite().all()
            ):  # activations beyond half precision's 65504
                result = self._over_scales(image, None)
        return result

    def _half(self):
        """Inference takes fp16 where training took bf16: as fast, and eight times as fine; without gradients its range is enough."""
        return (
            torch.float16
            if self.device.type == "cuda" and self.config.train.precision == "mixed"
            else None
        )

    def _over_scales(self, image, dtype):
        total = None
        for scale in self.inference.scales:
            scaled = (
                image
                if scale == 1
                else _resized(image, [max(1, round(side * scale)) for side in image.shape[1:]])
            )
            probability = self._over_windows(scaled, dtype)
            probability = _resized(probability, image.shape[1:])
            total = probability if total is None else total.add_(probability)
        return total.div_(len(self.inference.scales))

    def _over_windows(self, image, dtype):
        """`predict_windows` with as many windows at once as fit into the device's memory: half as many, from here on, whenever they do not."""
        window = self.config.data.patch_size
        while True:
            try:
                forward, overlap = (
                    partial(self._forward, dtype=dtype),
                    self.inference.overlaps(window),
                )
                return predict_windows(
                    forward, image, window, overlap=overlap, batch_size=self._batch
                )
            except torch.OutOfMemoryError as error:
                if self._batch == 1:
                    size = " x ".join(map(str, window))
                    raise UserError(
                        f"a window of {size} voxels does not fit into the memory of {self.device}; use --device cpu"
                    ) from error
                self._batch //= 2
            torch.cuda.empty_cache()

    def _forward(self, windows, dtype):
        """(B, 4, d, h, w) to float32 probabilities (B, K, d, h, w), averaged over the mirror images where they are asked for."""
        total = None
        for axes in MIRRORS if self.inference.flips else MIRRORS[:1]:
            with autocast(self.device, dtype):
                logits = self._networks[dtype](windows.flip(axes) if axes else windows)
            probability = probabilities(logits, self.channels)
            probability = probability.flip(axes) if axes else probability
            total = probability if total is None else total.add_(probability)
        return total.div_(len(MIRRORS)) if self.inference.flips else total


@contextlib.contextmanager
def _autotuned():
    """All batches have one shape, so cuDNN's trials pay from the second batch on; where determinism is asked for, they are left out."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = AUTOTUNE and not torch.backends.cudnn.deterministic
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _resized(volume, shape):
    """float (K, x, y, z) at another resolution, trilinear, edges on edges."""
    return (
        volume
        if volume.shape[1:] == torch.Size(shape)
        else F.interpolate(volume[None], size=tuple(shape), mode="trilinear")[0]
    )
