/* The 1x1x1 convolution of a span of voxels. */

#pragma once

#include "norms.h"

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
