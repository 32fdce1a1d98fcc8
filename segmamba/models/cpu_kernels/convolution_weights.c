/* The gradient of the 3x3x3 convolution's weights. */

#include "source.h"

/* gradient_points; `whole` tells the compiler that all rows lie in the volume. */
INLINE void points_of_gradients(const struct source *dy, float *points, int64_t stride, int64_t H,
                                int64_t W, int64_t b, int64_t o, int64_t d, int64_t h, int64_t w,
                                const int whole) {
    vec rows[2][6];
    for (int i = 0; i < 2; i++) {
        vec at[4];
        const int inside = whole || d + i < dy->D;
        const float *from = slice_of(dy, b, o, inside ? d + i : d) + h * W + w;
        for (int k = 0; k < 4; k++)
            at[k] = whole || (inside && h + k < H) ? LOAD(from + k * W) : ZERO;
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

/* points (24, stride) of the gradient of output channel o's tile (d, h), for one vector. */
INLINE void gradient_points(const struct source *dy, float *points, int64_t stride, int64_t H,
                            int64_t W, int64_t b, int64_t o, int64_t d, int64_t h, int64_t w) {
    if (d + 1 < dy->D && h + 3 < H)
        points_of_gradients(dy, points, stride, H, W, b, o, d, h, w, 1);
    else
        points_of_gradients(dy, points, stride, H, W, b, o, d, h, w, 0);
}

/* sums (24, ins, 3, TILE, LANES) += gradients (TILE, 24, stride) x points (ins, 24, stride), of
   which `count` floats are there, rows of length W. */
INLINE void add_products(const float *points, const float *gradients, float *sums, int64_t ins,
                         int64_t stride, int64_t W, int64_t count) {
    for (int64_t place = 0; place < POINTS * ins; place++) {
        const int64_t point = place / ins * stride, channel = POINTS * stride;
        const float *from = points + point + place % ins * channel, *to = gradients + point;
        vec total[3][TILE];
        for (int tap = 0; tap < 3; tap++)
            for (int t = 0; t < TILE; t++) total[tap][t] = ZERO;
        for (int64_t row = 0; row < count; row += W)
            for (int64_t w = 0; w < W; w += LANES) {
                vec around[3];
                neighbours(from + row, w, W, around);
                for (int t = 0; t < TILE; t++) {
                    const vec gradient = LOAD(to + t * channel + row + w);
                    for (int tap = 0; tap < 3; tap++) total[tap][t] += gradient * around[tap];
                }
            }
        float *kept = sums + place * 3 * TILE * LANES;
        for (int tap = 0; tap < 3; tap++)
            for (int t = 0; t < TILE; t++, kept += LANES)
                STORE(kept, LOAD(kept) + total[tap][t]);
    }
}

#define ROWS_FLOATS 256 /* of one point and channel, of which TILE + 1 fit the first cache */

/* The floats of the rows of tiles, of one point and channel, whose products are taken together. */
INLINE int64_t rows_size(int64_t W) { return W < ROWS_FLOATS ? ROWS_FLOATS / W * W : W; }

int64_t conv_backward_weights_scratch(int64_t ins, int64_t outs, int64_t H, int64_t W) {
    return POINTS * ((ins + TILE) * (rows_size(W) + LANES) + ins * 3 * TILE * LANES) +
           4 * (ins + outs) * H * W;
}

/* The gradient of conv_forward's weights by their points, (24, ins, 3, outs), in double, added to
   `dweights`. Both volumes are sources. Work: the b * pairs of slices. By some rows of tiles, which
   may be of several pairs: all points, then by point and input channel the products over all
   voxels, whose sums stay in registers. */
void conv_backward_weights(const float *dy, const float *dy_z, const struct norm *dy_norms,
                           const float *x, const struct norm *x_norms, double *dweights,
                           float *scratch, int64_t dy_kind, int64_t x_kind, int64_t ins,
                           int64_t outs, int64_t D, int64_t H, int64_t W, int64_t first,
                           int64_t last) {
    const int64_t pairs = (D + 1) / 2, size = rows_size(W);
    const int64_t stride = size + LANES, channel = POINTS * stride;
    float *points = scratch, *gradients = points + ins * channel;
    float *sums = gradients + TILE * channel, *rings = sums + POINTS * ins * 3 * TILE * LANES;
    struct source from_x = {x_kind, x, x, x_norms, rings, ins, D, H * W, 0};
    float *second = rings + 4 * ins * H * W;
    struct source from_dy = {dy_kind, dy, dy_z, dy_norms, second, outs, D, H * W, 0};
    for (int64_t o = 0; o < outs; o += TILE) {
        from_x.next = from_dy.next = 0;
        const int64_t held = outs - o < TILE ? outs - o : TILE;
        memset(sums, 0, sizeof(vec) * POINTS * ins * 3 * TILE);
        memset(gradients, 0, sizeof(float) * TILE * channel);
        int64_t count = 0;
        for (int64_t part = first; part < last; part++) {
            const int64_t b = part / pairs, d = part % pairs * 2;
            fill_ring(&from_x, b, d);
            fill_ring(&from_dy, b, d);
            for (int64_t h = 0; h < H; h += 4) {
                for (int64_t c = 0; c < ins; c++)
                    for (int64_t w = 0; w < W; w += LANES)
                        input_points(&from_x, points + c * channel + count + w, stride, H, W, b,
                                     c, d, h, w);
                for (int64_t t = 0; t < held; t++)
                    for (int64_t w = 0; w < W; w += LANES)
                        gradient_points(&from_dy, gradients + t * channel + count + w, stride, H, W,
                                        b, o + t, d, h, w);
                count += W;
                if (count < size) continue;
                add_products(points, gradients, sums, ins, stride, W, count);
                count = 0;
            }
        }
        add_products(points, gradients, sums, ins, stride, W, count);
        for (int64_t tap = 0; tap < POINTS * ins * 3; tap++)
            for (int64_t t = 0; t < held; t++)
                dweights[tap * outs + o + t] +=
                    double_sum_of(LOAD(sums + (tap * TILE + t) * LANES));
    }
}
