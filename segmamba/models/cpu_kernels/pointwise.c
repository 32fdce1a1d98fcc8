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

/* dweights (outs, ins) += the products from voxel start to end of a tile of outputs and `count`
   inputs from c on. */
INLINE void add_gradients(const float *dy, const float *x, double *dweights, int64_t ins,
                          int64_t outs, int64_t voxels, int64_t b, int64_t o, int64_t c,
                          int64_t start, int64_t end, const int count) {
    const int64_t held = outs - o < TILE ? outs - o : TILE;
    const float *values = x + (b * ins + c) * voxels, *gradients[TILE];
    vec sums[TILE][2];
    for (int t = 0; t < TILE; t++) {
        gradients[t] = dy + (b * outs + o + (t < held ? t : 0)) * voxels;
        for (int j = 0; j < count; j++) sums[t][j] = ZERO;
    }
    for (int64_t i = start; i < end; i += LANES) {
        vec value[2];
        for (int j = 0; j < count; j++) value[j] = LOAD(values + j * voxels + i);
        for (int t = 0; t < TILE; t++) {
            const vec gradient = LOAD(gradients[t] + i);
            for (int j = 0; j < count; j++) sums[t][j] += gradient * value[j];
        }
    }
    for (int t = 0; t < held; t++)
        for (int j = 0; j < count; j++)
            dweights[(o + t) * ins + c + j] += double_sum_of(sums[t][j]);
}

/* The gradient of pointwise_forward's weights, (outs, ins), in double, added to `dweights`.
   Work: the b * blocks of BLOCK vectors. */
void pointwise_backward_weights(const float *dy, const float *x, double *dweights, int64_t ins,
                                int64_t outs, int64_t voxels, int64_t first, int64_t last) {
    const int64_t blocks = (voxels + BLOCK * LANES - 1) / (BLOCK * LANES);
    for (int64_t part = first; part < last; part++) {
        const int64_t b = part / blocks, start = part % blocks * BLOCK * LANES;
        const int64_t end = start + BLOCK * LANES < voxels ? start + BLOCK * LANES : voxels;
        for (int64_t o = 0; o < outs; o += TILE) {
            int64_t c = 0;
            for (; c + 2 <= ins; c += 2)
                add_gradients(dy, x, dweights, ins, outs, voxels, b, o, c, start, end, 2);
            if (c < ins) add_gradients(dy, x, dweights, ins, outs, voxels, b, o, c, start, end, 1);
        }
    }
}
