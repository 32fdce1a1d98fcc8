"""Patches a second from disk to a batch tensor, against MONAI's and nnU-Net's loaders.

    python benchmarks/loader.py [--json FILE] [--cases 4]

One core, no worker processes: 128x128x64 patches of 240x240x155 phantom cases, batches of 2, half
of them centred on tumour. The first columns read and crop. The last also augments on the CPU: ours
and MONAI's with the default transforms (which training does on the GPU), nnU-Net's with its own
from a larger crop, as it trains. Cold: the files leave the page cache before every batch
(posix_fadvise). Rates are medians over batches, which other work on the machine disturbs least.
Preprocessing and a worker's memory are measured as well. The phantom takes half a minute to make;
--data gives real cases.

nnU-Net depends on another torch. Its loader works with this one, from a folder of its own that only
this script sees:

    pip install --no-deps --target SITE nnunetv2 batchgenerators batchgeneratorsv2 acvl-utils \
        blosc2 dynamic-network-architectures connected-components-3d numexpr ndindex msgpack \
        py-cpuinfo scikit-image scikit-learn joblib threadpoolctl SimpleITK tifffile imageio \
        lazy_loader seaborn graphviz yacs httpx httpcore h11 anyio sniffio tqdm
    PYTHONPATH=.:SITE python benchmarks/loader.py
"""

from __future__ import annotations

import importlib.util
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from figures import Figure, above, at_least, at_most, below, command_line, report
from segmamba.config import Config
from segmamba.data.augment import augment, draw_augmentation
from segmamba.data.case import Case
from segmamba.data.cases import find_cases
from segmamba.data.labels import MODALITIES
from segmamba.data.loader import batches
from segmamba.data.phantom import write_phantom
from segmamba.data.preprocess import PreparedCase, prepare_cases

SIZE, BATCHES = (240, 240, 155), 30
Rates = dict[str, float]  # patches a second: warm, cold, augmented
Batches = Iterator[tuple[Any, Any]]  # image and label
CONFIG = Config().changed({"data.workers": 0})


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--cases", type=int, default=4)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="labelled cases in place of the phantom"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        data = options.data or write_phantom(
            folder / "phantom", cases=options.cases, size=SIZE, seed=0
        )
        cases = [case for case in find_cases(data) if case.label]
        figures = preprocessing(cases, folder)
        prepared = prepare_cases(cases, folder / "cache", CONFIG.data)
        figures |= rates(cases, prepared, folder) | memory(prepared)
    report(figures, options.json)


def preprocessing(cases: list[Case], folder: Path) -> dict[str, Figure]:
    """Seconds to prepare a case and to find it in the cache again.

    Cases are prepared one at a time, so that no worker process starts. The source files are in the
    page cache.
    """
    for case in cases:
        [path.read_bytes() for path in case.files]
    build = statistics.median(
        seconds(lambda c=case: prepare_cases([c], folder / "cache", CONFIG.data)) for case in cases
    )
    again = statistics.median(
        seconds(lambda: prepare_cases(cases, folder / "cache", CONFIG.data)) for _ in range(5)
    ) / len(cases)
    return {
        "preprocessing a case": at_most(build, 2, "s"),
        "finding a case in the cache again": below(again, 0.1, "s"),
    }


def rates(cases: list[Case], prepared: list[PreparedCase], folder: Path) -> dict[str, Figure]:
    """Print the rates of all loaders that are installed; ours, and how many times theirs it is."""
    cache = [path for case in prepared for path in case.folder.iterdir()]
    plain, augmented = our_batches(prepared, augmented=False), our_batches(prepared, augmented=True)
    ours = {
        "warm": patches_per_s(plain),
        "cold": patches_per_s(plain, forget=cache),
        "augmented": patches_per_s(augmented, count=10),
    }
    table = {"segmamba": ours}
    if importlib.util.find_spec("monai"):
        table["MONAI, PersistentDataset"] = monai_rates(cases, folder / "monai")
    if importlib.util.find_spec("nnunetv2"):
        table["nnU-Net, blosc2"] = nnunet_rates(prepared, folder / "nnunet")
    print(f"{'patches/s':30} {'warm':>8} {'cold':>8} {'+ augment on the CPU':>22}")
    for name, row in table.items():
        print(f"{name:30} {row['warm']:8.1f} {row['cold']:8.1f} {row['augmented']:22.1f}")
    if importlib.util.find_spec("nnunetv2") is None:
        print("nnU-Net is not installed, so its loader is not measured: --help says how")
    figures = {
        "patches/s, warm page cache": at_least(ours["warm"], 60, "/s"),
    }
    for name, row in list(table.items())[1:]:
        figures[f"times as fast as {name}"] = above(ours["warm"] / row["warm"], 1, "x")
    return figures


def our_batches(prepared: list[PreparedCase], *, augmented: bool) -> Batches:
    """Batches of our loader in this process."""
    for batch in batches(prepared, CONFIG, first_epoch=1, pin_memory=False):
        image, label = batch.image, batch.label
        if augmented:
            plans = [
                draw_augmentation(CONFIG.augment, 0, int(e), int(i), len(MODALITIES))
                for e, i in zip(batch.epoch, batch.index, strict=True)
            ]
            image, label = augment(image.float(), label, plans)
        yield image, label


def monai_rates(cases: list[Case], folder: Path) -> Rates:
    """The same steps by MONAI's dictionary transforms.

    Volumes are prepared once on disk (PersistentDataset); random transforms run at every access.
    """
    cropped, full = (
        monai_batches(cases, folder, augmented=augmented) for augmented in (False, True)
    )
    warm = patches_per_s(cropped, count=8)
    cold = patches_per_s(cropped, count=4, forget=list(folder.iterdir()))
    return {"warm": warm, "cold": cold, "augmented": patches_per_s(full, count=8)}


def monai_batches(cases: list[Case], folder: Path, *, augmented: bool) -> Batches:
    """Batches of MONAI's PersistentDataset."""
    from monai.data import PersistentDataset, list_data_collate
    from monai.data.utils import pickle_hashing
    from monai.transforms import (
        Compose,
        CropForegroundd,
        EnsureChannelFirstd,
        LoadImaged,
        NormalizeIntensityd,
        RandCropByPosNegLabeld,
        RandFlipd,
        RandRotate90d,
        RandScaleIntensityd,
        RandShiftIntensityd,
        RandZoomd,
    )

    size, both = CONFIG.data.patch_size, ["image", "label"]
    prepare = [
        LoadImaged(both),
        EnsureChannelFirstd(both),
        NormalizeIntensityd("image", nonzero=True, channel_wise=True),
        CropForegroundd(both, source_key="image", allow_smaller=True),
    ]
    crop = [RandCropByPosNegLabeld(both, "label", size, pos=1, neg=1, image_key="image")]
    random = [
        *(RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
        RandRotate90d(both, prob=0.5, spatial_axes=(0, 1)),
        RandZoomd(both, prob=1, min_zoom=0.9, max_zoom=1.1, mode=("trilinear", "nearest")),
        RandScaleIntensityd("image", factors=0.1, prob=1, channel_wise=True),
        RandShiftIntensityd("image", offsets=0.1, prob=1, channel_wise=True),
    ]
    items = [{"image": [case.images[m] for m in MODALITIES], "label": case.label} for case in cases]
    transform = Compose(prepare + crop + (random if augmented else [])).set_random_state(0)
    data = PersistentDataset(items, transform, cache_dir=folder, hash_transform=pickle_hashing)
    number = 0
    while True:
        batch = list_data_collate(
            [data[(number + i) % len(items)] for i in range(CONFIG.train.batch_size)]
        )
        number += CONFIG.train.batch_size
        yield batch["image"], batch["label"]


def nnunet_rates(prepared: list[PreparedCase], folder: Path) -> Rates:
    """nnU-Net's own loader with its sampling and its training transforms.

    It reads its own files of the same cases: float32 and int16, blosc2.
    """
    store_for_nnunet(prepared, folder)
    cropped, full = (nnunet_batches(folder, augmented=augmented) for augmented in (False, True))
    warm = patches_per_s(cropped)
    cold = patches_per_s(cropped, count=10, forget=list(folder.iterdir()))
    return {"warm": warm, "cold": cold, "augmented": patches_per_s(full, count=20)}


def store_for_nnunet(prepared: list[PreparedCase], folder: Path) -> None:
    """Write the cases with the chunks and foreground locations of nnU-Net's preprocessor.

    It follows DefaultPreprocessor.run_case_save.
    """
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    folder.mkdir()
    for case in prepared:
        image, label = np.array(case.image(), np.float32), np.array(case.label(), np.int16)[None]
        (blocks, chunks), (blocks_seg, chunks_seg) = (
            comp_blosc2_params(a.shape, CONFIG.data.patch_size, a.itemsize) for a in (image, label)
        )
        properties = {
            "class_locations": DefaultPreprocessor._sample_foreground_locations(label, [1, 2, 3])
        }
        nnUNetDatasetBlosc2.save_case(
            image,
            label,
            properties,
            str(folder / case.id),
            chunks=chunks,
            blocks=blocks,
            chunks_seg=chunks_seg,
            blocks_seg=blocks_seg,
        )


def nnunet_batches(folder: Path, *, augmented: bool) -> Batches:
    """Batches of nnU-Net's loader."""
    from nnunetv2.training.data_augmentation.compute_initial_patch_size import get_patch_size
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    size, turn = CONFIG.data.patch_size, (-math.pi / 6, math.pi / 6)
    transforms = (
        nnUNetTrainer.get_training_transforms(np.array(size), turn, None, (0, 1, 2), False)
        if augmented
        else None
    )
    read = get_patch_size(size, turn, turn, turn, (0.85, 1.25)) if augmented else size
    labels = LabelManager({"background": 0, "NCR": 1, "ED": 2, "ET": 3}, None)
    share = CONFIG.data.tumour_centre_share
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(folder)),
        CONFIG.train.batch_size,
        read,
        size,
        labels,
        share,
        transforms=transforms,
    )
    while True:
        batch = next(loader)
        yield batch["data"], batch["target"]


def memory(prepared: list[PreparedCase]) -> dict[str, Figure]:
    """Proportional set size of a worker that has read patches of every case.

    It is measured once more with a thousand times the cases.
    """
    figures = {}
    config = CONFIG.changed({"data.workers": 1})
    for times in (1, 1000):
        stream = batches(prepared * times, config, first_epoch=1, pin_memory=False)
        for _ in range(BATCHES):
            next(stream)
        peak = (
            max(child.memory_full_info().pss for child in psutil.Process().children(recursive=True))
            / 2**20
        )
        stream.close()
        name = f"proportional set size of a worker, {len(prepared) * times} cases"
        figures[name] = below(peak, 1024, "MiB")
    return figures


def patches_per_s(stream: Batches, *, count: int = BATCHES, forget: Sequence[Path] = ()) -> float:
    """Median rate over `count` batches, after two that warm up.

    The files in `forget` leave the page cache before each batch.
    """
    taken: list[float] = []
    for i in range(count + 2):
        for path in forget:
            drop_from_page_cache(path)
        taken.append(seconds(lambda: next(stream)))
        if i < 2:
            taken.clear()
    return CONFIG.train.batch_size / statistics.median(taken)


def drop_from_page_cache(path: Path) -> None:
    """Make the next read of a file come from the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fdatasync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def seconds(action: Callable[[], object]) -> float:
    """Wall time of a call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
