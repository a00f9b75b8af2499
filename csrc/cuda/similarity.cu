// Similarity of task vectors and its gradients on the GPU; the formulas stand in cpu/similarity.cpp.
// Forwards: one launch (two where tokens are averaged first, or have a Gram matrix each). Backwards: weights, one mix,
// and what is asked for beside.
#include "mix.cuh"

namespace promptkernels::cuda {
namespace {

template <class A>
constexpr DType acc_type() {
    return sizeof(A) == 8 ? DType::f64 : DType::f32;
}

constexpr int kMeanWarps = 16, kMeanTokens = 4;  // of a block; of a thread, whose loads are under way together

// Block (32 packs of columns, row): mean over tokens, which the warps share. Sums are acc over kMeanTokens tokens and
// double beyond. Rows of the others come after those of x.
template <class A, int V>
__global__ void __launch_bounds__(32 * kMeanWarps) token_mean_kernel(Rows x, Rows others, A* means) {
    constexpr int kColumns = 32 * V;
    __shared__ double sums[kMeanWarps][kColumns];
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const unsigned blocks = static_cast<unsigned>((x.hidden + kColumns - 1) / kColumns);
    const index_t stacked = blockIdx.x / blocks, begin = static_cast<index_t>(blockIdx.x % blocks) * kColumns;
    const bool of_x = stacked < x.count;
    const Rows from = of_x ? x : others;
    const index_t row = of_x ? stacked : stacked - x.count, h = begin + lane * V;
    const A* scale = from.scale ? static_cast<const A*>(from.scale) + row * from.length : nullptr;
    double sum[V] = {};
    if (h < x.hidden) {
        with_row_type<A>(from.type, [&](auto type) {
            using Stored = Storage<decltype(type)::value>;
            using S = typename Stored::type;
            const S* data = static_cast<const S*>(from.data) + row * from.columns() + h;
            const S* reference = from.reference ? static_cast<const S*>(from.reference) + h : nullptr;
            for (index_t first = warp; first < from.length; first += kMeanWarps * kMeanTokens) {
                Pack<S, V> prompt[kMeanTokens] = {}, start[kMeanTokens] = {};
                A by[kMeanTokens] = {};
#pragma unroll
                for (int t = 0; t < kMeanTokens; ++t) {
                    const index_t token = first + t * kMeanWarps, c = token * from.hidden;
                    const bool there = token < from.length;
                    if (there) prompt[t] = read<S, V>(data + c);
                    if (there && reference) start[t] = read<S, V>(reference + c);
                    if (there) by[t] = A(1);
                    if (there && scale) by[t] = scale[token];
                }
#pragma unroll
                for (int c = 0; c < V; ++c) {
                    A few = 0;
#pragma unroll
                    for (int t = 0; t < kMeanTokens; ++t) {
                        const A value = Stored::widen(prompt[t].v[c]), origin = Stored::widen(start[t].v[c]);
                        few += (value - origin) * by[t];
                    }
                    sum[c] += static_cast<double>(few);
                }
            }
        });
    }
#pragma unroll
    for (int c = 0; c < V; ++c) sums[warp][lane * V + c] = sum[c];
    __syncthreads();
    const index_t column = begin + threadIdx.x;
    if (threadIdx.x >= kColumns || column >= x.hidden) return;
    double total = 0;
#pragma unroll
    for (int w = 0; w < kMeanWarps; ++w) total += sums[w][threadIdx.x];
    means[stacked * x.hidden + column] = static_cast<A>(total / static_cast<double>(x.length));
}

template <class A, int V>
void launch_token_means(const Rows& x, const Rows& others, A* means, const Where& where) {
    const index_t blocks = (x.count + others.count) * divide_up(x.hidden, 32 * V);
    launch("token means", token_mean_kernel<A, V>, static_cast<unsigned>(blocks), 32 * kMeanWarps, where, x, others,
           means);
}

template <class A>
void token_means(const Rows& x, const Rows& others, A* means, const Where& where) {
    const int v = pack_size(x.type);
    if (!in_packs(x, v) || !in_packs(others, v)) return launch_token_means<A, 1>(x, others, means, where);
    if constexpr (sizeof(A) == 8) {
        launch_token_means<A, 2>(x, others, means, where);
    } else {
        (v == 8 ? launch_token_means<A, 8> : launch_token_means<A, 4>)(x, others, means, where);
    }
}

// The rows that a metric compares: x, then the others.
template <class A>
Stack compared(const Rows& x, const Rows* others, Metric metric, const Where& where) {
    Stack z;
    if (metric == Metric::cosine) {
        z.add(x);
        if (others) z.add(*others);
        return z;
    }
    Rows means;
    means.count = x.count + (others ? others->count : 0);
    means.length = 1;
    means.hidden = x.hidden;
    means.type = acc_type<A>();
    A* data = scratch<A>(means.count * means.hidden, where);
    means.data = data;
    token_means<A>(x, others ? *others : Rows{}, data, where);
    z.add(means);
    return z;
}

// Of a product and two norms; NaN stays NaN.
__device__ inline double cosine(double product, double a, double b, double eps, bool itself) {
    if (itself && a > eps && isfinite(a)) return 1;
    return product / (a < eps ? eps : a) / (b < eps ? eps : b);
}

// Left row i is row i of the Gram matrix, right row j is row right + j.
template <class A>
struct SimilarityFinish {
    Metric metric;
    double eps;
    index_t n, m, right;
    A *similarity, *left_norm, *right_norm;
    static constexpr bool keeps_gram = false;

    __device__ void operator()(const double* gram, double* norms, index_t) const {
        const int columns = static_cast<int>(m), first = static_cast<int>(right), k = first + columns;
        for (int row = static_cast<int>(threadIdx.x); row < k; row += kThreads) {
            norms[row] = sqrt(gram[row * k + row]);
            if (row < n) left_norm[row] = static_cast<A>(norms[row]);
            if (row >= first) right_norm[row - first] = static_cast<A>(norms[row]);
        }
        __syncthreads();
        for (int e = static_cast<int>(threadIdx.x); e < static_cast<int>(n) * columns; e += kThreads) {
            const int i = e / columns, j = first + e % columns;
            double value = gram[i * k + j];
            if (metric != Metric::token_mean_dot) value = cosine(value, norms[i], norms[j], eps, i == j);
            similarity[e] = static_cast<A>(value);
        }
    }
};

struct NoFinish {
    static constexpr bool keeps_gram = true;
    __device__ void operator()(const double*, double*, index_t) const {}
};

// Block (i, j): the Gram matrices (tokens, k, k) added up over tokens, and their squares for z (n, m).
template <class A>
__global__ void token_finish_kernel(const double* grams, index_t tokens, SimilarityFinish<A> to, A* z) {
    const index_t i = blockIdx.x / to.m, j = blockIdx.x % to.m, row = to.right + j, k = to.right + to.m;
    double product = 0, squares = 0, a = 0, b = 0;
    for (index_t token = threadIdx.x; token < tokens; token += kThreads) {
        const double* gram = grams + token * k * k;
        const double p = gram[i * k + row];
        product += p;
        squares += p * p;
        a += gram[i * k + i];
        b += gram[row * k + row];
    }
    product = block_sum(product);
    squares = block_sum(squares);
    a = sqrt(block_sum(a));
    b = sqrt(block_sum(b));
    if (threadIdx.x > 0) return;
    to.similarity[blockIdx.x] = static_cast<A>(cosine(product, a, b, to.eps, i == row));
    z[blockIdx.x] = static_cast<A>(squares == 0 ? 0 : product / sqrt(squares));  // NaN stays NaN
    if (j == 0) to.left_norm[i] = static_cast<A>(a);
    if (i == 0) to.right_norm[j] = static_cast<A>(b);
}

template <class A>
void forward(const Rows& left, const Rows* others, Metric metric, double eps, void* out, void* left_norm,
             void* right_norm, void* z, const Where& where) {
    const index_t n = left.count, m = others ? others->count : n;
    const SimilarityFinish<A> finish{metric,
                                     eps,
                                     n,
                                     m,
                                     others ? n : 0,
                                     static_cast<A*>(out),
                                     static_cast<A*>(left_norm),
                                     static_cast<A*>(right_norm)};
    const Stack rows = compared<A>(left, others, metric, where);
    if (!z) {
        gram<A>("similarity", rows, 1, finish, where);
        return;
    }
    const double* grams = gram<A>("similarity per token", rows, left.length, NoFinish{}, where);
    launch("similarity and z", token_finish_kernel<A>, static_cast<unsigned>(n * m), kThreads, where, grams,
           left.length, finish, static_cast<A*>(z));
}

// weights (n + m, k), of the stacked rows in the gradients of left rows and, with other rows, of those (self: (n, n)).
template <class A>
struct Cosines {
    const A *grad, *similarity, *left_norm, *right_norm;
    index_t n, m;
    bool self, dot;
    double eps;

    __device__ double pair(index_t i, index_t j) const {
        const double gradient = static_cast<double>(grad[i * m + j]);
        if (dot) return gradient;
        const double a = left_norm[i], b = right_norm[j];
        return a > eps && b > eps ? gradient / a / b : 0.0;
    }
    // What a row gets back along itself for a pair, because the cosine does not see its length.
    __device__ double pull(index_t row, index_t other, bool of_left) const {
        const index_t i = of_left ? row : other, j = of_left ? other : row;
        const double a = left_norm[i], b = right_norm[j], own = of_left ? a : b;
        if (dot || !(a > eps) || !(b > eps)) return 0;
        return -static_cast<double>(grad[i * m + j]) * static_cast<double>(similarity[i * m + j]) / own / own;
    }
    // Without that.
    __device__ double weight(index_t row, index_t column) const {
        if (self) return pair(row, column) + pair(column, row);
        if (row < n) return column < n ? 0.0 : pair(row, column - n);
        return column < n ? pair(column, row - n) : 0.0;
    }
};

// Block per row of the weights.
template <class A>
__global__ void weights_kernel(Cosines<A> cosines, A* weights) {
    const index_t n = cosines.n, m = cosines.m, k = cosines.self ? n : n + m, row = blockIdx.x;
    double pull = 0;
    if (row < n)
        for (index_t j = threadIdx.x; j < m; j += kThreads) pull += cosines.pull(row, j, true);
    if (cosines.self || row >= n)
        for (index_t i = threadIdx.x; i < n; i += kThreads) pull += cosines.pull(row < n ? row : row - n, i, false);
    pull = block_sum(pull);
    for (index_t column = threadIdx.x; column < k; column += kThreads)
        weights[row * k + column] = static_cast<A>(cosines.weight(row, column) + (row == column ? pull : 0.0));
}

constexpr int kSpreadTokens = 4;  // that a thread writes

// Block (row, kSpreadTokens tokens, kThreads packs of columns): d_vectors = d_means / length at every token.
template <class A, int V>
__global__ void spread_kernel(const A* means, index_t length, index_t hidden, Output<A> out) {
    const unsigned chunks = static_cast<unsigned>((hidden / V + kThreads - 1) / kThreads);
    const unsigned groups = static_cast<unsigned>((length + kSpreadTokens - 1) / kSpreadTokens);
    const index_t row = blockIdx.x / chunks / groups, first = blockIdx.x / chunks % groups * kSpreadTokens;
    const index_t h = static_cast<index_t>(blockIdx.x % chunks * kThreads + threadIdx.x) * V;
    if (h >= hidden) return;
    Pack<A, V> value = read<A, V>(means + row * hidden + h);
#pragma unroll
    for (int c = 0; c < V; ++c) value.v[c] /= static_cast<A>(length);
    A* to =
        (row < out.count ? out.first + row * length * hidden : out.second + (row - out.count) * length * hidden) + h;
#pragma unroll
    for (int t = 0; t < kSpreadTokens; ++t)
        if (first + t < length) write<A, V>(to + (first + t) * hidden, value);
}

// Block per (row, token): d_scale = <d_vector, unscaled vector>, then d_vector becomes d_prompt.
template <class A, int V>
__global__ void scale_kernel(Rows x, A* vectors, A* d_scale) {
    const unsigned length = static_cast<unsigned>(x.length);
    const index_t row = blockIdx.x / length, token = blockIdx.x % length;
    const A scale = static_cast<const A*>(x.scale)[blockIdx.x];
    double sum = 0;
    for (index_t h = static_cast<index_t>(threadIdx.x) * V; h < x.hidden; h += kThreads * V) {
        const index_t c = token * x.hidden + h;
        A* at = vectors + row * x.columns() + c;
        Pack<A, V> value = read<A, V>(at);
        if (d_scale) {
            const Pack<A, V> vector = centred<A, V>(x, row, c);
#pragma unroll
            for (int k = 0; k < V; ++k) sum += static_cast<double>(value.v[k]) * static_cast<double>(vector.v[k]);
        }
#pragma unroll
        for (int k = 0; k < V; ++k) value.v[k] *= scale;
        write<A, V>(at, value);
    }
    sum = block_sum(sum);
    if (d_scale && threadIdx.x == 0) d_scale[blockIdx.x] = static_cast<A>(sum);
}

// sum -= rows at V columns.
template <class A, int V>
__device__ void subtract_rows(const A* rows, index_t count, index_t columns, index_t c, Pack<A, V>& sum) {
#pragma unroll 8
    for (index_t i = 0; i < count; ++i) {
        const Pack<A, V> row = read<A, V>(rows + i * columns + c);
#pragma unroll
        for (int k = 0; k < V; ++k) sum.v[k] -= row.v[k];
    }
}
template <class A, int V>
__global__ void reference_kernel(const A* d_prompts, index_t n, const A* d_others, index_t m, index_t columns,
                                 A* d_reference) {
    const index_t c = global_thread() * V;
    if (c >= columns) return;
    Pack<A, V> sum{};
    subtract_rows(d_prompts, n, columns, c, sum);
    subtract_rows(d_others, m, columns, c, sum);
    write<A, V>(d_reference + c, sum);
}

// What follows the mix, in packs of V columns: spreading over tokens (means given), and the two gradients beside.
template <class A, int V>
void finish_vectors(const A* means, index_t rows, const Rows& left, const Output<A>& vectors, index_t others,
                    const SimilarityGradients& out, const Where& where) {
    const index_t n = left.count, columns = left.columns();
    if (means)
        launch(
            "spread over tokens", spread_kernel<A, V>,
            static_cast<unsigned>(rows * divide_up(left.length, kSpreadTokens) * divide_up(left.hidden / V, kThreads)),
            kThreads, where, means, left.length, left.hidden, vectors);
    if (left.scale)
        launch("gradient of scale", scale_kernel<A, V>, static_cast<unsigned>(n * left.length), kThreads, where, left,
               vectors.first, static_cast<A*>(out.scale));
    if (out.reference)
        launch("gradient of reference", reference_kernel<A, V>, blocks_for(columns / V), kThreads, where, vectors.first,
               n, vectors.second, others, columns, static_cast<A*>(out.reference));
}

template <class A>
void backward(const void* grad, const Rows& left, const Rows* others, Metric metric, double eps, const void* similarity,
              const void* left_norm, const void* right_norm, const SimilarityGradients& out, const Where& where) {
    const index_t n = left.count, m = others ? others->count : 0, k = n + m, columns = left.columns();
    A* weights = scratch<A>(k * k, where);
    const Cosines<A> cosines{static_cast<const A*>(grad),
                             static_cast<const A*>(similarity),
                             static_cast<const A*>(left_norm),
                             static_cast<const A*>(right_norm),
                             n,
                             others ? m : n,
                             !others,
                             metric == Metric::token_mean_dot,
                             eps};
    launch("similarity weights", weights_kernel<A>, static_cast<unsigned>(k), kThreads, where, cosines, weights);

    A* d_prompts = out.prompts ? static_cast<A*>(out.prompts) : scratch<A>(n * columns, where);
    const bool others_wanted = others && (out.others || out.reference);
    A* d_others = out.others ? static_cast<A*>(out.others) : scratch<A>(others_wanted ? m * columns : 0, where);
    const index_t rows = others_wanted ? k : n;
    const Output<A> vectors{d_prompts, n, d_others};
    A* d_means = nullptr;
    if (metric == Metric::cosine) {
        mix(compared<A>(left, others, metric, where), weights, rows, 1, vectors, where);
    } else {
        d_means = scratch<A>(rows * left.hidden, where);
        mix(compared<A>(left, others, metric, where), weights, rows, 1, Output<A>{d_means, rows, nullptr}, where);
    }
    constexpr int v = 16 / sizeof(A);
    bool packed = in_packs(left, v);
    for (const void* data : {static_cast<const void*>(d_prompts), static_cast<const void*>(d_others),
                             static_cast<const void*>(out.reference)})
        packed = packed && in_packs(data, sizeof(A), left.hidden, v);
    (packed ? finish_vectors<A, v> : finish_vectors<A, 1>)(d_means, rows, left, vectors, m, out, where);
}

}  // namespace

void similarity(const Rows& left, const Rows* others, Metric metric, double eps, void* out, void* left_norm,
                void* right_norm, void* z, const Where& where) {
    (wide(left.type) ? forward<double> : forward<float>)(left, others, metric, eps, out, left_norm, right_norm, z,
                                                         where);
}

void similarity_backward(const void* grad, const Rows& left, const Rows* others, Metric metric, double eps,
                         const void* similarity, const void* left_norm, const void* right_norm,
                         const SimilarityGradients& out, const Where& where) {
    (wide(left.type) ? backward<double> : backward<float>)(grad, left, others, metric, eps, similarity, left_norm,
                                                           right_norm, out, where);
}

}  // namespace promptkernels::cuda
