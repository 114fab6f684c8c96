/* Weighted sums and inner products of stored weights in one pass, where torch's operators take several.
 *
 * C for GCC and Clang, called through ctypes by merging/kernel.py. Each product, difference and sum is rounded by
 * itself: compile with -ffp-contract=off. A run of elements stays in the first cache from the first vector to the last.
 */
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define RUN 512
#define LANES 16
#define MOST 16

/* One copy of the code for each kind of processor, chosen when the library is loaded. All give the same bits. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

#define INLINE static inline __attribute__((always_inline))

enum { FLOAT32 = 0, BFLOAT16 = 1 };

INLINE float widened(const void *from, int32_t dtype, size_t place) {
    if (dtype == FLOAT32) return ((const float *)from)[place];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[place] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* total += omega * (from - theta). Called with constants for what it branches on, so that no loop holds a branch. */
INLINE void added(const void *from, int32_t dtype, int apart, int first, size_t start, size_t size,
                  const float *restrict theta, float omega, float *restrict total) {
    for (size_t i = 0; i < size; i++) {
        float value = widened(from, dtype, start + i);
        if (apart) value -= theta[i];
        value *= omega;
        total[i] = first ? value : total[i] + value;
    }
}

/* To the nearest, ties to even; not-a-number stays that. */
INLINE uint16_t rounded(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : nearest);
}

/* out = base + factor * (sum of omegas[k] * (rows[k] - base)) / divisor, where
 *   - a row that is a difference already is not subtracted from,
 *   - without a base (NULL) the rows are weights, and nothing is subtracted or added,
 *   - a divisor or a factor of 1 is not applied.
 */
FOR_EACH_CPU void weighted_sum(
    size_t size, const void *base, int32_t base_dtype, size_t count, const void *const *rows, const int32_t *dtypes,
    const int32_t *differences, const float *omegas, float divisor, float factor, void *out, int32_t out_dtype) {
#define ADD(DTYPE, APART) \
    if (k) added(rows[k], DTYPE, APART, 0, start, n, theta, omegas[k], total); \
    else added(rows[k], DTYPE, APART, 1, start, n, theta, omegas[k], total);
    float theta[RUN], total[RUN];
    for (size_t start = 0; start < size; start += RUN) {
        const size_t n = size - start < RUN ? size - start : RUN;
        for (size_t i = 0; base && i < n; i++) theta[i] = widened(base, base_dtype, start + i);
        for (size_t k = 0; k < count; k++) {
            const int apart = base && !differences[k];
            if (dtypes[k] == BFLOAT16) {
                if (apart) { ADD(BFLOAT16, 1) } else { ADD(BFLOAT16, 0) }
            } else {
                if (apart) { ADD(FLOAT32, 1) } else { ADD(FLOAT32, 0) }
            }
        }
        if (divisor != 1.0f)
            for (size_t i = 0; i < n; i++) total[i] /= divisor;
        if (factor != 1.0f)
            for (size_t i = 0; i < n; i++) total[i] *= factor;
        if (base)
            for (size_t i = 0; i < n; i++) total[i] += theta[i];
        if (out_dtype == FLOAT32)
            memcpy((float *)out + start, total, n * sizeof(float));
        else
            for (size_t i = 0; i < n; i++) ((uint16_t *)out)[start + i] = rounded(total[i]);
    }
#undef ADD
}

typedef float lanes_of_float __attribute__((vector_size(LANES * sizeof(float))));
typedef union { float values[RUN]; lanes_of_float lanes[RUN / LANES]; } run;
typedef double lanes_of_double __attribute__((vector_size(LANES * sizeof(double))));

/* Products are summed in float32 in 4 * LANES sums of RUN / (4 * LANES) each, those in LANES sums in double, in a fixed order. */
INLINE void multiplied(const lanes_of_float *a, const lanes_of_float *b, lanes_of_double *sums) {
    lanes_of_float s0 = a[0] * b[0], s1 = a[1] * b[1], s2 = a[2] * b[2], s3 = a[3] * b[3];
    for (size_t i = 4; i < RUN / LANES; i += 4) {
        s0 += a[i] * b[i];
        s1 += a[i + 1] * b[i + 1];
        s2 += a[i + 2] * b[i + 2];
        s3 += a[i + 3] * b[i + 3];
    }
    *sums += (__builtin_convertvector(s0, lanes_of_double) + __builtin_convertvector(s1, lanes_of_double))
        + (__builtin_convertvector(s2, lanes_of_double) + __builtin_convertvector(s3, lanes_of_double));
}

INLINE double summed(const lanes_of_double *sums) {
    double total = 0;
    for (size_t lane = 0; lane < LANES; lane++) total += (*sums)[lane];
    return total;
}

/* grams[i * count + j] = inner product of rows[i] - base and rows[j] - base; *square = that of the base with itself.
 * Rows that are differences already are not subtracted from. At most MOST rows; returns 0, or -1 for more.
 */
FOR_EACH_CPU int inner_products(
    size_t size, const void *base, int32_t base_dtype, size_t count, const void *const *rows, const int32_t *dtypes,
    const int32_t *differences, double *grams, double *square) {
#define DELTA(DTYPE, APART) added(rows[k], DTYPE, APART, 1, start, n, theta.values, 1.0f, deltas[k].values)
    run deltas[MOST], theta;
    lanes_of_double sums[MOST][MOST], squares = {0};
    if (count > MOST) return -1;
    for (size_t k = 0; k < count; k++) memset(sums[k], 0, (k + 1) * sizeof sums[k][0]);
    for (size_t start = 0; start < size; start += RUN) {
        const size_t n = size - start < RUN ? size - start : RUN;
        if (n < RUN) memset(deltas, 0, sizeof deltas), memset(&theta, 0, sizeof theta);
        for (size_t i = 0; i < n; i++) theta.values[i] = widened(base, base_dtype, start + i);
        multiplied(theta.lanes, theta.lanes, &squares);
        for (size_t k = 0; k < count; k++) {
            if (dtypes[k] == BFLOAT16) {
                if (differences[k]) DELTA(BFLOAT16, 0); else DELTA(BFLOAT16, 1);
            } else {
                if (differences[k]) DELTA(FLOAT32, 0); else DELTA(FLOAT32, 1);
            }
            for (size_t j = 0; j <= k; j++) multiplied(deltas[k].lanes, deltas[j].lanes, &sums[k][j]);
        }
    }
#undef DELTA
    *square = summed(&squares);
    for (size_t k = 0; k < count; k++)
        for (size_t j = 0; j <= k; j++) grams[j * count + k] = grams[k * count + j] = summed(&sums[k][j]);
    return 0;
}
