/* The 2x2x2 convolution of stride 2, its transpose, and their weights' gradient.

   Small volumes are (b, smalls, d, h, w) and large ones (b, larges, 2 d, 2 h, 2 w), of which two
   samples lie `sample` floats apart. Of a large one's row the even voxels and the odd ones each fill
   a vector. */

#include "vectors.h"

#if LANES == 16
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define ODD(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(a, b) __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#elif LANES == 8
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14)
#define ODD(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15)
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(a, b) __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#else
#define EVEN(a, b) __builtin_shufflevector(a, b, 0, 2, 4, 6)
#define ODD(a, b) __builtin_shufflevector(a, b, 1, 3, 5, 7)
#define LOW(a, b) __builtin_shufflevector(a, b, 0, 4, 1, 5)
#define HIGH(a, b) __builtin_shufflevector(a, b, 2, 6, 3, 7)
#endif

/* Where in a large volume lies the row (i, j) of the block of the small voxel `at` of slice `part`,
   which is b * D + d. Half a vector of small voxels lies in one row, a whole one in two at most. */
INLINE const float *large_row(const float *large, int64_t sample, int64_t part, int64_t c,
                              int64_t D, int64_t H, int64_t W, int64_t at, int row) {
    const int64_t d = part % D * 2 + row / 2, h = at / W * 2 + row % 2;
    return large + part / D * sample + ((c * 2 * D + d) * 2 * H + h) * 2 * W + at % W * 2;
}

/* The even and the odd voxels of the rows (i, j) of the blocks of a vector of small voxels. */
INLINE void split_row(const float *large, int64_t sample, int64_t part, int64_t c, int64_t D,
                      int64_t H, int64_t W, int64_t at, int row, vec parts[2]) {
    const vec a = LOAD(large_row(large, sample, part, c, D, H, W, at, row));
    const vec b = LOAD(large_row(large, sample, part, c, D, H, W, at + LANES / 2, row));
    parts[0] = EVEN(a, b);
    parts[1] = ODD(a, b);
}

INLINE int64_t small_slice(int64_t part, int64_t c, int64_t channels, int64_t D, int64_t area) {
    return ((part / D * channels + c) * D + part % D) * area;
}

/* small = the convolution of large, plus bias. weights: (tiles of smalls, larges, 8, TILE); bias:
   (tiles of smalls, TILE). Work: the b * d slices. */
void halve(const float *large, const float *weights, const float *bias, float *small,
           int64_t sample, int64_t larges, int64_t smalls, int64_t D, int64_t H, int64_t W,
           int64_t first, int64_t last) {
    const int64_t area = H * W;
    for (int64_t part = first; part < last; part++)
        for (int64_t at = 0; at < area; at += LANES)
            for (int64_t o = 0; o < smalls; o += TILE) {
                const float *taps = weights + o * larges * 8;
                vec sums[TILE];
                for (int t = 0; t < TILE; t++) sums[t] = ZERO + bias[o + t];
                for (int64_t c = 0; c < larges; c++)
                    for (int row = 0; row < 4; row++, taps += 2 * TILE) {
                        vec parts[2];
                        split_row(large, sample, part, c, D, H, W, at, row, parts);
                        for (int t = 0; t < TILE; t++)
                            sums[t] += taps[t] * parts[0] + taps[TILE + t] * parts[1];
                    }
                for (int64_t t = 0; t < TILE && o + t < smalls; t++)
                    STORE(small + small_slice(part, o + t, smalls, D, area) + at, sums[t]);
            }
}

/* large = the transposed convolution of small, plus bias. weights: (larges, smalls, 8); bias:
   (larges). Work: the b * d slices. */
void twice(const float *small, const float *weights, const float *bias, float *large,
           int64_t larges, int64_t smalls, int64_t D, int64_t H, int64_t W, int64_t first,
           int64_t last) {
    const int64_t area = H * W, sample = larges * 8 * D * area;
    for (int64_t part = first; part < last; part++)
        for (int64_t at = 0; at < area; at += LANES)
            for (int64_t o = 0; o < larges; o++) {
                const float *taps = weights + o * smalls * 8;
                vec sums[8];
                for (int t = 0; t < 8; t++) sums[t] = ZERO + bias[o];
                for (int64_t c = 0; c < smalls; c++, taps += 8) {
                    const vec value = LOAD(small + small_slice(part, c, smalls, D, area) + at);
                    for (int t = 0; t < 8; t++) sums[t] += taps[t] * value;
                }
                for (int row = 0; row < 4; row++) {
                    const vec a = sums[2 * row], b = sums[2 * row + 1];
                    const int64_t next = at + LANES / 2;
                    STORE((float *)large_row(large, sample, part, o, D, H, W, at, row), LOW(a, b));
                    STORE((float *)large_row(large, sample, part, o, D, H, W, next, row), HIGH(a, b));
                }
            }
}

#define CACHED 768 /* voxels of a small volume, of which TILE channels fit the first cache */

int64_t halve_backward_weights_scratch(int64_t larges, int64_t smalls) {
    return (smalls + TILE - 1) / TILE * TILE * larges * 8 * LANES;
}

/* The gradient of the weights, (smalls, larges, 8), in double, added to `dweights`: the products of
   both volumes, of which one is a gradient. Work: the b * d slices. */
void halve_backward_weights(const float *small, const float *large, double *dweights,
                            float *scratch, int64_t sample, int64_t larges, int64_t smalls,
                            int64_t D, int64_t H, int64_t W, int64_t first, int64_t last) {
    const int64_t area = H * W, together = area < CACHED ? CACHED / area : 1;
    memset(scratch, 0, sizeof(float) * halve_backward_weights_scratch(larges, smalls));
    for (int64_t start = first; start < last; start += together) {
        const int64_t end = start + together < last ? start + together : last;
        float *kept = scratch;
        for (int64_t o = 0; o < smalls; o += TILE) {
            const int64_t held = smalls - o < TILE ? smalls - o : TILE;
            for (int64_t place = 0; place < larges * 4; place++, kept += 2 * TILE * LANES) {
                vec sums[TILE][2];
                for (int t = 0; t < TILE; t++) sums[t][0] = sums[t][1] = ZERO;
                for (int64_t part = start; part < end; part++) {
                    const float *from[TILE];
                    for (int t = 0; t < TILE; t++) {
                        const int64_t channel = o + (t < held ? t : 0);
                        from[t] = small + small_slice(part, channel, smalls, D, area);
                    }
                    for (int64_t at = 0; at < area; at += LANES) {
                        vec parts[2];
                        split_row(large, sample, part, place / 4, D, H, W, at, place % 4, parts);
                        for (int t = 0; t < TILE; t++) {
                            const vec value = LOAD(from[t] + at);
                            sums[t][0] += value * parts[0];
                            sums[t][1] += value * parts[1];
                        }
                    }
                }
                for (int t = 0; t < TILE; t++)
                    for (int k = 0; k < 2; k++) {
                        float *sum = kept + (t * 2 + k) * LANES;
                        STORE(sum, LOAD(sum) + sums[t][k]);
                    }
            }
        }
    }
    for (int64_t o = 0; o < smalls; o++)
        for (int64_t tap = 0; tap < larges * 8; tap++) {
            const int64_t place = o / TILE * larges * 4 + tap / 2;
            const float *sum = scratch + ((place * TILE + o % TILE) * 2 + tap % 2) * LANES;
            dweights[o * larges * 8 + tap] += double_sum_of(LOAD(sum));
        }
}
