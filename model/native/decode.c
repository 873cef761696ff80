// One step of a GPT on the CPU: the tokens of all running sequences through all layers, in one call.
//
// Weights stay as they are in the file, activations are fp32. A matrix is stored by groups of LANES rows, so that
// lane r of a vector is row r and nothing is ever summed across lanes; see model/native/weights.py for the layouts.
// Every number is computed by the same operations in the same order whatever else is in the step: a sequence gets
// the same bits alone, in a batch, in chunks, or as a draft. model/native/reference.c defines the products plainly.
//
// In comments: N tokens of all sequences, T tokens of one, D = head_dim.

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
#define BLOCK 32      // columns that share a scale
#define ROWS 32       // of a matrix that are stored together
#define VECTORS (ROWS / LANES)
#define POSITIONS 16  // of keys and values in a block of the cache
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef int16_t SignedHalves __attribute__((vector_size(2 * LANES)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));

// Loads and stores at any address.
typedef Floats AnyFloats __attribute__((aligned(4), may_alias));
typedef Words AnyWords __attribute__((aligned(4), may_alias));
typedef Halves AnyHalves __attribute__((aligned(2), may_alias));
typedef SignedHalves AnySignedHalves __attribute__((aligned(2), may_alias));
typedef Bytes AnyBytes __attribute__((aligned(1), may_alias));

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
    int32_t rotates, window;                              // window 0: all positions
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
    int32_t n_blocks, is_short;  // 16-bit numbers with scales, else fp32
    uint8_t *data;               // (n_layer, n_blocks, n_kv_head) of what `Head` describes
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
    __asm__("" : "+w"(x));
#endif
    return x;
}

// fp16, in the upper half of a word, to fp32, exact for finite numbers: the exponent is moved into place, and its bias
// made up by a product.
INLINE Floats from_half(Ints word) { return rounded((Floats)(word >> 3 & (int32_t)0x8fffe000) * 0x1p112f); }

INLINE void fetch(const uint8_t *data, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(data + i);
}

// e^x to about 1e-7, as Cephes' expf: 2^n by the exponent, the rest by a polynomial.
INLINE Floats exponential(Floats x) {
    x = choose(x < -87.0f, broadcast(-87.0f), x);
    x = choose(x > 88.0f, broadcast(88.0f), x);
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
    return (Floats)((Ints)y + ((Ints)shifted << 23));
}

INLINE float sum_lanes(Floats v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

// ---------------------------------------------------------------------------------------------------------------
// Threads: one pool for a process, which spins between the phases of a step and sleeps between steps.

typedef struct {
    int n_threads;
    atomic_int arrived, phase;
} Barrier;

INLINE void pause_a_little(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

// Waits until all threads have come here; the last one opens the next phase.
static void wait_for_all(Barrier *barrier) {
    int phase = atomic_load_explicit(&barrier->phase, memory_order_relaxed);
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

typedef struct {
    const Model *model;
    const Cache *cache;
    int n_threads;
    Barrier barrier;
    pthread_t *threads;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    atomic_int n_steps;
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
    float *q, *k, *v, *y, *gate, *up;  // (N, …) row by row, padded
    float *rotation;               // (N, 2, D / 2) cosines and sines
    float *input, *hidden;         // prepared for products: what a layer reads, and the middle of the MLP
    float *parts;                  // (N, n_head, n_parts, 2 + width) of attention: see attend
    int n_parts;
    Column *sums;                  // (n_threads, N) of a group of rows
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

// Lays out columns [32 first_block, 32 end_block) of vector t of n for the products: block by block, the n parts of a
// block together.
static void prepare(const float *x, int t, int n, int n_columns, int first_block, int end_block, float *blocks) {
    for (int b = first_block; b < end_block; b++) {
        float *block = blocks + ((size_t)b * n + t) * BLOCK;
        int width = MIN(BLOCK, n_columns - b * BLOCK);
        memcpy(block, x + b * BLOCK, width * sizeof(float));
        if (width < BLOCK) memset(block + width, 0, (BLOCK - width) * sizeof(float));
    }
}

INLINE size_t block_bytes(int kind) {
    switch (kind) {
        case Q4: return 20 * ROWS;
        case Q8: return 34 * ROWS;
        case F32: return 128 * ROWS;
        default: return 64 * ROWS;
    }
}

// What turns the numbers of a block into weights: scale · number + minimum, for LANES rows.
typedef struct {
    Floats scale[8], minimum;  // the scale of columns i, i + 8, i + 16, i + 24
} Scales;

INLINE Scales scales_of(int kind, const uint8_t *block, int v) {
    Scales scales = {.minimum = broadcast(0)};
    if (kind == Q4) {  // two fp16 in a word
        Ints word = (Ints)((const AnyWords *)(block + 16 * ROWS))[v];
        scales.scale[7] = scales.scale[0] = from_half(word << 16);
        UNROLL for (int i = 1; i < 7; i++) scales.scale[i] = scales.scale[i - 1] * 0x1p-4f;
        scales.minimum = from_half(word);
    }
    if (kind == Q8) {
        Ints word = __builtin_convertvector(((const AnySignedHalves *)(block + 32 * ROWS))[v], Ints) << 16;
        UNROLL for (int i = 0; i < 8; i++) scales.scale[i] = from_half(word);
    }
    return scales;
}

// Column 8j + i of a block as the weights of LANES rows, its v-th vector of them.
INLINE Floats widen(int kind, const uint8_t *block, Scales scales, int v, int j, int i) {
    const AnyWords *words = (const AnyWords *)block + v;
    if (kind == Q4) {  // a nibble is converted where it stands, as 16^i times its value; the last for its sign's sake not
        Words nibble = words[j * VECTORS];
        nibble = i < 7 ? (Words)(nibble & (15u << 4 * i)) : (Words)(nibble >> 28);
        return __builtin_convertvector((Ints)nibble, Floats) * scales.scale[i] + scales.minimum;
    }
    if (kind == Q8) {
        Words word = words[(2 * j + i / 4) * VECTORS];
        return __builtin_convertvector((Ints)(word << (24 - 8 * (i % 4))) >> 24, Floats) * scales.scale[i];
    }
    int at = (8 * j + i) * VECTORS + v;
    if (kind == F16) return from_half(__builtin_convertvector(((const AnySignedHalves *)block)[at], Ints) << 16);
    if (kind == BF16) return (Floats)(__builtin_convertvector(((const AnyHalves *)block)[at], Words) << 16);
    return ((const AnyFloats *)block)[at];
}

#define FEW 8  // vectors for which weights are widened in registers

// A group of rows with a few vectors.
INLINE void multiply_few(int kind, int n, const uint8_t *block, int n_blocks, const float *x, float *out, size_t stride) {
    Floats sum[FEW][VECTORS] = {0};
    for (int b = 0; b < n_blocks; b++, block += block_bytes(kind), x += n * BLOCK) {
        if (n > 2) fetch(block + 4 * block_bytes(kind), block_bytes(kind));  // fewer leave the memory no time
        Scales scales[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) scales[v] = scales_of(kind, block, v);
        for (int j = 0; j < BLOCK / 8; j++)
            UNROLL for (int i = 0; i < 8; i++) UNROLL for (int v = 0; v < VECTORS; v++) {
                Floats weight = widen(kind, block, scales[v], v, j, i);
                UNROLL for (int t = 0; t < n; t++) sum[t][v] += weight * x[t * BLOCK + 8 * j + i];
            }
    }
    UNROLL for (int t = 0; t < n; t++) memcpy(out + t * stride, sum[t], sizeof sum[t]);
}

#define PANEL 3                      // blocks of a group that are widened at a time, into the first-level cache
#define TILE (LANES == 16 ? 12 : 3)  // vectors whose sums fit into the registers

INLINE void widen_panel(int kind, const uint8_t *block, int n_blocks, Column *columns) {
    for (int b = 0; b < n_blocks; b++, block += block_bytes(kind), columns += BLOCK)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            Scales scales = scales_of(kind, block, v);
            for (int j = 0; j < BLOCK / 8; j++)
                UNROLL for (int i = 0; i < 8; i++) columns[8 * j + i][v] = widen(kind, block, scales, v, j, i);
        }
}

// A panel with n vectors, added to their sums; of x, a block has n_all.
INLINE void multiply_tile(int n, const Column *columns, int n_blocks, const float *x, int n_all, Column *sums) {
    Floats sum[TILE][VECTORS];
    UNROLL for (int t = 0; t < n; t++) UNROLL for (int v = 0; v < VECTORS; v++) sum[t][v] = sums[t][v];
    for (int b = 0; b < n_blocks; b++, x += n_all * BLOCK)
        for (int j = 0; j < BLOCK; j += 8, columns += 8)
            UNROLL for (int i = 0; i < 8; i++) UNROLL for (int t = 0; t < n; t++) {
                Floats number = broadcast(x[t * BLOCK + j + i]);
                UNROLL for (int v = 0; v < VECTORS; v++) sum[t][v] += columns[i][v] * number;
            }
    UNROLL for (int t = 0; t < n; t++) UNROLL for (int v = 0; v < VECTORS; v++) sums[t][v] = sum[t][v];
}

static void multiply_panel(int n, const Column *columns, int n_blocks, const float *x, Column *sums) {
    for (int t = 0, left = n; left > 0;) {
        int tile = left / ((left + TILE - 1) / TILE);  // even shares
        const float *x_t = x + t * BLOCK;
        switch (tile) {
            case 1: multiply_tile(1, columns, n_blocks, x_t, n, sums + t); break;
            case 2: multiply_tile(2, columns, n_blocks, x_t, n, sums + t); break;
#if LANES == 16
            case 3: multiply_tile(3, columns, n_blocks, x_t, n, sums + t); break;
            case 4: multiply_tile(4, columns, n_blocks, x_t, n, sums + t); break;
            case 5: multiply_tile(5, columns, n_blocks, x_t, n, sums + t); break;
            case 6: multiply_tile(6, columns, n_blocks, x_t, n, sums + t); break;
            case 7: multiply_tile(7, columns, n_blocks, x_t, n, sums + t); break;
            case 8: multiply_tile(8, columns, n_blocks, x_t, n, sums + t); break;
            case 9: multiply_tile(9, columns, n_blocks, x_t, n, sums + t); break;
            case 10: multiply_tile(10, columns, n_blocks, x_t, n, sums + t); break;
            case 11: multiply_tile(11, columns, n_blocks, x_t, n, sums + t); break;
#endif
            default: multiply_tile(TILE, columns, n_blocks, x_t, n, sums + t);
        }
        t += tile, left -= tile;
    }
}

// A group of rows with many vectors: each panel is widened once for all of them.
INLINE void multiply_many(int kind, int n, const uint8_t *data, int n_blocks, const float *x, Column *sums) {
    Column columns[PANEL * BLOCK];
    memset(sums, 0, n * sizeof *sums);
    for (int b = 0; b < n_blocks; b += PANEL) {
        int n_panel = MIN(PANEL, n_blocks - b);
        widen_panel(kind, data + b * block_bytes(kind), n_panel, columns);
        fetch(data + (b + n_panel) * block_bytes(kind), PANEL * block_bytes(kind));  // meanwhile
        multiply_panel(n, columns, n_panel, x + (size_t)b * n * BLOCK, sums);
    }
}

INLINE void multiply_kind(int kind, const Matrix *w, int first, int end, const float *x, int n, float *out,
                          size_t stride, Column *sums) {
    int n_blocks = pad(w->n_columns) / BLOCK;
    for (int group = first; group < end; group++) {
        const uint8_t *data = w->data + block_bytes(kind) * n_blocks * group;
        float *rows = out + group * ROWS;
        switch (n) {
            case 1: multiply_few(kind, 1, data, n_blocks, x, rows, stride); break;
            case 2: multiply_few(kind, 2, data, n_blocks, x, rows, stride); break;
            case 3: multiply_few(kind, 3, data, n_blocks, x, rows, stride); break;
            case 4: multiply_few(kind, 4, data, n_blocks, x, rows, stride); break;
            case 5: multiply_few(kind, 5, data, n_blocks, x, rows, stride); break;
            case 6: multiply_few(kind, 6, data, n_blocks, x, rows, stride); break;
            case 7: multiply_few(kind, 7, data, n_blocks, x, rows, stride); break;
            case 8: multiply_few(kind, 8, data, n_blocks, x, rows, stride); break;
            default:
                multiply_many(kind, n, data, n_blocks, x, sums);
                for (int t = 0; t < n; t++) memcpy(rows + t * stride, sums[t], sizeof(Column));
        }
    }
}

// out (n, stride)[rows] = w · x for groups [first, end) of rows, and the vectors that `prepare` has laid out.
static void multiply(const Matrix *w, int first, int end, const float *x, int n, float *out, size_t stride,
                     Column *sums) {
    switch (w->kind) {
        case Q4: multiply_kind(Q4, w, first, end, x, n, out, stride, sums); break;
        case Q8: multiply_kind(Q8, w, first, end, x, n, out, stride, sums); break;
        case F16: multiply_kind(F16, w, first, end, x, n, out, stride, sums); break;
        case BF16: multiply_kind(BF16, w, first, end, x, n, out, stride, sums); break;
        default: multiply_kind(F32, w, first, end, x, n, out, stride, sums);
    }
}

// Rows [32 first, 32 end) of a linear layer for n prepared vectors: out (n, stride) = w · x + bias.
static void linear(const Engine *engine, const Linear *layer, int first, int end, const float *x, int n, float *out,
                   size_t stride, int thread) {
    int first_row = first * ROWS, end_row = MIN(end * ROWS, layer->weight.n_rows);
    multiply(&layer->weight, first, end, x, n, out, stride, engine->sums + (size_t)thread * engine->room_tokens);
    if (layer->bias)
        for (int t = 0; t < n; t++)
            for (int row = first_row; row < end_row; row++) out[t * stride + row] += layer->bias[row];
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
static void activate(int activation, float *x, int n) {
    for (int i = 0; i < n; i += LANES) {
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


// The keys and values of one head at the positions of one block: numbers, then their scales if they are 16-bit.
// Keys (D, POSITIONS), values (POSITIONS, width), a scale for each key and for each value.
typedef struct {
    uint8_t *keys, *values;
    float *key_scales, *value_scales;
} Head;

static int width_of(const Model *model) { return (model->head_dim + LANES - 1) / LANES * LANES; }

static size_t head_bytes(const Model *model, int is_short) {
    size_t n = POSITIONS * (model->head_dim + width_of(model));
    return is_short ? 2 * n + 2 * POSITIONS * sizeof(float) : n * sizeof(float);
}

INLINE Head head_at(const Engine *engine, int is_short, int layer, int block, int head) {
    const Model *model = engine->model;
    size_t item = is_short ? 2 : 4, at = ((size_t)layer * engine->cache->n_blocks + block) * model->n_kv_head + head;
    uint8_t *keys = engine->cache->data + at * head_bytes(model, is_short);
    uint8_t *values = keys + item * POSITIONS * model->head_dim;
    float *scales = (float *)(values + item * POSITIONS * width_of(model));
    return (Head){keys, values, scales, scales + POSITIONS};
}

// Rounds n numbers to 16 bits of the largest; returns what to multiply them by, which is not finite if they are not.
static float shorten(const float *x, int n, int16_t *out, int stride) {
    float largest = 0, wrong = 0;
    for (int i = 0; i < n; i++) {
        largest = MAX(largest, fabsf(x[i]));
        wrong += x[i] * 0;
    }
    float factor = largest > 0 && wrong == 0 ? 32767 / largest : 0;
    for (int i = 0; i < n; i++) out[i * stride] = (int16_t)lrintf(factor > 0 ? x[i] * factor : 0);
    return largest / 32767 + wrong;
}

// Writes the key and the value of token t into its block.
static void append(Engine *engine, int layer, int t, int head_index) {
    const Model *model = engine->model;
    int position = engine->position[t], D = model->head_dim, width = width_of(model), is_short = engine->cache->is_short;
    int block = engine->chunks[engine->chunk_of[t]].block_table[position / POSITIONS], slot = position % POSITIONS;
    size_t row = (size_t)t * pad(model->n_kv_head * D) + head_index * D;
    Head head = head_at(engine, is_short, layer, block, head_index);
    if (is_short) {
        head.key_scales[slot] = shorten(engine->k + row, D, (int16_t *)head.keys + slot, POSITIONS);
        head.value_scales[slot] = shorten(engine->v + row, D, (int16_t *)head.values + slot * width, 1);
    } else {
        for (int d = 0; d < D; d++) ((float *)head.keys)[d * POSITIONS + slot] = engine->k[row + d];
        memcpy((float *)head.values + slot * width, engine->v + row, D * sizeof(float));
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Attention, by parts of the context whose bounds are the same for everybody (after Flash-Decoding, Dao et al. 2023):
// each gives the largest score, the sum of e^(score - largest), and the values weighted so; `combine` puts them together.

#define PART 256  // positions
#define AT_ONCE 6   // queries whose sums fit into the registers
#define QUERIES 12  // queries, of tokens that follow each other and of the heads that share keys, that are read together
#if LANES == 16
#define COLUMNS 4
#else
#define COLUMNS 2
#endif

INLINE Floats load(int is_short, const uint8_t *numbers, size_t at) {
    if (!is_short) return *(const AnyFloats *)((const float *)numbers + at);
    Ints whole = __builtin_convertvector(*(const AnySignedHalves *)((const int16_t *)numbers + at), Ints);
    return __builtin_convertvector(whole, Floats);
}

// Scores of n queries at the positions of one block.
INLINE void score_block(int is_short, int n, Head head, int D, float *const *q, float scale, float *scores) {
    for (int p = 0; p < POSITIONS; p += LANES) {
        Floats even[AT_ONCE] = {0}, odd[AT_ONCE] = {0}, factor = broadcast(scale);
        for (int d = 0; d < D; d += 2) {
            Floats first = load(is_short, head.keys, d * POSITIONS + p);
            Floats second = load(is_short, head.keys, (d + 1) * POSITIONS + p);
            UNROLL for (int i = 0; i < n; i++) even[i] += first * q[i][d];
            UNROLL for (int i = 0; i < n; i++) odd[i] += second * q[i][d + 1];
        }
        if (is_short) factor *= *(const AnyFloats *)(head.key_scales + p);
        UNROLL for (int i = 0; i < n; i++) *(AnyFloats *)(scores + i * PART + p) = (even[i] + odd[i]) * factor;
    }
}

// Adds the values at positions [first, end) of one block, weighted for n queries, to some columns of out.
INLINE void add_columns(int is_short, int n, int columns, Head head, int column, int width, int first, int end,
                        const float *weights, float *const *out) {
    Floats total[AT_ONCE][COLUMNS];
    UNROLL for (int i = 0; i < n; i++) UNROLL for (int c = 0; c < columns; c++)
        total[i][c] = *(const AnyFloats *)(out[i] + column + c * LANES);
    for (int p = first; p < end; p++)
        UNROLL for (int c = 0; c < columns; c++) {
            Floats value = load(is_short, head.values, p * width + column + c * LANES);
            UNROLL for (int i = 0; i < n; i++) total[i][c] += value * weights[i * PART + p];
        }
    UNROLL for (int i = 0; i < n; i++) UNROLL for (int c = 0; c < columns; c++)
        *(AnyFloats *)(out[i] + column + c * LANES) = total[i][c];
}

INLINE void add_values(int is_short, int n, Head head, int width, int first, int end, const float *weights,
                       float *const *out) {
    int column = 0;
    for (; column + COLUMNS * LANES <= width; column += COLUMNS * LANES)
        add_columns(is_short, n, COLUMNS, head, column, width, first, end, weights, out);
    for (; column < width; column += LANES)
        add_columns(is_short, n, 1, head, column, width, first, end, weights, out);
}

typedef struct {
    int n, first, end;    // queries; positions of this part that any of them sees
    int from[QUERIES], last[QUERIES];  // what each of them sees
    float *q[QUERIES], *part[QUERIES];
} Queries;

// Turns scores into weights e^(score - largest), zero where a query may not look.
static void weigh(const Queries *queries, int i, float *scores, int base) {
    Floats largest = broadcast(-INFINITY), sum = {0};
    Ints lane;
    for (int j = 0; j < LANES; j++) lane[j] = j;
    int first = queries->first / POSITIONS * POSITIONS;
    for (int p = first; p < queries->end; p += LANES) {
        Ints position = lane + p;
        Ints seen = (position >= queries->from[i]) & (position <= queries->last[i]);
        AnyFloats *score = (AnyFloats *)(scores + p - base);
        *score = choose(seen, *score, broadcast(-INFINITY));
        largest = choose(*score > largest, *score, largest);
    }
    float maximum = largest[0];
    for (int j = 1; j < LANES; j++) maximum = MAX(maximum, largest[j]);
    for (int p = first; p < queries->end; p += LANES) {
        AnyFloats *score = (AnyFloats *)(scores + p - base);
        *score = choose(*score == -INFINITY, broadcast(0), exponential(*score - maximum));
        sum += *score;
    }
    queries->part[i][0] = maximum;
    queries->part[i][1] = sum_lanes(sum);
}

// Of a block that all queries read: calls a function of 1 to AT_ONCE queries for all of them, some at a time.
#define FOR_QUERIES(n, i, CALL)                        \
    for (int i = 0; i < n;) switch (n - i) {           \
        case 1: CALL(1); i += 1; break;                \
        case 2: CALL(2); i += 2; break;                \
        case 3: CALL(3); i += 3; break;                \
        case 4: case 5: CALL(4); i += 4; break;        \
        default: CALL(AT_ONCE); i += AT_ONCE;          \
    }

INLINE void attend(const Engine *engine, int is_short, int layer, int head_index, const int32_t *block_table, int base,
                   const Queries *queries, float *scores) {
    int D = engine->model->head_dim, width = width_of(engine->model), n = queries->n;
    int first_block = queries->first / POSITIONS, end_block = (queries->end + POSITIONS - 1) / POSITIONS;
    float scale = 1 / sqrtf(D), *out[QUERIES];
    size_t item = is_short ? 2 : 4;
    for (int b = first_block; b < end_block; b++) {
        Head head = head_at(engine, is_short, layer, block_table[b], head_index);
        Head next = head_at(engine, is_short, layer, block_table[MIN(b + 1, end_block - 1)], head_index);
        fetch(next.keys, item * D * POSITIONS);
#define SCORE(m) score_block(is_short, m, head, D, queries->q + i, scale, scores + b * POSITIONS - base + i * PART)
        FOR_QUERIES(n, i, SCORE)
    }
    fetch(head_at(engine, is_short, layer, block_table[first_block], head_index).values, item * width * POSITIONS);
    for (int i = 0; i < n; i++) {
        weigh(queries, i, scores + i * PART, base);
        out[i] = queries->part[i] + 2;
        memset(out[i], 0, width * sizeof(float));
    }
    for (int b = first_block; b < end_block; b++) {
        Head head = head_at(engine, is_short, layer, block_table[b], head_index);
        Head next = head_at(engine, is_short, layer, block_table[MIN(b + 1, end_block - 1)], head_index);
        int p = b * POSITIONS, first = MAX(queries->first - p, 0), end = MIN(queries->end - p, POSITIONS);
        float *weights = scores + p - base;
        fetch(next.values, item * width * POSITIONS);
        if (is_short)
            for (int i = 0; i < n; i++)
                for (int j = 0; j < POSITIONS; j += LANES)
                    *(AnyFloats *)(weights + i * PART + j) *= *(const AnyFloats *)(head.value_scales + j);
#define ADD(m) add_values(is_short, m, head, width, first, end, weights + i * PART, out + i)
        FOR_QUERIES(n, i, ADD)
    }
}

static float *part_of(const Engine *engine, int t, int head, int part) {
    size_t row = ((size_t)t * engine->model->n_head + head) * engine->n_parts + part;
    return engine->parts + row * (2 + width_of(engine->model));
}

// One part of the context, one head of keys, a few tokens of one chunk.
static void attend_part(Engine *engine, int layer, int first_token, int n_tokens, int head, int part, int thread) {
    const Model *model = engine->model;
    int n_rep = model->n_head / model->n_kv_head, window = model->layers[layer].window, D = model->head_dim;
    const int32_t *block_table = engine->chunks[engine->chunk_of[first_token]].block_table;
    for (int rep = 0; rep < n_rep; rep += QUERIES) {  // more heads than rows share keys: rarely
        Queries queries = {.first = INT32_MAX};
        for (int t = first_token; t < first_token + n_tokens; t++)
            for (int r = rep; r < MIN(n_rep, rep + QUERIES); r++) {
                int i = queries.n++, last = engine->position[t];
                queries.last[i] = last;
                queries.from[i] = window ? MAX(0, last - window + 1) : 0;
                queries.first = MIN(queries.first, MAX(queries.from[i], part * PART));
                queries.end = MAX(queries.end, MIN(last + 1, (part + 1) * PART));
                queries.q[i] = engine->q + (size_t)t * pad(model->n_head * D) + (head * n_rep + r) * D;
                queries.part[i] = part_of(engine, t, head * n_rep + r, part);
            }
        if (engine->cache->is_short)
            attend(engine, 1, layer, head, block_table, part * PART, &queries, engine->scores[thread]);
        else
            attend(engine, 0, layer, head, block_table, part * PART, &queries, engine->scores[thread]);
    }
}

// The parts of the context that a token sees.
static void parts_seen(const Engine *engine, int layer, int t, int *first, int *end) {
    int last = engine->position[t], window = engine->model->layers[layer].window;
    *first = window ? MAX(0, last - window + 1) / PART : 0;
    *end = last / PART + 1;
}

// All the attention of a layer: threads take turns at (a few tokens, head of keys, part).
static void attend_all(Engine *engine, int layer, int thread) {
    const Model *model = engine->model;
    int n_rep = model->n_head / model->n_kv_head, at_once = MAX(1, QUERIES / n_rep), item = 0;
    for (int t = 0; t < engine->n_tokens;) {
        int n = 1, first, end, unused;
        while (n < at_once && t + n < engine->n_tokens && engine->chunk_of[t + n] == engine->chunk_of[t]) n++;
        parts_seen(engine, layer, t, &first, &unused);
        parts_seen(engine, layer, t + n - 1, &unused, &end);
        for (int part = first; part < end; part++)
            for (int head = 0; head < model->n_kv_head; head++)
                if (item++ % engine->n_threads == thread) attend_part(engine, layer, t, n, head, part, thread);
        t += n;
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
            UNROLL for (int i = 0; i < 8; i++, c++)
                if (c < w->n_columns) x[c] += widen(kind, block, scales, v, j, i)[row % LANES];
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
        prepare(normed, t, engine->n_tokens, n_embd, 0, pad(n_embd) / BLOCK, engine->input);
    }
}

static void project(const Engine *engine, const Linear *layer, float *out, int thread) {
    int first, end;
    share(engine, thread, pad(layer->weight.n_rows) / BLOCK, &first, &end);
    linear(engine, layer, first, end, engine->input, engine->n_tokens, out, pad(layer->weight.n_rows), thread);
}

// Adds a projection of what is prepared to the residual stream.
static void project_back(Engine *engine, const Linear *layer, const float *input, int thread) {
    int n = engine->n_tokens, n_embd = engine->model->n_embd, stride = pad(n_embd), first, end;
    share(engine, thread, stride / BLOCK, &first, &end);
    linear(engine, layer, first, end, input, n, engine->y, stride, thread);
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
        prepare(gathered, t, engine->n_tokens, n_query, 0, pad(n_query) / BLOCK, engine->input);
    }
}

// The hidden rows of the MLP, prepared for the next product. The rows of gate and up that meet are the same thread's.
static void run_mlp(Engine *engine, const Layer *layer, int thread) {
    const Model *model = engine->model;
    int n = engine->n_tokens, stride = pad(model->n_inner), first, end, gated = layer->c_gate.weight.data != NULL;
    share(engine, thread, stride / BLOCK, &first, &end);
    if (gated) linear(engine, &layer->c_gate, first, end, engine->input, n, engine->gate, stride, thread);
    linear(engine, &layer->c_up, first, end, engine->input, n, engine->up, stride, thread);
    for (int t = 0; t < n; t++) {
        float *up = engine->up + (size_t)t * stride, *gate = gated ? engine->gate + (size_t)t * stride : up;
        activate(model->activation, gate + first * BLOCK, (end - first) * BLOCK);
        if (gated)
            for (int row = first * BLOCK; row < end * BLOCK; row++) gate[row] *= up[row];
        prepare(gate, t, n, model->n_inner, first, end, engine->hidden);
    }
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
            prepare(normed, row, n, n_embd, 0, pad(n_embd) / BLOCK, engine->input);
        }
    }
    wait_for_all(&engine->barrier);
    Linear head = {.weight = model->lm_head};
    share(engine, thread, pad(model->vocab_size) / BLOCK, &first, &end);
    linear(engine, &head, first, end, engine->input, n, engine->logits, pad(model->vocab_size), thread);
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
        place(engine, i, thread);
        wait_for_all(barrier);
        attend_all(engine, i, thread);
        wait_for_all(barrier);
        combine_all(engine, i, thread);
        wait_for_all(barrier);
        project_back(engine, &layer->c_proj, engine->input, thread);
        wait_for_all(barrier);
        norm_all(engine, &layer->ln_2, thread);
        wait_for_all(barrier);
        run_mlp(engine, layer, thread);
        wait_for_all(barrier);
        project_back(engine, &layer->c_down, engine->hidden, thread);
        wait_for_all(barrier);
    }
    if (engine->n_logits) find_logits(engine, thread);
    wait_for_all(barrier);
}

// ---------------------------------------------------------------------------------------------------------------
// Opening, stepping, closing

static void *allocate(size_t bytes) { return aligned_alloc(64, (bytes + 127) / 64 * 64); }

#define SPINS 20000  // before a thread sleeps: about 50 microseconds

typedef struct {
    Engine *engine;
    int thread;
} Worker;

static void *work(void *argument) {
    Worker worker = *(Worker *)argument;
    Engine *engine = worker.engine;
    free(argument);
    for (int n_seen = 0;; n_seen++) {
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

static void free_room(Engine *engine) {
    void *buffers[] = {engine->position, engine->chunk_of, engine->x,      engine->q,    engine->k,
                       engine->v,        engine->y,        engine->gate,   engine->up,   engine->rotation,
                       engine->input,    engine->hidden,   engine->sums, engine->parts};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) free(buffers[i]);
}

// Makes room for n tokens and so many parts of their contexts; false without the memory.
static int make_room(Engine *engine, size_t n, size_t n_parts) {
    const Model *model = engine->model;
    if (n <= (size_t)engine->room_tokens && n * n_parts <= (size_t)engine->room_parts) return 1;
    free_room(engine);
    n = MAX(n, (size_t)engine->room_tokens);
    size_t n_query = pad(model->n_head * model->head_dim), n_kv = pad(model->n_kv_head * model->head_dim);
    size_t n_embd = pad(model->n_embd), n_inner = pad(model->n_inner);
    size_t room_parts = MAX(n * n_parts, (size_t)engine->room_parts);
    engine->position = allocate(n * sizeof(int)), engine->chunk_of = allocate(n * sizeof(int));
    engine->x = allocate(n * n_embd * sizeof(float)), engine->q = allocate(n * n_query * sizeof(float));
    engine->k = allocate(n * n_kv * sizeof(float)), engine->v = allocate(n * n_kv * sizeof(float));
    engine->y = allocate(n * n_embd * sizeof(float));
    engine->gate = allocate(n * n_inner * sizeof(float)), engine->up = allocate(n * n_inner * sizeof(float));
    engine->rotation = allocate(n * model->head_dim * sizeof(float));
    engine->input = allocate(n * MAX(n_query, n_embd) * sizeof(float)), engine->hidden = allocate(n * n_inner * sizeof(float));
    engine->sums = allocate(engine->n_threads * n * sizeof(Column));
    engine->parts = allocate(room_parts * model->n_head * (2 + width_of(model)) * sizeof(float));
    engine->room_tokens = (int)n, engine->room_parts = (int)room_parts;
    if (engine->position && engine->chunk_of && engine->x && engine->q && engine->k && engine->v && engine->y &&
        engine->gate && engine->up && engine->rotation && engine->input && engine->hidden && engine->sums && engine->parts)
        return 1;
    engine->room_tokens = engine->room_parts = 0;
    return 0;
}

void parley_close(Engine *engine) {
    engine->closing = 1;
    wake(engine);
    for (int i = 1; i < engine->n_threads; i++) pthread_join(engine->threads[i], NULL);
    for (int i = 0; i < engine->n_threads; i++) free(engine->scores[i]);
    free_room(engine);
    free(engine->scores), free(engine->threads), free(engine);
}

// How many bytes a cache of n_blocks has.
size_t parley_cache_bytes(const Model *model, int n_blocks, int is_short) {
    return (size_t)model->n_layer * n_blocks * model->n_kv_head * head_bytes(model, is_short);
}

void parley_copy_block(const Engine *engine, int source, int target) {
    int is_short = engine->cache->is_short;
    size_t bytes = engine->model->n_kv_head * head_bytes(engine->model, is_short);
    for (int layer = 0; layer < engine->model->n_layer; layer++)
        memcpy(head_at(engine, is_short, layer, target, 0).keys, head_at(engine, is_short, layer, source, 0).keys, bytes);
}

// Starts the threads of an engine; NULL without the memory or the threads.
Engine *parley_open(const Model *model, const Cache *cache, int n_threads) {
    Engine *engine = calloc(1, sizeof *engine);
    engine->model = model, engine->cache = cache;
    engine->n_threads = engine->barrier.n_threads = n_threads;
    pthread_mutex_init(&engine->mutex, NULL), pthread_cond_init(&engine->changed, NULL);
    engine->scores = calloc(n_threads, sizeof(void *));
    engine->threads = calloc(n_threads, sizeof(pthread_t));
    for (int i = 0; i < n_threads; i++) {
        engine->scores[i] = allocate(QUERIES * PART * sizeof(float));
    }
    for (int i = 1; i < n_threads; i++) {
        Worker *worker = malloc(sizeof *worker);
        *worker = (Worker){engine, i};
        pthread_create(&engine->threads[i], NULL, work, worker);
    }
    return engine;
}

// Computes chunks of different sequences; logits (sum of n_logits, vocab_size padded to 32). 0, or -1 without the memory.
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
