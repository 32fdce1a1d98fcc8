/* The gradient of the 3x3x3 convolution's weights. */

#include "source.h"

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
