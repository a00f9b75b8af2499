// Similarity of task vectors and its gradients: a Gram matrix one way, a mix the other.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "gram.h"
#include "runtime.h"

namespace promptkernels::cpu {
namespace {

// The rows that a token-mean metric compares, as plain rows of type acc in `buffer`.
template <class A>
Rows token_means(const Rows& x, A* buffer, int threads) {
    const Parts columns(x.hidden, 256, 8, 64), rows(x.count, 4, 16, 4);
    for_parts(rows.count * columns.count, threads_for(x.count * x.columns(), threads), [&](index_t part) {
        const index_t row = part / columns.count, column = part % columns.count;
        kernels().token_means(x, rows.begin(row), rows.end(row, x.count), columns.begin(column),
                              columns.end(column, x.hidden), buffer);
    });
    Rows means;
    means.data = buffer;
    means.count = x.count;
    means.length = 1;
    means.hidden = x.hidden;
    means.type = sizeof(A) == 8 ? DType::f64 : DType::f32;
    return means;
}

// What a metric compares: `left` and, unless it is compared with itself, `right`.
struct Compared {
    Rows left, right;
};

template <class A>
Compared compared(const Rows& left, const Rows* others, Metric metric, int threads) {
    if (metric == Metric::cosine) return {left, others ? *others : left};
    const index_t rows = left.count + (others ? others->count : 0);
    A* buffer = static_cast<A*>(scratch(Slot::means, static_cast<std::size_t>(rows * left.hidden) * sizeof(A)));
    Compared means;
    means.left = token_means(left, buffer, threads);
    means.right = others ? token_means(*others, buffer + left.count * left.hidden, threads) : means.left;
    return means;
}

// Keeps NaN, as torch's clamp does.
double at_least(double x, double floor) { return x < floor ? floor : x; }

template <class A>
void similarity_of(const Rows& left, const Rows* others, Metric metric, double eps, A* similarity, A* left_norm,
                   A* right_norm, A* z, int threads) {
    const Compared rows = compared<A>(left, others, metric, threads);
    const index_t n = rows.left.count, m = rows.right.count;
    const index_t doubles = (z ? 2 : 1) * n * m + n + m;
    double* gram = static_cast<double*>(scratch(Slot::gram, static_cast<std::size_t>(doubles) * sizeof(double)));
    double *a = gram + n * m, *b = a + n, *token_squares = b + m;
    const Rows* right = others ? &rows.right : nullptr;
    if (z)
        token_gram(rows.left, right, gram, token_squares, others ? a : nullptr, others ? b : nullptr, threads);
    else
        full_gram(rows.left, right, 0, rows.left.columns(), gram, others ? a : nullptr, others ? b : nullptr, threads);
    if (!others)
        for (index_t i = 0; i < n; ++i) a[i] = b[i] = gram[i * n + i];
    for (index_t i = 0; i < n; ++i) left_norm[i] = static_cast<A>(a[i] = std::sqrt(a[i]));
    for (index_t j = 0; j < m; ++j) right_norm[j] = static_cast<A>(b[j] = std::sqrt(b[j]));
    for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < m; ++j) {
            double value = gram[i * m + j];
            if (z) {
                const double squares = token_squares[i * m + j];
                z[i * m + j] = static_cast<A>(squares == 0 ? 0 : value / std::sqrt(squares));  // NaN stays NaN
            }
            if (metric != Metric::token_mean_dot) {
                value = value / at_least(a[i], eps) / at_least(b[j], eps);
                if (!others && i == j && a[i] > eps && std::isfinite(a[i])) value = 1;
            }
            similarity[i * m + j] = static_cast<A>(value);
        }
}

// With C = diag(a) V U^T diag(b): dV = W U + diag(p) V, W = a Gamma b, p = -a^2 sum_j Gamma C; likewise for U.
// Written as weights over the stacked rows: (n, k) for dV and, with other rows, (m, k) for dU.
template <class A>
void gradient_weights(const A* grad, const A* similarity, const A* left_norm, const A* right_norm, index_t n, index_t m,
                      bool self, Metric metric, double eps, std::vector<A>& left, std::vector<A>& right) {
    std::vector<double> w(static_cast<std::size_t>(n * m)), p(static_cast<std::size_t>(n)),
        q(static_cast<std::size_t>(m));
    auto inverse = [&](A norm) { return norm > eps ? 1 / static_cast<double>(norm) : 0.0; };
    for (index_t i = 0; i < n; ++i)
        for (index_t j = 0; j < m; ++j) {
            const double g = grad[i * m + j];
            if (metric == Metric::token_mean_dot) {
                w[i * m + j] = g;
                continue;
            }
            // A row without direction has no gradient: its true one would be of the size 1 / eps.
            const double a = inverse(left_norm[i]), b = inverse(right_norm[j]);
            if (a == 0 || b == 0) continue;
            w[i * m + j] = g * a * b;
            p[i] -= g * similarity[i * m + j] * a * a;
            q[j] -= g * similarity[i * m + j] * b * b;
        }
    const index_t k = self ? n : n + m;
    left.assign(static_cast<std::size_t>(n * k), A(0));
    right.assign(self ? 0 : static_cast<std::size_t>(m * k), A(0));
    if (self) {
        for (index_t i = 0; i < n; ++i)
            for (index_t j = 0; j < n; ++j)
                left[i * n + j] = static_cast<A>(w[i * n + j] + w[j * n + i] + (i == j ? p[i] + q[i] : 0.0));
        return;
    }
    for (index_t i = 0; i < n; ++i) {
        left[i * k + i] = static_cast<A>(p[i]);
        for (index_t j = 0; j < m; ++j) {
            left[i * k + n + j] = static_cast<A>(w[i * m + j]);
            right[j * k + i] = static_cast<A>(w[i * m + j]);
        }
    }
    for (index_t j = 0; j < m; ++j) right[j * k + n + j] = static_cast<A>(q[j]);
}

// Gradients of the vectors over a range of columns, one row after another; from a mix or from token means.
template <class A>
struct VectorGradients {
    const Rows* inputs;
    int input_count;
    const std::vector<A>* weights[2];
    const A* means[2];  // (rows, hidden), already divided by the number of tokens; null for the flattened metric
    index_t rows[2];
    index_t hidden, columns;

    void fill(index_t begin, index_t end, A* const out[2], const index_t stride[2]) const {
        if (means[0]) {
            for (int side = 0; side < input_count; ++side)
                for (index_t i = 0; i < rows[side]; ++i)
                    std::memcpy(out[side] + i * stride[side], means[side] + i * hidden + begin % hidden,
                                static_cast<std::size_t>(end - begin) * sizeof(A));
            return;
        }
        Product products[2];
        for (int side = 0; side < input_count; ++side)
            products[side] = {weights[side]->data(), rows[side], rows[0] + (input_count == 2 ? rows[1] : 0), out[side],
                              stride[side]};
        kernels().mix(inputs, input_count, begin, end, products, input_count);
    }
};

template <class A>
void backward_of(const A* grad, const Rows& left, const Rows* others, Metric metric, double eps, const A* similarity,
                 const A* left_norm, const A* right_norm, const SimilarityGradients& out, int threads) {
    const index_t n = left.count, m = others ? others->count : n, columns = left.columns(), hidden = left.hidden;
    const int sides = others ? 2 : 1;
    std::vector<A> weights[2], mean_gradients[2];
    gradient_weights(grad, similarity, left_norm, right_norm, n, m, !others, metric, eps, weights[0], weights[1]);
    const Compared rows = compared<A>(left, others, metric, threads);
    const Rows inputs[2] = {rows.left, rows.right};
    VectorGradients<A> vectors{inputs, sides,  {&weights[0], &weights[1]}, {nullptr, nullptr}, {n, others ? m : 0},
                               hidden, columns};
    if (metric != Metric::cosine) {
        A* means[2];
        index_t strides[2] = {hidden, hidden};
        for (int side = 0; side < 2; ++side) {
            mean_gradients[side].resize(static_cast<std::size_t>(vectors.rows[side] * hidden));
            means[side] = mean_gradients[side].data();
        }
        vectors.fill(0, hidden, means, strides);
        for (int side = 0; side < sides; ++side) {
            for (A& value : mean_gradients[side]) value /= static_cast<A>(left.length);
            vectors.means[side] = means[side];
        }
    }

    // Whole tokens per part where a token's factor takes part in the sums; a segment never crosses a token then.
    const bool by_token = left.scale || metric != Metric::cosine;
    constexpr index_t kSegment = 1024;
    const Parts parts(columns, by_token ? hidden : 2048, 64, by_token ? hidden : 64);
    A* const destination[2] = {static_cast<A*>(out.prompts), static_cast<A*>(out.others)};
    const A* scale = static_cast<const A*>(left.scale);
    std::vector<double> dots(out.scale ? static_cast<std::size_t>(n * left.length) : 0, 0.0);
    for_parts(parts.count, threads_for((n + m) * columns, threads), [&](index_t part) {
        const index_t stop = parts.end(part, columns);
        A* spare =
            static_cast<A*>(scratch(Slot::outputs, static_cast<std::size_t>((n + m + 1) * kSegment) * sizeof(A)));
        A* reference_sum = spare + (n + m) * kSegment;
        for (index_t begin = parts.begin(part), end; begin < stop; begin = end) {
            end = std::min(begin + kSegment, stop);
            if (by_token) end = std::min(end, (begin / hidden + 1) * hidden);
            const index_t token = begin / hidden, width = end - begin;
            A* const to[2] = {destination[0] ? destination[0] + begin : spare,
                              destination[1] ? destination[1] + begin : spare + n * kSegment};
            const index_t stride[2] = {destination[0] ? columns : kSegment, destination[1] ? columns : kSegment};
            vectors.fill(begin, end, to, stride);
            A* sum = out.reference ? reference_sum : nullptr;
            if (sum) std::fill(sum, sum + width, A(0));
            for (index_t i = 0; i < n; ++i) {
                A* values = to[0] + i * stride[0];
                if (out.scale)
                    dots[static_cast<std::size_t>(i * left.length + token)] +=
                        kernels().unscaled_dot(left, i, begin, end, values);
                if (scale || sum)
                    kernels().scale_and_subtract(values,
                                                 scale ? static_cast<double>(scale[i * left.length + token]) : 1.0, sum,
                                                 width, sizeof(A) == 8);
            }
            if (others && sum)
                for (index_t j = 0; j < m; ++j)
                    kernels().scale_and_subtract(to[1] + j * stride[1], 1.0, sum, width, sizeof(A) == 8);
            if (sum) std::copy(sum, sum + width, static_cast<A*>(out.reference) + begin);
        }
    });
    for (std::size_t i = 0; i < dots.size(); ++i) static_cast<A*>(out.scale)[i] = static_cast<A>(dots[i]);
}

}  // namespace

void similarity(const Rows& left, const Rows* others, Metric metric, double eps, void* similarity, void* left_norm,
                void* right_norm, void* z, int threads) {
    if (wide(left.type))
        return similarity_of(left, others, metric, eps, static_cast<double*>(similarity),
                             static_cast<double*>(left_norm), static_cast<double*>(right_norm), static_cast<double*>(z),
                             threads);
    similarity_of(left, others, metric, eps, static_cast<float*>(similarity), static_cast<float*>(left_norm),
                  static_cast<float*>(right_norm), static_cast<float*>(z), threads);
}

void similarity_backward(const void* grad, const Rows& left, const Rows* others, Metric metric, double eps,
                         const void* similarity, const void* left_norm, const void* right_norm,
                         const SimilarityGradients& out, int threads) {
    if (wide(left.type))
        return backward_of(static_cast<const double*>(grad), left, others, metric, eps,
                           static_cast<const double*>(similarity), static_cast<const double*>(left_norm),
                           static_cast<const double*>(right_norm), out, threads);
    backward_of(static_cast<const float*>(grad), left, others, metric, eps, static_cast<const float*>(similarity),
                static_cast<const float*>(left_norm), static_cast<const float*>(right_norm), out, threads);
}

}  // namespace promptkernels::cpu
