"""One trained network, ready to predict whole volumes.

Legend: B windows in one forward pass, K channels, (x, y, z) the volume, (d, h, w) a window.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmamba.config import Config, InferenceConfig, load_config
from segmamba.data.label_sets import LabelSet
from segmamba.device import autocast
from segmamba.errors import UserError
from segmamba.inference.captured import EAGER_PASSES, passes_on
from segmamba.inference.checkpoint_files import (
    CONFIG_FILE,
    find_beside,
    find_checkpoint,
    find_weights,
)
from segmamba.inference.fold import folded, in_half
from segmamba.inference.sliding_window import predict_volumes
from segmamba.models import build_model
from segmamba.models.outputs import output_channels, probabilities
from segmamba.models.released import kind_of, released_network
from segmamba.models.state_dicts import load_into, network_state
from segmamba.models.weights import load_checkpoint

MIRRORS: tuple[tuple[int, ...], ...] = tuple(
    axes for count in range(4) for axes in itertools.combinations((2, 3, 4), count)
)
"""The 8 mirror images of (B, C, x, y, z), as the axes that are flipped."""
BATCH = {"cuda": 8, "cpu": 2}
"""Windows in one forward pass; measured by benchmarks/inference.py --sweep."""
SHARED_BATCHES = {"cuda": True, "cpu": False}
"""Whether windows of several volumes are predicted in one batch."""
AUTOTUNE = True
"""Whether cuDNN tries its kernels on the first batch of a shape."""


class Member:
    """A network with its Config on a device.

    The weights are those of the moment it is made or refreshed. A member knows its own grid, not
    the source's. On a GPU, a shape of windows that comes again and again is captured as a CUDA
    graph.

    Args:
        model: The network, which is copied.
        config: The Config that it was trained with.
        device: Where it predicts.
        inference: The test-time options, in place of the Config's own.
        notes: What was done to its weights when they were read.
        eager_passes: Forward passes of a shape before it is captured.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        device: torch.device,
        inference: InferenceConfig | None = None,
        *,
        notes: tuple[str, ...] = (),
        eager_passes: int = EAGER_PASSES,
    ) -> None:
        self.config, self.device, self.notes = config, device, notes
        self.inference = inference or config.inference
        self.outputs = output_channels(config.model)
        self._networks = self._made_of(model)
        self._passes = passes_on(device, eager_passes)
        self._batch = self.inference.window_batch or BATCH[device.type]

    def _made_of(self, model: nn.Module) -> dict[torch.dtype | None, nn.Module]:
        """The networks that predict in each precision: copies of `model`."""
        single = folded(model, self.device.type).to(self.device)
        half = self._half()
        return {None: single} | ({half: in_half(single, half)} if half else {})

    @property
    def single(self) -> nn.Module:
        """The network that predicts in fp32, on the device, in eval mode, with folded norms."""
        return self._networks[None]

    @torch.no_grad()
    def refresh(self, model: nn.Module) -> None:
        """Take over the weights that a network has now.

        They are written over the old ones, so that what is captured predicts with them.

        Args:
            model: The network that the member was made of, or another of its kind.
        """
        for dtype, network in self._made_of(model).items():
            for own, new in zip(_tensors(self._networks[dtype]), _tensors(network), strict=True):
                own.copy_(new)

    @torch.inference_mode()
    def probabilities(self, image: Tensor) -> Tensor:
        """Predict a volume on this member's working grid.

        Half precision ends at 65504: a prediction whose activations exceed that is computed again
        in fp32.

        Args:
            image: Float (4, x, y, z) on the device, z-scored, in the order of MODALITIES.

        Returns:
            float32 (K, x, y, z) on the device; the channels are `self.outputs`.

        Raises:
            UserError: A single window does not fit into the device's memory.
        """
        dtype = self._half()
        with _autotuned():
            result = self._over_scales(image, dtype)
            if dtype is not None and not result.isfinite().all():
                result = self._over_scales(image, None)
        return result

    def probabilities_of(self, images: Sequence[Tensor]) -> Iterator[Tensor]:
        """Predict several volumes one after the other, as `probabilities` does.

        Where SHARED_BATCHES says so, a volume's last windows are predicted together with the next
        one's first.

        Args:
            images: As `probabilities` takes them; float16 will do.

        Yields:
            float32 (K, x, y, z) on the device for each.

        Raises:
            UserError: A single window does not fit into the device's memory.
        """
        done = 0
        if SHARED_BATCHES[self.device.type] and self.inference.scales == (1.0,):
            try:
                for probability in self._over_volumes(images):
                    done += 1
                    yield probability
            except torch.OutOfMemoryError as error:
                self._take_fewer_windows(error)
            if done < len(images):
                torch.cuda.empty_cache()  # only now that no traceback holds a tensor
        for image in images[done:]:
            yield self.probabilities(image.float())

    def _over_volumes(self, images: Sequence[Tensor]) -> Iterator[Tensor]:
        """`predict_volumes`, and in fp32 once more what half precision cannot hold."""
        volumes = self._predicted(images, self._half())
        for image in images:
            with _autotuned(), torch.inference_mode():
                result = next(volumes)
                if not result.isfinite().all():
                    result = self._over_windows(image.float(), None)
            yield result

    def _half(self) -> torch.dtype | None:
        """Inference takes fp16 where training took bf16.

        It is as fast, and eight times as fine; without gradients its range is enough.
        """
        mixed = self.device.type == "cuda" and self.config.train.precision == "mixed"
        return torch.float16 if mixed else None

    def _over_scales(self, image: Tensor, dtype: torch.dtype | None) -> Tensor:
        """The mean (K, x, y, z) over the resolutions that are asked for."""
        total = None
        for scale in self.inference.scales:
            sides = [max(1, round(side * scale)) for side in image.shape[1:]]
            scaled = image if scale == 1 else _resized(image, sides)
            probability = _resized(self._over_windows(scaled, dtype), image.shape[1:])
            total = probability if total is None else total.add_(probability)
        assert total is not None, "InferenceConfig has at least one scale"
        return total.div_(len(self.inference.scales))

    def _over_windows(self, image: Tensor, dtype: torch.dtype | None) -> Tensor:
        """`predict_windows` with as many windows at once as fit into the device's memory.

        Whenever they do not fit, half as many are taken from here on.
        """
        while True:
            try:
                return next(self._predicted([image], dtype))
            except torch.OutOfMemoryError as error:
                self._take_fewer_windows(error)
            torch.cuda.empty_cache()

    def _predicted(self, images: Sequence[Tensor], dtype: torch.dtype | None) -> Iterator[Tensor]:
        window = self.config.data.patch_size
        return predict_volumes(
            partial(self._forward, dtype=dtype),
            images,
            window,
            overlap=self.inference.overlaps(window),
            batch_size=self._batch,
        )

    def _take_fewer_windows(self, error: torch.OutOfMemoryError) -> None:
        """Halve the windows of a pass from here on; raise UserError where one is too many."""
        if self._batch == 1:
            size = " x ".join(map(str, self.config.data.patch_size))
            raise UserError(
                f"a window of {size} voxels does not fit into the memory of {self.device}; "
                "use --device cpu"
            ) from error
        self._batch //= 2
        self._passes.forget()

    def _forward(self, windows: Tensor, dtype: torch.dtype | None) -> Tensor:
        """(B, 4, d, h, w) to float32 probabilities (B, K, d, h, w)."""
        return self._passes.run(partial(self._averaged, dtype=dtype), windows, dtype)

    def _averaged(self, windows: Tensor, dtype: torch.dtype | None) -> Tensor:
        """The probabilities, averaged over the mirror images where these are asked for.

        Autocast keeps no copies of weights, which a graph would hold on to: they need no gradient.
        """
        mirrors = MIRRORS if self.inference.flips else MIRRORS[:1]
        total = None
        for axes in mirrors:
            with autocast(self.device, dtype):
                logits = self._networks[dtype](windows.flip(axes) if axes else windows)
            probability = probabilities(logits, self.outputs)
            probability = probability.flip(axes) if axes else probability
            total = probability if total is None else total.add_(probability)
        assert total is not None, "there is always one image"
        return total.div_(len(mirrors)) if self.inference.flips else total


def load_member(
    path: str | Path,
    device: torch.device,
    inference: InferenceConfig | None = None,
    changes: Mapping[str, object] | None = None,
) -> Member:
    """Load one trained network.

    Args:
        path: A checkpoint, as `find_checkpoint` takes it; or weights that the authors of one of the
            field's Mamba networks released, which need no config.json.
        device: Where it predicts.
        inference: Test-time options in place of those of its configuration.
        changes: Dotted changes to its configuration.

    Returns:
        The network, ready to predict.

    Raises:
        UserError: A file is missing or damaged, the weights do not fit their configuration, or a
            change is not a setting.
    """
    weights = find_weights(path)
    content = load_checkpoint(weights, device)
    found = network_state(content, weights)
    config_file = find_beside(weights, CONFIG_FILE)
    if config_file is None and kind_of(found.tensors):
        released = released_network(content, found.tensors, weights)
        config, tensors = released.config, released.tensors
        notes, fitting = (*found.notes, released.note), f"the network {config.model.name}"
    else:
        config_file = config_file or find_checkpoint(weights)[1]
        config, tensors = load_config(config_file), found.tensors
        notes, fitting = found.notes, f"the network of {config_file}"
    config = config.changed(changes or {})
    labels = output_channels(config.model).labels
    config = config.changed({"model.classes": labels.name})  # whatever data it meets from here on
    model = build_model(config.model)
    source = f"{weights}: its weights do not fit {fitting}"
    load_into(model, tensors, source, "keep a run's files together")
    return Member(model, config, device, inference, notes=notes)


def common_labels(members: Sequence[Member]) -> LabelSet:
    """Return the label set of networks that vote together.

    Args:
        members: The networks; at least one.

    Returns:
        The set.

    Raises:
        UserError: They have several.
    """
    first = members[0].outputs.labels
    for number, member in enumerate(members, 1):
        other = member.outputs.labels
        if other != first:
            raise UserError(
                f"network 1 tells {', '.join(first.classes[1:])} apart ({first.name}) and network "
                f"{number} {', '.join(other.classes[1:])} ({other.name}); only networks of the "
                "same classes vote together"
            )
    return first


@contextlib.contextmanager
def _autotuned() -> Iterator[None]:
    """Let cuDNN try its kernels, except where determinism is asked for.

    All batches have one shape, so that the trials pay from the second batch on.
    """
    before = torch.backends.cudnn.benchmark
    fixed = torch.backends.cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.benchmark = AUTOTUNE and not fixed
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _resized(volume: Tensor, shape: Sequence[int]) -> Tensor:
    """float (K, x, y, z) at another resolution, trilinear, edges on edges."""
    if volume.shape[1:] == torch.Size(shape):
        return volume
    return F.interpolate(volume[None], size=tuple(shape), mode="trilinear")[0]
