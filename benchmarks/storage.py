"""How should a prepared case be stored: as .npy memory maps, in blosc2 or in zarr?

    pip install blosc2 zarr; python benchmarks/storage.py [--json FILE]

Compared are the size and the time that a 128x128x64 patch takes. The data are the float16 image of
one 240x240x155 phantom case, cut to the brain; random patches, one thread. Warm: the median of 30
patches from the page cache. Cold: the median of 10, the files leaving the page cache before each
(posix_fadvise). A format that is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from figures import Figure, command_line, report
from loader import drop_from_page_cache, seconds
from segmamba.data.labels import MODALITIES
from segmamba.data.phantom import make_case
from segmamba.data.working_grid import brain_box, zscore

SIZE, PATCH, CHUNKS = (240, 240, 155), (128, 128, 64), (4, 64, 64, 64)
UNITS = {"MiB": "MiB", "warm ms": "ms", "cold ms": "ms", "write s": "s"}  # of the columns
Window = tuple[slice, ...]  # channels, x, y, z
Write = Callable[[Path, np.ndarray], Any]
Read = Callable[[Path, Window], np.ndarray]  # a patch in memory


def main() -> None:
    parser = command_line(__doc__)
    json_file = parser.parse_args().json
    images, _, _ = make_case(0, 0, SIZE)
    whole = zscore(np.stack([images[m] for m in MODALITIES]).astype(np.float32)).astype(np.float16)
    image = np.ascontiguousarray(whole[(slice(None), *brain_box(whole, None))])
    figures: dict[str, Figure] = {}
    print(
        f"{'x'.join(map(str, image.shape))} float16{'MiB':>28} {'warm ms':>9} {'cold ms':>9} "
        f"{'write s':>8}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, write, read in formats():
            path = Path(folder) / name.replace(" ", "_")
            row = measure(path, image, write, read)
            print(
                f"{name:45} {row['MiB']:8.1f} {row['warm ms']:9.1f} {row['cold ms']:9.1f} "
                f"{row['write s']:8.2f}"
            )
            figures |= {
                f"{name}, {column}": Figure(value, UNITS[column]) for column, value in row.items()
            }
    report(figures, json_file, table=False, numpy=np.__version__)


def formats() -> Iterator[tuple[str, Write, Read]]:
    """Name, writer and reader of every format that is installed."""
    yield (
        "npy, memory map",
        save_npy,
        lambda path, window: np.array(np.load(path, mmap_mode="r")[window]),
    )
    if importlib.util.find_spec("blosc2"):
        import blosc2

        blosc2.set_nthreads(1)
        for codec, level in ((blosc2.Codec.LZ4, 5), (blosc2.Codec.ZSTD, 1), (blosc2.Codec.ZSTD, 8)):
            params = {"codec": codec, "clevel": level, "nthreads": 1}
            yield (
                f"blosc2 {codec.name} {level}",
                lambda path, array, params=params: blosc2.asarray(
                    array, urlpath=str(path), chunks=CHUNKS, cparams=params
                ),
                lambda path, window: blosc2.open(
                    str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1}
                )[window],
            )
    if importlib.util.find_spec("zarr"):
        for codec in (None, "lz4", "zstd"):
            yield (
                f"zarr {codec or 'not compressed'}",
                lambda path, array, codec=codec: save_zarr(path, array, codec),
                read_zarr,
            )


def save_npy(path: Path, array: np.ndarray) -> None:
    """Write a .npy file whatever the path's suffix."""
    with open(path, "wb") as file:
        np.save(file, array)


def save_zarr(path: Path, array: np.ndarray, codec: str | None) -> None:
    """Write a zarr array; without a codec it is not compressed."""
    import zarr
    from zarr.codecs import BloscCodec

    compressors = [BloscCodec(cname=codec, clevel=1, shuffle="shuffle")] if codec else None
    zarr.create_array(
        store=str(path),
        shape=array.shape,
        dtype=array.dtype,
        chunks=CHUNKS,
        compressors=compressors,
    )[:] = array


def read_zarr(path: Path, window: Window) -> np.ndarray:
    """Read a patch of a zarr array."""
    import zarr

    return zarr.open_array(str(path), mode="r")[window]


def measure(path: Path, image: np.ndarray, write: Write, read: Read) -> dict[str, float]:
    """Size and times of one format, by column."""
    write_s = seconds(lambda: write(path, image))
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    windows = random_windows(image.shape, 40)
    assert (read(path, windows[0]) == image[windows[0]]).all()
    warm = [seconds(lambda w=window: read(path, w)) for window in windows[10:]]
    cold = []
    for window in windows[:10]:
        for file in files:
            drop_from_page_cache(file)
        cold.append(seconds(lambda w=window: read(path, w)))
    size = sum(f.stat().st_size for f in files) / 2**20
    return {
        "MiB": size,
        "warm ms": statistics.median(warm) * 1e3,
        "cold ms": statistics.median(cold) * 1e3,
        "write s": write_s,
    }


def random_windows(shape: tuple[int, ...], count: int) -> list[Window]:
    """The same random patches for every format."""
    rng = np.random.default_rng(0)
    starts = [
        [int(rng.integers(n - p + 1)) for n, p in zip(shape[1:], PATCH, strict=True)]
        for _ in range(count)
    ]
    return [
        (slice(None), *(slice(s, s + p) for s, p in zip(start, PATCH, strict=True)))
        for start in starts
    ]


if __name__ == "__main__":
    main()
