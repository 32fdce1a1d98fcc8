/* Exponential and logarithm of vectors. */

#pragma once

#include "vectors.h"

/* exp(x) to the last bit but one; 0 where it is no normal number, NaN of NaN (Cephes' expf). */
INLINE vec exponential(vec x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to a whole number */
    x = SELECT(x > 88.0f, ZERO + 88.0f, x);
    const vec shifted = x * 1.44269504088896341f + magic;
    const vec whole = shifted - magic;
    const vec r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    vec p = ZERO + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    const ivec power = ((ivec)shifted - (ivec)(ZERO + magic) + 127) << 23;
    return SELECT(x <= -87.0f, ZERO, p * (vec)power);
}

/* log(x) to the last bit but one for normal x > 0, NaN of NaN (Cephes' logf). */
INLINE vec logarithm(vec x) {
    const ivec bits = (ivec)x;
    vec power = __builtin_convertvector((bits >> 23) - 126, vec);
    vec r = (vec)((bits & 0x007fffff) | 0x3f000000);
    const ivec small = r < 0.707106781186547524f;
    power -= SELECT(small, ZERO + 1.0f, ZERO);
    r += SELECT(small, r, ZERO) - 1.0f;
    vec p = ZERO + 7.0376836292e-2f;
    p = p * r - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    p = p * r * (r * r) - power * 2.12194440e-4f - 0.5f * (r * r);
    return r + p + power * 0.693359375f + (x - x);
}
