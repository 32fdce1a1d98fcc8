/* The 3x3x3 convolution. */

#include "pointwise.h"
#include "source.h"

/* points (tiles of outs, 24, ins, 3, TILE) of weights (outs, ins, 27) by a matrix (24, 9); or of
   weights (ins, outs, 27) that are turned round. Work: the tiles. */
void conv_points(const float *weight, const float *matrix, float *points, int64_t turned,
                 int64_t ins, int64_t outs, int64_t first, int64_t last) {
    for (int64_t o = first * TILE; o < last * TILE; o += TILE)
        for (int64_t c = 0; c < ins; c++) {
            float taps[27][TILE] = {0};
            for (int64_t t = 0; t < TILE && o + t < outs; t++) {
                const float *from = weight + (turned ? c * outs + o + t : (o + t) * ins + c) * 27;
                for (int k = 0; k < 27; k++) taps[k][t] = from[turned ? 26 - k : k];
            }
            for (int p = 0; p < POINTS; p++)
                for (int tap = 0; tap < 3; tap++) {
                    float *to = points + (((o / TILE * POINTS + p) * ins + c) * 3 + tap) * TILE;
                    for (int t = 0; t < TILE; t++) {
                        float sum = 0;
                        for (int k = 0; k < 9; k++) sum += matrix[p * 9 + k] * taps[k * 3 + tap][t];
                        to[t] = sum;
                    }
                }
        }
}

/* products (TILE, channel) = weights (ins, 3, TILE) x points (ins, channel), `count` vectors of one
   point from `at` on, in rows of length W. */
INLINE void point_products(const float *points, const float *weights, float *products, int64_t ins,
                           int64_t channel, int64_t W, int64_t at, const int count) {
    vec sums[TILE][2];
    int64_t row[2];
    for (int j = 0; j < count; j++) row[j] = (at + j * LANES) / W * W;
    for (int o = 0; o < TILE; o++)
        for (int j = 0; j < count; j++) sums[o][j] = ZERO;
    for (int64_t c = 0; c < ins; c++, weights += 3 * TILE) {
        vec around[2][3];
        for (int j = 0; j < count; j++)
            neighbours(points + c * channel + row[j], at + j * LANES - row[j], W, around[j]);
        for (int tap = 0; tap < 3; tap++)
            for (int o = 0; o < TILE; o++)
                for (int j = 0; j < count; j++)
                    sums[o][j] += weights[tap * TILE + o] * around[j][tap];
    }
    for (int o = 0; o < TILE; o++)
        for (int j = 0; j < count; j++) STORE(products + o * channel + at + j * LANES, sums[o][j]);
}

/* output_tile; `whole` tells the compiler that all rows lie in the volume. */
INLINE void tile_of_points(const float *points, int64_t stride, const float *added, float *y,
                           int64_t D, int64_t H, int64_t W, int64_t d, int64_t h, int64_t w,
                           const int whole) {
    vec rows[2][6];
    for (int k = 0; k < 6; k++) {
        const vec second = LOAD(points + (6 + k) * stride);
        const vec third = LOAD(points + (12 + k) * stride);
        rows[0][k] = LOAD(points + k * stride) + second + third;
        rows[1][k] = second - third - LOAD(points + (18 + k) * stride);
    }
    for (int i = 0; i < 2 && (whole || d + i < D); i++) {
        const int64_t at = ((d + i) * H + h) * W + w;
        const vec *m = rows[i], sum = m[1] + m[2], difference = m[1] - m[2];
        const vec far_sum = m[3] + m[4], far_difference = m[3] - m[4];
        vec values[4] = {m[0] + sum + far_sum, difference + 2 * far_difference, sum + 4 * far_sum,
                         difference + 8 * far_difference + m[5]};
        for (int k = 0; k < 4 && (whole || h + k < H); k++) {
            if (added) values[k] += LOAD(added + at + k * W);
            STORE(y + at + k * W, values[k]);
        }
    }
}

/* The tile (d, h) of one output channel from its points (24, stride), for one vector; `added` is 0
   or a volume that is added. */
INLINE void output_tile(const float *points, int64_t stride, const float *added, float *y,
                        int64_t D, int64_t H, int64_t W, int64_t d, int64_t h, int64_t w) {
    if (d + 1 < D && h + 3 < H)
        tile_of_points(points, stride, added, y, D, H, W, d, h, w, 1);
    else
        tile_of_points(points, stride, added, y, D, H, W, d, h, w, 0);
}

#define NO_SUMS 0
#define STATISTICS 1 /* the mean and sum of (y - mean)^2 */
#define NORM_SUMS 2  /* span_sums, y being the gradient of relu(norm(of)) */

/* How many rows of tiles are taken together: two where one has an odd number of vectors. */
INLINE int64_t forward_rows(int64_t W) { return W / LANES % 2 ? 2 : 1; }

int64_t conv_forward_scratch(int64_t ins, int64_t H, int64_t W) {
    return POINTS * (ins + TILE) * (forward_rows(W) * W + LANES) + 4 * ins * H * W;
}

/* y (b, outs, d, h, w) = the 3x3x3 convolution of a source (b, ins, d, h, w), zero-padded, plus
   `added`, or its 1x1x1 convolution by `mixture` (of pointwise_forward), unless they are 0; and by
   `sums_kind` two sums over each pair of slices, (b, pairs, outs), while it is in the cache.
   weights: (tiles of outs, 24, ins, 3, TILE). Work: the b * pairs of slices. By one row of tiles or
   two: all their points, then by output tile and point the products. */
void conv_forward(const float *x, const float *z, const struct norm *norms, const float *weights,
                  const float *added, const float *mixture, const float *no_bias, const float *of,
                  const struct norm *norms_of, double *sums, double *products_of, float *y, float *scratch, int64_t kind, int64_t sums_kind,
                  int64_t mixed, int64_t ins, int64_t outs, int64_t D, int64_t H, int64_t W,
                  int64_t first, int64_t last) {
    const int64_t volume = D * H * W, pairs = (D + 1) / 2;
    const int64_t size = forward_rows(W) * W;
    const int64_t stride = size + LANES, channel = POINTS * stride; /* see POINTS */
    float *points = scratch, *products = scratch + ins * channel;
    struct source from_x = {kind, x, z, norms, products + TILE * channel, ins, D, H * W, 0};
    for (int64_t part = first; part < last; part++) {
        const int64_t b = part / pairs, d = part % pairs * 2;
        const int64_t part_start = d * H * W;
        const int64_t part_end = d + 1 < D ? part_start + 2 * H * W : volume;
        fill_ring(&from_x, b, d);
        if (mixture)
            mix_span(added, mixture, no_bias, 0, 0, y, mixed, outs, volume, b, part_start,
                     part_end);
        const float *plus = mixture ? y : added;
        for (int64_t top = 0; top < H; top += 4 * (size / W)) {
            const int64_t left = (H - top + 3) / 4 * W, count = left < size ? left : size;
            for (int64_t c = 0; c < ins; c++)
                for (int64_t at = 0, h = top; at < count; at += W, h += 4)
                    for (int64_t w = 0; w < W; w += LANES)
                        input_points(&from_x, points + c * channel + at + w, stride, H, W, b, c, d,
                                     h, w);
            for (int64_t o = 0; o < outs; o += TILE) {
                for (int64_t p = 0; p < POINTS; p++) {
                    const float *from = points + p * stride;
                    const float *taps = weights + (o * POINTS + p * TILE) * ins * 3;
                    float *to = products + p * stride;
                    int64_t at = 0;
                    for (; at + 2 * LANES <= count; at += 2 * LANES)
                        point_products(from, taps, to, ins, channel, W, at, 2);
                    if (at < count) point_products(from, taps, to, ins, channel, W, at, 1);
                }
                for (int64_t t = 0; t < TILE && o + t < outs; t++)
                    for (int64_t at = 0, h = top; at < count; at += W, h += 4)
                        for (int64_t w = 0; w < W; w += LANES)
                            output_tile(products + t * channel + at + w, stride,
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
