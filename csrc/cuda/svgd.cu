// SVGD on the GPU in two launches: Gram matrix with bandwidth, kernel and weights in its last block; then one mix.
// Nothing visits the host. The formulas stand in cpu/svgd.cpp.
#include <cfloat>

#include "mix.cuh"

namespace promptkernels::cuda {
namespace {

// Sorts ascending, NaN last. `size` is a power of two; every thread of the block calls it.
__device__ void bitonic_sort(double* values, int size) {
    for (int run = 2; run <= size; run *= 2) {
        for (int distance = run / 2; distance > 0; distance /= 2) {
            __syncthreads();
            for (int e = static_cast<int>(threadIdx.x); e < size / 2; e += kThreads) {
                const int low = 2 * e - (e & (distance - 1)), high = low + distance;
                const double a = values[low], b = values[high];
                const bool above = b < a || (isnan(a) && !isnan(b)), below = a < b || (isnan(b) && !isnan(a));
                if ((low & run) == 0 ? above : below) {
                    values[low] = b;
                    values[high] = a;
                }
            }
        }
    }
    __syncthreads();
}

// Squared distances of all pairs of m particles that lie in a Gram matrix.
struct Distances {
    const double* gram;
    int m;
    __device__ double operator()(int i, int j) const {
        if (i == j) return 0;
        const double d2 = gram[i * m + i] + gram[j * m + j] - 2 * gram[i * m + j];
        return d2 < 0 ? 0 : d2;
    }
};

// `sorted` has room for the next power of two of m (m - 1) / 2 numbers.
__device__ double bandwidth_of(const Distances& squared, Bandwidth convention, double fixed, double epsilon,
                               double* sorted) {
    const int m = squared.m, pairs = m * (m - 1) / 2;
    if (convention == Bandwidth::fixed) return fixed;
    if (m == 1) return convention == Bandwidth::numpyro ? 1.0 : 0.0;
    int size = 1;
    while (size < pairs) size *= 2;
    for (int e = pairs + static_cast<int>(threadIdx.x); e < size; e += kThreads) sorted[e] = NAN;
    for (int e = static_cast<int>(threadIdx.x); e < m * m; e += kThreads) {
        const int i = e / m, j = e % m;
        if (i < j) sorted[j * (j - 1) / 2 + i] = squared(i, j);
    }
    bitonic_sort(sorted, size);
    // All m^2 distances in order are m zeros, then every pair twice.
    const bool pairs_only = convention == Bandwidth::blackjax;
    auto ranked = [&](int rank) {
        if (pairs_only) return sorted[rank];
        return rank < m ? 0.0 : sorted[(rank - m) / 2];
    };
    const int count = pairs_only ? pairs : m * m;
    const double lower = ranked((count - 1) / 2), upper = ranked(count / 2);
    if (convention == Bandwidth::liu2016) return (lower + upper) / 2 / log(static_cast<double>(m + 1));
    const double middle = (sqrt(lower) + sqrt(upper)) / 2;
    return middle * middle / log(static_cast<double>(m)) + (pairs_only ? 0.0 : epsilon);
}

// sums[i] = sum over j != i of value(i, j), for m rows: a warp each, in a fixed order. The block waits for all.
template <class F>
__device__ void sums_beside_diagonal(int m, double* sums, F&& value) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    for (int i = warp; i < m; i += kThreads / 32) {
        double sum = 0;
        for (int j = lane; j < m; j += 32) sum += i == j ? 0.0 : value(i, j);
        sum = warp_sum(sum);
        if (lane == 0) sums[i] = sum;
    }
    __syncthreads();
}

// Gram matrix of the particles -> kernel (m, m), h, and weights (m, 2 m) of [particles; scores].
template <class A>
struct KernelFinish {
    Bandwidth convention;
    double fixed;
    int m;
    A *kernels, *h, *all_weights;
    static constexpr bool keeps_gram = false;

    __device__ void operator()(const double* gram, double* shared, index_t group) const {
        const Distances squared{gram, m};
        A *kernel = kernels + group * m * m, *weights = all_weights + group * 2 * m * m;
        const double epsilon = sizeof(A) == 8 ? DBL_EPSILON : static_cast<double>(FLT_EPSILON);
        double spread = bandwidth_of(squared, convention, fixed, epsilon, shared);
        if (spread <= 0) spread = 0;
        for (int e = static_cast<int>(threadIdx.x); e < m * m; e += kThreads) {
            const double d2 = squared(e / m, e % m);
            kernel[e] = static_cast<A>(isnan(d2) ? d2 : spread > 0 ? exp(-d2 / spread) : d2 == 0 ? 1.0 : 0.0);
        }
        if (threadIdx.x == 0) h[group] = static_cast<A>(spread);
        __syncthreads();
        const double particles = m, strength = spread > 0 ? 2 / (spread * particles) : 0;
        // Repulsion: 2 / (h m) (diag(K 1) - K).
        sums_beside_diagonal(m, shared, [&](int i, int j) { return static_cast<double>(kernel[i * m + j]); });
        for (int e = static_cast<int>(threadIdx.x); e < m * m; e += kThreads) {
            const int i = e / m, j = e % m;
            weights[i * 2 * m + j] = static_cast<A>(strength * (i == j ? shared[i] : -static_cast<double>(kernel[e])));
            weights[i * 2 * m + m + j] = static_cast<A>(static_cast<double>(kernel[e]) / particles);
        }
    }
};

// Gram matrix of [grad; particles; scores] -> weights (2 m, 2 m) of [grad; particles] in [d_particles; d_scores].
template <class A>
struct BackwardFinish {
    int m;
    const A *kernels, *h;
    double* all_slopes;
    A* all_weights;
    static constexpr bool keeps_gram = false;

    __device__ void operator()(const double* gram, double* shared, index_t group) const {
        const A* kernel = kernels + group * m * m;
        double* d = all_slopes + group * m * m;  // of the loss along squared distances
        A* weights = all_weights + group * 4 * m * m;
        const double count = m, spread = h[group], inverse = spread > 0 ? 1 / spread : 0;
        const double strength = 2 * inverse / count;
        for (int e = static_cast<int>(threadIdx.x); e < m * m; e += kThreads) {
            const int i = e / m, j = e % m;
            const double* of_grad = gram + i * 3 * m;
            const double d_kernel = of_grad[2 * m + j] / count + strength * (of_grad[m + i] - of_grad[m + j]);
            d[e] = -d_kernel * static_cast<double>(kernel[e]) * inverse;
        }
        __syncthreads();
        double *of_kernel = shared, *of_slopes = shared + m;
        sums_beside_diagonal(m, of_kernel, [&](int i, int j) { return static_cast<double>(kernel[i * m + j]); });
        sums_beside_diagonal(m, of_slopes, [&](int i, int j) { return 2 * (d[i * m + j] + d[j * m + i]); });
        for (int e = static_cast<int>(threadIdx.x); e < m * m; e += kThreads) {
            const int i = e / m, j = e % m;
            A *of_particle = weights + i * 2 * m, *of_score = weights + (m + i) * 2 * m;
            of_particle[j] = static_cast<A>(strength * (i == j ? of_kernel[i] : -static_cast<double>(kernel[e])));
            of_particle[m + j] = static_cast<A>(i == j ? of_slopes[i] : -2 * (d[e] + d[j * m + i]));
            of_score[j] = static_cast<A>(static_cast<double>(kernel[e]) / count);
            of_score[m + j] = A(0);
        }
    }
};

// Any centre gives the same distances; one of the particles gives them without cancellation.
Rows centred_on_first(Rows x) {
    x.reference = x.data;
    return x;
}

template <class A>
void forward(const Rows& particles, const Rows& scores, Bandwidth convention, double bandwidth, bool per_token,
             void* phi, void* kernel, void* h, const Where& where) {
    const index_t m = particles.count, groups = per_token ? particles.length : 1;
    A* weights = scratch<A>(groups * 2 * m * m, where);
    Stack z;
    z.add(centred_on_first(particles));
    gram<A>("svgd kernel", z, groups,
            KernelFinish<A>{convention, bandwidth, static_cast<int>(m), static_cast<A*>(kernel), static_cast<A*>(h),
                            weights},
            where);
    z.add(scores);
    mix(z, weights, m, groups, Output<A>{static_cast<A*>(phi), m, nullptr}, where);
}

template <class A>
void backward(const Rows& grad, const Rows& particles, const Rows& scores, const void* kernel, const void* h,
              bool per_token, void* d_particles, void* d_scores, const Where& where) {
    const index_t m = particles.count, groups = per_token ? particles.length : 1;
    A* weights = scratch<A>(groups * 4 * m * m, where);
    double* slopes = scratch<double>(groups * m * m, where);
    Stack sources;
    sources.add(grad);
    sources.add(centred_on_first(particles));
    Stack z = sources;
    z.add(scores);
    gram<A>("svgd backward", z, groups,
            BackwardFinish<A>{static_cast<int>(m), static_cast<const A*>(kernel), static_cast<const A*>(h), slopes,
                              weights},
            where);
    mix(sources, weights, 2 * m, groups, Output<A>{static_cast<A*>(d_particles), m, static_cast<A*>(d_scores)}, where);
}

}  // namespace

void svgd(const Rows& particles, const Rows& scores, Bandwidth convention, double bandwidth, bool per_token, void* phi,
          void* kernel, void* h, const Where& where) {
    (wide(particles.type) ? forward<double> : forward<float>)(particles, scores, convention, bandwidth, per_token, phi,
                                                              kernel, h, where);
}

void svgd_backward(const Rows& grad, const Rows& particles, const Rows& scores, const void* kernel, const void* h,
                   bool per_token, void* d_particles, void* d_scores, const Where& where) {
    (wide(grad.type) ? backward<double> : backward<float>)(grad, particles, scores, kernel, h, per_token, d_particles,
                                                           d_scores, where);
}

}  // namespace promptkernels::cuda
