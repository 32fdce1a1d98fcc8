/* Norms with ReLU, row by row; and the numbers that the library was compiled with. */

#include "norms.h"

int lanes(void) { return LANES; }
int tile(void) { return TILE; }
int block_voxels(void) { return BLOCK * LANES; }

/* The norms of volumes by the means and squares (b, parts, c) of their parts, which have `voxels`,
   the last of a sample `last_voxels`. norms: (b, c); mean, variance and 1 / sqrt(variance + eps):
   (groups, c), a group being `samples` samples. Work: the groups. */
void norm_of_statistics(const double *means, const double *squares, const float *weight,
                        const float *bias, struct norm *norms, double *mean, double *variance,
                        double *inverse, double eps, int64_t samples, int64_t parts,
                        int64_t channels, int64_t voxels, int64_t last_voxels, int64_t first,
                        int64_t last) {
    const double total = (double)(samples * ((parts - 1) * voxels + last_voxels));
    for (int64_t group = first; group < last; group++)
        for (int64_t c = 0; c < channels; c++) {
            const int64_t start = group * samples * parts * channels + c, at = group * channels + c;
            double sum = 0, away = 0;
            for (int64_t k = 0; k < samples * parts; k++)
                sum += means[start + k * channels] * (k % parts < parts - 1 ? voxels : last_voxels);
            mean[at] = sum / total;
            for (int64_t k = 0; k < samples * parts; k++) {
                const double apart = means[start + k * channels] - mean[at];
                away += squares[start + k * channels] +
                        apart * apart * (k % parts < parts - 1 ? voxels : last_voxels);
            }
            variance[at] = away / total;
            inverse[at] = 1 / __builtin_sqrt(variance[at] + eps);
            const double scale = weight[c] * inverse[at];
            const struct norm norm = {scale, bias[c] - mean[at] * scale, mean[at], 0, 0};
            for (int64_t b = group * samples; b < (group + 1) * samples; b++)
                norms[b * channels + c] = norm;
        }
}

/* Slope and offset of norms, and the gradients of weight and bias, by the span_sums (b, parts, c)
   of samples of `voxels` voxels. Work: the channels. */
void norm_of_sums(const double *sums, const double *products, const float *weight,
                  const double *mean, const double *inverse, struct norm *norms, float *dweight,
                  float *dbias, int64_t groups, int64_t samples, int64_t parts, int64_t channels,
                  int64_t voxels, int64_t first, int64_t last) {
    const double count = (double)(voxels * samples);
    for (int64_t c = first; c < last; c++) {
        double of_weight = 0, of_bias = 0;
        for (int64_t group = 0; group < groups; group++) {
            const int64_t start = group * samples * parts * channels + c, at = group * channels + c;
            double sum = 0, product = 0;
            for (int64_t k = 0; k < samples * parts; k++) {
                sum += sums[start + k * channels];
                product += products[start + k * channels];
            }
            of_weight += product * inverse[at];
            of_bias += sum;
            const double scale = weight[c] * inverse[at] / count;
            const double slope = -scale * inverse[at] * inverse[at] * product;
            for (int64_t b = group * samples; b < (group + 1) * samples; b++) {
                norms[b * channels + c].slope = slope;
                norms[b * channels + c].offset = -scale * sum - slope * mean[at];
            }
        }
        dweight[c] = of_weight;
        dbias[c] = of_bias;
    }
}

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
