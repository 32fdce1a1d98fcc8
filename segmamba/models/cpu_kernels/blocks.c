/* The 2x2x2 blocks of a convolution of stride 2. */

#include "vectors.h"

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
