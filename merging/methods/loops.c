/* What methods do with deltas in memory, in one pass; numpy and torch need several, or sort in 64 bits.
 *
 * C for GCC and Clang, called through ctypes by merging/methods/_loops.py. Each operation is rounded
 * separately: compile with -ffp-contract=off. With -fno-trapping-math comparisons become SIMD instructions;
 * no result depends on it. All deltas are float32.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define RUN 512 /* elements that are processed together */

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__)
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

#define INLINE static inline __attribute__((always_inline))

enum { NOTHING = 0, WEIGHT = 1, COUNT = 2 };

/* Elects a sign for each entry and adds what has it: sum_agreeing in merging/methods/_sums.py.
 *   votes     whether the votes are weighted by omega
 *   divide    by what the sum is divided: NOTHING, the agreeing WEIGHT or their COUNT
 *   cancelled a divisor is 0 if it is at most this share of the agreeing |omega|; negative for never
 * Vector k begins at stack + k * stride. `out` may be the first vector. */
FOR_EACH_CPU void elected_sum(size_t size, size_t count, const float *stack, size_t stride, const float *omegas,
                              int32_t votes, int32_t divide, float cancelled, float factor, float *out) {
/* `first` and `by` are constants at each use, so that the compiler leaves no branch in the loop. */
#define ADD(FIRST, BY) \
    for (size_t i = 0; i < n; i++) { \
        const float value = row[i] * omega, agrees = (votes ? value : row[i]) * sign[i] > 0 ? 1.0f : 0.0f; \
        total[i] = FIRST ? value * agrees : total[i] + value * agrees; \
        if (BY == COUNT) divisor[i] = FIRST ? agrees : divisor[i] + agrees; \
        if (BY == WEIGHT) divisor[i] = FIRST ? omega * agrees : divisor[i] + omega * agrees; \
        if (BY == WEIGHT) whole[i] = FIRST ? length * agrees : whole[i] + length * agrees; \
    }
    double sums[RUN];
    float sign[RUN], total[RUN], divisor[RUN], whole[RUN];
    for (size_t start = 0; start < size; start += RUN) {
        const size_t n = size - start < RUN ? size - start : RUN;
        memset(sums, 0, sizeof sums);
        for (size_t k = 0; k < count; k++) {
            const float *row = stack + k * stride + start;
            const float omega = votes ? omegas[k] : 1.0f;
            for (size_t i = 0; i < n; i++) sums[i] += (double)(row[i] * omega);
        }
        for (size_t i = 0; i < n; i++) sign[i] = sums[i] >= 0 ? 1.0f : -1.0f;
        for (size_t k = 0; k < count; k++) {
            const float *row = stack + k * stride + start;
            const float omega = omegas[k], length = omega < 0 ? -omega : omega;
            if (divide == NOTHING) { if (k) ADD(0, NOTHING) else ADD(1, NOTHING) }
            else if (divide == COUNT) { if (k) ADD(0, COUNT) else ADD(1, COUNT) }
            else { if (k) ADD(0, WEIGHT) else ADD(1, WEIGHT) }
        }
        if (divide == COUNT)
            for (size_t i = 0; i < n; i++) total[i] /= divisor[i] == 0 ? 1.0f : divisor[i];
        if (divide == WEIGHT)
            for (size_t i = 0; i < n; i++) {
                const float by = divisor[i] < 0 ? -divisor[i] : divisor[i], least = cancelled * whole[i];
                total[i] /= (by == 0) | (by <= least) ? 1.0f : divisor[i];
            }
        if (factor != 1.0f)
            for (size_t i = 0; i < n; i++) total[i] *= factor;
        memcpy(out + start, total, n * sizeof *out);
    }
#undef ADD
}

INLINE uint32_t magnitude(const float *values, size_t place) {
    uint32_t bits;
    memcpy(&bits, values + place, sizeof bits);
    return bits & 0x7fffffffu;
}

/* Counts the magnitudes by their upper 16 of 31 bits. */
void count_upper(size_t size, const float *values, int64_t *counts) {
    for (size_t i = 0; i < size; i++) counts[magnitude(values, i) >> 15]++;
}

/* Counts those with given upper bits by their lower 15 bits. */
void count_lower(size_t size, const float *values, uint32_t upper, int64_t *counts) {
    for (size_t i = 0; i < size; i++) {
        const uint32_t bits = magnitude(values, i);
        if (bits >> 15 == upper) counts[bits & 0x7fff]++;
    }
}

/* Number `place` of the stream of a seed, its upper 53 bits: SplitMix64, by Steele, Lea and Flood 2014, Fast
 * splittable pseudorandom number generators, https://doi.org/10.1145/2660193.2660195, figure 16. */
INLINE uint64_t draw(uint64_t seed, uint64_t place) {
    uint64_t z = seed + (place + 1) * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return (z ^ (z >> 31)) >> 11;
}

/* The numbers below this one make a probability: draw() * 2^-53 < chance, in whole numbers. */
INLINE uint64_t threshold(double chance) {
    const double scaled = chance * 0x1p53;
    const uint64_t whole = (uint64_t)scaled;
    return whole + ((double)whole < scaled);
}

/* Zeros entries whose number is not below the density, from 0 to 1; the first entry has number `start`. */
void drop_at_random(size_t size, float *values, uint64_t seed, uint64_t start, double density) {
    const uint64_t below = threshold(density);
    for (size_t i = 0; i < size; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        bits &= 0u - (uint32_t)(draw(seed, start + i) < below);
        memcpy(values + i, &bits, sizeof bits);
    }
}

#define DIGITS 4 /* passes of the sort, each by 8 of 31 bits: a row is short, and so are 256 counts */
#define BINS 256

/* Sorts the entries of a row by magnitude; equal ones stay in order. The upper half of a sorted number is the
 * magnitude, the lower half the place. `items` and `other` hold `columns` numbers; the result is in `items`. */
INLINE void sorted_by_magnitude(const float *values, size_t columns, uint64_t *items, uint64_t *other) {
    uint32_t begins[DIGITS][BINS] = {{0}};
    for (size_t i = 0; i < columns; i++) {
        const uint32_t key = magnitude(values, i);
        items[i] = (uint64_t)key << 32 | i;
        for (unsigned digit = 0; digit < DIGITS; digit++) begins[digit][key >> 8 * digit & (BINS - 1)]++;
    }
    for (unsigned digit = 0; digit < DIGITS; digit++) {
        uint32_t before = 0;
        for (size_t bin = 0; bin < BINS; bin++) {
            const uint32_t count = begins[digit][bin];
            begins[digit][bin] = before;
            before += count;
        }
        for (size_t i = 0; i < columns; i++) other[begins[digit][items[i] >> (32 + 8 * digit) & (BINS - 1)]++] = items[i];
        uint64_t *kept = items;
        items = other, other = kept;
    }
}

/* Zeros entries whose number is not below low + step * rank; in a row the smallest entry has rank 0, and
 * entries of equal magnitude are ranked by position. `scratch` holds 2 * columns numbers. */
void drop_by_rank(size_t rows, size_t columns, float *values, uint64_t seed, uint64_t start, double low, double step,
                  uint64_t *scratch) {
    for (size_t row = 0; row < rows; row++, values += columns, start += columns) {
        sorted_by_magnitude(values, columns, scratch, scratch + columns);
        for (size_t rank = 0; rank < columns; rank++) {
            const size_t place = scratch[rank] & 0xffffffffu;
            const uint64_t below = threshold(low + step * (double)rank);
            uint32_t bits;
            memcpy(&bits, values + place, sizeof bits);
            bits &= 0u - (uint32_t)(draw(seed, start + place) < below);
            memcpy(values + place, &bits, sizeof bits);
        }
    }
}
