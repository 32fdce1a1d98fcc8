/* Dice and cross entropy of softmax classes. */

#include "functions.h"

#define MOST_CLASSES 16
typedef uint8_t bytes __attribute__((vector_size(LANES), aligned(1), may_alias));

int most_classes(void) { return MOST_CLASSES; }

/* The softmax of one vector of voxels, and where each class is the label's; log of its sum. */
INLINE vec softmax(const float *logits, const uint8_t *label, int64_t voxels, int64_t classes,
                   vec *p, ivec *is_label) {
    const ivec truth = __builtin_convertvector(*(const bytes *)label, ivec);
    vec most = LOAD(logits), sum = ZERO;
    for (int64_t k = 1; k < classes; k++) {
        const vec value = LOAD(logits + k * voxels);
        most = SELECT(value > most, value, most);
    }
    for (int64_t k = 0; k < classes; k++) {
        p[k] = exponential(LOAD(logits + k * voxels) - most);
        is_label[k] = truth == (int32_t)k;
        sum += p[k];
    }
    const vec inverse = 1.0f / sum;
    for (int64_t k = 0; k < classes; k++) p[k] *= inverse;
    return most + logarithm(sum);
}

/* By block: the sum of the cross entropy, and of each class the sums of p where it is the label's, of
   p, and of its voxels. logits (b, classes, v); label (b, v); sums (blocks, 3 classes + 1).
   Work: the b * blocks of BLOCK vectors. */
void dice_ce_sums(const float *logits, const uint8_t *label, double *sums, int64_t classes,
                  int64_t voxels, int64_t first, int64_t last) {
    const int64_t blocks = (voxels + BLOCK * LANES - 1) / (BLOCK * LANES);
    for (int64_t part = first; part < last; part++) {
        const int64_t b = part / blocks, start = part % blocks * BLOCK * LANES;
        const int64_t end = start + BLOCK * LANES < voxels ? start + BLOCK * LANES : voxels;
        vec entropy = ZERO, both[MOST_CLASSES], predicted[MOST_CLASSES], true_[MOST_CLASSES];
        for (int64_t k = 0; k < classes; k++) both[k] = predicted[k] = true_[k] = ZERO;
        for (int64_t i = start; i < end; i += LANES) {
            const float *at = logits + b * classes * voxels + i;
            vec p[MOST_CLASSES];
            ivec is_label[MOST_CLASSES];
            entropy += softmax(at, label + b * voxels + i, voxels, classes, p, is_label);
            for (int64_t k = 0; k < classes; k++) {
                entropy -= SELECT(is_label[k], LOAD(at + k * voxels), ZERO);
                both[k] += SELECT(is_label[k], p[k], ZERO);
                predicted[k] += p[k];
                true_[k] += SELECT(is_label[k], ZERO + 1.0f, ZERO);
            }
        }
        double *to = sums + part * (3 * classes + 1);
        *to++ = double_sum_of(entropy);
        for (int64_t k = 0; k < classes; k++, to += 3) {
            to[0] = double_sum_of(both[k]);
            to[1] = double_sum_of(predicted[k]);
            to[2] = double_sum_of(true_[k]);
        }
    }
}

/* dlogits = ce (p - g) + p (u - sum of p u), u = at_label g + anywhere, g being 1 at the label's
   class, else 0. factors: ce, then at_label and anywhere of each class. Work: as dice_ce_sums. */
void dice_ce_backward(const float *logits, const uint8_t *label, const float *factors,
                      float *dlogits, int64_t classes, int64_t voxels, int64_t first,
                      int64_t last) {
    const int64_t blocks = (voxels + BLOCK * LANES - 1) / (BLOCK * LANES);
    for (int64_t part = first; part < last; part++) {
        const int64_t b = part / blocks, start = part % blocks * BLOCK * LANES;
        const int64_t end = start + BLOCK * LANES < voxels ? start + BLOCK * LANES : voxels;
        for (int64_t i = start; i < end; i += LANES) {
            const int64_t at = b * classes * voxels + i;
            vec p[MOST_CLASSES], u[MOST_CLASSES], mean = ZERO;
            ivec is_label[MOST_CLASSES];
            softmax(logits + at, label + b * voxels + i, voxels, classes, p, is_label);
            for (int64_t k = 0; k < classes; k++) {
                u[k] = SELECT(is_label[k], ZERO + factors[1 + 2 * k], ZERO) + factors[2 + 2 * k];
                mean += p[k] * u[k];
            }
            for (int64_t k = 0; k < classes; k++) {
                const vec g = SELECT(is_label[k], ZERO + 1.0f, ZERO);
                STORE(dlogits + at + k * voxels, factors[0] * (p[k] - g) + p[k] * (u[k] - mean));
            }
        }
    }
}
