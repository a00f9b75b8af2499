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

constexpr int kMeanThreads = 32, kMeanTokens = 8;  // a block: a warp of columns, tokens in eight interleaved sums

// Block (columns, row): mean over tokens. Rows of the others come after those of x.
template <class A>
__global__ void token_mean_kernel(Rows x, Rows others, A* means) {
    __shared__ double sums[kMeanTokens][kMeanThreads];
    const int column = static_cast<int>(threadIdx.x) % kMeanThreads,
              part = static_cast<int>(threadIdx.x) / kMeanThreads;
    const index_t blocks = (x.hidden + kMeanThreads - 1) / kMeanThreads, stacked = blockIdx.x / blocks;
    const index_t h = blockIdx.x % blocks * kMeanThreads + column;
    double sum = 0;
    auto add = [&](const Rows& from, index_t row) {
#pragma unroll 4
        for (index_t token = part; token < from.length; token += kMeanTokens) {
            const index_t c = token * from.hidden + h;
            sum += static_cast<double>(centred<A, 1>(from, row, c).v[0] * factor<A>(from, row, c));
        }
    };
    if (h < x.hidden && stacked < x.count) add(x, stacked);
    if (h < x.hidden && stacked >= x.count) add(others, stacked - x.count);
    sums[part][column] = sum;
    __syncthreads();
    if (part > 0 || h >= x.hidden) return;
    for (int p = 1; p < kMeanTokens; ++p) sum += sums[p][column];
    means[stacked * x.hidden + h] = static_cast<A>(sum / static_cast<double>(x.length));
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
    launch("token means", token_mean_kernel<A>, static_cast<unsigned>(means.count * divide_up(x.hidden, kMeanThreads)),
           kMeanThreads * kMeanTokens, where, x, others ? *others : Rows{}, data);
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

    __device__ void operator()(const double* gram, double*, index_t) const {
        const index_t k = right + m;
        for (index_t i = threadIdx.x; i < n; i += kThreads) left_norm[i] = static_cast<A>(sqrt(gram[i * k + i]));
        for (index_t j = threadIdx.x; j < m; j += kThreads)
            right_norm[j] = static_cast<A>(sqrt(gram[(right + j) * k + right + j]));
        for (index_t e = threadIdx.x; e < n * m; e += kThreads) {
            const index_t i = e / m, j = right + e % m;
            double value = gram[i * k + j];
            if (metric != Metric::token_mean_dot)
                value = cosine(value, sqrt(gram[i * k + i]), sqrt(gram[j * k + j]), eps, i == j);
            similarity[e] = static_cast<A>(value);
        }
    }
};

struct NoFinish {
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
    // What a row gets back along itself, because the cosine does not see its length.
    __device__ double pull(index_t row, bool of_left) const {
        double sum = 0;
        for (index_t other = 0; other < (of_left ? m : n) && !dot; ++other) {
            const index_t i = of_left ? row : other, j = of_left ? other : row;
            const double a = left_norm[i], b = right_norm[j], own = of_left ? a : b;
            if (a > eps && b > eps)
                sum -= static_cast<double>(grad[i * m + j]) * static_cast<double>(similarity[i * m + j]) / own / own;
        }
        return sum;
    }
    __device__ double weight(index_t row, index_t column) const {
        if (self)
            return pair(row, column) + pair(column, row) + (row == column ? pull(row, true) + pull(row, false) : 0);
        if (row == column) return row < n ? pull(row, true) : pull(row - n, false);
        if (row < n) return column < n ? 0.0 : pair(row, column - n);
        return column < n ? pair(column, row - n) : 0.0;
    }
};

template <class A>
__global__ void weights_kernel(Cosines<A> cosines, A* weights) {
    const index_t k = cosines.self ? cosines.n : cosines.n + cosines.m, e = global_thread();
    if (e < k * k) weights[e] = static_cast<A>(cosines.weight(e / k, e % k));
}

// d_vectors (rows, length, hidden) = d_means / length at every token.
template <class A>
__global__ void spread_kernel(const A* means, index_t rows, index_t length, index_t hidden, Output<A> out) {
    const index_t i = global_thread(), size = length * hidden;
    if (i >= rows * size) return;
    const index_t row = i / size;
    const A value = means[row * hidden + i % hidden] / static_cast<A>(length);
    if (row < out.count)
        out.first[i] = value;
    else
        out.second[i - out.count * size] = value;
}

// Block per (row, token): d_scale = <d_vector, unscaled vector>, then d_vector becomes d_prompt.
template <class A>
__global__ void scale_kernel(Rows x, A* vectors, A* d_scale) {
    const index_t row = blockIdx.x / x.length, token = blockIdx.x % x.length;
    const A scale = static_cast<const A*>(x.scale)[blockIdx.x];
    double sum = 0;
    for (index_t h = threadIdx.x; h < x.hidden; h += kThreads) {
        const index_t c = token * x.hidden + h;
        A& value = vectors[row * x.columns() + c];
        if (d_scale) sum += static_cast<double>(value) * static_cast<double>(centred<A, 1>(x, row, c).v[0]);
        value *= scale;
    }
    sum = block_sum(sum);
    if (d_scale && threadIdx.x == 0) d_scale[blockIdx.x] = static_cast<A>(sum);
}

template <class A>
__global__ void reference_kernel(const A* d_prompts, index_t n, const A* d_others, index_t m, index_t columns,
                                 A* d_reference) {
    const index_t c = global_thread();
    if (c >= columns) return;
    A sum = 0;
#pragma unroll 4
    for (index_t i = 0; i < n; ++i) sum -= d_prompts[i * columns + c];
#pragma unroll 4
    for (index_t j = 0; j < m; ++j) sum -= d_others[j * columns + c];
    d_reference[c] = sum;
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
    launch("similarity weights", weights_kernel<A>, blocks_for(k * k), kThreads, where, cosines, weights);

    A* d_prompts = out.prompts ? static_cast<A*>(out.prompts) : scratch<A>(n * columns, where);
    const bool others_wanted = others && (out.others || out.reference);
    A* d_others = out.others ? static_cast<A*>(out.others) : scratch<A>(others_wanted ? m * columns : 0, where);
    const index_t rows = others_wanted ? k : n;
    const Output<A> vectors{d_prompts, n, d_others};
    if (metric == Metric::cosine) {
        mix(compared<A>(left, others, metric, where), weights, rows, 1, vectors, where);
    } else {
        A* d_means = scratch<A>(rows * left.hidden, where);
        mix(compared<A>(left, others, metric, where), weights, rows, 1, Output<A>{d_means, rows, nullptr}, where);
        launch("spread over tokens", spread_kernel<A>, blocks_for(rows * columns), kThreads, where, d_means, rows,
               left.length, left.hidden, vectors);
    }
    if (left.scale)
        launch("gradient of scale", scale_kernel<A>, static_cast<unsigned>(n * left.length), kThreads, where, left,
               d_prompts, static_cast<A*>(out.scale));
    if (out.reference)
        launch("gradient of reference", reference_kernel<A>, blocks_for(columns), kThreads, where, d_prompts, n,
               d_others, m, columns, static_cast<A*>(out.reference));
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
