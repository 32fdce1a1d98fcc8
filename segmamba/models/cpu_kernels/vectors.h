/* Vectors of neighbouring values, which all the kernels compute with.

   torch's vectorised convolutions and norms put channels into the lanes of a vector register: with
   8 channels half of 16 lanes are idle. Here the lanes are neighbours along W, so a volume is plain
   (B, C, D, H, W), W being a multiple of LANES.

   cpu_library.py compiles all sources of this folder as one library. Every function that is not
   inline does the part [first, last) of its work, for one thread.

   Legend: b batch, c channels, d, h, w the volume, l tokens, n states. */

#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define TILE 8 /* output channels whose sums are held in registers */
#elif defined(__AVX__)
#define LANES 8
#define TILE 4
#else
#define LANES 4
#define TILE 4
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))
#define ZERO ((vec){0})
#define SELECT(mask, a, b) ((vec)(((mask) & (ivec)(a)) | (~(mask) & (ivec)(b))))

#if LANES == 16
#define FROM_LEFT(before, here) __builtin_shufflevector(before, here, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30)
#define FROM_RIGHT(here, behind) __builtin_shufflevector(here, behind, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
#elif LANES == 8
#define FROM_LEFT(before, here) __builtin_shufflevector(before, here, 7, 8, 9, 10, 11, 12, 13, 14)
#define FROM_RIGHT(here, behind) __builtin_shufflevector(here, behind, 1, 2, 3, 4, 5, 6, 7, 8)
#else
#define FROM_LEFT(before, here) __builtin_shufflevector(before, here, 3, 4, 5, 6)
#define FROM_RIGHT(here, behind) __builtin_shufflevector(here, behind, 1, 2, 3, 4)
#endif

INLINE float sum_of(vec v) {
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

INLINE double double_sum_of(vec v) {
    double total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

#define BLOCK 256 /* vectors that are summed in single precision */
