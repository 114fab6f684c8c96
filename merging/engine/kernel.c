/* Weighted sums and inner products of stored weights in one pass; torch's operators need several.
 *
 * C for GCC and Clang, called through ctypes by merging/engine/kernel.py. Each product, difference
 * and sum is rounded separately: compile with -ffp-contract=off. A run of elements stays in the
 * first-level cache from the first vector to the last. A slice read from files stays in the second.
 */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define RUN 512  /* elements that are processed together */
#define LANES 16 /* elements of a SIMD vector */
#define MOST 16  /* the largest number of rows for inner_products */
#define LEAF 131072 /* bytes that one hash covers: LEAF in merging/inputs/digest.py */

/* The compiler makes one copy of the code for each kind of CPU; one is chosen when the library is
 * loaded. All give the same bits. Tests define PORTABLE, to see the code for other machines. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(PORTABLE)
#include <immintrin.h>
#define BY_CPU
#define FOR_EACH_CPU __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

#define INLINE static inline __attribute__((always_inline))

enum { FLOAT32 = 0, BFLOAT16 = 1 };

/* One stored element as a float; exact for both dtypes. */
INLINE float widened(const void *from, int32_t dtype, size_t place) {
    if (dtype == FLOAT32) return ((const float *)from)[place];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[place] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* total += omega * (from - theta). `dtype`, `apart` (subtract theta) and `first` (set, do not add)
 * are constants at each call, so that the compiler leaves no branch in the loop. */
INLINE void added(const void *from, int32_t dtype, int apart, int first, size_t start, size_t size,
                  const float *restrict theta, float omega, float *restrict total) {
    for (size_t i = 0; i < size; i++) {
        float value = widened(from, dtype, start + i);
        if (apart) value -= theta[i];
        value *= omega;
        total[i] = first ? value : total[i] + value;
    }
}

/* The same for four rows of one kind, in their order; the total stays in a register from row to row. */
INLINE void added_four(const void *const *from, int32_t dtype, int apart, int first, size_t start, size_t size,
                       const float *restrict theta, const float *omegas, float *restrict total) {
    const void *const a = from[0], *const b = from[1], *const c = from[2], *const d = from[3];
    const float wa = omegas[0], wb = omegas[1], wc = omegas[2], wd = omegas[3];
    for (size_t i = 0; i < size; i++) {
        float va = widened(a, dtype, start + i), vb = widened(b, dtype, start + i);
        float vc = widened(c, dtype, start + i), vd = widened(d, dtype, start + i);
        if (apart) va -= theta[i], vb -= theta[i], vc -= theta[i], vd -= theta[i];
        float sum = va * wa;
        if (!first) sum = total[i] + sum;
        sum = sum + vb * wb;
        sum = sum + vc * wc;
        total[i] = sum + vd * wd;
    }
}

/* A float rounded to bfloat16: to the nearest, ties to even. NaN stays NaN. */
INLINE uint16_t rounded(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t nearest = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : nearest);
}

/* XXH3-64 with seed 0 of inputs longer than 240 bytes, by its specification:
 * https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md. Numbers are read as the machine
 * stores them, so the hash is the specified one on little-endian machines only. */
#define STRIPE 64   /* bytes that are mixed at once, 8 in each of 8 sums */
#define SHORTEST 241 /* bytes: shorter inputs are hashed in another way, which is not here */

static const uint8_t SECRET[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};
#define PER_BLOCK 16 /* stripes between two scramblings */
#define PRIME32_1 0x9E3779B1U
#define PRIME32_2 0x85EBCA77U
#define PRIME32_3 0xC2B2AE3DU
#define PRIME64_1 0x9E3779B185EBCA87ULL
#define PRIME64_2 0xC2B2AE3D27D4EB4FULL
#define PRIME64_3 0x165667B19E3779F9ULL
#define PRIME64_4 0x85EBCA77C2B2AE63ULL
#define PRIME64_5 0x27D4EB2F165667C5ULL

INLINE uint64_t number(const uint8_t *from) {
    uint64_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

/* Mixes one stripe into the sums. */
INLINE void mixed(uint64_t *restrict sums, const uint8_t *stripe, const uint8_t *secret) {
    for (size_t i = 0; i < 8; i++) {
        const uint64_t keyed = number(stripe + 8 * i) ^ number(secret + 8 * i);
        sums[i ^ 1] += number(stripe + 8 * i);
        sums[i] += (keyed & 0xffffffffU) * (keyed >> 32);
    }
}

/* Mixes whole blocks into the sums, and scrambles them after each. */
static void mix_blocks(uint64_t *sums, const uint8_t *data, size_t blocks) {
    for (; blocks; blocks--, data += PER_BLOCK * STRIPE) {
        for (size_t stripe = 0; stripe < PER_BLOCK; stripe++) mixed(sums, data + stripe * STRIPE, SECRET + 8 * stripe);
        for (size_t i = 0; i < 8; i++)
            sums[i] = (sums[i] ^ (sums[i] >> 47) ^ number(SECRET + 128 + 8 * i)) * PRIME32_1;
    }
}

#ifdef BY_CPU
/* The same, four times as fast: compilers do not find the instruction for products of 32 bits. */
__attribute__((target("avx2"))) static void mix_blocks_by_avx2(uint64_t *sums, const uint8_t *data, size_t blocks) {
    __m256i total[2], prime = _mm256_set1_epi64x(PRIME32_1);
    memcpy(total, sums, sizeof total);
    for (; blocks; blocks--, data += PER_BLOCK * STRIPE) {
        for (size_t stripe = 0; stripe < PER_BLOCK; stripe++)
            for (size_t half = 0; half < 2; half++) {
                const __m256i value = _mm256_loadu_si256((const __m256i *)(data + stripe * STRIPE) + half);
                const __m256i keyed = value ^ _mm256_loadu_si256((const __m256i *)(SECRET + 8 * stripe) + half);
                const __m256i product = _mm256_mul_epu32(keyed, _mm256_srli_epi64(keyed, 32));
                /* 0x4e swaps the two numbers of each pair. */
                const __m256i swapped = _mm256_shuffle_epi32(value, 0x4e);
                total[half] = _mm256_add_epi64(total[half], _mm256_add_epi64(product, swapped));
            }
        for (size_t half = 0; half < 2; half++) {
            const __m256i secret = _mm256_loadu_si256((const __m256i *)(SECRET + 128) + half);
            const __m256i keyed = total[half] ^ _mm256_srli_epi64(total[half], 47) ^ secret;
            const __m256i upper = _mm256_mul_epu32(_mm256_srli_epi64(keyed, 32), prime);
            total[half] = _mm256_add_epi64(_mm256_mul_epu32(keyed, prime), _mm256_slli_epi64(upper, 32));
        }
    }
    memcpy(sums, total, sizeof total);
}
#endif

/* The upper and lower half of a product of 128 bits, xored. */
INLINE uint64_t folded(uint64_t a, uint64_t b) {
    const unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_of(const uint8_t *data, size_t size) {
    uint64_t sums[8] = {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1};
    const size_t blocks = (size - 1) / (PER_BLOCK * STRIPE), stripes = (size - 1) / STRIPE;
#ifdef BY_CPU
    if (__builtin_cpu_supports("avx2")) mix_blocks_by_avx2(sums, data, blocks);
    else
#endif
        mix_blocks(sums, data, blocks);
    for (size_t stripe = blocks * PER_BLOCK; stripe < stripes; stripe++)
        mixed(sums, data + stripe * STRIPE, SECRET + 8 * (stripe % PER_BLOCK));
    /* The last stripe ends with the input, and may overlap the one before. */
    mixed(sums, data + size - STRIPE, SECRET + sizeof SECRET - STRIPE - 7);
    uint64_t hash = size * PRIME64_1;
    for (size_t i = 0; i < 8; i += 2)
        hash += folded(sums[i] ^ number(SECRET + 11 + 8 * i), sums[i + 1] ^ number(SECRET + 19 + 8 * i));
    hash = (hash ^ (hash >> 37)) * 0x165667919E3779F9ULL;
    return hash ^ (hash >> 32);
}

/* Hashes each leaf of `size` bytes; leaves shorter than SHORTEST are left out. */
void hash_leaves(const uint8_t *data, size_t size, uint64_t *leaves) {
    for (size_t start = 0; start < size; start += LEAF) {
        const size_t n = size - start < LEAF ? size - start : LEAF;
        if (n >= SHORTEST) leaves[start / LEAF] = hash_of(data + start, n);
    }
}

/* Contiguous elements, in memory or in a file. kernel.py's _Source has the same layout. */
typedef struct {
    const void *memory;
    uint64_t *leaves; /* where the hashes of what is read from the file go, or NULL */
    int64_t offset; /* bytes before the first element in the file */
    int32_t file; /* a file descriptor; negative if the elements are in memory */
    int32_t dtype;
    int32_t difference; /* whether the base has been subtracted from the elements */
} source;

INLINE size_t width(int32_t dtype) { return dtype == BFLOAT16 ? 2 : 4; }

/* Returns the address of n elements from `start` on: in memory, or in `scratch` after reading them.
 * Returns NULL if reading failed; errno is then the error, or 0 at the end of the file. */
static const void *reached(const source *from, size_t start, size_t n, char *scratch) {
    const size_t bytes = n * width(from->dtype);
    const off_t first = (off_t)(start * width(from->dtype));
    if (from->file < 0) return (const char *)from->memory + first;
    for (size_t done = 0; done < bytes;) {
        const ssize_t count = pread(from->file, scratch + done, bytes - done, (off_t)from->offset + first + (off_t)done);
        if (count > 0) done += (size_t)count;
        else if (count == 0) return errno = 0, NULL;
        else if (errno != EINTR) return NULL;
    }
    /* A slice is whole leaves, so hashing it now takes it from the cache. */
    if (from->leaves) hash_leaves((const uint8_t *)scratch, bytes, from->leaves + first / LEAF);
    return scratch;
}

/* Finds the elements of the base, unless it is NULL, and of all rows. Returns 0, or k + 1 if row k
 * cannot be read, or -1 if the base cannot. */
static int all_reached(const source *base, size_t count, const source *rows, size_t start, size_t n, size_t slice,
                       char *scratch, const void **theta, const void **elements) {
    *theta = base ? reached(base, start, n, scratch) : NULL;
    if (base && !*theta) return -1;
    for (size_t k = 0; k < count; k++) {
        elements[k] = reached(rows + k, start, n, scratch + (k + 1) * slice * sizeof(float));
        if (!elements[k]) return (int)k + 1;
    }
    return 0;
}

/* Whether there are four rows from this one on, of one dtype and all with or without the base. */
INLINE int four_alike(const source *rows, size_t count) {
    if (count < 4) return 0;
    for (size_t k = 1; k < 4; k++)
        if (rows[k].dtype != rows->dtype || !rows[k].difference != !rows->difference) return 0;
    return 1;
}

FOR_EACH_CPU void weighted_sum_of_slice(
    size_t size, const void *base, int32_t base_dtype, size_t count, const source *rows, const void *const *elements,
    const float *omegas, float divisor, float factor, void *out, int32_t out_dtype) {
#define ADD(DTYPE, APART) \
    if (four && k) added_four(elements + k, DTYPE, APART, 0, start, n, theta, omegas + k, total); \
    else if (four) added_four(elements + k, DTYPE, APART, 1, start, n, theta, omegas + k, total); \
    else if (k) added(elements[k], DTYPE, APART, 0, start, n, theta, omegas[k], total); \
    else added(elements[k], DTYPE, APART, 1, start, n, theta, omegas[k], total);
    float theta[RUN], total[RUN];
    for (size_t start = 0; start < size; start += RUN) {
        const size_t n = size - start < RUN ? size - start : RUN;
        for (size_t i = 0; base && i < n; i++) theta[i] = widened(base, base_dtype, start + i);
        for (size_t k = 0, four; k < count; k += four ? 4 : 1) {
            const int apart = base && !rows[k].difference;
            four = (size_t)four_alike(rows + k, count - k);
            if (rows[k].dtype == BFLOAT16) {
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

/* out = base + factor * (sum of omegas[k] * (rows[k] - base)) / divisor, with these exceptions:
 *   - the base is not subtracted from a row that is a difference already;
 *   - without a base (NULL) the rows are weights, and nothing is subtracted or added;
 *   - a divisor or a factor of 1 is not applied.
 * Works on one slice at a time. If the base or a row is in a file, `scratch` holds a slice of floats
 * for the base and for each row; `elements` holds a pointer for each row.
 * Returns 0, or the code of what could not be read: see all_reached.
 */
int weighted_sum(size_t size, const source *base, size_t count, const source *rows, const float *omegas, float divisor,
                 float factor, void *out, int32_t out_dtype, size_t slice, char *scratch, const void **elements) {
    for (size_t start = 0; start < size; start += slice) {
        const size_t n = size - start < slice ? size - start : slice;
        const void *theta;
        const int failed = all_reached(base, count, rows, start, n, slice, scratch, &theta, elements);
        if (failed) return failed;
        weighted_sum_of_slice(n, theta, base ? base->dtype : FLOAT32, count, rows, elements, omegas, divisor, factor,
                              (char *)out + start * width(out_dtype), out_dtype);
    }
    return 0;
}

/* Returns 1 if no element is infinite or NaN: the bits of such an element, without its sign, are at
 * least those of infinity. */
FOR_EACH_CPU int all_finite(size_t size, const void *values, int32_t dtype) {
    if (dtype == FLOAT32) {
        uint32_t most = 0;
        for (size_t i = 0; i < size; i++) {
            const uint32_t bits = ((const uint32_t *)values)[i] & 0x7fffffffu;
            most = bits > most ? bits : most;
        }
        return most < 0x7f800000u;
    }
    uint16_t most = 0;
    for (size_t i = 0; i < size; i++) {
        const uint16_t bits = (uint16_t)(((const uint16_t *)values)[i] & 0x7fffu);
        most = bits > most ? bits : most;
    }
    return most < 0x7f80u;
}

/* delta = the elements of one row in float, less theta if the base is to be subtracted from it. */
INLINE void delta_of(const source *row, const void *elements, int based, size_t start, size_t size,
                     const float *restrict theta, float *restrict delta) {
    const int apart = based && !row->difference;
    if (row->dtype == BFLOAT16) {
        if (apart) added(elements, BFLOAT16, 1, 1, start, size, theta, 1.0f, delta);
        else added(elements, BFLOAT16, 0, 1, start, size, theta, 1.0f, delta);
    } else {
        if (apart) added(elements, FLOAT32, 1, 1, start, size, theta, 1.0f, delta);
        else added(elements, FLOAT32, 0, 1, start, size, theta, 1.0f, delta);
    }
}

typedef float lanes_of_float __attribute__((vector_size(LANES * sizeof(float))));
typedef union { float values[RUN]; lanes_of_float lanes[RUN / LANES]; } run;
typedef double lanes_of_double __attribute__((vector_size(LANES * sizeof(double))));

/* Sums products in a fixed order: in float32 in 4 * LANES sums of RUN / (4 * LANES) products each,
 * then these in LANES sums in double. */
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

/* grams[i * count + j] = grams[j * count + i] = the sum of sums[i][j], for j <= i. */
static void write_symmetric(size_t count, lanes_of_double (*sums)[MOST], double *grams) {
    for (size_t k = 0; k < count; k++)
        for (size_t j = 0; j <= k; j++) grams[j * count + k] = grams[k * count + j] = summed(&sums[k][j]);
}

/* Adds the inner products of one slice. Only the last slice may end with a part of a run, because
 * the rest of that run is filled with zeros. */
FOR_EACH_CPU void inner_products_of_slice(
    size_t size, const void *base, int32_t base_dtype, size_t count, const source *rows, const void *const *elements,
    lanes_of_double (*sums)[MOST], lanes_of_double *squares) {
    run deltas[MOST], theta;
    for (size_t start = 0; start < size; start += RUN) {
        const size_t n = size - start < RUN ? size - start : RUN;
        if (n < RUN) memset(deltas, 0, sizeof deltas), memset(&theta, 0, sizeof theta);
        for (size_t i = 0; i < n; i++) theta.values[i] = widened(base, base_dtype, start + i);
        multiplied(theta.lanes, theta.lanes, squares);
        for (size_t k = 0; k < count; k++) {
            delta_of(rows + k, elements[k], 1, start, n, theta.values, deltas[k].values);
            for (size_t j = 0; j <= k; j++) multiplied(deltas[k].lanes, deltas[j].lanes, &sums[k][j]);
        }
    }
}

/* grams[i * count + j] = inner product of rows[i] - base and rows[j] - base, and *square = inner
 * product of the base with itself. The base is not subtracted from rows that are differences
 * already. There are at most MOST rows. `slice` and `scratch` are as for weighted_sum, and `slice`
 * is a multiple of RUN. Returns 0, or the code of what could not be read: see all_reached.
 */
int inner_products(size_t size, const source *base, size_t count, const source *rows, double *grams, double *square,
                   size_t slice, char *scratch) {
    lanes_of_double sums[MOST][MOST], squares = {0};
    const void *theta, *elements[MOST];
    for (size_t k = 0; k < count; k++) memset(sums[k], 0, (k + 1) * sizeof sums[k][0]);
    for (size_t start = 0; start < size; start += slice) {
        const size_t n = size - start < slice ? size - start : slice;
        const int failed = all_reached(base, count, rows, start, n, slice, scratch, &theta, elements);
        if (failed) return failed;
        inner_products_of_slice(n, theta, base->dtype, count, rows, elements, sums, &squares);
    }
    *square = summed(&squares);
    write_symmetric(count, sums, grams);
    return 0;
}

typedef union { double values[RUN]; lanes_of_double lanes[RUN / LANES]; } wide_run;

/* Sums products in a fixed order, in 2 * LANES sums in double; a product of two floats is exact. */
INLINE void multiplied_exactly(const lanes_of_double *a, const lanes_of_double *b, lanes_of_double *sums) {
    lanes_of_double s0 = a[0] * b[0], s1 = a[1] * b[1];
    for (size_t i = 2; i < RUN / LANES; i += 2) {
        s0 += a[i] * b[i];
        s1 += a[i + 1] * b[i + 1];
    }
    *sums += s0 + s1;
}

FOR_EACH_CPU void exact_products_of_slice(
    size_t size, const void *base, int32_t base_dtype, size_t count, const source *rows, const void *const *elements,
    lanes_of_double (*sums)[MOST]) {
    wide_run deltas[MOST];
    float theta[RUN], delta[RUN];
    for (size_t start = 0; start < size; start += RUN) {
        const size_t n = size - start < RUN ? size - start : RUN;
        for (size_t i = 0; base && i < n; i++) theta[i] = widened(base, base_dtype, start + i);
        for (size_t k = 0; k < count; k++) {
            delta_of(rows + k, elements[k], base != NULL, start, n, theta, delta);
            if (n < RUN) memset(deltas[k].values, 0, sizeof deltas[k].values);
            for (size_t i = 0; i < n; i++) deltas[k].values[i] = delta[i];
            for (size_t j = 0; j <= k; j++) multiplied_exactly(deltas[k].lanes, deltas[j].lanes, &sums[k][j]);
        }
    }
}

/* As inner_products, but every product is exact and summed in double, which takes longer, and there
 * may be no base (NULL): then nothing is subtracted. */
int exact_products(size_t size, const source *base, size_t count, const source *rows, double *grams, size_t slice,
                   char *scratch) {
    lanes_of_double sums[MOST][MOST];
    const void *theta, *elements[MOST];
    for (size_t k = 0; k < count; k++) memset(sums[k], 0, (k + 1) * sizeof sums[k][0]);
    for (size_t start = 0; start < size; start += slice) {
        const size_t n = size - start < slice ? size - start : slice;
        const int failed = all_reached(base, count, rows, start, n, slice, scratch, &theta, elements);
        if (failed) return failed;
        exact_products_of_slice(n, theta, base ? base->dtype : FLOAT32, count, rows, elements, sums);
    }
    write_symmetric(count, sums, grams);
    return 0;
}

FOR_EACH_CPU void exact_sum_of_slice(
    size_t size, const void *base, int32_t base_dtype, size_t count, const source *rows, const void *const *elements,
    const double *factors, void *out, int32_t out_dtype) {
    float theta[RUN], delta[RUN];
    double total[RUN];
    for (size_t start = 0; start < size; start += RUN) {
        const size_t n = size - start < RUN ? size - start : RUN;
        for (size_t i = 0; base && i < n; i++) theta[i] = widened(base, base_dtype, start + i);
        for (size_t k = 0; k < count; k++) {
            const double factor = factors[k];
            delta_of(rows + k, elements[k], base != NULL, start, n, theta, delta);
            if (k) for (size_t i = 0; i < n; i++) total[i] += delta[i] * factor;
            else for (size_t i = 0; i < n; i++) total[i] = delta[i] * factor;
        }
        for (size_t i = 0; i < n; i++) delta[i] = (float)total[i];
        for (size_t i = 0; base && i < n; i++) delta[i] += theta[i];
        if (out_dtype == FLOAT32)
            memcpy((float *)out + start, delta, n * sizeof(float));
        else
            for (size_t i = 0; i < n; i++) ((uint16_t *)out)[start + i] = rounded(delta[i]);
    }
}

/* out = base + sum of factors[k] * (rows[k] - base), the sum in double and rounded to float once, with the
 * exceptions of weighted_sum. `slice`, `scratch` and `elements` are as for weighted_sum, and so is the result. */
int exact_sum(size_t size, const source *base, size_t count, const source *rows, const double *factors, void *out,
              int32_t out_dtype, size_t slice, char *scratch, const void **elements) {
    for (size_t start = 0; start < size; start += slice) {
        const size_t n = size - start < slice ? size - start : slice;
        const void *theta;
        const int failed = all_reached(base, count, rows, start, n, slice, scratch, &theta, elements);
        if (failed) return failed;
        exact_sum_of_slice(n, theta, base ? base->dtype : FLOAT32, count, rows, elements, factors,
                           (char *)out + start * width(out_dtype), out_dtype);
    }
    return 0;
}
