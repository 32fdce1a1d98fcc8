// Volumes of a byte a voxel, x fastest: read, measured, compared, and made into NIfTI files.
async function inflate(base64) {
  const packed = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function rgb(colour) {
  return [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
}

// A NIfTI file of one byte a voxel, whose value v means v * slope + inter.
function nifti(shape, affine, bytes, slope = 1, inter = 0, low = 0, high = 0) {
  const buffer = new ArrayBuffer(352 + bytes.length);
  const view = new DataView(buffer);
  const real = (at, value) => view.setFloat32(at, value, true);
  const short = (at, value) => view.setInt16(at, value, true);
  view.setInt32(0, 348, true);
  [3, ...shape, 1, 1, 1, 1].forEach((n, i) => short(40 + 2 * i, n));
  short(70, 2);
  short(72, 8);
  const side = (axis) => Math.hypot(affine[0][axis], affine[1][axis], affine[2][axis]);
  [1, side(0), side(1), side(2), 1, 1, 1, 1].forEach((mm, i) => real(76 + 4 * i, mm));
  real(108, 352);
  real(112, slope);
  real(116, inter);
  view.setUint8(123, 2);
  real(124, high);
  real(128, low);
  short(254, 1);
  affine.slice(0, 3).flat().forEach((value, i) => real(280 + 4 * i, value));
  [110, 43, 49, 0].forEach((c, i) => view.setUint8(344 + i, c));
  new Uint8Array(buffer, 352).set(bytes);
  return buffer;
}

function inverse(m) {
  const [[a, b, c, x], [d, e, f, y], [g, h, i, z]] = m;
  const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const rows = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ];
  return (mm) =>
    rows.map((r) => (r[0] * (mm[0] - x) + r[1] * (mm[1] - y) + r[2] * (mm[2] - z)) / det);
}

// The voxel of a grid at a point in mm as an index into its bytes; -1 outside.
function voxelAt(grid, mm) {
  grid.locate ??= inverse(grid.affine);
  const [i, j, k] = grid.locate(mm).map(Math.round);
  const [nx, ny, nz] = grid.shape;
  const outside = i < 0 || j < 0 || k < 0 || i >= nx || j >= ny || k >= nz;
  return outside ? -1 : i + nx * (j + ny * k);
}

// Voxels of a class that touch another class; the rest is 0.
function outlined(classes, [nx, ny, nz]) {
  const out = new Uint8Array(classes.length);
  let n = 0;
  for (let k = 0; k < nz; k++)
    for (let j = 0; j < ny; j++)
      for (let i = 0; i < nx; i++, n++) {
        const own = classes[n];
        if (
          own &&
          (!i || !j || !k || i === nx - 1 || j === ny - 1 || k === nz - 1 ||
            classes[n - 1] !== own || classes[n + 1] !== own ||
            classes[n - nx] !== own || classes[n + nx] !== own ||
            classes[n - nx * ny] !== own || classes[n + nx * ny] !== own)
        )
          out[n] = own;
      }
  return out;
}

// Places in ERRORS, of all classes or of one region.
function errorsOf(truth, prediction, members) {
  const out = new Uint8Array(truth.length);
  const inside = members ? Uint8Array.from({ length: 256 }, (_, v) => members.includes(v)) : null;
  for (let n = 0; n < out.length; n++) {
    const t = inside ? inside[truth[n]] : truth[n];
    const p = inside ? inside[prediction[n]] : prediction[n];
    if (t || p) out[n] = t === p ? 1 : t && p ? 2 : t ? 3 : 4;
  }
  return out;
}

// An image whose blocks of voxels were averaged, on the grid of its case again.
function whole(bytes, { step, shape: [mx, my] }, [nx, ny, nz]) {
  if (step === 1) return bytes;
  const out = new Uint8Array(nx * ny * nz);
  const block = (i) => Math.floor(i / step);
  for (let k = 0, n = 0; k < nz; k++)
    for (let j = 0; j < ny; j++) {
      const row = mx * (block(j) + my * block(k));
      for (let i = 0; i < nx; i++, n++) out[n] = bytes[row + block(i)];
    }
  return out;
}

function labelled(colours, names) {
  const channel = (i) => colours.map((colour) => rgb(colour)[i]);
  return {
    R: channel(0), G: channel(1), B: channel(2),
    A: colours.map((_, n) => (n ? 255 : 0)), I: colours.map((_, n) => n), labels: names,
  };
}
