// SVGD: centred Gram -> squared distances -> bandwidth -> kernel -> one mix over particles and scores.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gram.h"
#include "runtime.h"

namespace promptkernels::cpu {
namespace {

// The k-th smallest (from 0), NaN above everything.
double ranked(std::vector<double>& values, std::size_t k) {
    auto less = [](double a, double b) { return a < b || (std::isnan(b) && !std::isnan(a)); };
    std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(k), values.end(), less);
    return values[k];
}

// Mean of the two middle values.
double median(std::vector<double>& values) {
    const double upper = ranked(values, values.size() / 2);
    return values.size() % 2 ? upper : (upper + ranked(values, values.size() / 2 - 1)) / 2;
}

// h of K = exp(-d^2 / h); `squared` (m, m) holds d^2. NumPyro adds the machine epsilon of the type it works in.
double bandwidth_of(const double* squared, index_t m, Bandwidth convention, double fixed, double epsilon) {
    if (convention == Bandwidth::fixed) return fixed;
    if (m == 1) return convention == Bandwidth::numpyro ? 1 : 0;
    const double particles = static_cast<double>(m);
    std::vector<double> values;
    if (convention == Bandwidth::blackjax) {
        for (index_t i = 0; i < m; ++i)
            for (index_t j = i + 1; j < m; ++j) values.push_back(std::sqrt(squared[i * m + j]));
        const double middle = median(values);
        return middle * middle / std::log(particles);
    }
    values.assign(squared, squared + m * m);
    if (convention == Bandwidth::liu2016) return median(values) / std::log(particles + 1);
    for (double& value : values) value = std::sqrt(value);
    const double middle = median(values);
    return middle * middle / std::log(particles) + epsilon;
}

// From a Gram matrix (which is overwritten by d^2) the kernel matrix and h.
template <class A>
double kernel_of(double* gram, index_t m, Bandwidth convention, double fixed, A* kernel) {
    std::vector<double> norms(static_cast<std::size_t>(m));
    for (index_t i = 0; i < m; ++i) norms[static_cast<std::size_t>(i)] = gram[i * m + i];
    for (index_t i = 0; i < m; ++i)
        for (index_t j = 0; j < m; ++j) {
            const double d2 =
                norms[static_cast<std::size_t>(i)] + norms[static_cast<std::size_t>(j)] - 2 * gram[i * m + j];
            gram[i * m + j] = i == j || d2 < 0 ? 0 : d2;
        }
    double h = bandwidth_of(gram, m, convention, fixed, std::numeric_limits<A>::epsilon());
    if (h <= 0) h = 0;
    for (index_t i = 0; i < m; ++i)
        for (index_t j = i; j < m; ++j) {
            const double d2 = gram[i * m + j];
            const double k = std::isnan(d2) ? d2 : h > 0 ? std::exp(-d2 / h) : d2 == 0 ? 1 : 0;
            kernel[i * m + j] = kernel[j * m + i] = static_cast<A>(k);
        }
    return h;
}

// 2 / (h m) (diag(K 1) - K): the weights of the particles.
template <class A>
double repulsion(const A* kernel, index_t m, double strength, index_t i, index_t j) {
    if (i != j) return -strength * static_cast<double>(kernel[i * m + j]);
    double others = 0;
    for (index_t k = 0; k < m; ++k)
        if (k != i) others += static_cast<double>(kernel[i * m + k]);
    return strength * others;
}

// Weights (m, 2 m) of [particles; scores] in phi.
template <class A>
void direction_weights(const A* kernel, index_t m, double h, A* weights) {
    const double particles = static_cast<double>(m), strength = h > 0 ? 2 / (h * particles) : 0;
    for (index_t i = 0; i < m; ++i)
        for (index_t j = 0; j < m; ++j) {
            weights[i * 2 * m + j] = static_cast<A>(repulsion(kernel, m, strength, i, j));
            weights[i * 2 * m + m + j] = static_cast<A>(static_cast<double>(kernel[i * m + j]) / particles);
        }
}

// Weights (m, 2 m) of [grad; particles] in d_particles, and (m, m) of grad in d_scores.
template <class A>
void backward_weights(const double* grad_x, const double* grad_s, const A* kernel, index_t m, double h, A* particles,
                      A* scores) {
    const double count = static_cast<double>(m), inverse_h = h > 0 ? 1 / h : 0, strength = 2 * inverse_h / count;
    std::vector<double> d(static_cast<std::size_t>(m * m));
    for (index_t i = 0; i < m; ++i)
        for (index_t j = 0; j < m; ++j) {
            const double d_kernel = grad_s[i * m + j] / count + strength * (grad_x[i * m + i] - grad_x[i * m + j]);
            const double d_squared = -d_kernel * static_cast<double>(kernel[i * m + j]) * inverse_h;
            d[i * m + j] += d_squared;
            d[j * m + i] += d_squared;
        }
    for (index_t i = 0; i < m; ++i) {
        double others = 0;
        for (index_t j = 0; j < m; ++j) {
            if (j != i) others += d[i * m + j];
            particles[i * 2 * m + j] = static_cast<A>(repulsion(kernel, m, strength, i, j));
            particles[i * 2 * m + m + j] = static_cast<A>(-2 * d[i * m + j]);
            scores[i * m + j] = static_cast<A>(static_cast<double>(kernel[i * m + j]) / count);
        }
        particles[i * 2 * m + m + i] = static_cast<A>(2 * others);
    }
}

// Products over all columns; parts of columns over threads.
void mix_all(const Rows inputs[2], const Product* products, int count, index_t begin, index_t end, int threads) {
    const index_t columns = end - begin;
    const Parts parts(columns, 2048, 64, 64);
    for_parts(parts.count, threads_for(2 * inputs[0].count * columns, threads), [&](index_t part) {
        const index_t from = begin + parts.begin(part), to = begin + parts.end(part, columns);
        Product mine[2];
        for (int k = 0; k < count; ++k) {
            mine[k] = products[k];
            mine[k].out = static_cast<char*>(products[k].out) +
                          static_cast<std::size_t>(from) * (wide(inputs[0].type) ? sizeof(double) : sizeof(float));
        }
        kernels().mix(inputs, 2, from, to, mine, count);
    });
}

// One kernel for all columns with all threads on it, or one kernel per token with a thread for each.
template <class F>
void for_groups(const Rows& x, bool per_token, int threads, F&& f) {
    if (!per_token) return f(0, 0, x.columns(), threads);
    for_parts(x.length, threads_for(x.count * x.columns(), threads),
              [&](index_t token) { f(token, token * x.hidden, (token + 1) * x.hidden, 1); });
}

// Any centre gives the same distances; one of the particles gives them without cancellation.
Rows centred(Rows x) {
    x.reference = x.data;
    return x;
}

template <class A>
A* buffer(Slot slot, index_t elements) {
    return static_cast<A*>(scratch(slot, static_cast<std::size_t>(elements) * sizeof(A)));
}

template <class A>
void svgd_of(const Rows& particles, const Rows& scores, Bandwidth convention, double bandwidth, bool per_token, A* phi,
             A* kernel, A* h, int threads) {
    const Rows inputs[2] = {centred(particles), scores};
    const index_t m = particles.count;
    for_groups(particles, per_token, threads, [&](index_t group, index_t begin, index_t end, int group_threads) {
        double* gram = buffer<double>(Slot::gram, m * m);
        A* weights = buffer<A>(Slot::weights, 2 * m * m);
        full_gram(inputs[0], nullptr, begin, end, gram, nullptr, nullptr, group_threads);
        const double spread = kernel_of(gram, m, convention, bandwidth, kernel + group * m * m);
        h[group] = static_cast<A>(spread);
        direction_weights(kernel + group * m * m, m, spread, weights);
        const Product product{weights, m, 2 * m, phi, particles.columns()};
        mix_all(inputs, &product, 1, begin, end, group_threads);
    });
}

template <class A>
void backward_of(const Rows& grad, const Rows& particles, const Rows& scores, const A* kernel, const A* h,
                 bool per_token, A* d_particles, A* d_scores, int threads) {
    const Rows x = centred(particles), inputs[2] = {grad, x};
    const index_t m = particles.count;
    for_groups(particles, per_token, threads, [&](index_t group, index_t begin, index_t end, int group_threads) {
        double* grad_x = buffer<double>(Slot::gram, 2 * m * m);
        A* weights = buffer<A>(Slot::weights, 3 * m * m);
        full_gram(grad, &x, begin, end, grad_x, nullptr, nullptr, group_threads);
        full_gram(grad, &scores, begin, end, grad_x + m * m, nullptr, nullptr, group_threads);
        backward_weights(grad_x, grad_x + m * m, kernel + group * m * m, m, static_cast<double>(h[group]), weights,
                         weights + 2 * m * m);
        const Product products[2] = {{weights, m, 2 * m, d_particles, particles.columns()},
                                     {weights + 2 * m * m, m, m, d_scores, particles.columns()}};
        mix_all(inputs, products, 2, begin, end, group_threads);
    });
}

}  // namespace

void svgd(const Rows& particles, const Rows& scores, Bandwidth convention, double bandwidth, bool per_token, void* phi,
          void* kernel, void* h, int threads) {
    if (wide(particles.type))
        return svgd_of(particles, scores, convention, bandwidth, per_token, static_cast<double*>(phi),
                       static_cast<double*>(kernel), static_cast<double*>(h), threads);
    svgd_of(particles, scores, convention, bandwidth, per_token, static_cast<float*>(phi), static_cast<float*>(kernel),
            static_cast<float*>(h), threads);
}

void svgd_backward(const Rows& grad, const Rows& particles, const Rows& scores, const void* kernel, const void* h,
                   bool per_token, void* d_particles, void* d_scores, int threads) {
    if (wide(particles.type))
        return backward_of(grad, particles, scores, static_cast<const double*>(kernel), static_cast<const double*>(h),
                           per_token, static_cast<double*>(d_particles), static_cast<double*>(d_scores), threads);
    backward_of(grad, particles, scores, static_cast<const float*>(kernel), static_cast<const float*>(h), per_token,
                static_cast<float*>(d_particles), static_cast<float*>(d_scores), threads);
}

}  // namespace promptkernels::cpu
