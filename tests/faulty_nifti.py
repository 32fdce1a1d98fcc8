"""NIfTI files with a fault each, made from a good volume: the seed decides which fault.

`mutant(array, affine, seed)` gives the bytes of a file and the ending of its name; seeds that
differ by `len(MUTATIONS)` have the same kind of fault.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

WHOLE_NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 16, 64, 255, 256, 512, 768, 1024, 1536, 2048, 32767, -1)
INTEGERS = (*WHOLE_NUMBERS, -2, -32768, 100, 2304, 1280)
FLOATS = (
    *(0.0, -0.0, 1.0, -1.0, 0.1, 0.01, 1e-3, 1e-6, 0.5, 2.0, 10.0, 11.0, 500.0, 1e6),
    *(np.nan, np.inf, -np.inf, 1e30, -1e30, 3.4e38, 1e-38, 1e-45, 352.0, 353.0, 1e9),
)


@dataclass(frozen=True)
class Mutant:
    """A faulty file."""

    kind: str
    ending: str
    """.nii or .nii.gz."""
    content: bytes

    def write(self, path_without_ending):
        """Write the file in the place of any of the same stem; return its path."""
        for ending in (".nii", ".nii.gz"):
            Path(f"{path_without_ending}{ending}").unlink(missing_ok=True)
        path = Path(f"{path_without_ending}{self.ending}")
        path.write_bytes(self.content)
        return path


def mutant(array, affine, seed):
    """Make a faulty file of a volume (x, y, z); equal arguments give equal files."""
    rng = np.random.default_rng(seed)
    kind = list(MUTATIONS)[seed % len(MUTATIONS)]
    dtype = rng.choice(["i2", "u1", "f4", "f8", ">i2", "u2"])
    image_class = nibabel.Nifti2Image if rng.random() < 0.15 else nibabel.Nifti1Image
    header = image_class.header_class(endianness=">" if dtype[0] == ">" else "<")
    header.set_data_dtype(np.dtype(dtype))
    header.set_xyzt_units("mm")
    image = image_class(array.astype(dtype), affine, header)
    if rng.random() < 0.5:
        image.set_qform(affine, 1)
    ending = rng.choice([".nii", ".nii.gz"])
    content = MUTATIONS[kind](bytearray(image.to_bytes()), image.header, rng)
    if isinstance(content, bytes):  # compressed already
        return Mutant(kind, rng.choice([".nii.gz", ".nii.gz", ".nii"]), content)
    packed = gzip.compress(bytes(content), 1) if ending == ".nii.gz" else bytes(content)
    return Mutant(kind, str(ending), packed)


def _with(raw, header, rng, names, values, most=1):
    """Set up to `most` random places of the named fields to extremes."""
    fields = header.template_dtype.newbyteorder(header.endianness).fields
    for name in rng.choice(names, min(most, len(names)), replace=False):
        kind, offset = fields[name][:2]
        place = int(rng.integers(int(np.prod(kind.shape)))) if kind.shape else 0
        value = values[rng.integers(len(values))]
        with np.errstate(all="ignore"):
            stored = np.array(value).astype(kind.base).tobytes()
        at = offset + place * kind.base.itemsize
        raw[at : at + len(stored)] = stored
    return raw


def header_bytes(raw, header, rng):
    for place in rng.integers(0, header.template_dtype.itemsize + 4, rng.integers(1, 16)):
        raw[place] = rng.integers(256)
    return raw


def truncated(raw, header, rng):
    return raw[: rng.integers(len(raw))]


def bit_flips(raw, header, rng):
    for place in rng.integers(0, len(raw), rng.integers(1, 30)):
        raw[place] ^= 1 << rng.integers(8)
    return raw


def gzip_bytes(raw, header, rng):
    packed = bytearray(gzip.compress(bytes(raw), 1))
    for place in rng.integers(0, len(packed), rng.integers(1, 8)):
        packed[place] = rng.integers(256)
    return bytes(packed)


def gzip_truncated(raw, header, rng):
    packed = gzip.compress(bytes(raw), 1)
    return packed[: rng.integers(len(packed))]


def gzip_members(raw, header, rng):
    """Several members, of which the last may be cut, and zeros or other bytes at the end."""
    cut = int(rng.integers(len(raw)))
    packed = b"".join(gzip.compress(bytes(part), 1) for part in (raw[:cut], b"", raw[cut:]))
    return packed + (b"", b"\0" * 1000, b"garbage", packed[:9], packed)[rng.integers(5)]


def inflating(raw, header, rng):
    """More voxels than the header announces, up to 64 MiB of zeros."""
    return gzip.compress(bytes(raw), 1) + gzip.compress(bytes(2 ** int(rng.integers(2, 27))), 1)


def data_types(raw, header, rng):
    return _with(raw, header, rng, ["datatype", "bitpix"], INTEGERS, most=int(rng.integers(1, 3)))


def dimensions(raw, header, rng):
    return _with(raw, header, rng, ["dim"] * 4, INTEGERS, most=int(rng.integers(1, 5)))


def scaling(raw, header, rng):
    return _with(raw, header, rng, ["scl_slope", "scl_inter"], FLOATS, most=2)


def voxel_sizes(raw, header, rng):
    return _with(raw, header, rng, ["pixdim", "xyzt_units"], FLOATS[:14], most=2)


def matrices(raw, header, rng):
    return _with(raw, header, rng, ["srow_x", "srow_y", "srow_z"], FLOATS, most=2)


def rotations(raw, header, rng):
    names = ["quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_z", "pixdim"]
    return _with(raw, header, rng, names, FLOATS, most=2)


def codes(raw, header, rng):
    return _with(raw, header, rng, ["sform_code", "qform_code", "xyzt_units"], INTEGERS, most=2)


def offsets(raw, header, rng):
    return _with(raw, header, rng, ["vox_offset"], [*FLOATS[:14], 352, 353, 400, 1e9])


def marks(raw, header, rng):
    place = {348: 344, 540: 4}[header.template_dtype.itemsize]
    at, new = [(0, b"\0\0\1\\"), (place, b"ni1\0"), (place, b"\0" * 4), (0, b"\0" * 4)][
        rng.integers(4)
    ]
    raw[at : at + 4] = new
    return raw


def longer(raw, header, rng):
    return raw + bytes(rng.integers(0, 256, rng.integers(1, 20000), np.uint8))


def voxels(raw, header, rng):
    """Extreme numbers, read as whatever the type makes of them."""
    start = {348: 352, 540: 544}[header.template_dtype.itemsize]
    values = np.array(FLOATS, ("<f4", "<f8")[rng.integers(2)])
    for place in rng.integers(start, len(raw) - 8, 20):
        stored = values[rng.integers(len(values))].tobytes()
        at = int(place) // 8 * 8
        raw[at : at + len(stored)] = stored
    return raw


def constant(raw, header, rng):
    start = {348: 352, 540: 544}[header.template_dtype.itemsize]
    raw[start:] = bytes([int(rng.integers(256))]) * (len(raw) - start)
    return raw


def noise(raw, header, rng):
    return bytearray(rng.integers(0, 256, rng.integers(3000), np.uint8).tobytes())


def twice_compressed(raw, header, rng):
    return gzip.compress(gzip.compress(bytes(raw), 1), 1)


def misnamed(raw, header, rng):
    """Plain bytes under whichever name is drawn, or compressed ones."""
    return bytes(raw) if rng.random() < 0.5 else gzip.compress(bytes(raw), 1)


MUTATIONS = {
    function.__name__: function
    for function in (
        *(header_bytes, truncated, bit_flips, gzip_bytes, gzip_truncated, gzip_members, inflating),
        *(data_types, dimensions, scaling, voxel_sizes, matrices, rotations, codes, offsets),
        *(marks, longer, voxels, constant, noise, twice_compressed, misnamed),
    )
}
