// One token for each of a few rows of a batch, on a CPU: GPT.trunk and its head as plain loops. A call of
// PyTorch costs more than so little arithmetic, and a token takes a few hundred; here threads start once for
// all of it. Built and called by decode.py; tests hold it equal to gpt.py.
//
// B rows, C width, H query heads, K kv heads, D head dim, V vocabulary, L layers. Everything between the
// weights is fp32. WEIGHT is uint16_t where they are bfloat16, or float.
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
typedef struct {
    const WEIGHT *joint, *o, *up, *down, *gate;      // gate: NULL where a layer has no value embeddings
    float *keys, *values, *last_key;                 // (rows, K, slots, D) twice, (rows, K, D)
    int32_t slots, value;                            // value: which of the tables of value embeddings
    float rho, mu;
} Layer;
typedef struct {
    const WEIGHT *embedding, *value_embedding, *head;
    const float *smear_gate, *cos, *sin;             // cos and sin (T, D), sin negative in its second half
    float *last_embedding;                           // (rows, C)
    float *memory;                                   // B * (9C + (H + 2K) * D): what is in between
    int32_t C, H, K, D, V, L, value_layers, gate_channels, smear_channels, key_offset;
    float smear, backout, qk_scale, epsilon;
} Model;
static inline float number(WEIGHT weight) {
    if (sizeof(WEIGHT) == sizeof(float)) return weight;
    union { uint32_t bits; float wide; } each = {(uint32_t)weight << 16};   // bfloat16: a float's upper half
    return each.wide;
}

static void norm(const float *x, float *y, int size, float epsilon, float scale) {
    float sum = 0;
    #pragma omp simd reduction(+:sum)
    for (int i = 0; i < size; i++) sum += x[i] * x[i];
    scale /= sqrtf(sum / size + epsilon);
    for (int i = 0; i < size; i++) y[i] = x[i] * scale;
}

static float sigmoid(const WEIGHT *gate, const float *numbers, const float *x, int size) {
    float sum = 0;
    for (int i = 0; i < size; i++) sum += (gate ? number(gate[i]) : numbers[i]) * x[i];
    return 1 / (1 + expf(-sum));
}

// What `count` rows of x (k each) make with one row of a matrix: a weight is widened once for all of them.
__attribute__((always_inline)) static inline void dots(const WEIGHT *restrict row, const float *restrict x,
                                                       int k, float *restrict sums, const int count) {
    float sum[8] = {0};
    #pragma omp simd reduction(+:sum)
    for (int j = 0; j < k; j++)
        for (int c = 0; c < count; c++) sum[c] += number(row[j]) * x[c * k + j];
    for (int c = 0; c < count; c++) sums[c] = sum[c];
}

// y[b] = W x[b], or added to what is there, or relu(.) squared; W (n, k). Threads share the rows of W.
enum { SET, ADD, RELU_SQUARED };
static void multiply(const WEIGHT *restrict w, const float *restrict x, float *restrict y, int n, int k,
                     int B, int what) {
    #pragma omp for schedule(static)
    for (int i = 0; i < n; i++) {
        const WEIGHT *row = w + (int64_t)i * k;
        float sums[B];
        int b = 0;
        for (; b + 8 <= B; b += 8) dots(row, x + b * k, k, sums + b, 8);
        for (; b + 4 <= B; b += 4) dots(row, x + b * k, k, sums + b, 4);
        for (; b < B; b++) dots(row, x + b * k, k, sums + b, 1);
        for (b = 0; b < B; b++) {
            float *out = y + (int64_t)b * n + i, sum = sums[b];
            *out = what == ADD ? *out + sum : what == SET ? sum : sum > 0 ? sum * sum : 0;
        }
    }
}

// Embedding of a token with its smear: x (C).
static void embed(const Model *m, int token, float *x, float *before) {
    for (int i = 0; i < m->C; i++) x[i] = number(m->embedding[(int64_t)token * m->C + i]);
    norm(x, x, m->C, m->epsilon, 1);
    float share = m->smear * sigmoid(NULL, m->smear_gate, x, m->smear_channels);
    for (int i = 0; i < m->C; i++) {
        float own = x[i];
        x[i] += share * before[i];
        before[i] = own;
    }
}

// Turn and scale queries and keys, gate the values, keep keys and values: heads (H + 2K, D) of row b.
static void prepare(const Model *m, const Layer *layer, int b, int token, int position, float *heads,
                    const float *h) {
    int D = m->D, K = m->K, half = D / 2, part = D / 4, slot = position % layer->slots;
    const float *cos = m->cos + (int64_t)position * D, *sin = m->sin + (int64_t)position * D;
    for (int i = 0; i < m->H + K; i++) {
        float *x = heads + i * D;
        for (int j = 0; j < half; j++) {
            float one = x[j], other = x[j + half];
            x[j] = one * cos[j] + other * sin[j];
            x[j + half] = other * cos[j + half] + one * sin[j + half];
        }
        norm(x, x, D, m->epsilon, m->qk_scale);
    }
    for (int i = 0; i < K; i++) {
        float *k = heads + (m->H + i) * D, *v = k + K * D, *last = layer->last_key + (b * K + i) * D;
        int64_t place = ((int64_t)(b * K + i) * layer->slots + slot) * D;
        for (int j = 0; j < D; j++) {
            float own = k[j];
            if (m->key_offset && j / part % 2) k[j] = last[j];
            last[j] = own;
        }
        if (layer->gate) {
            float share = 3 * sigmoid(layer->gate + i * m->gate_channels, NULL, h, m->gate_channels);
            int64_t at = ((int64_t)token * m->value_layers + layer->value) * K * D + i * D;
            for (int j = 0; j < D; j++) v[j] += share * number(m->value_embedding[at + j]);
        }
        memcpy(layer->keys + place, k, D * sizeof(float));
        memcpy(layer->values + place, v, D * sizeof(float));
    }
}

// What one query q (D) sees of the slots in use -> y (D). In any order: keys know their positions.
static void attend(const Model *m, const Layer *layer, int b, int head, int position, const float *restrict q,
                   float *restrict y) {
    int D = m->D, seen = position + 1 < layer->slots ? position + 1 : layer->slots;
    int64_t first = (int64_t)(b * m->K + head / (m->H / m->K)) * layer->slots * D;
    const float *restrict keys = layer->keys + first, *restrict values = layer->values + first;
    float scores[seen], most = -FLT_MAX, total = 0;
    for (int s = 0; s < seen; s++) {
        float sum = 0;
        #pragma omp simd reduction(+:sum)
        for (int j = 0; j < D; j++) sum += q[j] * keys[s * D + j];
        scores[s] = sum / sqrtf(D);
        if (scores[s] > most) most = scores[s];
    }
    #pragma omp simd reduction(+:total)
    for (int s = 0; s < seen; s++) total += scores[s] = expf(scores[s] - most);
    memset(y, 0, D * sizeof(float));
    for (int s = 0; s < seen; s++)
        for (int j = 0; j < D; j++) y[j] += scores[s] * values[s * D + j];
    for (int j = 0; j < D; j++) y[j] /= total;
}

// tokens and positions (B) -> z (B, V), the head's numbers before the softcap.
void decode(const Model *m, const Layer *layers, int threads, int B, const int32_t *tokens,
            const int32_t *positions, float *z) {
    int C = m->C, wide = (m->H + 2 * m->K) * m->D;
    float *x = m->memory, *first = x + B * C, *middle = first + B * C, *h = middle + B * C, *y = h + B * C;
    float *heads = y + B * C, *hidden = heads + B * wide;
    #pragma omp parallel num_threads(threads)
    {
        #pragma omp for
        for (int b = 0; b < B; b++) {
            embed(m, tokens[b], x + b * C, m->last_embedding + b * C);
            memcpy(first + b * C, x + b * C, C * sizeof(float));
        }
        for (int l = 0; l < m->L; l++) {
            const Layer *layer = layers + l;
            #pragma omp for
            for (int b = 0; b < B; b++) {
                for (int i = b * C; i < (b + 1) * C; i++) x[i] = layer->rho * x[i] + layer->mu * first[i];
                norm(x + b * C, h + b * C, C, m->epsilon, 1);
            }
            multiply(layer->joint, h, heads, wide, C, B, SET);
            #pragma omp for
            for (int b = 0; b < B; b++)
                prepare(m, layer, b, tokens[b], positions[b], heads + b * wide, h + b * C);
            #pragma omp for
            for (int i = 0; i < B * m->H; i++) {
                int b = i / m->H, head = i % m->H;
                const float *q = heads + b * wide + head * m->D;
                attend(m, layer, b, head, positions[b], q, y + b * C + head * m->D);
            }
            multiply(layer->o, y, x, C, C, B, ADD);
            #pragma omp for
            for (int b = 0; b < B; b++) norm(x + b * C, h + b * C, C, m->epsilon, 1);
            multiply(layer->up, h, hidden, 4 * C, C, B, RELU_SQUARED);
            multiply(layer->down, hidden, x, C, 4 * C, B, ADD);
            if (l == m->L / 2) {
                #pragma omp for
                for (int i = 0; i < B * C; i++) middle[i] = x[i];
            }
        }
        #pragma omp for
        for (int b = 0; b < B; b++) {
            for (int i = b * C; i < (b + 1) * C; i++) x[i] -= m->backout * middle[i];
            norm(x + b * C, h + b * C, C, m->epsilon, 1);
        }
        multiply(m->head, h, z, m->V, C, B, SET);
    }
}
