// Similarity of task vectors and its gradients on the GPU; the formulas stand in cpu/similarity.cpp.
#include "gram.cuh"

namespace promptkernels::cuda {
namespace {

template <class A>
constexpr DType acc_type() {
    return sizeof(A) == 8 ? DType::f64 : DType::f32;
}

// Thread per (row, hidden column): mean over tokens.
template <class A>
__global__ void token_mean_kernel(Rows x, A* means) {
    const index_t i = global_thread();
    if (i >= x.count * x.hidden) return;
    const index_t row = i / x.hidden, h = i % x.hidden;
    double sum = 0;
    for (index_t token = 0; token < x.length; ++token) sum += element<A>(x, row, token * x.hidden + h);
    means[i] = static_cast<A>(sum / static_cast<double>(x.length));
}

template <class A>
Rows token_means(const Rows& x, A* buffer, cudaStream_t stream) {
    token_mean_kernel<<<blocks_for(x.count * x.hidden), kThreads, 0, stream>>>(x, buffer);
    check_launch("token_mean");
    Rows means;
    means.data = buffer;
    means.count = x.count;
    means.length = 1;
    means.hidden = x.hidden;
    means.type = acc_type<A>();
    return means;
}

// One block. `norms` (n + m) holds squared norms if others are given, else it is filled here from the Gram diagonal.
template <class A>
__global__ void finish_kernel(GramPlan plan, const double* partials, Metric metric, double eps, double* norms,
                              A* similarity, A* left_norm, A* right_norm) {
    for (index_t i = threadIdx.x; i < plan.n + plan.m; i += kThreads) {
        const index_t row = i < plan.n ? i : i - plan.n;
        const double norm = sqrt(plan.symmetric ? gram_entry(partials, plan, 0, row, row) : norms[i]);
        norms[i] = norm;
        (i < plan.n ? left_norm : right_norm)[row] = static_cast<A>(norm);
    }
    __syncthreads();
    for (index_t k = threadIdx.x; k < plan.n * plan.m; k += kThreads) {
        const index_t i = k / plan.m, j = k % plan.m;
        double value = gram_entry(partials, plan, 0, i, j);
        if (metric != Metric::token_mean_dot) {
            const double a = norms[i], b = norms[plan.n + j];
            value = value / (a < eps ? eps : a) / (b < eps ? eps : b);  // NaN stays NaN
            if (plan.symmetric && i == j && a > eps && isfinite(a)) value = 1;
        }
        similarity[k] = static_cast<A>(value);
    }
}

template <class A>
void similarity_of(const Rows& left, const Rows* others, Metric metric, double eps, A* out, A* left_norm, A* right_norm,
                   cudaStream_t stream) {
    const bool means = metric != Metric::cosine;
    const index_t n = left.count, m = others ? others->count : n;
    const Scratch<A> mean_rows(means ? (n + m) * left.hidden : 0, stream);
    const Rows x = means ? token_means(left, mean_rows.get(), stream) : left;
    const Rows y = !others ? x : means ? token_means(*others, mean_rows.get() + n * left.hidden, stream) : *others;
    const GramPlan plan = plan_gram(x, others ? &y : nullptr, 1);
    const Scratch<double> partials(plan.size(), stream), norms(n + m, stream);
    gram_partials(plan, x, y, partials.get(), stream);
    if (others) {
        squares(x, norms.get(), stream);
        squares(y, norms.get() + n, stream);
    }
    finish_kernel<<<1, kThreads, 0, stream>>>(plan, partials.get(), metric, eps, norms.get(), out, left_norm,
                                              right_norm);
    check_launch("similarity");
}

// Weights of the stacked rows in the gradients: left (n, k) and, with other rows, right (m, k). One block.
template <class A>
__global__ void weights_kernel(const A* grad, const A* similarity, const A* left_norm, const A* right_norm, index_t n,
                               index_t m, bool self, Metric metric, double eps, A* left, A* right) {
    const bool dot = metric == Metric::token_mean_dot;
    auto pair_weight = [&](index_t i, index_t j) -> double {
        if (dot) return grad[i * m + j];
        const double a = left_norm[i], b = right_norm[j];
        return a > eps && b > eps ? grad[i * m + j] / a / b : 0.0;
    };
    auto pull = [&](index_t row, bool of_left) -> double {
        double sum = 0;
        for (index_t k = 0; k < (of_left ? m : n) && !dot; ++k) {
            const index_t i = of_left ? row : k, j = of_left ? k : row;
            const double a = left_norm[i], b = right_norm[j], own = of_left ? a : b;
            if (a > eps && b > eps) sum -= static_cast<double>(grad[i * m + j]) * similarity[i * m + j] / own / own;
        }
        return sum;
    };
    const index_t k = self ? n : n + m;
    for (index_t e = threadIdx.x; e < n * k; e += kThreads) {
        const index_t i = e / k, j = e % k;
        double value;
        if (self)
            value = pair_weight(i, j) + pair_weight(j, i) + (i == j ? pull(i, true) + pull(i, false) : 0.0);
        else
            value = j >= n ? pair_weight(i, j - n) : i == j ? pull(i, true) : 0.0;
        left[e] = static_cast<A>(value);
    }
    for (index_t e = threadIdx.x; !self && e < m * k; e += kThreads) {
        const index_t j = e / k, i = e % k;
        right[e] = static_cast<A>(i < n ? pair_weight(i, j) : i - n == j ? pull(j, false) : 0.0);
    }
}

// d_vectors (rows, length, hidden) = d_means / length at every token.
template <class A>
__global__ void spread_kernel(const A* means, index_t rows, index_t length, index_t hidden, A* vectors) {
    const index_t i = global_thread();
    if (i >= rows * length * hidden) return;
    const index_t row = i / (length * hidden);
    vectors[i] = means[row * hidden + i % hidden] / static_cast<A>(length);
}

// Block per (row, token): d_scale = <d_vector, unscaled vector>, then d_vector becomes d_prompt.
template <class A>
__global__ void scale_kernel(Rows x, A* vectors, A* d_scale) {
    const index_t row = blockIdx.x / x.length, token = blockIdx.x % x.length;
    const A factor = static_cast<const A*>(x.scale)[blockIdx.x];
    double sum = 0;
    for (index_t h = threadIdx.x; h < x.hidden; h += kThreads) {
        const index_t c = token * x.hidden + h;
        A& value = vectors[row * x.columns() + c];
        if (d_scale) sum += static_cast<double>(value) * static_cast<double>(unscaled<A>(x, row, c));
        value *= factor;
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
    for (index_t i = 0; i < n; ++i) sum -= d_prompts[i * columns + c];
    for (index_t j = 0; j < m; ++j) sum -= d_others[j * columns + c];
    d_reference[c] = sum;
}

template <class A>
void backward_of(const A* grad, const Rows& left, const Rows* others, Metric metric, double eps, const A* similarity,
                 const A* left_norm, const A* right_norm, const SimilarityGradients& out, cudaStream_t stream) {
    const bool means = metric != Metric::cosine;
    const index_t n = left.count, m = others ? others->count : 0, k = n + m, columns = left.columns();
    const Scratch<A> weights((n + m) * k, stream), mean_rows(means ? 2 * k * left.hidden : 0, stream);
    const Scratch<A> own_prompts(out.prompts ? 0 : n * columns, stream),
        own_others(out.others ? 0 : m * columns, stream);
    A* d_prompts = out.prompts ? static_cast<A*>(out.prompts) : own_prompts.get();
    A* d_others = out.others ? static_cast<A*>(out.others) : own_others.get();
    A* right_weights = weights.get() + n * k;
    weights_kernel<<<1, kThreads, 0, stream>>>(grad, similarity, left_norm, right_norm, n, others ? m : n, !others,
                                               metric, eps, weights.get(), right_weights);
    check_launch("similarity weights");

    if (!means) {
        mix(left, others, weights.get(), n, 1, d_prompts, stream);
        if (others) mix(left, others, right_weights, m, 1, d_others, stream);
    } else {
        A *rows = mean_rows.get(), *d_rows = rows + k * left.hidden;
        const Rows x = token_means(left, rows, stream);
        const Rows y = others ? token_means(*others, rows + n * left.hidden, stream) : x;
        mix(x, others ? &y : nullptr, weights.get(), n, 1, d_rows, stream);
        spread_kernel<<<blocks_for(n * columns), kThreads, 0, stream>>>(d_rows, n, left.length, left.hidden, d_prompts);
        if (others) {
            mix(x, &y, right_weights, m, 1, d_rows + n * left.hidden, stream);
            spread_kernel<<<blocks_for(m * columns), kThreads, 0, stream>>>(d_rows + n * left.hidden, m, left.length,
                                                                            left.hidden, d_others);
        }
        check_launch("spread over tokens");
    }
    if (left.scale) {
        scale_kernel<<<static_cast<unsigned>(n * left.length), kThreads, 0, stream>>>(left, d_prompts,
                                                                                      static_cast<A*>(out.scale));
        check_launch("gradient of scale");
    }
    if (out.reference) {
        reference_kernel<<<blocks_for(columns), kThreads, 0, stream>>>(d_prompts, n, d_others, m, columns,
                                                                       static_cast<A*>(out.reference));
        check_launch("gradient of reference");
    }
}

}  // namespace

void similarity(const Rows& left, const Rows* others, Metric metric, double eps, void* out, void* left_norm,
                void* right_norm, Stream stream) {
    if (wide(left.type))
        return similarity_of(left, others, metric, eps, static_cast<double*>(out), static_cast<double*>(left_norm),
                             static_cast<double*>(right_norm), as_stream(stream));
    similarity_of(left, others, metric, eps, static_cast<float*>(out), static_cast<float*>(left_norm),
                  static_cast<float*>(right_norm), as_stream(stream));
}

void similarity_backward(const void* grad, const Rows& left, const Rows* others, Metric metric, double eps,
                         const void* similarity, const void* left_norm, const void* right_norm,
                         const SimilarityGradients& out, Stream stream) {
    if (wide(left.type))
        return backward_of(static_cast<const double*>(grad), left, others, metric, eps,
                           static_cast<const double*>(similarity), static_cast<const double*>(left_norm),
                           static_cast<const double*>(right_norm), out, as_stream(stream));
    backward_of(static_cast<const float*>(grad), left, others, metric, eps, static_cast<const float*>(similarity),
                static_cast<const float*>(left_norm), static_cast<const float*>(right_norm), out, as_stream(stream));
}

}  // namespace promptkernels::cuda
