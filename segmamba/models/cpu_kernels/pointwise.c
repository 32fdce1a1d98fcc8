/* The 1x1x1 convolution and its weights' gradient. */

#include "pointwise.h"

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
