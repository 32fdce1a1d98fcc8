/* A norm with its ReLU, and the sums that it and its gradient need. */

#pragma once

#include "vectors.h"

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
