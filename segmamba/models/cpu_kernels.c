/* Kernels for narrow volumes and for the selective scan on a CPU, compiled by cpu_library.py.

   torch's vectorised convolutions and norms put channels into the lanes of a vector register: with
   8 channels half of 16 lanes are idle. Here the lanes are neighbours along W, so a volume is plain
   (B, C, D, H, W), W being a multiple of LANES.

   Every function does the part [first, last) of its work, for one thread.

   Legend: b batch, c channels, d, h, w the volume, l tokens, n states. */

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define TILE 8 /* output channels whose sums are held in registers */
#elif defined(__AVX__)
#define LANES 8
#define TILE 4
#else
#define LANES 4
#define TILE 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
#define ZERO ((vec){0})
#define SELECT(mask, a, b) ((vec)(((mask) & (ivec)(a)) | (~(mask) & (ivec)(b))))

#if LANES == 16
#define FROM_LEFT(before, here) __builtin_shufflevector(before, here, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30)
#define FROM_RIGHT(here, behind) __builtin_shufflevector(here, behind, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
#elif LANES == 8
#define FROM_LEFT(before, here) __builtin_shufflevector(before, here, 7, 8, 9, 10, 11, 12, 13, 14)
#define FROM_RIGHT(here, behind) __builtin_shufflevector(here, behind, 1, 2, 3, 4, 5, 6, 7, 8)
#else
#define FROM_LEFT(before, here) __builtin_shufflevector(before, here, 3, 4, 5, 6)
#define FROM_RIGHT(here, behind) __builtin_shufflevector(here, behind, 1, 2, 3, 4)
#endif

int lanes(void) { return LANES; }
int tile(void) { return TILE; }

INLINE float sum_of(vec v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

/* exp(x) to the last bit but one; 0 where it is no normal number, NaN of NaN (Cephes' expf). */
INLINE vec exponential(vec x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    x = SELECT(x > 88.0f, ZERO + 88.0f, x);
    const vec shifted = x * 1.44269504088896341f + magic;
    const vec whole = shifted - magic;
    const vec r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    vec p = ZERO + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const ivec power = ((ivec)shifted - (ivec)(ZERO + magic) + 127) << 23;
    return SELECT(x <= -87.0f, ZERO, p * (vec)power);
}

/* log(x) to the last bit but one for normal x > 0, NaN of NaN (Cephes' logf). */
INLINE vec logarithm(vec x) {
    const ivec bits = (ivec)x;
    vec power = __builtin_convertvector((bits >> 23) - 126, vec);
    vec r = (vec)((bits & 0x007fffff) | 0x3f000000);
    const ivec small = r < 0.707106781186547524f;
    power -= SELECT(small, ZERO + 1.0f, ZERO);
    r += SELECT(small, r, ZERO) - 1.0f;
    vec p = ZERO + 7.0376836292e-2f;
    p = p * r - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    p = p * r * (r * r) - power * 2.12194440e-4f - 0.5f * (r * r);
    return r + p + power * 0.693359375f + (x - x);
}

INLINE double double_sum_of(vec v) {
    double total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

#define BLOCK 256 /* vectors that are summed in single precision */

int block_voxels(void) { return BLOCK * LANES; }

/* Mean and sum of (x - mean)^2 of `count` values, by Chan's update from block to block. */
INLINE void span_statistics(const float *x, int64_t count, double *mean, double *squares) {
    *mean = *squares = 0;
    for (int64_t start = 0; start < count; start += BLOCK * LANES) {
        const int64_t end = start + BLOCK * LANES < count ? start + BLOCK * LANES : count;
        const double held = (double)(end - start), whole = (double)end;
        vec sums = ZERO, away = ZERO;
        for (int64_t i = start; i < end; i += LANES) sums += LOAD(x + i);
        const double block_mean = double_sum_of(sums) / held;
        const vec centre = ZERO + (float)block_mean;
        for (int64_t i = start; i < end; i += LANES) {
            const vec distance = LOAD(x + i) - centre;
            away += distance * distance;
        }
        const double apart = block_mean - *mean;
        *mean += apart * held / whole;
        *squares += double_sum_of(away) + apart * apart * (double)start * held / whole;
    }
}

/* What a norm and its ReLU do to one channel of a sample: relu(scale x + shift), x having a mean;
   its gradient is scale g + slope x + offset, g being 0 where the ReLU is, else that of its output. */
struct norm {
    float scale, shift, mean, slope, offset;
};

INLINE vec norm_relu(struct norm n, vec x) {
    const vec value = x * n.scale + n.shift;
    return SELECT(value <= 0, ZERO, value); /* NaN of NaN as torch's */
}

INLINE vec masked(struct norm n, vec dy, vec x) {
    return SELECT(x * n.scale + n.shift <= 0, ZERO, dy);
}

INLINE vec norm_relu_backward(struct norm n, vec dy, vec x) {
    return masked(n, dy, x) * n.scale + (x * n.slope + n.offset);
}

/* The sums over `count` values of g and of g (x - mean). */
INLINE void span_sums(struct norm n, const float *dy, const float *x, int64_t count, double *sum,
                      double *product) {
    *sum = *product = 0;
    for (int64_t start = 0; start < count; start += BLOCK * LANES) {
        const int64_t end = start + BLOCK * LANES < count ? start + BLOCK * LANES : count;
        vec a = ZERO, b = ZERO;
        for (int64_t i = start; i < end; i += LANES) {
            const vec value = LOAD(x + i), g = masked(n, LOAD(dy + i), value);
            a += g;
            b += g * (value - n.mean);
        }
        *sum += double_sum_of(a);
        *product += double_sum_of(b);
    }
}

#define PLAIN 0
#define AFTER_NORM 1  /* relu(norm(x)) */
#define BEFORE_NORM 2 /* the gradient of z, x being that of relu(norm(z)) */

/* A volume as a convolution reads it; where it is not there yet, four slices at a time are. */
struct source {
    int64_t kind;
    const float *x, *z;
    const struct norm *norms; /* (b, c) */
    float *ring;              /* (c, 4, h, w), slice d at d % 4 */
    int64_t channels, D, area, next; /* the first slice of all samples that the ring lacks */
};

/* Let the ring hold the slices d - 1 to d + 2 of sample b. Parts follow each other. */
INLINE void fill_ring(struct source *s, int64_t b, int64_t d) {
    if (s->kind == PLAIN) return;
    const int64_t end = d + 3 < s->D ? d + 3 : s->D, least = b * s->D + (d ? d - 1 : 0);
    for (int64_t slice = s->next < least ? least : s->next; slice < b * s->D + end; slice++)
        for (int64_t c = 0; c < s->channels; c++) {
            const int64_t row = b * s->channels + c, at = slice - b * s->D;
            const float *x = s->x + (row * s->D + at) * s->area;
            const float *z = s->z + (row * s->D + at) * s->area;
            const struct norm norm = s->norms[row];
            float *to = s->ring + (c * 4 + at % 4) * s->area;
            const float *past = to + s->area;
            if (s->kind == AFTER_NORM)
                for (; to < past; to += LANES, x += LANES) STORE(to, norm_relu(norm, LOAD(x)));
            else
                for (; to < past; to += LANES, x += LANES, z += LANES)
                    STORE(to, norm_relu_backward(norm, LOAD(x), LOAD(z)));
        }
    s->next = b * s->D + end;
}

/* The slice d of channel c of sample b, which the ring holds. */
INLINE const float *slice_of(const struct source *s, int64_t b, int64_t c, int64_t d) {
    if (s->kind == PLAIN) return s->x + ((b * s->channels + c) * s->D + d) * s->area;
    return s->ring + (c * 4 + d % 4) * s->area;
}

/* What lies at w - 1, w and w + 1 for one vector of a row; zeros beyond the row's ends. */
INLINE void neighbours(const float *row, int64_t w, int64_t width, vec around[3]) {
    vec here = LOAD(row + w);
    vec before = w ? LOAD(row + w - LANES) : ZERO;
    vec behind = w + LANES < width ? LOAD(row + w + LANES) : ZERO;
    around[0] = FROM_LEFT(before, here);
    around[1] = here;
    around[2] = FROM_RIGHT(here, behind);
}

/* The 3x3x3 convolutions are Winograd's (Lavin & Gray 2016) along D, F(2, 3), and along H, F(4, 3),
   and direct along W: a tile of 2x4 outputs takes 4x6 POINTS in place of 8 * 9 products, for each of
   3 taps along W. The distance of two points in memory is no power of two, else they would share a
   set of the first cache. */
#define POINTS 24

/* points (24, stride) of the 4x6 rows around the tile (d, h) of channel c, for one vector. */
INLINE void input_points(const struct source *x, float *points, int64_t stride, int64_t H,
                         int64_t W, int64_t b, int64_t c, int64_t d, int64_t h, int64_t w) {
    vec rows[4][6];
    for (int i = 0; i < 4; i++) {
        vec at[6];
        const int64_t dd = d + i - 1;
        const int inside = dd >= 0 && dd < x->D;
        const float *from = slice_of(x, b, c, inside ? dd : d) + h * W + w;
        for (int k = 0; k < 6; k++) {
            const int64_t hh = h + k - 1;
            at[k] = inside && hh >= 0 && hh < H ? LOAD(from + (k - 1) * W) : ZERO;
        }
        const vec even = at[4] - 4 * at[2], odd = at[3] - 4 * at[1];
        const vec far = at[4] - at[2], near = at[3] - at[1];
        rows[i][0] = 4 * at[0] - 5 * at[2] + at[4];
        rows[i][1] = even + odd;
        rows[i][2] = even - odd;
        rows[i][3] = far + 2 * near;
        rows[i][4] = far - 2 * near;
        rows[i][5] = 4 * at[1] - 5 * at[3] + at[5];
    }
    for (int k = 0; k < 6; k++) {
        STORE(points + k * stride, rows[0][k] - rows[2][k]);
        STORE(points + (6 + k) * stride, rows[1][k] + rows[2][k]);
        STORE(points + (12 + k) * stride, rows[2][k] - rows[1][k]);
        STORE(points + (18 + k) * stride, rows[1][k] - rows[3][k]);
    }
}

/* products (TILE, W) += weights (ins, 3, TILE) x points (ins, W), `count` vectors of one point. */
INLINE void point_products(const float *points, const float *weights, float *products, int64_t ins,
                           int64_t W, int64_t w, const int count) {
    vec sums[TILE][2];
    for (int o = 0; o < TILE; o++)
        for (int j = 0; j < count; j++) sums[o][j] = ZERO;
    for (int64_t c = 0; c < ins; c++, weights += 3 * TILE) {
        vec around[2][3];
        for (int j = 0; j < count; j++) neighbours(points + c * W, w + j * LANES, W, around[j]);
        for (int tap = 0; tap < 3; tap++)
            for (int o = 0; o < TILE; o++)
                for (int j = 0; j < count; j++)
                    sums[o][j] += weights[tap * TILE + o] * around[j][tap];
    }
    for (int o = 0; o < TILE; o++)
        for (int j = 0; j < count; j++) STORE(products + o * W + w + j * LANES, sums[o][j]);
}

/* The tile (d, h) of one output channel from its points (24, stride), for one vector; `added` is 0
   or a volume that is added. */
INLINE void output_tile(const float *points, int64_t stride, const float *added, float *y,
                        int64_t D, int64_t H, int64_t W, int64_t d, int64_t h, int64_t w) {
    vec rows[2][6];
    for (int k = 0; k < 6; k++) {
        const vec second = LOAD(points + (6 + k) * stride);
        const vec third = LOAD(points + (12 + k) * stride);
        rows[0][k] = LOAD(points + k * stride) + second + third;
        rows[1][k] = second - third - LOAD(points + (18 + k) * stride);
    }
    for (int i = 0; i < 2 && d + i < D; i++) {
        const int64_t at = ((d + i) * H + h) * W + w;
        const vec *m = rows[i], sum = m[1] + m[2], difference = m[1] - m[2];
        const vec far_sum = m[3] + m[4], far_difference = m[3] - m[4];
        vec values[4] = {m[0] + sum + far_sum, difference + 2 * far_difference, sum + 4 * far_sum,
                         difference + 8 * far_difference + m[5]};
        for (int k = 0; k < 4 && h + k < H; k++) {
            if (added) values[k] += LOAD(added + at + k * W);
            STORE(y + at + k * W, values[k]);
        }
    }
}

/* The voxels from start to end of y (b, outs, v) = weights x (b, ins, v) + bias, plus relu(norm(z))
   unless z is 0. weights: (tiles of outs, ins, TILE); bias: (tiles of outs, TILE). */
INLINE void mix_span(const float *x, const float *weights, const float *bias, const float *z,
                     const struct norm *norms, float *y, int64_t ins, int64_t outs, int64_t voxels,
                     int64_t b, int64_t start, int64_t end) {
    for (int64_t o = 0; o < outs; o += TILE)
        for (int64_t i = start; i < end; i += LANES) {
            vec sums[TILE];
            for (int t = 0; t < TILE; t++) sums[t] = ZERO + bias[o + t];
            for (int64_t c = 0; c < ins; c++) {
                const vec value = LOAD(x + (b * ins + c) * voxels + i);
                for (int t = 0; t < TILE; t++) sums[t] += weights[o * ins + c * TILE + t] * value;
            }
            for (int t = 0; t < TILE; t++)
                if (o + t < outs) {
                    const int64_t at = (b * outs + o + t) * voxels + i;
                    if (z) sums[t] += norm_relu(norms[b * outs + o + t], LOAD(z + at));
                    STORE(y + at, sums[t]);
                }
        }
}

#define NO_SUMS 0
#define STATISTICS 1 /* the mean and sum of (y - mean)^2 */
#define NORM_SUMS 2  /* span_sums, y being the gradient of relu(norm(of)) */

/* y (b, outs, d, h, w) = the 3x3x3 convolution of a source (b, ins, d, h, w), zero-padded, plus
   `added`, or its 1x1x1 convolution by `mixture` (of pointwise_forward), unless they are 0; and by `sums_kind` two sums over each pair of slices, (b, pairs, outs),
   while it is in the cache.
   weights: (tiles of outs, 24, ins, 3, TILE). scratch: 24 * ((ins + TILE) * w + 2 LANES), and
   4 * ins * h * w for a ring. Work: the b * pairs of slices. Each row of tiles: all its points, then
   by output tile and point the products. */
void conv_forward(const float *x, const float *z, const struct norm *norms, const float *weights,
                  const float *added, const float *mixture, const float *no_bias, const float *of, const struct norm *norms_of, double *sums,
                  double *products_of, float *y, float *scratch, int64_t kind, int64_t sums_kind,
                  int64_t mixed, int64_t ins, int64_t outs, int64_t D, int64_t H, int64_t W,
                  int64_t first, int64_t last) {
    const int64_t volume = D * H * W, pairs = (D + 1) / 2;
    const int64_t in_stride = ins * W + LANES, out_stride = TILE * W + LANES; /* see POINTS */
    float *points = scratch, *products = scratch + POINTS * in_stride;
    struct source from_x = {kind, x, z, norms, products + POINTS * out_stride, ins, D, H * W, 0};
    for (int64_t part = first; part < last; part++) {
        const int64_t b = part / pairs, d = part % pairs * 2;
        const int64_t part_start = d * H * W, part_end = d + 1 < D ? part_start + 2 * H * W : volume;
        fill_ring(&from_x, b, d);
        if (mixture)
            mix_span(added, mixture, no_bias, 0, 0, y, mixed, outs, volume, b, part_start, part_end);
        const float *plus = mixture ? y : added;
        for (int64_t h = 0; h < H; h += 4) {
            for (int64_t c = 0; c < ins; c++)
                for (int64_t w = 0; w < W; w += LANES)
                    input_points(&from_x, points + c * W + w, in_stride, H, W, b, c, d, h, w);
            for (int64_t o = 0; o < outs; o += TILE) {
                for (int64_t p = 0; p < POINTS; p++) {
                    const float *from = points + p * in_stride;
                    const float *taps = weights + (o * POINTS + p * TILE) * ins * 3;
                    float *to = products + p * out_stride;
                    int64_t w = 0;
                    for (; w + 2 * LANES <= W; w += 2 * LANES)
                        point_products(from, taps, to, ins, W, w, 2);
                    if (w < W) point_products(from, taps, to, ins, W, w, 1);
                }
                for (int64_t t = 0; t < TILE && o + t < outs; t++)
                    for (int64_t w = 0; w < W; w += LANES)
                        output_tile(products + t * W + w, out_stride,
                                    plus ? plus + (b * outs + o + t) * volume : 0,
                                    y + (b * outs + o + t) * volume, D, H, W, d, h, w);
            }
        }
        for (int64_t o = 0; o < outs && sums_kind; o++) {
            const int64_t at = (b * outs + o) * volume + part_start, count = part_end - part_start;
            double *sum = sums + part * outs + o, *product = products_of + part * outs + o;
            if (sums_kind == STATISTICS)
                span_statistics(y + at, count, sum, product);
            else
                span_sums(norms_of[b * outs + o], y + at, of + at, count, sum, product);
        }
    }
}

/* points (24, stride) of the gradient of output channel o's tile (d, h), for one vector. */
INLINE void gradient_points(const struct source *dy, float *points, int64_t stride, int64_t H,
                            int64_t W, int64_t b, int64_t o, int64_t d, int64_t h, int64_t w) {
    vec rows[2][6];
    for (int i = 0; i < 2; i++) {
        vec at[4];
        const int inside = d + i < dy->D;
        const float *from = slice_of(dy, b, o, inside ? d + i : d) + h * W + w;
        for (int k = 0; k < 4; k++) at[k] = inside && h + k < H ? LOAD(from + k * W) : ZERO;
        const vec even = at[0] + at[2], odd = at[1] + at[3];
        const vec far_even = at[0] + 4 * at[2], far_odd = 2 * at[1] + 8 * at[3];
        rows[i][0] = at[0];
        rows[i][1] = even + odd;
        rows[i][2] = even - odd;
        rows[i][3] = far_even + far_odd;
        rows[i][4] = far_even - far_odd;
        rows[i][5] = at[3];
    }
    for (int k = 0; k < 6; k++) {
        STORE(points + k * stride, rows[0][k]);
        STORE(points + (6 + k) * stride, rows[0][k] + rows[1][k]);
        STORE(points + (12 + k) * stride, rows[0][k] - rows[1][k]);
        STORE(points + (18 + k) * stride, -rows[1][k]);
    }
}

#define ROW_TILE_FLOATS 384 /* of one point and channel, which stay in the first cache */

int row_tiles(int64_t W) { return W < ROW_TILE_FLOATS ? ROW_TILE_FLOATS / W : 1; }

/* The gradient of conv_forward's weights by their points, (24, ins, 3, outs), in double, added to
   `dweights`. Both volumes are sources. scratch: 24 * ((ins + TILE) * row_tiles * w + 2 LANES) + 72 *
   ins * TILE LANES, and 4 * (ins + outs) * h * w for rings. Work: the b * pairs of slices. By some rows of tiles: all points, then by output tile, point and input channel
   the products over all voxels, whose sums stay in registers. */
void conv_backward_weights(const float *dy, const float *dy_z, const struct norm *dy_norms,
                           const float *x, const struct norm *x_norms, double *dweights,
                           float *scratch, int64_t dy_kind, int64_t x_kind, int64_t ins,
                           int64_t outs, int64_t D, int64_t H, int64_t W, int64_t first,
                           int64_t last) {
    const int64_t pairs = (D + 1) / 2, most = row_tiles(W), size = most * W;
    const int64_t in_stride = ins * size + LANES, out_stride = TILE * size + LANES;
    float *points = scratch, *gradients = points + POINTS * in_stride;
    float *sums = gradients + POINTS * out_stride, *rings = sums + POINTS * ins * 3 * TILE * LANES;
    struct source from_x = {x_kind, x, x, x_norms, rings, ins, D, H * W, 0};
    struct source from_dy = {dy_kind, dy, dy_z, dy_norms, rings + 4 * ins * H * W, outs, D, H * W, 0};
    for (int64_t o = 0; o < outs; o += TILE) {
        from_x.next = from_dy.next = 0;
        const int64_t held = outs - o < TILE ? outs - o : TILE;
        memset(sums, 0, sizeof(vec) * POINTS * ins * 3 * TILE);
        memset(gradients, 0, sizeof(float) * POINTS * out_stride);
        for (int64_t part = first; part < last; part++) {
            const int64_t b = part / pairs, d = part % pairs * 2;
            fill_ring(&from_x, b, d);
            fill_ring(&from_dy, b, d);
            for (int64_t top = 0; top < H; top += 4 * most) {
                const int64_t left = (H - top + 3) / 4, rows = left < most ? left : most;
                for (int64_t c = 0; c < ins; c++)
                    for (int64_t at = 0; at < rows * W; at += LANES)
                        input_points(&from_x, points + c * size + at, in_stride, H, W, b, c, d,
                                     top + at / W * 4, at % W);
                for (int64_t t = 0; t < held; t++)
                    for (int64_t at = 0; at < rows * W; at += LANES)
                        gradient_points(&from_dy, gradients + t * size + at, out_stride, H, W, b,
                                        o + t, d, top + at / W * 4, at % W);
                for (int64_t place = 0; place < POINTS * ins; place++) {
                    const float *from = points + place / ins * in_stride + place % ins * size;
                    const float *to = gradients + place / ins * out_stride;
                    vec total[3][TILE];
                    for (int tap = 0; tap < 3; tap++)
                        for (int t = 0; t < TILE; t++) total[tap][t] = ZERO;
                    for (int64_t row = 0; row < rows * W; row += W)
                        for (int64_t w = 0; w < W; w += LANES) {
                            vec around[3];
                            neighbours(from + row, w, W, around);
                            for (int t = 0; t < TILE; t++) {
                                const vec gradient = LOAD(to + t * size + row + w);
                                for (int tap = 0; tap < 3; tap++)
                                    total[tap][t] += gradient * around[tap];
                            }
                        }
                    float *kept = sums + place * 3 * TILE * LANES;
                    for (int tap = 0; tap < 3; tap++)
                        for (int t = 0; t < TILE; t++, kept += LANES)
                            STORE(kept, LOAD(kept) + total[tap][t]);
                }
            }
        }
        for (int64_t tap = 0; tap < POINTS * ins * 3; tap++)
            for (int64_t t = 0; t < held; t++)
                dweights[tap * outs + o + t] += double_sum_of(LOAD(sums + (tap * TILE + t) * LANES));
    }
}

/* span_statistics of each row. x: (rows, voxels). Work: the rows. */
void row_statistics(const float *x, double *means, double *squares, int64_t voxels, int64_t first,
                    int64_t last) {
    for (int64_t row = first; row < last; row++)
        span_statistics(x + row * voxels, voxels, means + row, squares + row);
}

/* y = relu(norm(x)). x, y: (rows, voxels); norms: (rows). Work: the rows. */
void row_norm_relu(const float *x, const struct norm *norms, float *y, int64_t voxels,
                   int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        const struct norm norm = norms[row];
        for (int64_t i = row * voxels; i < (row + 1) * voxels; i += LANES)
            STORE(y + i, norm_relu(norm, LOAD(x + i)));
    }
}

/* span_sums of each row. Work: the rows. */
void row_sums(const float *dy, const float *x, const struct norm *norms, double *sums,
              double *products, int64_t voxels, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++)
        span_sums(norms[row], dy + row * voxels, x + row * voxels, voxels, sums + row,
                  products + row);
}

/* dx = the gradient of x, dy being that of relu(norm(x)). Work: the rows. */
void row_norm_relu_backward(const float *dy, const float *x, const struct norm *norms, float *dx,
                            int64_t voxels, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        const struct norm norm = norms[row];
        for (int64_t i = row * voxels; i < (row + 1) * voxels; i += LANES)
            STORE(dx + i, norm_relu_backward(norm, LOAD(dy + i), LOAD(x + i)));
    }
}

/* y = x + relu(norm(z)). Work: the rows. */
void row_add_norm_relu(const float *x, const float *z, const struct norm *norms, float *y,
                       int64_t voxels, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        const struct norm norm = norms[row];
        for (int64_t i = row * voxels; i < (row + 1) * voxels; i += LANES)
            STORE(y + i, LOAD(x + i) + norm_relu(norm, LOAD(z + i)));
    }
}

/* y (b, outs, v) = weights x (b, ins, v) + bias, plus relu(norm(z)) unless z is 0. weights: (tiles
   of outs, ins, TILE); bias: (tiles of outs, TILE). Work: the b * blocks of BLOCK vectors. */
void pointwise_forward(const float *x, const float *weights, const float *bias, const float *z,
                       const struct norm *norms, float *y, int64_t ins, int64_t outs,
                       int64_t voxels, int64_t first, int64_t last) {
    const int64_t blocks = (voxels + BLOCK * LANES - 1) / (BLOCK * LANES);
    for (int64_t part = first; part < last; part++) {
        const int64_t b = part / blocks, start = part % blocks * BLOCK * LANES;
        const int64_t end = start + BLOCK * LANES < voxels ? start + BLOCK * LANES : voxels;
        mix_span(x, weights, bias, z, norms, y, ins, outs, voxels, b, start, end);
    }
}

/* The gradient of pointwise_forward's weights, (outs, ins), in double, added to `dweights`.
   Work: the b * blocks of BLOCK vectors. */
void pointwise_backward_weights(const float *dy, const float *x, double *dweights, int64_t ins,
                                int64_t outs, int64_t voxels, int64_t first, int64_t last) {
    const int64_t blocks = (voxels + BLOCK * LANES - 1) / (BLOCK * LANES);
    for (int64_t part = first; part < last; part++) {
        const int64_t b = part / blocks, start = part % blocks * BLOCK * LANES;
        const int64_t end = start + BLOCK * LANES < voxels ? start + BLOCK * LANES : voxels;
        for (int64_t o = 0; o < outs; o += TILE)
            for (int64_t c = 0; c < ins; c++) {
                const int64_t held = outs - o < TILE ? outs - o : TILE;
                const float *values = x + (b * ins + c) * voxels, *gradients[TILE];
                vec sums[TILE];
                for (int t = 0; t < TILE; t++) {
                    gradients[t] = dy + (b * outs + o + (t < held ? t : 0)) * voxels;
                    sums[t] = ZERO;
                }
                for (int64_t i = start; i < end; i += LANES) {
                    const vec value = LOAD(values + i);
                    for (int t = 0; t < TILE; t++) sums[t] += LOAD(gradients[t] + i) * value;
                }
                for (int t = 0; t < held; t++) dweights[(o + t) * ins + c] += double_sum_of(sums[t]);
            }
    }
}

/* Copy between x (b, c, d, h, w) and its 2x2x2 blocks (b, d / 2, h / 2, w / 2, c, 2, 2, 2). */
INLINE void copy_blocks(float *x, float *blocks, int64_t channels, int64_t D, int64_t H, int64_t W,
                        int64_t first, int64_t last, const int to_blocks) {
    for (int64_t slice = first; slice < last; slice++)
        for (int64_t h = 0; h < H; h += 2)
            for (int64_t place = 0; place < channels * 4; place++) {
                const int64_t b = slice / (D / 2), d = slice % (D / 2) * 2;
                const int64_t c = place / 4, i = place / 2 % 2, k = place % 2;
                float *row = x + (((b * channels + c) * D + d + i) * H + h + k) * W;
                float *pairs = blocks + (slice * (H / 2) + h / 2) * (W / 2) * channels * 8 + place * 2;
                for (int64_t w = 0; w < W; w += 2, pairs += channels * 8)
                    if (to_blocks)
                        memcpy(pairs, row + w, 2 * sizeof(float));
                    else
                        memcpy(row + w, pairs, 2 * sizeof(float));
            }
}

/* Work: the b * d / 2 pairs of slices. */
void to_blocks(float *x, float *blocks, int64_t channels, int64_t D, int64_t H, int64_t W,
               int64_t first, int64_t last) {
    copy_blocks(x, blocks, channels, D, H, W, first, last, 1);
}

void from_blocks(float *x, float *blocks, int64_t channels, int64_t D, int64_t H, int64_t W,
                 int64_t first, int64_t last) {
    copy_blocks(x, blocks, channels, D, H, W, first, last, 0);
}

#define MOST_CLASSES 16
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

int most_classes(void) { return MOST_CLASSES; }

/* The softmax of one vector of voxels, and where each class is the label's; log of its sum. */
INLINE vec softmax(const float *logits, const uint8_t *label, int64_t voxels, int64_t classes,
                   vec *p, ivec *is_label) {
    const ivec truth = __builtin_convertvector(*(const bytes *)label, ivec);
    vec most = LOAD(logits), sum = ZERO;
    for (int64_t k = 1; k < classes; k++) {
        const vec value = LOAD(logits + k * voxels);
        most = SELECT(value > most, value, most);
    }
    for (int64_t k = 0; k < classes; k++) {
        p[k] = exponential(LOAD(logits + k * voxels) - most);
        is_label[k] = truth == (int32_t)k;
        sum += p[k];
    }
    const vec inverse = 1.0f / sum;
    for (int64_t k = 0; k < classes; k++) p[k] *= inverse;
    return most + logarithm(sum);
}

/* By block: the sum of the cross entropy, and of each class the sums of p where it is the label's, of
   p, and of its voxels. logits (b, classes, v); label (b, v); sums (blocks, 3 classes + 1).
   Work: the b * blocks of BLOCK vectors. */
void dice_ce_sums(const float *logits, const uint8_t *label, double *sums, int64_t classes,
                  int64_t voxels, int64_t first, int64_t last) {
    const int64_t blocks = (voxels + BLOCK * LANES - 1) / (BLOCK * LANES);
    for (int64_t part = first; part < last; part++) {
        const int64_t b = part / blocks, start = part % blocks * BLOCK * LANES;
        const int64_t end = start + BLOCK * LANES < voxels ? start + BLOCK * LANES : voxels;
        vec entropy = ZERO, both[MOST_CLASSES], predicted[MOST_CLASSES], true_[MOST_CLASSES];
        for (int64_t k = 0; k < classes; k++) both[k] = predicted[k] = true_[k] = ZERO;
        for (int64_t i = start; i < end; i += LANES) {
            const float *at = logits + b * classes * voxels + i;
            vec p[MOST_CLASSES];
            ivec is_label[MOST_CLASSES];
            entropy += softmax(at, label + b * voxels + i, voxels, classes, p, is_label);
            for (int64_t k = 0; k < classes; k++) {
                entropy -= SELECT(is_label[k], LOAD(at + k * voxels), ZERO);
                both[k] += SELECT(is_label[k], p[k], ZERO);
                predicted[k] += p[k];
                true_[k] += SELECT(is_label[k], ZERO + 1.0f, ZERO);
            }
        }
        double *to = sums + part * (3 * classes + 1);
        *to++ = double_sum_of(entropy);
        for (int64_t k = 0; k < classes; k++, to += 3) {
            to[0] = double_sum_of(both[k]);
            to[1] = double_sum_of(predicted[k]);
            to[2] = double_sum_of(true_[k]);
        }
    }
}

/* dlogits = ce (p - g) + p (u - sum of p u), u = at_label g + anywhere, g being 1 at the label's
   class, else 0. factors: ce, then at_label and anywhere of each class. Work: as dice_ce_sums. */
void dice_ce_backward(const float *logits, const uint8_t *label, const float *factors,
                      float *dlogits, int64_t classes, int64_t voxels, int64_t first,
                      int64_t last) {
    const int64_t blocks = (voxels + BLOCK * LANES - 1) / (BLOCK * LANES);
    for (int64_t part = first; part < last; part++) {
        const int64_t b = part / blocks, start = part % blocks * BLOCK * LANES;
        const int64_t end = start + BLOCK * LANES < voxels ? start + BLOCK * LANES : voxels;
        for (int64_t i = start; i < end; i += LANES) {
            const int64_t at = b * classes * voxels + i;
            vec p[MOST_CLASSES], u[MOST_CLASSES], mean = ZERO;
            ivec is_label[MOST_CLASSES];
            softmax(logits + at, label + b * voxels + i, voxels, classes, p, is_label);
            for (int64_t k = 0; k < classes; k++) {
                u[k] = SELECT(is_label[k], ZERO + factors[1 + 2 * k], ZERO) + factors[2 + 2 * k];
                mean += p[k] * u[k];
            }
            for (int64_t k = 0; k < classes; k++) {
                const vec g = SELECT(is_label[k], ZERO + 1.0f, ZERO);
                STORE(dlogits + at + k * voxels, factors[0] * (p[k] - g) + p[k] * (u[k] - mean));
            }
        }
    }
}

#define MOST_STATES 64
#define SEGMENT 64 /* tokens between two kept states */

int most_states(void) { return MOST_STATES; }
int segment_tokens(void) { return SEGMENT; }

/* One segment's states of LANES channels from `h` on; where `states` is given, every h and decay. */
INLINE void scan_segment(const float *x, const float *step, const float *At, const float *B,
                         const float *C, const float *D, float *y, vec *h, vec *states, vec *decays,
                         int64_t channels, const int64_t n_states, int64_t tokens) {
    for (int64_t t = 0; t < tokens; t++) {
        const vec s = LOAD(step + t * channels), input = LOAD(x + t * channels);
        const vec scaled = s * input;
        vec out = ZERO;
        for (int64_t n = 0; n < n_states; n++) {
            const vec decay = exponential(s * LOAD(At + n * channels));
            h[n] = decay * h[n] + scaled * B[t * n_states + n];
            if (states) {
                states[t * n_states + n] = h[n];
                decays[t * n_states + n] = decay;
            } else {
                out += h[n] * C[t * n_states + n];
            }
        }
        if (!states) STORE(y + t * channels, out + input * LOAD(D));
    }
}

/* y (b, l, c) of the selective scan, and the states (b, segment, n, c) in front of every segment.
   x, step (b, l, c); At (n, c); B, C (b, l, n); D (c). Work: the b * c / LANES groups. */
void scan_forward(const float *x, const float *step, const float *At, const float *B,
                  const float *C, const float *D, float *y, float *borders, int64_t tokens,
                  int64_t channels, int64_t n_states, int64_t first, int64_t last) {
    const int64_t groups = channels / LANES, segments = (tokens + SEGMENT - 1) / SEGMENT;
    for (int64_t part = first; part < last; part++) {
        const int64_t b = part / groups, c = part % groups * LANES;
        vec h[MOST_STATES];
        for (int64_t n = 0; n < n_states; n++) h[n] = ZERO;
        for (int64_t k = 0; k < segments; k++) {
            const int64_t l = b * tokens + k * SEGMENT;
            const int64_t held = tokens - k * SEGMENT < SEGMENT ? tokens - k * SEGMENT : SEGMENT;
            for (int64_t n = 0; n < n_states; n++)
                STORE(borders + ((b * segments + k) * n_states + n) * channels + c, h[n]);
            scan_segment(x + l * channels + c, step + l * channels + c, At + c, B + l * n_states,
                         C + l * n_states, D + c, y + l * channels + c, h, 0, 0, channels, n_states,
                         held);
        }
    }
}

/* The gradients of scan_forward. dAt (b, n, c) and dD (b, c) are sums over the tokens, still to be
   added up over b. Work: the b. */
void scan_backward(const float *dy, const float *x, const float *step, const float *At,
                   const float *B, const float *C, const float *D, const float *borders, float *dx,
                   float *dstep, float *dAt, float *dB, float *dC, float *dD, float *scratch,
                   int64_t tokens, int64_t channels, int64_t n_states, int64_t first,
                   int64_t last) {
    const int64_t segments = (tokens + SEGMENT - 1) / SEGMENT, size = SEGMENT * n_states;
    vec *states = (vec *)scratch, *decays = states + size, *sums_B = decays + size;
    vec *sums_C = sums_B + size;
    float *carries = (float *)(sums_C + size);
    for (int64_t b = first; b < last; b++) {
        memset(carries, 0, sizeof(float) * n_states * channels);
        memset(dAt + b * n_states * channels, 0, sizeof(float) * n_states * channels);
        memset(dD + b * channels, 0, sizeof(float) * channels);
        for (int64_t k = segments - 1; k >= 0; k--) {
            const int64_t l = b * tokens + k * SEGMENT;
            const int64_t held = tokens - k * SEGMENT < SEGMENT ? tokens - k * SEGMENT : SEGMENT;
            memset(sums_B, 0, 2 * sizeof(vec) * size);
            for (int64_t c = 0; c < channels; c += LANES) {
                const float *border = borders + (b * segments + k) * n_states * channels + c;
                float *dA = dAt + b * n_states * channels + c;
                vec h[MOST_STATES], carry[MOST_STATES], sums_A[MOST_STATES], sum_D = ZERO;
                for (int64_t n = 0; n < n_states; n++) {
                    h[n] = LOAD(border + n * channels);
                    carry[n] = LOAD(carries + n * channels + c);
                    sums_A[n] = ZERO;
                }
                scan_segment(x + l * channels + c, step + l * channels + c, At + c,
                             B + l * n_states, C + l * n_states, D + c, 0, h, states, decays,
                             channels, n_states, held);
                for (int64_t t = held - 1; t >= 0; t--) {
                    const int64_t place = (l + t) * channels + c;
                    const vec s = LOAD(step + place), input = LOAD(x + place), g = LOAD(dy + place);
                    const vec scaled = s * input;
                    vec d_scaled = ZERO, d_step = ZERO;
                    for (int64_t n = 0; n < n_states; n++) {
                        const int64_t i = t * n_states + n;
                        const vec before = t ? states[i - n_states] : LOAD(border + n * channels);
                        const vec dh = g * C[l * n_states + i] + carry[n];
                        carry[n] = decays[i] * dh;
                        sums_C[i] += g * states[i];
                        sums_B[i] += dh * scaled;
                        d_scaled += dh * B[l * n_states + i];
                        const vec exponent = carry[n] * before; /* d loss / d (step A) */
                        sums_A[n] += exponent * s;
                        d_step += exponent * LOAD(At + n * channels + c);
                    }
                    sum_D += g * input;
                    STORE(dx + place, d_scaled * s + g * LOAD(D + c));
                    STORE(dstep + place, d_step + d_scaled * input);
                }
                for (int64_t n = 0; n < n_states; n++) {
                    STORE(carries + n * channels + c, carry[n]);
                    STORE(dA + n * channels, LOAD(dA + n * channels) + sums_A[n]);
                }
                STORE(dD + b * channels + c, LOAD(dD + b * channels + c) + sum_D);
            }
            for (int64_t i = 0; i < held * n_states; i++) {
                dB[l * n_states + i] = sum_of(sums_B[i]);
                dC[l * n_states + i] = sum_of(sums_C[i]);
            }
        }
    }
}
