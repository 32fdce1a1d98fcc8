/* The selective scan. */

#include "functions.h"

#define MOST_STATES 64
#define SEGMENT 64 /* tokens between two kept states */

int most_states(void) { return MOST_STATES; }
int segment_tokens(void) { return SEGMENT; }

/* One segment's states of LANES channels from `h` on; where `states` is given, every h and decay. */
INLINE void scan_segment(const float *x, const float *step, const float *At, const float *B,
                         const float *C, const float *D, float *y, vec *h, vec *states, vec *decays,
                         int64_t channels, const int64_t n_states, int64_t tokens) {
    for (int64_t t = 0; t < tokens; t++) {
        const vec s = LOAD(step + t * channels), input = LOAD(x + t * channels);
        const vec scaled = s * input;
        vec out = ZERO;
        for (int64_t n = 0; n < n_states; n++) {
            const vec decay = exponential(s * LOAD(At + n * channels));
            h[n] = decay * h[n] + scaled * B[t * n_states + n];
            if (states) {
                states[t * n_states + n] = h[n];
                decays[t * n_states + n] = decay;
            } else {
                out += h[n] * C[t * n_states + n];
            }
        }
        if (!states) STORE(y + t * channels, out + input * LOAD(D));
    }
}

/* y (b, l, c) of the selective scan, and the states (b, segment, n, c) in front of every segment.
   x, step (b, l, c); At (n, c); B, C (b, l, n); D (c). Work: the b * c / LANES groups. */
void scan_forward(const float *x, const float *step, const float *At, const float *B,
                  const float *C, const float *D, float *y, float *borders, int64_t tokens,
                  int64_t channels, int64_t n_states, int64_t first, int64_t last) {
    const int64_t groups = channels / LANES, segments = (tokens + SEGMENT - 1) / SEGMENT;
    for (int64_t part = first; part < last; part++) {
        const int64_t b = part / groups, c = part % groups * LANES;
        vec h[MOST_STATES];
        for (int64_t n = 0; n < n_states; n++) h[n] = ZERO;
        for (int64_t k = 0; k < segments; k++) {
            const int64_t l = b * tokens + k * SEGMENT;
            const int64_t held = tokens - k * SEGMENT < SEGMENT ? tokens - k * SEGMENT : SEGMENT;
            for (int64_t n = 0; n < n_states; n++)
                STORE(borders + ((b * segments + k) * n_states + n) * channels + c, h[n]);
            scan_segment(x + l * channels + c, step + l * channels + c, At + c, B + l * n_states,
                         C + l * n_states, D + c, y + l * channels + c, h, 0, 0, channels, n_states,
                         held);
        }
    }
}

/* The gradients of scan_forward. dAt (b, n, c) and dD (b, c) are sums over the tokens, still to be
   added up over b. Work: the b. */
void scan_backward(const float *dy, const float *x, const float *step, const float *At,
                   const float *B, const float *C, const float *D, const float *borders, float *dx,
                   float *dstep, float *dAt, float *dB, float *dC, float *dD, float *scratch,
                   int64_t tokens, int64_t channels, int64_t n_states, int64_t first,
                   int64_t last) {
    const int64_t segments = (tokens + SEGMENT - 1) / SEGMENT, size = SEGMENT * n_states;
    vec *states = (vec *)scratch, *decays = states + size, *sums_B = decays + size;
    vec *sums_C = sums_B + size;
    float *carries = (float *)(sums_C + size);
    for (int64_t b = first; b < last; b++) {
        memset(carries, 0, sizeof(float) * n_states * channels);
        memset(dAt + b * n_states * channels, 0, sizeof(float) * n_states * channels);
        memset(dD + b * channels, 0, sizeof(float) * channels);
        for (int64_t k = segments - 1; k >= 0; k--) {
            const int64_t l = b * tokens + k * SEGMENT;
            const int64_t held = tokens - k * SEGMENT < SEGMENT ? tokens - k * SEGMENT : SEGMENT;
            memset(sums_B, 0, 2 * sizeof(vec) * size);
            for (int64_t c = 0; c < channels; c += LANES) {
                const float *border = borders + (b * segments + k) * n_states * channels + c;
                float *dA = dAt + b * n_states * channels + c;
                vec h[MOST_STATES], carry[MOST_STATES], sums_A[MOST_STATES], sum_D = ZERO;
                for (int64_t n = 0; n < n_states; n++) {
                    h[n] = LOAD(border + n * channels);
                    carry[n] = LOAD(carries + n * channels + c);
                    sums_A[n] = ZERO;
                }
                scan_segment(x + l * channels + c, step + l * channels + c, At + c,
                             B + l * n_states, C + l * n_states, D + c, 0, h, states, decays,
                             channels, n_states, held);
                for (int64_t t = held - 1; t >= 0; t--) {
                    const int64_t place = (l + t) * channels + c;
                    const vec s = LOAD(step + place), input = LOAD(x + place), g = LOAD(dy + place);
                    const vec scaled = s * input;
                    vec d_scaled = ZERO, d_step = ZERO;
                    for (int64_t n = 0; n < n_states; n++) {
                        const int64_t i = t * n_states + n;
                        const vec before = t ? states[i - n_states] : LOAD(border + n * channels);
                        const vec dh = g * C[l * n_states + i] + carry[n];
                        carry[n] = decays[i] * dh;
                        sums_C[i] += g * states[i];
                        sums_B[i] += dh * scaled;
                        d_scaled += dh * B[l * n_states + i];
                        const vec exponent = carry[n] * before; /* d loss / d (step A) */
                        sums_A[n] += exponent * s;
                        d_step += exponent * LOAD(At + n * channels + c);
                    }
                    sum_D += g * input;
                    STORE(dx + place, d_scaled * s + g * LOAD(D + c));
                    STORE(dstep + place, d_step + d_scaled * input);
                }
                for (int64_t n = 0; n < n_states; n++) {
                    STORE(carries + n * channels + c, carry[n]);
                    STORE(dA + n * channels, LOAD(dA + n * channels) + sums_A[n]);
                }
                STORE(dD + b * channels + c, LOAD(dD + b * channels + c) + sum_D);
            }
            for (int64_t i = 0; i < held * n_states; i++) {
                dB[l * n_states + i] = sum_of(sums_B[i]);
                dC[l * n_states + i] = sum_of(sums_C[i]);
            }
        }
    }
}
