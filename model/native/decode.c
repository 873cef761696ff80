// One step of a GPT on the CPU: the tokens of all running sequences through all layers, in one call.
//
// Weights stay as they are in the file, activations are fp32, or as exact where they meet weights of 4 and 8 bits. A
// matrix is stored by groups of 32 rows, which are lanes of vectors, so that a product never sums across lanes; see
// model/native/weights.py for the layouts. Every number is computed by the same operations in the same order whatever
// else is in the step: a sequence gets the same bits alone, in a batch, in chunks, or as a draft.
// model/native/reference.c defines plainly what is computed here.
//
// In comments: N tokens of all sequences, D = head_dim.

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#ifdef __AVX512VNNI__
#define DIGITS 3  // of 8 bits, in which vectors meet weights of 4 and 8 bits: see `multiply_digits`
#else
#define DIGITS 0
#endif
#define BLOCK 32      // columns that share a scale
#define ROWS 32       // of a matrix that are stored together
#define VECTORS (ROWS / LANES)
#define POSITIONS 16  // of keys and values in a block of the cache
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef float Quad __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef int16_t SignedHalves __attribute__((vector_size(2 * LANES)));

// Loads and stores at any address.
typedef Floats AnyFloats __attribute__((aligned(4), may_alias));
typedef Words AnyWords __attribute__((aligned(4), may_alias));
typedef int32_t AnyInt __attribute__((may_alias));
typedef Bytes AnyBytes __attribute__((aligned(1), may_alias));
typedef Halves AnyHalves __attribute__((aligned(2), may_alias));
typedef SignedHalves AnySignedHalves __attribute__((aligned(2), may_alias));

typedef Floats Column[VECTORS];  // of a group of rows: a number for each

enum Kind { Q4, Q8, F16, BF16, F32 };

typedef struct {
    int32_t kind, n_rows, n_columns;
    const uint8_t *data;
} Matrix;

typedef struct {
    const float *weight, *bias;  // no bias: RMSNorm
} Norm;

typedef struct {
    Matrix weight;
    const float *bias;  // or none
} Linear;

typedef struct {
    Norm ln_1, ln_2, q_norm, k_norm;  // the last two may be none
    Linear c_q, c_k, c_v, c_proj, c_gate, c_up, c_down;  // c_gate may have no data
    int32_t rotates, window;                             // window 0: all positions
} Layer;

typedef struct {
    int32_t vocab_size, n_layer, n_head, n_kv_head, head_dim, n_embd, n_inner, activation;
    float norm_eps, rope_magnitude;
    const float *frequencies;  // (D / 2,)
    Matrix wte, wpe, lm_head;  // wpe may have no data
    Norm ln_f;
    const Layer *layers;
} Model;

typedef struct {
    int32_t n_tokens, start, n_logits;
    const int32_t *block_table;
} Chunk;

typedef struct {
    int32_t is_short;  // 16-bit numbers with scales, else fp32
    uint8_t *data;     // (n_blocks, n_layer, n_kv_head) of what `Head` describes
} Cache;

static int pad(int n) { return (n + BLOCK - 1) / BLOCK * BLOCK; }

// ---------------------------------------------------------------------------------------------------------------
// Numbers

INLINE Floats broadcast(float x) { return x - (Floats){0}; }

INLINE Floats choose(Ints condition, Floats yes, Floats no) {
    return (Floats)((condition & (Ints)yes) | (~condition & (Ints)no));
}

// Keeps a product from being fused with a sum that follows, which compilers do here and not there.
INLINE Floats rounded(Floats x) {
#if defined(__AVX__)
    __asm__("" : "+v"(x));
#elif defined(__aarch64__)
    Quad part[LANES / 4];  // what a register holds
    memcpy(part, &x, sizeof x);
    UNROLL for (int i = 0; i < LANES / 4; i++) __asm__("" : "+w"(part[i]));
    memcpy(&x, part, sizeof x);
#endif
    return x;
}

// fp16, in the upper half of a word, to fp32, exact for finite numbers: the exponent is moved into place, and its bias
// made up by a product.
INLINE Floats from_half(Ints word) { return rounded((Floats)(word >> 3 & (int32_t)0x8fffe000) * 0x1p112f); }

// Asks for data that is read soon.
INLINE void fetch(const uint8_t *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + i);
}

// Likewise, only to the second level: for data that is many steps away.
INLINE void fetch_early(const void *data) { __builtin_prefetch(data, 0, 2); }

// e^x to about 1e-7, as Cephes' expf: 2^n by the exponent, the rest by a polynomial. For x from -87 to 88.
INLINE Floats exponential_within(Floats x) {
    Floats shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the integer lands in the low bits
    Floats n = shifted - 12582912.0f;
    Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats y = broadcast(1.9875691500e-4f);
    y = y * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    return (Floats)((Words)y + ((Words)shifted << 23));  // beyond these x it wraps around
}

// For any x: of those beyond, e^-87 or e^88.
INLINE Floats exponential(Floats x) {
    x = choose(x < -87.0f, broadcast(-87.0f), x);
    return exponential_within(choose(x > 88.0f, broadcast(88.0f), x));
}

// Each lane in the place of the one that is `half` further in its group of 2 `half`, or before.
INLINE Floats swap_halves(Floats v, int half) {
    Floats swapped;
    UNROLL for (int i = 0; i < LANES; i++) swapped[i] = v[i ^ half];
    return swapped;
}

INLINE float sum_lanes(Floats v) {
    UNROLL for (int half = LANES / 2; half; half /= 2) v += swap_halves(v, half);
    return v[0];
}

INLINE int32_t sum_ints(Ints v) {
    UNROLL for (int half = LANES / 2; half; half /= 2) v += (Ints)swap_halves((Floats)v, half);
    return v[0];
}

INLINE Floats larger(Floats a, Floats b) { return choose(a > b, a, b); }

INLINE float max_lanes(Floats v) {
    UNROLL for (int half = LANES / 2; half; half /= 2) v = larger(v, swap_halves(v, half));
    return v[0];
}

// How to round numbers to whole ones of the largest: times `factor` and, to get them back, times `scale`, which is not
// finite if they are not.
typedef struct {
    float factor, scale;
} Rounding;

// Of n numbers, the largest of which becomes `whole`.
INLINE Rounding rounding_of(const float *x, int n, float whole) {
    int32_t bits = 0;
    for (int i = 0; i < n; i++) bits = MAX(bits, ((const AnyInt *)x)[i] & 0x7fffffff);  // NaN counts as the largest
    float largest;
    memcpy(&largest, &bits, sizeof largest);
    int works = largest >= 0x1p-100f && largest < INFINITY;  // smaller ones are nothing: their factor would be infinite
    return (Rounding){works ? whole / largest : 0, works ? largest / whole : largest * 0};
}

// ---------------------------------------------------------------------------------------------------------------
// Threads: each engine has some, which spin between the phases of a step and sleep between steps.

typedef struct {
    int n_threads;
    atomic_int arrived;
    atomic_uint phase;
} Barrier;

INLINE void pause_a_little(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

// Waits until all threads have come here; the last one opens the next phase.
static void wait_for_all(Barrier *barrier) {
    unsigned phase = atomic_load_explicit(&barrier->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) == barrier->n_threads - 1) {
        atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&barrier->phase, phase + 1, memory_order_release);
        return;
    }
    for (int spins = 0; atomic_load_explicit(&barrier->phase, memory_order_acquire) == phase; spins++) {
        if (spins < 4096)
            pause_a_little();
        else
            sched_yield();  // somebody else has our other core
    }
}

// A block of a vector as whole numbers: x = unit * (65536 digits[0] + 256 digits[1] + digits[2]), to 24 bits.
typedef struct {
    int8_t digits[3][BLOCK];
    float unit;
    int32_t upper, lowest;  // 128 times the sums of 256 digits[0] + digits[1], and of digits[2]
} Digits;

// The vectors that matrices are multiplied with, laid out for that: by blocks of 32 numbers, the same blocks of all
// vectors together.
typedef struct {
    float *plain;    // (n_columns / 32, n, 32)
    float *scaled;   // the same with NIBBLE_SCALE; or, where there are DIGITS:
    Digits *digits;  // (n_columns / 32, n)
    float *sums;     // (n_columns / 32, n) of each block
} Input;

typedef struct {
    const Model *model;
    const Cache *cache;
    int n_threads, n_started;  // the caller's thread is the first
    Barrier barrier;
    pthread_t *threads;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    atomic_uint n_steps;
    int closing;
    // The step
    int n_tokens, n_chunks, n_logits;
    const int32_t *token_ids;
    const Chunk *chunks;
    float *logits;
    // Room for a step: grown when one needs more
    int room_tokens, room_parts;
    int *position, *chunk_of;      // (N,)
    float *x;                      // (N, n_embd) the residual stream
    float *q, *k, *v, *y;          // (N, …) each padded to whole groups
    float *gate, *up;              // (n_inner / 32, N, 32)
    float *rotation;               // (N, 2, D / 2) cosines and sines
    Input input, hidden;           // what products read: normed vectors or attention's, and the middle of the MLP
    float *parts;                  // (N, n_head, n_parts, 2 + width) of attention: see attend
    int n_parts;
    Column *totals;                // (n_threads, N) of a group of rows
    // Per thread
    float **scores;   // (QUERIES, PART)
} Engine;

// The share of thread `thread` in `count` units of work: from `*first` on, before `*end`.
INLINE void share(const Engine *engine, int thread, int count, int *first, int *end) {
    *first = (int)((int64_t)count * thread / engine->n_threads);
    *end = (int)((int64_t)count * (thread + 1) / engine->n_threads);
}

// ---------------------------------------------------------------------------------------------------------------
// Products of a matrix and N vectors

// What lets a nibble be converted where it stands in its word, as 16^place times its value; the last is shifted down,
// for its sign's sake. The places of eight columns are 0, 2, 4, 6, 1, 3, 5, 7.
#define EIGHT 1, 0x1p-8f, 0x1p-16f, 0x1p-24f, 0x1p-4f, 0x1p-12f, 0x1p-20f, 1
#if LANES == 16
static const Floats NIBBLE_SCALE = {EIGHT, EIGHT};
#else
static const Floats NIBBLE_SCALE = {EIGHT};
#endif

#define LARGEST_DIGITS 0x7f0000  // leaves room for rounding

// Finds the digits of a block, for vectors that meet weights of 4 and 8 bits.
static void find_digits(const float *block, Digits *found) {
    Rounding rounding = rounding_of(block, BLOCK, LARGEST_DIGITS);
    Ints upper = {0}, lowest = {0};
    UNROLL for (int c = 0; c < BLOCK; c += LANES) {
        Floats x = *(const AnyFloats *)(block + c), half = (Floats)(((Ints)x & INT32_MIN) | (Ints)broadcast(0.5f));
        Ints whole = {0};
        if (rounding.factor) whole = __builtin_convertvector(x * rounding.factor + half, Ints);
        Ints last = whole << 24 >> 24, rest = (whole - last) >> 8, middle = rest << 24 >> 24;
        *(AnyBytes *)(found->digits[0] + c) = __builtin_convertvector((rest - middle) >> 8, Bytes);
        *(AnyBytes *)(found->digits[1] + c) = __builtin_convertvector(middle, Bytes);
        *(AnyBytes *)(found->digits[2] + c) = __builtin_convertvector(last, Bytes);
        upper += rest, lowest += last;
    }
    found->unit = rounding.scale;
    found->upper = 128 * sum_ints(upper), found->lowest = 128 * sum_ints(lowest);
}

// Lays out block b of vector t of n.
INLINE void prepare_block(const float *block, int t, int n, int b, const Input *input) {
    size_t at = (size_t)b * n + t;
    Floats sum = {0};
    UNROLL for (int c = 0; c < BLOCK; c += LANES) {
        Floats part = *(const AnyFloats *)(block + c);
        *(AnyFloats *)(input->plain + at * BLOCK + c) = part;
        if (!DIGITS) *(AnyFloats *)(input->scaled + at * BLOCK + c) = part * NIBBLE_SCALE;
        sum += part;
    }
    input->sums[at] = sum_lanes(sum);
    if (DIGITS) find_digits(block, input->digits + at);
}

// Lays out vector t of n, of so many columns.
static void prepare(const float *x, int t, int n, int n_columns, const Input *input) {
    int b = 0;
    for (; (b + 1) * BLOCK <= n_columns; b++) prepare_block(x + b * BLOCK, t, n, b, input);
    if (b * BLOCK < n_columns) {
        float last[BLOCK] = {0};
        memcpy(last, x + b * BLOCK, (n_columns - b * BLOCK) * sizeof(float));
        prepare_block(last, t, n, b, input);
    }
}

// Where products go: row 32 g + r of vector t to data[g * group + t * vector + r].
typedef struct {
    float *data;
    size_t group, vector;
} Output;

static Output by_vectors(float *data, size_t stride) { return (Output){data, ROWS, stride}; }
static Output by_groups(float *data, int n) { return (Output){data, (size_t)n * ROWS, ROWS}; }

INLINE size_t block_bytes(int kind) {
    switch (kind) {
        case Q4: return 20 * ROWS;
        case Q8: return 34 * ROWS;
        case F32: return 128 * ROWS;
        default: return 64 * ROWS;
    }
}

// Column 8j + i of a block as numbers of LANES rows, its v-th vector of them: weights without their scales.
INLINE Floats widen(int kind, const uint8_t *block, int v, int j, int i) {
    const AnyWords *words = (const AnyWords *)block + v;
    if (kind == Q4) {
        Words nibble = words[j * VECTORS];
        nibble = i < 7 ? (Words)(nibble & (15u << 4 * (i < 4 ? 2 * i : 2 * i - 7))) : (Words)(nibble >> 28);
        return __builtin_convertvector((Ints)nibble, Floats);
    }
    if (kind == Q8) {
        Words word = words[(2 * j + i / 4) * VECTORS];
        return __builtin_convertvector((Ints)(word << (24 - 8 * (i % 4))) >> 24, Floats);
    }
    int at = (8 * j + i) * VECTORS + v;
    if (kind == F16) return from_half(__builtin_convertvector(((const AnySignedHalves *)block)[at], Ints) << 16);
    if (kind == BF16) return (Floats)(__builtin_convertvector(((const AnyHalves *)block)[at], Words) << 16);
    return ((const AnyFloats *)block)[at];
}

// A weight is scale · number + minimum.
typedef struct {
    Floats scale, minimum;
} Scales;

INLINE Scales scales_of(int kind, const uint8_t *block, int v) {
    Scales scales = {broadcast(1), broadcast(0)};
    if (kind == Q4) {  // two fp16 in a word
        Ints word = (Ints)((const AnyWords *)(block + 16 * ROWS))[v];
        scales = (Scales){from_half(word << 16), from_half(word)};
    }
    if (kind == Q8)
        scales.scale =
            from_half(__builtin_convertvector(((const AnySignedHalves *)(block + 32 * ROWS))[v], Ints) << 16);
    return scales;
}

// A block's part of a product: its numbers times x are summed first, from zero, and scaled then.
INLINE Floats add_block(Floats total, Scales scales, Floats sum, float sum_of_x) {
    total += scales.scale * sum;
    return total + scales.minimum * sum_of_x;
}

#define AHEAD 8  // blocks of a matrix that are fetched before they are read
#define FEW 8    // vectors whose sums stay in registers beside the numbers that are widened there

// A group of rows with n vectors; x as the kind wants it, plain or scaled; a block of it has n_all vectors.
INLINE void multiply_few(int kind, int n, int n_all, const uint8_t *block, int n_blocks, const float *x,
                         const float *sums_of_x, float *out, size_t stride) {
    Floats total[FEW][VECTORS] = {0};
    for (int b = 0; b < n_blocks; b++, block += block_bytes(kind), x += n_all * BLOCK, sums_of_x += n_all) {
        fetch(block + AHEAD * block_bytes(kind), block_bytes(kind));
        Floats sum[FEW][VECTORS] = {0};
        for (int j = 0; j < BLOCK / 8; j++)
            UNROLL for (int i = 0; i < 8; i++) UNROLL for (int v = 0; v < VECTORS; v++) {
                Floats number = widen(kind, block, v, j, i);
                UNROLL for (int t = 0; t < n; t++) sum[t][v] += number * x[t * BLOCK + 8 * j + i];
            }
        UNROLL for (int v = 0; v < VECTORS; v++) {
            Scales scales = scales_of(kind, block, v);
            UNROLL for (int t = 0; t < n; t++) total[t][v] = add_block(total[t][v], scales, sum[t][v], sums_of_x[t]);
        }
    }
    UNROLL for (int t = 0; t < n; t++) memcpy(out + t * stride, total[t], sizeof total[t]);
}

#define MANY 24                     // more vectors have a group widened once for all
#define PANEL 3                     // blocks of a group that are widened at a time, into the first-level cache
#define TILE (LANES == 16 ? 6 : 3)  // vectors whose sums and totals fit into the registers

typedef struct {
    Column columns[BLOCK];
    Scales scales[VECTORS];
} Widened;

INLINE void widen_panel(int kind, const uint8_t *block, int n_blocks, Widened *widened) {
    for (int b = 0; b < n_blocks; b++, block += block_bytes(kind), widened++)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            for (int j = 0; j < BLOCK / 8; j++)
                UNROLL for (int i = 0; i < 8; i++) widened->columns[8 * j + i][v] = widen(kind, block, v, j, i);
            widened->scales[v] = scales_of(kind, block, v);
        }
}

// A panel with n vectors, added to their totals; of x, a block has n_all.
INLINE void multiply_tile(int n, const Widened *widened, int n_blocks, const float *x, const float *sums_of_x,
                          int n_all, Column *totals) {
    Floats total[TILE][VECTORS];
    UNROLL for (int t = 0; t < n; t++) UNROLL for (int v = 0; v < VECTORS; v++) total[t][v] = totals[t][v];
    for (int b = 0; b < n_blocks; b++, widened++, x += n_all * BLOCK, sums_of_x += n_all) {
        Floats sum[TILE][VECTORS] = {0};
        for (int j = 0; j < BLOCK; j += 8)
            UNROLL for (int i = 0; i < 8; i++) UNROLL for (int t = 0; t < n; t++) {
                Floats number = broadcast(x[t * BLOCK + j + i]);
                UNROLL for (int v = 0; v < VECTORS; v++) sum[t][v] += widened->columns[j + i][v] * number;
            }
        UNROLL for (int t = 0; t < n; t++) UNROLL for (int v = 0; v < VECTORS; v++)
            total[t][v] = add_block(total[t][v], widened->scales[v], sum[t][v], sums_of_x[t]);
    }
    UNROLL for (int t = 0; t < n; t++) UNROLL for (int v = 0; v < VECTORS; v++) totals[t][v] = total[t][v];
}

static void multiply_panel(int n, const Widened *w, int n_blocks, const float *x, const float *sums_of_x,
                           Column *totals) {
    for (int t = 0; t < n;) {
        int tile = MIN(TILE, n - t);
        const float *x_t = x + t * BLOCK, *sums_t = sums_of_x + t;
        switch (tile) {
            case 1: multiply_tile(1, w, n_blocks, x_t, sums_t, n, totals + t); break;
            case 2: multiply_tile(2, w, n_blocks, x_t, sums_t, n, totals + t); break;
#if LANES == 16
            case 3: multiply_tile(3, w, n_blocks, x_t, sums_t, n, totals + t); break;
            case 4: multiply_tile(4, w, n_blocks, x_t, sums_t, n, totals + t); break;
            case 5: multiply_tile(5, w, n_blocks, x_t, sums_t, n, totals + t); break;
#endif
            default: multiply_tile(TILE, w, n_blocks, x_t, sums_t, n, totals + t);
        }
        t += tile;
    }
}

// A word's four bytes, unsigned, times four digits, added to a sum.
INLINE Ints add_products(Ints sum, Words bytes, const int8_t *digits) {
#if DIGITS
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(bytes), "m"(*(const AnyInt *)digits));
#else
    (void)bytes, (void)digits;  // nobody calls it
#endif
    return sum;
}

// The bytes of a block, its v-th vector of rows, as `digits` go with them; those of 8 bits are 128 too large.
INLINE void take_bytes(int kind, const uint8_t *block, int v, Words bytes[BLOCK / 4]) {
    const AnyWords *words = (const AnyWords *)block + v;
    UNROLL for (int j = 0; j < BLOCK / 8; j++) {
        Words first = words[(kind == Q4 ? j : 2 * j) * VECTORS], second = words[(kind == Q4 ? j : 2 * j + 1) * VECTORS];
        bytes[2 * j] = kind == Q4 ? first & 0x0f0f0f0f : first ^ 0x80808080;
        bytes[2 * j + 1] = kind == Q4 ? second >> 4 & 0x0f0f0f0f : second ^ 0x80808080;
    }
}

// A group of rows with n vectors, in whole numbers: 64 products in an instruction, three times for the digits, where
// fp32 has 16. The sums over a block are exact; what is rounded are the numbers of the vectors, to 24 bits, and the
// sums when they become fp32.
INLINE void multiply_digits(int kind, int n, const uint8_t *block, int n_blocks, const Digits *x,
                            const float *sums_of_x, Column *totals) {
    memset(totals, 0, n * sizeof *totals);
    for (int b = 0; b < n_blocks; b++, block += block_bytes(kind), x += n, sums_of_x += n) {
        fetch(block + AHEAD * block_bytes(kind), block_bytes(kind));
        UNROLL for (int v = 0; v < VECTORS; v++) {
            Words bytes[BLOCK / 4];
            take_bytes(kind, block, v, bytes);
            Scales scales = scales_of(kind, block, v);
            for (int t = 0; t < n; t++) {
                Ints part[3] = {0};  // sums that do not wait for each other
                UNROLL for (int i = 0; i < 3; i++) UNROLL for (int j = 0; j < BLOCK / 4; j++)
                    part[i] = add_products(part[i], bytes[j], x[t].digits[i] + 4 * j);
                Ints upper = (part[0] << 8) + part[1], lowest = part[2];
                if (kind == Q8) upper -= x[t].upper, lowest -= x[t].lowest;
                Floats sum = __builtin_convertvector(upper, Floats) * 256.0f + __builtin_convertvector(lowest, Floats);
                totals[t][v] = add_block(totals[t][v], scales, sum * x[t].unit, sums_of_x[t]);
            }
        }
    }
}

// A group of rows with many vectors: each panel is widened once for all of them.
INLINE void multiply_many(int kind, int n, const uint8_t *data, int n_blocks, const float *x, const float *sums_of_x,
                          Column *totals) {
    Widened widened[PANEL];
    memset(totals, 0, n * sizeof *totals);
    for (int b = 0; b < n_blocks; b += PANEL) {
        int n_panel = MIN(PANEL, n_blocks - b);
        widen_panel(kind, data + b * block_bytes(kind), n_panel, widened);
        fetch(data + (b + n_panel) * block_bytes(kind), PANEL * block_bytes(kind));  // meanwhile
        multiply_panel(n, widened, n_panel, x + (size_t)b * n * BLOCK, sums_of_x + (size_t)b * n, totals);
    }
}

INLINE void multiply_up_to_eight(int kind, int n, int n_all, const uint8_t *data, int n_blocks, const float *x,
                                 const float *sums, float *rows, size_t stride) {
    switch (n) {
        case 1: multiply_few(kind, 1, n_all, data, n_blocks, x, sums, rows, stride); break;
        case 2: multiply_few(kind, 2, n_all, data, n_blocks, x, sums, rows, stride); break;
        case 3: multiply_few(kind, 3, n_all, data, n_blocks, x, sums, rows, stride); break;
        case 4: multiply_few(kind, 4, n_all, data, n_blocks, x, sums, rows, stride); break;
        case 5: multiply_few(kind, 5, n_all, data, n_blocks, x, sums, rows, stride); break;
        case 6: multiply_few(kind, 6, n_all, data, n_blocks, x, sums, rows, stride); break;
        case 7: multiply_few(kind, 7, n_all, data, n_blocks, x, sums, rows, stride); break;
        default: multiply_few(kind, FEW, n_all, data, n_blocks, x, sums, rows, stride);
    }
}

INLINE void multiply_kind(int kind, const Matrix *w, int first, int end, const Input *input, int n, Output out,
                          Column *totals) {
    int n_blocks = pad(w->n_columns) / BLOCK;
    const float *x = kind == Q4 ? input->scaled : input->plain, *sums = input->sums;
    for (int group = first; group < end; group++) {
        const uint8_t *data = w->data + block_bytes(kind) * n_blocks * group;
        float *rows = out.data + group * out.group;
        if (DIGITS && (kind == Q4 || kind == Q8)) {
            multiply_digits(kind, n, data, n_blocks, input->digits, sums, totals);
            for (int t = 0; t < n; t++) memcpy(rows + t * out.vector, totals[t], sizeof(Column));
        } else if (n <= MANY) {
            for (int t = 0; t < n; t += FEW)
                multiply_up_to_eight(kind, MIN(FEW, n - t), n, data, n_blocks, x + t * BLOCK, sums + t,
                                     rows + t * out.vector, out.vector);
        } else {
            multiply_many(kind, n, data, n_blocks, x, sums, totals);
            for (int t = 0; t < n; t++) memcpy(rows + t * out.vector, totals[t], sizeof(Column));
        }
    }
}

// Rows of w · x for groups [first, end) of rows, and the n vectors that `prepare` has laid out.
static void multiply(const Matrix *w, int first, int end, const Input *x, int n, Output out, Column *totals) {
    switch (w->kind) {
        case Q4: multiply_kind(Q4, w, first, end, x, n, out, totals); break;
        case Q8: multiply_kind(Q8, w, first, end, x, n, out, totals); break;
        case F16: multiply_kind(F16, w, first, end, x, n, out, totals); break;
        case BF16: multiply_kind(BF16, w, first, end, x, n, out, totals); break;
        default: multiply_kind(F32, w, first, end, x, n, out, totals);
    }
}

// Rows of a linear layer, w · x + bias, for groups [first, end) of rows.
static void linear(const Engine *engine, const Linear *layer, int first, int end, const Input *x, int n, Output out,
                   int thread) {
    multiply(&layer->weight, first, end, x, n, out, engine->totals + (size_t)thread * engine->room_tokens);
    if (!layer->bias) return;
    for (int group = first; group < end; group++)
        for (int t = 0; t < n; t++) {
            float *rows = out.data + group * out.group + t * out.vector;
            int n_rows = MIN(ROWS, layer->weight.n_rows - group * ROWS);
            for (int r = 0; r < n_rows; r++) rows[r] += layer->bias[group * ROWS + r];
        }
}

// ---------------------------------------------------------------------------------------------------------------
// Norms, positions, activations

// Sum of (x[i] - mean)^power, power 1 or 2.
static float sum_of(const float *x, int n, float mean, int power) {
    Floats sums = {0};
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        Floats difference = *(const AnyFloats *)(x + i) - mean;
        sums += power == 2 ? difference * difference : difference;
    }
    float sum = sum_lanes(sums);
    for (; i < n; i++) sum += power == 2 ? (x[i] - mean) * (x[i] - mean) : x[i] - mean;
    return sum;
}

static void norm(const Norm *norm, float eps, const float *x, int n, float *out) {
    float mean = norm->bias ? sum_of(x, n, 0, 1) / n : 0;
    float scale = 1 / sqrtf(sum_of(x, n, mean, 2) / n + eps);
    for (int i = 0; i < n; i++) out[i] = (x[i] - mean) * scale * norm->weight[i];
    if (norm->bias)
        for (int i = 0; i < n; i++) out[i] += norm->bias[i];
}

// Pair j of a head, its elements j and j + D / 2, is turned.
static void rotate(float *head, const float *rotation, int half) {
    for (int j = 0; j < half; j++) {
        float first = head[j], second = head[half + j], cosine = rotation[j], sine = rotation[half + j];
        head[j] = first * cosine - second * sine;
        head[half + j] = second * cosine + first * sine;
    }
}

enum Activation { SILU, GELU, GELU_TANH };

static float gelu(float x) { return 0.5f * x * (1 + erff(x * 0.70710678f)); }

// x[0..n) becomes its activation; n is a multiple of LANES.
static void activate(int activation, float *x, size_t n) {
    for (size_t i = 0; i < n; i += LANES) {
        AnyFloats *v = (AnyFloats *)(x + i);
        if (activation == GELU)
            for (int j = 0; j < LANES; j++) x[i + j] = gelu(x[i + j]);
        else if (activation == SILU)
            *v = *v / (1.0f + exponential(-*v));
        else  // x (1 + tanh(z)) / 2 = x / (1 + e^-2z)
            *v = *v / (1.0f + exponential(-1.5957691216f * (*v + 0.044715f * *v * *v * *v)));
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Keys and values

#define PART 256  // positions: see below
#define BLOCKS (PART / POSITIONS)

// The keys and values of one head at the positions of one block: keys (D, POSITIONS), then values (POSITIONS, width),
// both followed by a scale for each position if they are 16-bit. Numbers of 16 bits stand in pairs, as `load_keys` and
// `load_values` read them. Those of BLOCKS blocks, most often of one part of a context, lie one after the other.
typedef struct {
    uint8_t *keys, *values;
    float *key_scales, *value_scales;
} Head;

static int width_of(const Model *model) { return (model->head_dim + 2 * LANES - 1) / (2 * LANES) * 2 * LANES; }

static size_t head_bytes(const Model *model, int is_short) {
    size_t n = POSITIONS * (model->head_dim + width_of(model));
    return is_short ? 2 * n + 2 * POSITIONS * sizeof(float) : n * sizeof(float);
}

INLINE Head head_at(const Engine *engine, int is_short, int layer, int block, int head) {
    const Model *model = engine->model;
    size_t item = is_short ? 2 : 4, at = ((size_t)block / BLOCKS * model->n_layer + layer) * model->n_kv_head + head;
    uint8_t *keys = engine->cache->data + (at * BLOCKS + block % BLOCKS) * head_bytes(model, is_short);
    float *key_scales = (float *)(keys + item * POSITIONS * model->head_dim);
    uint8_t *values = (uint8_t *)(key_scales + (is_short ? POSITIONS : 0));
    return (Head){keys, values, key_scales, (float *)(values + item * POSITIONS * width_of(model))};
}

static int16_t shorten(float x, Rounding rounding) {
    return rounding.factor ? (int16_t)lrintf(x * rounding.factor) : 0;
}

// Writes the key and the value of token t into its block.
static void append(Engine *engine, int layer, int t, int head_index) {
    const Model *model = engine->model;
    int D = model->head_dim, width = width_of(model), is_short = engine->cache->is_short;
    int position = engine->position[t];
    int block = engine->chunks[engine->chunk_of[t]].block_table[position / POSITIONS], slot = position % POSITIONS;
    size_t row = (size_t)t * pad(model->n_kv_head * D) + head_index * D;
    Head head = head_at(engine, is_short, layer, block, head_index);
    if (is_short) {
        const float *k = engine->k + row, *v = engine->v + row;
        Rounding key = rounding_of(k, D, 32767), value = rounding_of(v, D, 32767);
        head.key_scales[slot] = key.scale, head.value_scales[slot] = value.scale;
        for (int d = 0; d < D; d++)
            ((int16_t *)head.keys)[2 * (d / 2 * POSITIONS + slot) + d % 2] = shorten(k[d], key);
        for (int d = 0; d < D; d++) {  // d and d + LANES of each 2 LANES share a word
            int word = d / (2 * LANES) * LANES + d % LANES, upper = d / LANES % 2;
            ((int16_t *)head.values)[slot * width + 2 * word + upper] = shorten(v[d], value);
        }
    } else {
        for (int d = 0; d < D; d++) ((float *)head.keys)[d * POSITIONS + slot] = engine->k[row + d];
        memcpy((float *)head.values + slot * width, engine->v + row, D * sizeof(float));
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Attention, by parts of the context whose bounds are the same for everybody (after Flash-Decoding, Dao et al. 2023):
// each gives the largest score, the sum of e^(score - largest), and the values weighted so; `combine` joins them.

#define AT_ONCE 6   // queries whose sums fit into the registers
#define QUERIES 12  // that look at a block together: tokens that follow each other, heads that share keys
#define COLUMNS (LANES == 16 ? 4 : 2)  // vectors of them, at once
#define CHAINS (LANES == 16 ? 4 : 2)   // of additions, which do not wait for each other

typedef struct {
    Floats first, second;
} Two;

INLINE Floats load(const uint8_t *numbers, size_t at) { return *(const AnyFloats *)((const float *)numbers + at); }

#define SHORT_SCALE 0x1p-16f  // of what `load_words` gives: numbers stay in the upper halves of their words

// Two vectors of 16-bit numbers that share words: the first is in the lower halves.
INLINE Two load_words(const uint8_t *words, size_t at) {
    Words word = *(const AnyWords *)((const uint32_t *)words + at);
    Ints first = (Ints)(word << 16), second = (Ints)(word & 0xffff0000);
    return (Two){__builtin_convertvector(first, Floats), __builtin_convertvector(second, Floats)};
}

// Elements d and d + 1 of the keys from position p on.
INLINE Two load_keys(int is_short, Head head, int d, int p) {
    if (is_short) return load_words(head.keys, d / 2 * POSITIONS + p);
    return (Two){load(head.keys, d * POSITIONS + p), load(head.keys, (d + 1) * POSITIONS + p)};
}

// Columns of values from number `at` on, and LANES further.
INLINE Two load_values(int is_short, Head head, int at) {
    if (is_short) return load_words(head.values, at / 2);
    return (Two){load(head.values, at), load(head.values, at + LANES)};
}

// Scores of n queries at the positions of one block. What lies `ahead` is fetched on the way, of 16-bit numbers a line
// for each line that is read, so that nobody waits for the memory.
INLINE void score_block(int is_short, int n, Head head, int D, float *const *q, float scale, float *scores,
                        const uint8_t *ahead) {
    for (int p = 0; p < POSITIONS; p += LANES) {
        Floats sum[AT_ONCE][CHAINS] = {0}, factor = broadcast(scale);
        for (int first = 0; first < D; first += CHAINS)
            UNROLL for (int j = 0; j < CHAINS; j += 2) {
                int d = first + j;
                Two keys = load_keys(is_short, head, d, p);
                fetch_early(ahead + (is_short ? 2 : 4) * POSITIONS * d);
                UNROLL for (int i = 0; i < n; i++) sum[i][j] += keys.first * q[i][d];
                UNROLL for (int i = 0; i < n; i++) sum[i][j + 1] += keys.second * q[i][d + 1];
            }
        if (is_short) factor *= SHORT_SCALE * *(const AnyFloats *)(head.key_scales + p);
        UNROLL for (int i = 0; i < n; i++) {
            UNROLL for (int j = 1; j < CHAINS; j++) sum[i][0] += sum[i][j];
            *(AnyFloats *)(scores + i * PART + p) = sum[i][0] * factor;
        }
    }
}

// Turns the scores of n queries, whole vectors of them, into weights e^(score - largest); the largest score and the sum
// of the weights go into their parts.
INLINE void weigh(int n, float *scores, int n_scores, float *const *part) {
    Floats largest[AT_ONCE], sum[AT_ONCE] = {0};
    float maximum[AT_ONCE];
    UNROLL for (int i = 0; i < n; i++) largest[i] = broadcast(-INFINITY);
    for (int p = 0; p < n_scores; p += LANES)
        UNROLL for (int i = 0; i < n; i++) largest[i] = larger(*(AnyFloats *)(scores + i * PART + p), largest[i]);
    UNROLL for (int i = 0; i < n; i++) maximum[i] = max_lanes(largest[i]);
    for (int p = 0; p < n_scores; p += LANES)
        UNROLL for (int i = 0; i < n; i++) {
            AnyFloats *score = (AnyFloats *)(scores + i * PART + p);
            Floats x = *score - maximum[i];
            *score = choose(x <= -87.0f, broadcast(0), exponential_within(x));  // NaN stays
            sum[i] += *score;
        }
    UNROLL for (int i = 0; i < n; i++) part[i][0] = maximum[i], part[i][1] = sum_lanes(sum[i]);
}

// Adds the values at positions [first, end) of a part, weighted for n queries, to some columns of out.
INLINE void add_columns(int is_short, int n, int columns, const Head *heads, int column, int width, int first, int end,
                        const float *weights, float *const *out, const Head *ahead) {
    Floats total[AT_ONCE][COLUMNS];
    UNROLL for (int i = 0; i < n; i++) UNROLL for (int c = 0; c < columns; c++)
        total[i][c] = *(const AnyFloats *)(out[i] + column + c * LANES);
    for (int p = first; p < end;) {
        const Head head = heads[p / POSITIONS];
        const uint8_t *keys = ahead[p / POSITIONS].keys;
        for (int block_end = MIN(end, (p / POSITIONS + 1) * POSITIONS); p < block_end; p++)
            UNROLL for (int c = 0; c < columns; c += 2) {
                int at = p % POSITIONS * width + column + c * LANES;
                Two value = load_values(is_short, head, at);
                fetch_early(keys + (is_short ? 2 : 4) * at);
                UNROLL for (int i = 0; i < n; i++) {
                    total[i][c] += value.first * weights[i * PART + p];
                    total[i][c + 1] += value.second * weights[i * PART + p];
                }
            }
    }
    UNROLL for (int i = 0; i < n; i++) UNROLL for (int c = 0; c < columns; c++)
        *(AnyFloats *)(out[i] + column + c * LANES) = total[i][c];
}

INLINE void add_values(int is_short, int n, const Head *heads, int width, int first, int end, const float *weights,
                       float *const *out, const Head *ahead) {
    int column = first < end ? 0 : width;
    for (; column + COLUMNS * LANES <= width; column += COLUMNS * LANES)
        add_columns(is_short, n, COLUMNS, heads, column, width, first, end, weights, out, ahead);
    for (; column < width; column += 2 * LANES)
        add_columns(is_short, n, 2, heads, column, width, first, end, weights, out, ahead);
}

// Calls a function of 1 to AT_ONCE queries for all of n, some at a time.
#define FOR_QUERIES(n, i, CALL)                        \
    for (int i = 0; i < n;) switch (n - i) {           \
        case 1: CALL(1); i += 1; break;                \
        case 2: CALL(2); i += 2; break;                \
        case 3: CALL(3); i += 3; break;                \
        case 4: case 5: CALL(4); i += 4; break;        \
        default: CALL(AT_ONCE); i += AT_ONCE;          \
    }

// What looks at a part; positions count from its first one.
typedef struct {
    int n, first, end;                   // queries; what any of them sees
    int first_common, end_common;        // what all of them see, if there is such
    int from[QUERIES], end_of[QUERIES];  // what each of them sees
    float *q[QUERIES], *part[QUERIES];
} Queries;

// Gives what a query may not look at the lowest score; n_scores of whole blocks.
static void hide(const Queries *queries, int i, float *scores, int first, int n_scores) {
    for (int p = first; p < queries->from[i]; p++) scores[p] = -INFINITY;
    for (int p = MAX(first, queries->end_of[i]); p < first + n_scores; p++) scores[p] = -INFINITY;
}

// Adds the values to what the queries gather, in the order of positions: together those that all of them see, and one
// by one the others, since what a query may not see need not even be finite.
INLINE void add_part(int is_short, const Head *heads, int width, const Queries *queries, const float *weights,
                     float *const *out, const Head *ahead) {
    int n = queries->n, first = queries->first_common, end = MAX(first, queries->end_common);
    for (int i = 0; i < n; i++)
        add_values(is_short, 1, heads, width, queries->from[i], MIN(queries->end_of[i], first), weights + i * PART,
                   out + i, ahead);
#define ADD(m) add_values(is_short, m, heads, width, first, end, weights + i * PART, out + i, ahead)
    FOR_QUERIES(n, i, ADD)
    for (int i = 0; i < n; i++)
        add_values(is_short, 1, heads, width, MAX(queries->from[i], end), queries->end_of[i], weights + i * PART,
                   out + i, ahead);
}

typedef struct {
    int first_token, n_tokens, head, part, end_part;  // tokens of one chunk, a head of keys
} Item;

// Finds what an item reads, block by block; the last one stands for those beyond.
INLINE void find_heads(const Engine *engine, int is_short, int layer, const Item *item, Head *heads) {
    const int32_t *block_table = engine->chunks[engine->chunk_of[item->first_token]].block_table;
    int last = engine->position[item->first_token + item->n_tokens - 1] / POSITIONS;
    for (int b = 0; b < BLOCKS; b++)
        heads[b] = head_at(engine, is_short, layer, block_table[MIN(item->part * BLOCKS + b, last)], item->head);
}

// While keys are read, the values of the same positions are fetched, and with the values the keys of the next item.
INLINE void attend(const Engine *engine, int is_short, int layer, const Item *item, const Item *next,
                   const Queries *queries, float *scores) {
    int D = engine->model->head_dim, width = width_of(engine->model), n = queries->n;
    int first_block = queries->first / POSITIONS, end_block = (queries->end + POSITIONS - 1) / POSITIONS;
    int first = first_block * POSITIONS, n_scores = end_block * POSITIONS - first;
    float scale = 1 / sqrtf(D), *out[QUERIES];
    Head heads[BLOCKS], ahead[BLOCKS];
    find_heads(engine, is_short, layer, item, heads), find_heads(engine, is_short, layer, next, ahead);
    for (int b = first_block; b < end_block; b++) {
        float *block_scores = scores + b * POSITIONS;
        fetch_early(heads[b].value_scales);
#define SCORE(m) score_block(is_short, m, heads[b], D, queries->q + i, scale, block_scores + i * PART, heads[b].values)
        FOR_QUERIES(n, i, SCORE)
    }
    for (int i = 0; i < n; i++) hide(queries, i, scores + i * PART, first, n_scores);
#define WEIGH(m) weigh(m, scores + i * PART + first, n_scores, queries->part + i)
    FOR_QUERIES(n, i, WEIGH)
    for (int b = first_block; is_short && b < end_block; b++) {
        fetch_early(ahead[b].key_scales);
        for (int i = 0; i < n; i++)
            for (int p = 0; p < POSITIONS; p += LANES)
                *(AnyFloats *)(scores + i * PART + b * POSITIONS + p) *=
                    SHORT_SCALE * *(const AnyFloats *)(heads[b].value_scales + p);
    }
    for (int i = 0; i < n; i++) out[i] = memset(queries->part[i] + 2, 0, width * sizeof(float));
    add_part(is_short, heads, width, queries, scores, out, ahead);
}

static float *part_of(const Engine *engine, int t, int head, int part) {
    size_t row = ((size_t)t * engine->model->n_head + head) * engine->n_parts + part;
    return engine->parts + row * (2 + width_of(engine->model));
}

static void attend_item(Engine *engine, int layer, const Item *item, const Item *next, int thread) {
    const Model *model = engine->model;
    int n_rep = model->n_head / model->n_kv_head, window = model->layers[layer].window, D = model->head_dim;
    int base = item->part * PART;
    for (int rep = 0; rep < n_rep; rep += QUERIES) {  // more heads than rows share keys: rarely
        Queries queries = {.first = PART, .end_common = PART};
        for (int t = item->first_token; t < item->first_token + item->n_tokens; t++)
            for (int r = rep; r < MIN(n_rep, rep + QUERIES); r++) {
                int i = queries.n++, last = engine->position[t], head = item->head * n_rep + r;
                int from = MIN(MAX(window ? last - window + 1 - base : 0, 0), PART);
                int end = MIN(MAX(last + 1 - base, from), PART);
                queries.from[i] = from, queries.end_of[i] = end;
                queries.first = MIN(queries.first, from), queries.end = MAX(queries.end, end);
                queries.first_common = MAX(queries.first_common, from);
                queries.end_common = MIN(queries.end_common, end);
                queries.q[i] = engine->q + (size_t)t * pad(model->n_head * D) + head * D;
                queries.part[i] = part_of(engine, t, head, item->part);
            }
        if (engine->cache->is_short)
            attend(engine, 1, layer, item, next, &queries, engine->scores[thread]);
        else
            attend(engine, 0, layer, item, next, &queries, engine->scores[thread]);
    }
}

// The parts of the context that a token sees.
static void parts_seen(const Engine *engine, int layer, int t, int *first, int *end) {
    int last = engine->position[t], window = engine->model->layers[layer].window;
    *first = window ? MAX(0, last - window + 1) / PART : 0;
    *end = last / PART + 1;
}

// Goes on to the next item, from nothing to the first; false at the end.
static int step_item(const Engine *engine, int layer, Item *item) {
    const Model *model = engine->model;
    int at_once = MAX(1, QUERIES / (model->n_head / model->n_kv_head)), t = item->first_token + item->n_tokens, n = 1;
    if (item->n_tokens && ++item->head < model->n_kv_head) return 1;
    item->head = 0;
    if (item->n_tokens && ++item->part < item->end_part) return 1;
    if (t == engine->n_tokens) return 0;
    while (n < at_once && t + n < engine->n_tokens && engine->chunk_of[t + n] == engine->chunk_of[t]) n++;
    int unused;
    item->first_token = t, item->n_tokens = n;
    parts_seen(engine, layer, t, &item->part, &unused);
    parts_seen(engine, layer, t + n - 1, &unused, &item->end_part);
    return 1;
}

static int step_items(const Engine *engine, int layer, Item *item, int n) {
    while (n && step_item(engine, layer, item)) n--;
    return n == 0;
}

// Fetches the keys that the thread reads first in its attention.
static void fetch_first(const Engine *engine, int layer, int thread) {
    int is_short = engine->cache->is_short;
    Item item = {0};
    Head heads[BLOCKS];
    if (!step_items(engine, layer, &item, thread + 1)) return;
    find_heads(engine, is_short, layer, &item, heads);
    for (int b = 0; b < BLOCKS && (!b || heads[b].keys != heads[b - 1].keys); b++)
        for (uint8_t *keys = heads[b].keys; keys < heads[b].values; keys += 64) fetch_early(keys);
}

// All the attention of a layer: threads take turns at items.
static void attend_all(Engine *engine, int layer, int thread) {
    Item item = {0}, next;
    int more = step_items(engine, layer, &item, thread + 1);
    while (more) {
        next = item;
        more = step_items(engine, layer, &next, engine->n_threads);
        attend_item(engine, layer, &item, more ? &next : &item, thread);
        item = next;
    }
}

// Puts the parts of a head together: out (D,).
static void combine(const Engine *engine, int layer, int t, int head, float *out) {
    int first, end, D = engine->model->head_dim;
    parts_seen(engine, layer, t, &first, &end);
    float largest = -INFINITY, sum = 0;
    for (int part = first; part < end; part++) largest = MAX(largest, part_of(engine, t, head, part)[0]);
    memset(out, 0, D * sizeof(float));
    for (int p = first; p < end; p++) {
        const float *part = part_of(engine, t, head, p);
        float weight = expf(part[0] - largest);
        sum += weight * part[1];
        for (int d = 0; d < D; d++) out[d] += weight * part[2 + d];
    }
    for (int d = 0; d < D; d++) out[d] /= sum;
}

// ---------------------------------------------------------------------------------------------------------------
// The step

// Adds row `row` of a matrix to x (n_columns,).
INLINE void add_row_kind(int kind, const Matrix *w, int row, float *x) {
    int n_blocks = pad(w->n_columns) / BLOCK, v = row % ROWS / LANES;
    const uint8_t *block = w->data + block_bytes(kind) * n_blocks * (row / ROWS);
    for (int c = 0; c < w->n_columns; block += block_bytes(kind)) {
        Scales scales = scales_of(kind, block, v);
        for (int j = 0; j < BLOCK / 8; j++)
            UNROLL for (int i = 0; i < 8; i++, c++) {
                Floats number = widen(kind, block, v, j, i) * (kind == Q4 ? NIBBLE_SCALE[i] : 1.0f);
                if (c < w->n_columns) x[c] += (scales.scale * number + scales.minimum)[row % LANES];
            }
    }
}

static void add_row(const Matrix *w, int row, float *x) {
    switch (w->kind) {
        case Q4: add_row_kind(Q4, w, row, x); break;
        case Q8: add_row_kind(Q8, w, row, x); break;
        case F16: add_row_kind(F16, w, row, x); break;
        case BF16: add_row_kind(BF16, w, row, x); break;
        default: add_row_kind(F32, w, row, x);
    }
}

static void embed(Engine *engine, int t) {
    const Model *model = engine->model;
    int half = model->head_dim / 2, position = engine->position[t];
    float *x = engine->x + (size_t)t * model->n_embd, *rotation = engine->rotation + (size_t)t * 2 * half;
    memset(x, 0, model->n_embd * sizeof(float));
    add_row(&model->wte, engine->token_ids[t], x);
    if (model->wpe.data) add_row(&model->wpe, position, x);
    if (model->frequencies)
        for (int j = 0; j < half; j++) {
            float angle = position * model->frequencies[j];
            rotation[j] = cosf(angle) * model->rope_magnitude;
            rotation[half + j] = sinf(angle) * model->rope_magnitude;
        }
}

// Normed x of all tokens, prepared for the next products. A thread works on whole tokens.
static void norm_all(Engine *engine, const Norm *weights, int thread) {
    int n_embd = engine->model->n_embd, first, end;
    float normed[n_embd];
    share(engine, thread, engine->n_tokens, &first, &end);
    for (int t = first; t < end; t++) {
        norm(weights, engine->model->norm_eps, engine->x + (size_t)t * n_embd, n_embd, normed);
        prepare(normed, t, engine->n_tokens, n_embd, &engine->input);
    }
}

static void project(const Engine *engine, const Linear *layer, float *out, int thread) {
    int first, end;
    share(engine, thread, pad(layer->weight.n_rows) / BLOCK, &first, &end);
    Output rows = by_vectors(out, pad(layer->weight.n_rows));
    linear(engine, layer, first, end, &engine->input, engine->n_tokens, rows, thread);
}

// Adds a projection of what is prepared to the residual stream.
static void project_back(Engine *engine, const Linear *layer, const Input *input, int thread) {
    int n = engine->n_tokens, n_embd = engine->model->n_embd, stride = pad(n_embd), first, end;
    share(engine, thread, stride / BLOCK, &first, &end);
    linear(engine, layer, first, end, input, n, by_vectors(engine->y, stride), thread);
    for (int t = 0; t < n; t++)
        for (int row = first * BLOCK; row < MIN(end * BLOCK, n_embd); row++)
            engine->x[(size_t)t * n_embd + row] += engine->y[(size_t)t * stride + row];
}

// Norms and turns queries and keys, and writes keys and values into the cache.
static void place(Engine *engine, int layer_index, int thread) {
    const Model *model = engine->model;
    const Layer *layer = model->layers + layer_index;
    int D = model->head_dim, n_heads = model->n_head + model->n_kv_head, first, end;
    share(engine, thread, engine->n_tokens * n_heads, &first, &end);
    for (int item = first; item < end; item++) {
        int t = item / n_heads, head = item % n_heads, key = head - model->n_head;
        float *q = engine->q + (size_t)t * pad(model->n_head * D) + head * D;
        float *k = engine->k + (size_t)t * pad(model->n_kv_head * D) + key * D, *vector = key < 0 ? q : k;
        const Norm *weights = key < 0 ? &layer->q_norm : &layer->k_norm;
        if (weights->weight) norm(weights, model->norm_eps, vector, D, vector);
        if (layer->rotates) rotate(vector, engine->rotation + (size_t)t * D, D / 2);
        if (key >= 0) append(engine, layer_index, t, key);
    }
}

static void combine_all(Engine *engine, int layer, int thread) {
    const Model *model = engine->model;
    int n_query = model->n_head * model->head_dim, first, end;
    float gathered[n_query];
    share(engine, thread, engine->n_tokens, &first, &end);
    for (int t = first; t < end; t++) {
        for (int head = 0; head < model->n_head; head++)
            combine(engine, layer, t, head, gathered + head * model->head_dim);
        prepare(gathered, t, engine->n_tokens, n_query, &engine->input);
    }
}

// The hidden rows of the MLP, prepared for the next product. The rows of gate and up that meet are the same thread's.
static void run_mlp(Engine *engine, const Layer *layer, int thread) {
    const Model *model = engine->model;
    int n = engine->n_tokens, first, end, gated = layer->c_gate.weight.data != NULL;
    Output gate = by_groups(gated ? engine->gate : engine->up, n), up = by_groups(engine->up, n);
    share(engine, thread, pad(model->n_inner) / BLOCK, &first, &end);
    if (gated) linear(engine, &layer->c_gate, first, end, &engine->input, n, gate, thread);
    linear(engine, &layer->c_up, first, end, &engine->input, n, up, thread);
    size_t from = first * gate.group, to = end * gate.group;
    activate(model->activation, gate.data + from, to - from);
    if (gated)
        for (size_t i = from; i < to; i++) gate.data[i] *= up.data[i];
    for (int b = first; b < end; b++)  // a group of rows is a block of columns
        for (int t = 0; t < n; t++) prepare_block(gate.data + b * gate.group + t * BLOCK, t, n, b, &engine->hidden);
}

// The logits that are wanted: of the last tokens of the chunks.
static void find_logits(Engine *engine, int thread) {
    const Model *model = engine->model;
    int n_embd = model->n_embd, n = engine->n_logits, row = 0, t = 0, first, end;
    float normed[n_embd];
    for (int i = 0; i < engine->n_chunks; i++) {
        const Chunk *chunk = engine->chunks + i;
        t += chunk->n_tokens;
        for (int j = t - chunk->n_logits; j < t; j++, row++) {
            if (row % engine->n_threads != thread) continue;
            norm(&model->ln_f, model->norm_eps, engine->x + (size_t)j * n_embd, n_embd, normed);
            prepare(normed, row, n, n_embd, &engine->input);
        }
    }
    wait_for_all(&engine->barrier);
    Linear head = {.weight = model->lm_head};
    share(engine, thread, pad(model->vocab_size) / BLOCK, &first, &end);
    linear(engine, &head, first, end, &engine->input, n, by_vectors(engine->logits, pad(model->vocab_size)), thread);
}

static void run(Engine *engine, int thread) {
    const Model *model = engine->model;
    Barrier *barrier = &engine->barrier;
    int first, end;
    share(engine, thread, engine->n_tokens, &first, &end);
    for (int t = first; t < end; t++) embed(engine, t);
    for (int i = 0; i < model->n_layer; i++) {
        const Layer *layer = model->layers + i;
        norm_all(engine, &layer->ln_1, thread);  // of the tokens that this thread has embedded
        wait_for_all(barrier);
        project(engine, &layer->c_q, engine->q, thread);
        project(engine, &layer->c_k, engine->k, thread);
        project(engine, &layer->c_v, engine->v, thread);
        wait_for_all(barrier);
        fetch_first(engine, i, thread);
        place(engine, i, thread);
        wait_for_all(barrier);
        attend_all(engine, i, thread);
        wait_for_all(barrier);
        combine_all(engine, i, thread);
        wait_for_all(barrier);
        project_back(engine, &layer->c_proj, &engine->input, thread);
        wait_for_all(barrier);
        norm_all(engine, &layer->ln_2, thread);
        wait_for_all(barrier);
        run_mlp(engine, layer, thread);
        wait_for_all(barrier);
        project_back(engine, &layer->c_down, &engine->hidden, thread);
        wait_for_all(barrier);
    }
    if (engine->n_logits) find_logits(engine, thread);
    wait_for_all(barrier);
}

// ---------------------------------------------------------------------------------------------------------------
// Opening, stepping, closing

static void *allocate(size_t bytes) { return aligned_alloc(64, (bytes + 127) / 64 * 64); }

#define SPINS 20000  // before a thread sleeps

typedef struct {
    Engine *engine;
    int thread;
} Worker;

static void *work(void *argument) {
    Worker worker = *(Worker *)argument;
    Engine *engine = worker.engine;
    free(argument);
    for (unsigned n_seen = 0;; n_seen++) {
        for (int spins = 0; spins < SPINS && atomic_load(&engine->n_steps) == n_seen; spins++) pause_a_little();
        if (atomic_load(&engine->n_steps) == n_seen) {
            pthread_mutex_lock(&engine->mutex);
            while (atomic_load(&engine->n_steps) == n_seen) pthread_cond_wait(&engine->changed, &engine->mutex);
            pthread_mutex_unlock(&engine->mutex);
        }
        if (engine->closing) return NULL;
        run(engine, worker.thread);
    }
}

static void wake(Engine *engine) {
    pthread_mutex_lock(&engine->mutex);
    atomic_fetch_add(&engine->n_steps, 1);
    pthread_cond_broadcast(&engine->changed);
    pthread_mutex_unlock(&engine->mutex);
}

// Memory for n floats, or as many ints; without it, `works` becomes 0.
static void *room_for(size_t n, int *works) {
    void *room = allocate(n * sizeof(float));
    *works &= room != NULL;
    return room;
}

static Input room_for_input(size_t n, size_t width, int *works) {
    Input input = {.plain = room_for(n * width, works), .sums = room_for(n * width / BLOCK, works)};
    if (DIGITS)
        input.digits = room_for(n * width / BLOCK * sizeof(Digits) / sizeof(float), works);
    else
        input.scaled = room_for(n * width, works);
    return input;
}

static void free_input(const Input *input) {
    free(input->plain), free(input->scaled), free(input->digits), free(input->sums);
}

static void free_room(Engine *engine) {
    void *room[] = {engine->position, engine->chunk_of, engine->x,    engine->y,        engine->q,      engine->k,
                    engine->v,        engine->gate,     engine->up,   engine->rotation, engine->totals, engine->parts};
    for (size_t i = 0; i < sizeof room / sizeof *room; i++) free(room[i]);
    free_input(&engine->input), free_input(&engine->hidden);
}

// Makes room for n tokens and so many parts of their contexts; false without the memory.
static int make_room(Engine *engine, size_t n, size_t n_parts) {
    const Model *model = engine->model;
    if (n <= (size_t)engine->room_tokens && n * n_parts <= (size_t)engine->room_parts) return 1;
    free_room(engine);
    n = MAX(n, (size_t)engine->room_tokens);
    n_parts = MAX(n * n_parts, (size_t)engine->room_parts);
    size_t n_query = pad(model->n_head * model->head_dim), n_kv = pad(model->n_kv_head * model->head_dim);
    size_t n_embd = pad(model->n_embd), n_inner = pad(model->n_inner);
    int works = 1;
    engine->position = room_for(n, &works), engine->chunk_of = room_for(n, &works);
    engine->x = room_for(n * n_embd, &works), engine->y = room_for(n * n_embd, &works);
    engine->q = room_for(n * n_query, &works);
    engine->k = room_for(n * n_kv, &works), engine->v = room_for(n * n_kv, &works);
    engine->gate = room_for(n * n_inner, &works), engine->up = room_for(n * n_inner, &works);
    engine->rotation = room_for(n * model->head_dim, &works);
    engine->input = room_for_input(n, MAX(n_query, n_embd), &works);
    engine->hidden = room_for_input(n, n_inner, &works);
    engine->totals = room_for(engine->n_threads * n * ROWS, &works);
    engine->parts = room_for(n_parts * model->n_head * (2 + width_of(model)), &works);
    engine->room_tokens = works ? (int)n : 0, engine->room_parts = works ? (int)n_parts : 0;
    return works;
}

void parley_close(Engine *engine) {
    engine->closing = 1;
    wake(engine);
    for (int i = 1; i < engine->n_started; i++) pthread_join(engine->threads[i], NULL);
    for (int i = 0; engine->scores && i < engine->n_threads; i++) free(engine->scores[i]);
    free_room(engine);
    pthread_cond_destroy(&engine->changed), pthread_mutex_destroy(&engine->mutex);
    free(engine->scores), free(engine->threads), free(engine);
}

// How many bytes a cache of n_blocks has.
size_t parley_cache_bytes(const Model *model, int n_blocks, int is_short) {
    size_t n = ((size_t)n_blocks + BLOCKS - 1) / BLOCKS * BLOCKS;
    return n * model->n_layer * model->n_kv_head * head_bytes(model, is_short);
}

void parley_copy_block(const Engine *engine, int source, int target) {
    int is_short = engine->cache->is_short;
    for (int layer = 0; layer < engine->model->n_layer; layer++)
        for (int head = 0; head < engine->model->n_kv_head; head++)
            memcpy(head_at(engine, is_short, layer, target, head).keys,
                   head_at(engine, is_short, layer, source, head).keys, head_bytes(engine->model, is_short));
}

static int start_thread(Engine *engine, int thread) {
    Worker *worker = malloc(sizeof *worker);
    if (!worker) return 0;
    *worker = (Worker){engine, thread};
    if (pthread_create(&engine->threads[thread], NULL, work, worker) == 0) return 1;
    free(worker);
    return 0;
}

// Starts the threads of an engine; NULL without the memory or the threads.
Engine *parley_open(const Model *model, const Cache *cache, int n_threads) {
    Engine *engine = calloc(1, sizeof *engine);
    if (!engine) return NULL;
    engine->model = model, engine->cache = cache;
    engine->n_threads = engine->barrier.n_threads = n_threads;
    pthread_mutex_init(&engine->mutex, NULL), pthread_cond_init(&engine->changed, NULL);
    engine->scores = calloc(n_threads, sizeof *engine->scores);
    engine->threads = calloc(n_threads, sizeof *engine->threads);
    int works = engine->scores && engine->threads;
    for (int i = 0; works && i < n_threads; i++) engine->scores[i] = room_for(QUERIES * PART, &works);
    for (engine->n_started = 1; works && engine->n_started < n_threads; engine->n_started += works)
        works = start_thread(engine, engine->n_started);
    if (works) return engine;
    parley_close(engine);
    return NULL;
}

// Computes chunks of different sequences; logits (sum of n_logits, vocab_size padded to 32). 0, or -1 without memory.
int parley_step(Engine *engine, int n_chunks, const Chunk *chunks, const int32_t *token_ids, float *logits) {
    int n = 0, n_logits = 0, longest = 0;
    for (int i = 0; i < n_chunks; i++) {
        n += chunks[i].n_tokens, n_logits += chunks[i].n_logits;
        longest = MAX(longest, chunks[i].start + chunks[i].n_tokens);
    }
    engine->n_parts = (longest + PART - 1) / PART;
    if (!make_room(engine, n, engine->n_parts)) return -1;
    engine->n_tokens = n, engine->n_chunks = n_chunks, engine->n_logits = n_logits;
    engine->chunks = chunks, engine->token_ids = token_ids, engine->logits = logits;
    for (int i = 0, t = 0; i < n_chunks; i++)
        for (int j = 0; j < chunks[i].n_tokens; j++, t++)
            engine->position[t] = chunks[i].start + j, engine->chunk_of[t] = i;
    wake(engine);
    run(engine, 0);
    return 0;
}
