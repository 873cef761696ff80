// What decode.c computes, written plainly: number by number, without vectors, panels, parts, blocks and threads.
//
// Products are defined to the bit, everything else up to rounding, and therefore in fp64. Beside each definition
// stands fast_…, which hands the same inputs to decode.c: the tests compare the two.
//
// In comments: N vectors or tokens, D = head_dim.

#include "decode.c"

// ---------------------------------------------------------------------------------------------------------------
// Products

// a · b + c, rounded once where the processor can do so; compilers then fuse it in decode.c too.
static float plain_fma(float a, float b, float c) {
#ifdef __FP_FAST_FMAF
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

static float plain_from_bits(uint32_t bits) {
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

// A finite fp16: sign, 5 bits of exponent, 10 of mantissa.
static float plain_from_half(uint16_t bits) {
    int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    float size = exponent ? ldexpf(1024 + mantissa, exponent - 25) : ldexpf(mantissa, -24);
    return bits >> 15 ? -size : size;
}

// One row of one block of a matrix: a weight is scale · number + minimum.
typedef struct {
    float numbers[32], scale, minimum;
} Plain;

// Block b of columns in a row of a matrix; the layouts: weights.py.
static Plain plain_block(const Matrix *w, int row, int b) {
    static const int bytes[] = {[Q4] = 640, [Q8] = 1088, [F16] = 2048, [BF16] = 2048, [F32] = 4096};
    size_t group = row / 32, r = row % 32, n_blocks = (w->n_columns + 31) / 32;
    const uint8_t *block = w->data + (group * n_blocks + b) * bytes[w->kind];
    const uint32_t *words = (const uint32_t *)block;
    const uint16_t *halves = (const uint16_t *)block;
    Plain plain = {.scale = 1};
    if (w->kind == Q4) {
        plain.scale = plain_from_half(words[128 + r] & 0xffff);
        plain.minimum = plain_from_half(words[128 + r] >> 16);
    }
    if (w->kind == Q8) plain.scale = plain_from_half(halves[512 + r]);
    for (int c = 0; c < 32; c++) switch (w->kind) {
            case Q4: plain.numbers[c] = words[c / 8 * 32 + r] >> (c % 4 * 8 + c / 4 % 2 * 4) & 15; break;
            case Q8: plain.numbers[c] = (int8_t)(words[c / 4 * 32 + r] >> c % 4 * 8); break;
            case F16: plain.numbers[c] = plain_from_half(halves[c * 32 + r]); break;
            case BF16: plain.numbers[c] = plain_from_bits((uint32_t)halves[c * 32 + r] << 16); break;
            default: plain.numbers[c] = plain_from_bits(words[c * 32 + r]);
        }
    return plain;
}

// The sum of the 32 numbers of a block: LANES sums, and then those, each half with the other.
static float plain_sum(const float *x) {
    float sums[LANES] = {0};
    for (int c = 0; c < 32; c++) sums[c % LANES] += x[c];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}

// The 32 numbers of a row's block times those of a vector's, summed from zero, in order.
static float plain_product(const float *numbers, const float *x) {
    float sum = 0;
    for (int c = 0; c < 32; c++) sum = plain_fma(numbers[c], x[c], sum);
    return sum;
}

// Likewise for whole numbers, where the processor multiplies bytes: x becomes whole numbers of 24 bits, in units of
// largest / 0x7f0000, and their upper 16 and lowest 8 bits, signed, are summed apart, exactly.
static float plain_whole_product(const float *numbers, const float *x) {
    float largest = 0;
    int32_t upper = 0, lowest = 0;
    for (int c = 0; c < 32; c++) largest = isnan(x[c]) || isnan(largest) ? NAN : MAX(largest, fabsf(x[c]));
    if (!isfinite(largest) || largest < 0x1p-100f) return largest * 0;
    for (int c = 0; c < 32; c++) {
        int32_t whole = (int32_t)plain_fma(x[c], 0x7f0000 / largest, copysignf(0.5f, x[c])), last = (int8_t)whole;
        upper += (int32_t)numbers[c] * ((whole - last) / 256);
        lowest += (int32_t)numbers[c] * last;
    }
    return ((float)upper * 256 + (float)lowest) * (largest / 0x7f0000);
}

// out (n, n_rows) = w · x for vectors x (n, n_columns): of each block of 32 columns the product; then the blocks,
// scaled, in order.
void plain_multiply(const Matrix *w, const float *x, int n, float *out) {
    memset(out, 0, (size_t)n * w->n_rows * sizeof(float));
    for (int row = 0; row < w->n_rows; row++)
        for (int b = 0; b * 32 < w->n_columns; b++) {
            Plain plain = plain_block(w, row, b);
            for (int t = 0; t < n; t++) {
                int is_whole = DIGITS && (w->kind == Q4 || w->kind == Q8);
                float part[32] = {0}, *total = out + (size_t)t * w->n_rows + row;
                memcpy(part, x + (size_t)t * w->n_columns + b * 32, MIN(32, w->n_columns - b * 32) * sizeof(float));
                float sum = is_whole ? plain_whole_product(plain.numbers, part) : plain_product(plain.numbers, part);
                *total = plain_fma(plain.scale, sum, *total);
                *total = plain_fma(plain.minimum, plain_sum(part), *total);
            }
        }
}

// Likewise, but out (n, n_rows padded to whole groups); groups of rows [first, end) alone are written.
void fast_multiply(const Matrix *w, int first, int end, const float *x, int n, float *out) {
    int works = 1;
    Input input = room_for_input(n, pad(w->n_columns), &works);
    Column *totals = room_for((size_t)n * ROWS, &works);
    for (int t = 0; t < n; t++) prepare(x + (size_t)t * w->n_columns, t, n, w->n_columns, &input);
    multiply(w, first, end, &input, n, by_vectors(out, pad(w->n_rows)), totals);
    free_input(&input), free(totals);
}

// Adds a row of an embedding to x (n_columns,).
void plain_add_row(const Matrix *w, int row, float *x) {
    for (int column = 0; column < w->n_columns; column++) {
        Plain plain = plain_block(w, row, column / 32);
        x[column] += plain_fma(plain.scale, plain.numbers[column % 32], plain.minimum);
    }
}

void fast_add_row(const Matrix *w, int row, float *x) { add_row(w, row, x); }

// ---------------------------------------------------------------------------------------------------------------
// Norms, positions, activations

// LayerNorm (Ba et al. 2016), or RMSNorm (Zhang & Sennrich 2019) where there is no bias.
void plain_norm(const Norm *norm, float eps, const float *x, int n, float *out) {
    double mean = 0, variance = 0;
    for (int i = 0; norm->bias && i < n; i++) mean += x[i] / (double)n;
    for (int i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / n;
    for (int i = 0; i < n; i++)
        out[i] = (float)((x[i] - mean) / sqrt(variance + eps) * norm->weight[i] + (norm->bias ? norm->bias[i] : 0));
}

void fast_norm(const Norm *weights, float eps, const float *x, int n, float *out) { norm(weights, eps, x, n, out); }

// Turns the pair (j, j + D / 2) of a head by the angle with this cosine and sine (Su et al. 2021).
void plain_rotate(float *head, const float *rotation, int half) {
    for (int j = 0; j < half; j++) {
        double first = head[j], second = head[half + j], cosine = rotation[j], sine = rotation[half + j];
        head[j] = (float)(first * cosine - second * sine);
        head[half + j] = (float)(first * sine + second * cosine);
    }
}

void fast_rotate(float *head, const float *rotation, int half) { rotate(head, rotation, half); }

// SiLU, and GELU in full or by its approximation (Hendrycks & Gimpel 2016).
void plain_activate(int activation, float *x, int n) {
    for (int i = 0; i < n; i++) {
        double z = x[i];
        switch (activation) {
            case SILU: z = z / (1 + exp(-z)); break;
            case GELU: z = z / 2 * (1 + erf(z / sqrt(2))); break;
            default: z = z / 2 * (1 + tanh(sqrt(2 / M_PI) * (z + 0.044715 * z * z * z)));
        }
        x[i] = (float)z;
    }
}

void fast_activate(int activation, float *x, int n) { activate(activation, x, n); }

void plain_exponential(float *x, int n) {
    for (int i = 0; i < n; i++) x[i] = (float)exp(x[i]);
}

void fast_exponential(float *x, int n) {
    for (int i = 0; i < n; i += LANES) *(AnyFloats *)(x + i) = exponential(*(AnyFloats *)(x + i));
}

// ---------------------------------------------------------------------------------------------------------------
// Attention

// What a query (D,) at `last` gathers (D,) from the keys and values at [first, last], `stride` numbers apart.
static void plain_attend_one(const float *q, const float *k, const float *v, int first, int last, int stride, int D,
                             float *out) {
    double scores[last + 1], largest = -INFINITY, sum = 0;
    for (int p = first; p <= last; p++) {
        scores[p] = 0;
        for (int d = 0; d < D; d++) scores[p] += (double)q[d] * k[(size_t)p * stride + d] / sqrt(D);
        largest = MAX(largest, scores[p]);
    }
    for (int p = first; p <= last; p++) sum += scores[p] = exp(scores[p] - largest);
    for (int d = 0; d < D; d++) {
        double total = 0;
        for (int p = first; p <= last; p++) total += scores[p] / sum * v[(size_t)p * stride + d];
        out[d] = (float)total;
    }
}

// Grouped-query attention (Ainslie et al. 2023) of the first layer over the N tokens of one sequence: queries and out
// (N, n_head, D), keys and values (N, n_kv_head, D).
void plain_attend(const Model *model, int n, const float *q, const float *k, const float *v, float *out) {
    int D = model->head_dim, stride = model->n_kv_head * D, window = model->layers->window;
    for (int t = 0; t < n; t++)
        for (int head = 0; head < model->n_head; head++) {
            int shared = head / (model->n_head / model->n_kv_head) * D, first = window ? MAX(0, t - window + 1) : 0;
            size_t at = ((size_t)t * model->n_head + head) * D;
            plain_attend_one(q + at, k + shared, v + shared, first, t, stride, D, out + at);
        }
}

static void copy_rows(float *to, size_t to_stride, const float *from, size_t from_stride, int n) {
    for (int t = 0; t < n; t++) memcpy(to + t * to_stride, from + t * from_stride, from_stride * sizeof(float));
}

// Likewise for the tokens of a chunk, through a cache that has all before them; -1 without the memory.
int fast_attend(const Model *model, const Cache *cache, const Chunk *chunk, const float *q, const float *k,
                const float *v, float *out) {
    Engine *engine = parley_open(model, cache, 1);
    int n = chunk->n_tokens, n_query = model->n_head * model->head_dim, n_kv = model->n_kv_head * model->head_dim;
    engine->chunks = chunk, engine->n_tokens = n, engine->n_parts = (chunk->start + n + PART - 1) / PART;
    int failed = !make_room(engine, n, engine->n_parts);
    if (!failed) {
        for (int t = 0; t < n; t++) engine->position[t] = chunk->start + t, engine->chunk_of[t] = 0;
        copy_rows(engine->q, pad(n_query), q, n_query, n);
        copy_rows(engine->k, pad(n_kv), k, n_kv, n), copy_rows(engine->v, pad(n_kv), v, n_kv, n);
        for (int item = 0; item < n * model->n_kv_head; item++)
            append(engine, 0, item / model->n_kv_head, item % model->n_kv_head);
        attend_all(engine, 0, 0);
        for (int item = 0; item < n * model->n_head; item++)
            combine(engine, 0, item / model->n_head, item % model->n_head, out + (size_t)item * model->head_dim);
    }
    parley_close(engine);
    return -failed;
}
