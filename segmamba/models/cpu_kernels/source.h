/* A volume as a convolution reads it, and its points. */

#pragma once

#include "norms.h"

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

/* input_points; `whole` tells the compiler that all rows lie in the volume. */
INLINE void points_of_rows(const struct source *x, float *points, int64_t stride, int64_t H,
                           int64_t W, int64_t b, int64_t c, int64_t d, int64_t h, int64_t w,
                           const int whole) {
    vec rows[4][6];
    for (int i = 0; i < 4; i++) {
        vec at[6];
        const int64_t dd = d + i - 1;
        const int inside = whole || (dd >= 0 && dd < x->D);
        const float *from = slice_of(x, b, c, inside ? dd : d) + h * W + w;
        for (int k = 0; k < 6; k++) {
            const int64_t hh = h + k - 1;
            at[k] = whole || (inside && hh >= 0 && hh < H) ? LOAD(from + (k - 1) * W) : ZERO;
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

/* points (24, stride) of the 4x6 rows around the tile (d, h) of channel c, for one vector. */
INLINE void input_points(const struct source *x, float *points, int64_t stride, int64_t H,
                         int64_t W, int64_t b, int64_t c, int64_t d, int64_t h, int64_t w) {
    if (d && d + 2 < x->D && h && h + 4 < H)
        points_of_rows(x, points, stride, H, W, b, c, d, h, w, 1);
    else
        points_of_rows(x, points, stride, H, W, b, c, d, h, w, 0);
}
