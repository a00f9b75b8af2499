// SVGD on the GPU: Gram, then one block per kernel for d^2, bandwidth, K and weights, then one mix. No copy to the
// host.
#include <cfloat>

#include "gram.cuh"

namespace promptkernels::cuda {
namespace {

__device__ bool below(double a, double b) { return a < b || (isnan(b) && !isnan(a)); }

// The k-th smallest of the d^2 of all pairs, or of the pairs i < j: the value with at most k below it and more than k
// at or below it. Every thread of the block calls it; *found is in shared memory.
__device__ double ranked(const double* squared, index_t m, bool upper_only, index_t k, double* found) {
    __syncthreads();
    for (index_t e = threadIdx.x; e < m * m; e += kThreads) {
        if (upper_only && e / m >= e % m) continue;
        const double value = squared[e];
        index_t smaller = 0, equal = 0;
        for (index_t o = 0; o < m * m; ++o) {
            if (upper_only && o / m >= o % m) continue;
            if (below(squared[o], value))
                ++smaller;
            else if (!below(value, squared[o]))
                ++equal;
        }
        if (smaller <= k && k < smaller + equal) *found = value;  // equal values write the same number
    }
    __syncthreads();
    return *found;
}

__device__ double bandwidth_of(const double* squared, index_t m, Bandwidth convention, double fixed, double epsilon,
                               double* found) {
    if (convention == Bandwidth::fixed) return fixed;
    if (m == 1) return convention == Bandwidth::numpyro ? 1.0 : 0.0;
    const bool pairs = convention == Bandwidth::blackjax;
    const index_t count = pairs ? m * (m - 1) / 2 : m * m;
    const double upper = ranked(squared, m, pairs, count / 2, found);
    const double lower = count % 2 ? upper : ranked(squared, m, pairs, count / 2 - 1, found);
    if (convention == Bandwidth::liu2016) return (lower + upper) / 2 / log(static_cast<double>(m + 1));
    const double middle = (sqrt(lower) + sqrt(upper)) / 2;
    return middle * middle / log(static_cast<double>(m)) + (pairs ? 0.0 : epsilon);
}

// 2 / (h m) (diag(K 1) - K)
template <class A>
__device__ double repulsion(const A* kernel, index_t m, double strength, index_t i, index_t j) {
    if (i != j) return -strength * static_cast<double>(kernel[i * m + j]);
    double others = 0;
    for (index_t k = 0; k < m; ++k)
        if (k != i) others += static_cast<double>(kernel[i * m + k]);
    return strength * others;
}

// Block per group. squared (groups, m, m) is scratch; weights (groups, m, 2 m) are of [particles; scores].
template <class A>
__global__ void kernel_kernel(GramPlan plan, const double* partials, Bandwidth convention, double fixed, double epsilon,
                              double* all_squared, A* all_kernels, A* h, A* all_weights) {
    __shared__ double found;
    const index_t m = plan.n, group = blockIdx.x;
    double* squared = all_squared + group * m * m;
    A *kernel = all_kernels + group * m * m, *weights = all_weights + group * 2 * m * m;
    for (index_t e = threadIdx.x; e < m * m; e += kThreads) {
        const index_t i = e / m, j = e % m;
        const double d2 = gram_entry(partials, plan, group, i, i) + gram_entry(partials, plan, group, j, j) -
                          2 * gram_entry(partials, plan, group, i, j);
        squared[e] = i == j || d2 < 0 ? 0 : d2;
    }
    double spread = bandwidth_of(squared, m, convention, fixed, epsilon, &found);
    if (spread <= 0) spread = 0;
    __syncthreads();
    for (index_t e = threadIdx.x; e < m * m; e += kThreads) {
        const double d2 = squared[e];
        kernel[e] = static_cast<A>(isnan(d2) ? d2 : spread > 0 ? exp(-d2 / spread) : d2 == 0 ? 1.0 : 0.0);
    }
    if (threadIdx.x == 0) h[group] = static_cast<A>(spread);
    __syncthreads();
    const double particles = static_cast<double>(m), strength = spread > 0 ? 2 / (spread * particles) : 0;
    for (index_t e = threadIdx.x; e < m * m; e += kThreads) {
        const index_t i = e / m, j = e % m;
        weights[i * 2 * m + j] = static_cast<A>(repulsion(kernel, m, strength, i, j));
        weights[i * 2 * m + m + j] = static_cast<A>(static_cast<double>(kernel[e]) / particles);
    }
}

// Block per group: weights (groups, m, 2 m) of [grad; particles] in d_particles and (groups, m, m) of grad in d_scores.
template <class A>
__global__ void backward_kernel(GramPlan plan, const double* grad_x, const double* grad_s, const A* all_kernels,
                                const A* h, double* all_squared, A* all_particles, A* all_scores) {
    const index_t m = plan.n, group = blockIdx.x;
    const A* kernel = all_kernels + group * m * m;
    double* d = all_squared + group * m * m;
    A *particles = all_particles + group * 2 * m * m, *scores = all_scores + group * m * m;
    const double count = static_cast<double>(m), spread = h[group], inverse = spread > 0 ? 1 / spread : 0;
    const double strength = 2 * inverse / count;
    for (index_t e = threadIdx.x; e < m * m; e += kThreads) {
        const index_t i = e / m, j = e % m;
        const double d_kernel =
            gram_entry(grad_s, plan, group, i, j) / count +
            strength * (gram_entry(grad_x, plan, group, i, i) - gram_entry(grad_x, plan, group, i, j));
        d[e] = -d_kernel * static_cast<double>(kernel[e]) * inverse;
    }
    __syncthreads();
    for (index_t e = threadIdx.x; e < m * m; e += kThreads) {
        const index_t i = e / m, j = e % m;
        double weight = -2 * (d[e] + d[j * m + i]);
        if (i == j) {
            weight = 0;
            for (index_t k = 0; k < m; ++k)
                if (k != i) weight += 2 * (d[i * m + k] + d[k * m + i]);
        }
        particles[i * 2 * m + j] = static_cast<A>(repulsion(kernel, m, strength, i, j));
        particles[i * 2 * m + m + j] = static_cast<A>(weight);
        scores[e] = static_cast<A>(static_cast<double>(kernel[e]) / count);
    }
}

Rows centred(Rows x) {
    if (!x.reference) x.reference = x.data;
    return x;
}

template <class A>
void svgd_of(const Rows& particles, const Rows& scores, Bandwidth convention, double bandwidth, bool per_token, A* phi,
             A* kernel, A* h, cudaStream_t stream) {
    const Rows x = centred(particles);
    const index_t m = x.count, groups = per_token ? x.length : 1;
    const GramPlan plan = plan_gram(x, nullptr, groups);
    const Scratch<double> partials(plan.size(), stream), squared(groups * m * m, stream);
    const Scratch<A> weights(groups * 2 * m * m, stream);
    gram_partials(plan, x, x, partials.get(), stream);
    kernel_kernel<<<static_cast<unsigned>(groups), kThreads, 0, stream>>>(
        plan, partials.get(), convention, bandwidth, sizeof(A) == 8 ? DBL_EPSILON : static_cast<double>(FLT_EPSILON),
        squared.get(), kernel, h, weights.get());
    check_launch("svgd kernel matrix");
    mix(x, &scores, weights.get(), m, groups, phi, stream);
}

template <class A>
void backward_of(const Rows& grad, const Rows& particles, const Rows& scores, const A* kernel, const A* h,
                 bool per_token, A* d_particles, A* d_scores, cudaStream_t stream) {
    const Rows x = centred(particles);
    const index_t m = x.count, groups = per_token ? x.length : 1;
    const GramPlan plan = plan_gram(grad, &x, groups);
    const Scratch<double> partials(2 * plan.size(), stream), squared(groups * m * m, stream);
    const Scratch<A> weights(groups * 3 * m * m, stream);
    A* score_weights = weights.get() + groups * 2 * m * m;
    gram_partials(plan, grad, x, partials.get(), stream);
    gram_partials(plan, grad, scores, partials.get() + plan.size(), stream);
    backward_kernel<<<static_cast<unsigned>(groups), kThreads, 0, stream>>>(
        plan, partials.get(), partials.get() + plan.size(), kernel, h, squared.get(), weights.get(), score_weights);
    check_launch("svgd backward weights");
    mix(grad, &x, weights.get(), m, groups, d_particles, stream);
    mix(grad, nullptr, score_weights, m, groups, d_scores, stream);
}

}  // namespace

void svgd(const Rows& particles, const Rows& scores, Bandwidth convention, double bandwidth, bool per_token, void* phi,
          void* kernel, void* h, Stream stream) {
    if (wide(particles.type))
        return svgd_of(particles, scores, convention, bandwidth, per_token, static_cast<double*>(phi),
                       static_cast<double*>(kernel), static_cast<double*>(h), as_stream(stream));
    svgd_of(particles, scores, convention, bandwidth, per_token, static_cast<float*>(phi), static_cast<float*>(kernel),
            static_cast<float*>(h), as_stream(stream));
}

void svgd_backward(const Rows& grad, const Rows& particles, const Rows& scores, const void* kernel, const void* h,
                   bool per_token, void* d_particles, void* d_scores, Stream stream) {
    if (wide(particles.type))
        return backward_of(grad, particles, scores, static_cast<const double*>(kernel), static_cast<const double*>(h),
                           per_token, static_cast<double*>(d_particles), static_cast<double*>(d_scores),
                           as_stream(stream));
    backward_of(grad, particles, scores, static_cast<const float*>(kernel), static_cast<const float*>(h), per_token,
                static_cast<float*>(d_particles), static_cast<float*>(d_scores), as_stream(stream));
}

}  // namespace promptkernels::cuda
