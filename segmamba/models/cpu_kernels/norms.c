/* Norms with ReLU, row by row; and the numbers that the library was compiled with. */

#include "norms.h"

int lanes(void) { return LANES; }
int tile(void) { return TILE; }
int block_voxels(void) { return BLOCK * LANES; }

/* span_statistics of each row. x: (rows, voxels). Work: the rows. */
void row_statistics(const float *x, double *means, double *squares, int64_t voxels, int64_t first,
                    int64_t last) {
    for (int64_t row = first; row < last; row++)
        span_statistics(x + row * voxels, voxels, means + row, squares + row);
}

/* y = relu(norm(x)). x, y: (rows, voxels); norms: (rows). Work: the rows. */
void row_norm_relu(const float *x, const struct norm *norms, float *y, int64_t voxels,
                   int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        const struct norm norm = norms[row];
        for (int64_t i = row * voxels; i < (row + 1) * voxels; i += LANES)
            STORE(y + i, norm_relu(norm, LOAD(x + i)));
    }
}

/* span_sums of each row. Work: the rows. */
void row_sums(const float *dy, const float *x, const struct norm *norms, double *sums,
              double *products, int64_t voxels, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++)
        span_sums(norms[row], dy + row * voxels, x + row * voxels, voxels, sums + row,
                  products + row);
}

/* dx = the gradient of x, dy being that of relu(norm(x)). Work: the rows. */
void row_norm_relu_backward(const float *dy, const float *x, const struct norm *norms, float *dx,
                            int64_t voxels, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        const struct norm norm = norms[row];
        for (int64_t i = row * voxels; i < (row + 1) * voxels; i += LANES)
            STORE(dx + i, norm_relu_backward(norm, LOAD(dy + i), LOAD(x + i)));
    }
}

/* y = x + relu(norm(z)). Work: the rows. */
void row_add_norm_relu(const float *x, const float *z, const struct norm *norms, float *y,
                       int64_t voxels, int64_t first, int64_t last) {
    for (int64_t row = first; row < last; row++) {
        const struct norm norm = norms[row];
        for (int64_t i = row * voxels; i < (row + 1) * voxels; i += LANES)
            STORE(y + i, LOAD(x + i) + norm_relu(norm, LOAD(z + i)));
    }
}
