/* What methods do with deltas in memory, in one pass; numpy and torch need several, or sort in 64 bits.
 *
 * C for GCC and Clang, called through ctypes by merging/methods/_loops.py. Each operation is rounded
 * separately: compile with -ffp-contract=off. All deltas are float32.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define RUN 512 /* elements that are processed together */

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(PORTABLE)
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
    double sums[RUN];
    float total[RUN], divisor[RUN], whole[RUN];
    for (size_t start = 0; start < size; start += RUN) {
        const size_t n = size - start < RUN ? size - start : RUN;
        for (size_t k = 0; k < count; k++) {
            const float *row = stack + k * stride + start;
            const float omega = votes ? omegas[k] : 1.0f;
            for (size_t i = 0; i < n; i++) sums[i] = (k ? sums[i] : 0.0) + (double)(row[i] * omega);
        }
        for (size_t k = 0; k < count; k++) {
            const float *row = stack + k * stride + start;
            const float omega = omegas[k], size_of = omega < 0 ? -omega : omega;
            for (size_t i = 0; i < n; i++) {
                const float vote = votes ? row[i] * omega : row[i];
                const float agrees = (sums[i] >= 0 ? vote > 0 : vote < 0) ? 1.0f : 0.0f;
                const float value = row[i] * omega * agrees;
                total[i] = k ? total[i] + value : value;
                const float part = divide == COUNT ? agrees : omega * agrees;
                divisor[i] = k ? divisor[i] + part : part;
                whole[i] = k ? whole[i] + size_of * agrees : size_of * agrees;
            }
        }
        if (divide)
            for (size_t i = 0; i < n; i++) {
                const float by = divisor[i] < 0 ? -divisor[i] : divisor[i];
                const int none = by == 0 || by <= cancelled * whole[i];
                total[i] /= none ? 1.0f : divisor[i];
            }
        if (factor != 1.0f)
            for (size_t i = 0; i < n; i++) total[i] *= factor;
        memcpy(out + start, total, n * sizeof *out);
    }
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

/* Number `place` of the stream of a seed, in [0, 1): SplitMix64, by Steele, Lea and Flood 2014, Fast
 * splittable pseudorandom number generators, https://doi.org/10.1145/2660193.2660195, figure 16. */
INLINE double draw(uint64_t seed, uint64_t place) {
    uint64_t z = seed + (place + 1) * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

/* Zeros entries whose number is not below the density; the first has number `start`. */
FOR_EACH_CPU void drop_at_random(size_t size, float *values, uint64_t seed, uint64_t start, double density) {
    for (size_t i = 0; i < size; i++) values[i] = draw(seed, start + i) < density ? values[i] : 0.0f;
}

#define DIGIT 11 /* bits that one pass of the sort orders by */
#define BINS (1u << DIGIT)

/* Zeros entries whose number is not below low + span * share, where the share of an entry goes from 0
 * for the smallest of its row to 1 for the largest. Entries of equal magnitude are ranked by position.
 * `scratch` holds 4 * columns numbers. */
void drop_by_rank(size_t rows, size_t columns, float *values, uint64_t seed, uint64_t start, double low, double span,
                  uint32_t *scratch) {
    uint32_t *keys = scratch, *places = scratch + columns, *other = scratch + 2 * columns, *moved = scratch + 3 * columns;
    for (size_t row = 0; row < rows; row++, values += columns, start += columns) {
        for (size_t i = 0; i < columns; i++) keys[i] = magnitude(values, i), places[i] = (uint32_t)i;
        for (unsigned shift = 0; shift < 31; shift += DIGIT) {
            uint32_t begins[BINS] = {0}, before = 0;
            for (size_t i = 0; i < columns; i++) begins[keys[i] >> shift & (BINS - 1)]++;
            for (size_t bin = 0; bin < BINS; bin++) {
                const uint32_t count = begins[bin];
                begins[bin] = before;
                before += count;
            }
            for (size_t i = 0; i < columns; i++) {
                const uint32_t to = begins[keys[i] >> shift & (BINS - 1)]++;
                other[to] = keys[i], moved[to] = places[i];
            }
            uint32_t *kept = keys;
            keys = other, other = kept, kept = places, places = moved, moved = kept;
        }
        for (size_t rank = 0; rank < columns; rank++) {
            const double share = columns > 1 ? (double)rank / (double)(columns - 1) : 0.5;
            float *value = values + places[rank];
            if (!(draw(seed, start + places[rank]) < low + span * share)) *value = 0.0f;
        }
    }
}
