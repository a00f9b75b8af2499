// DTVG's greedy prefix rule in one block, so that the choice never visits the host.
#include "device.cuh"

namespace promptkernels::cuda {
namespace {

constexpr int kShared = 512;  // sources for which shared memory has room

// ranked (n): sources in order of similarity; gains (n): what the m-th of them adds to the sum over ordered pairs.
template <class A>
__global__ void select_kernel(const A* similarity, index_t n, index_t target, index_t* ranked, double* gains,
                              bool* chosen) {
    __shared__ index_t shared_ranked[kShared];
    __shared__ double shared_gains[kShared];
    if (n <= kShared) {
        ranked = shared_ranked;
        gains = shared_gains;
    }
    double mine = 0;
    for (index_t s = threadIdx.x; s < n; s += kThreads) {
        chosen[s] = s == target;
        const A value = similarity[s * n + target];
        if (s == target || !(value >= A(0))) continue;
        index_t rank = 0;
        for (index_t o = 0; o < n; ++o) {
            const A other = similarity[o * n + target];
            if (o != target && other >= A(0) && (other > value || (other == value && o < s))) ++rank;
        }
        ranked[rank] = s;
        mine += 1;
    }
    const index_t count = static_cast<index_t>(block_sum(mine));
    __syncthreads();
    for (index_t m = threadIdx.x; m < count; m += kThreads) {
        double gain = 0;
        for (index_t k = 0; k < m; ++k)
            gain += static_cast<double>(similarity[ranked[m] * n + ranked[k]]) +
                    static_cast<double>(similarity[ranked[k] * n + ranked[m]]);
        gains[m] = gain;
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
    index_t best_size = 0;
    double sum = 0, best = -INFINITY;
    for (index_t m = 0; m < count; ++m) {
        sum += gains[m];
        const double consistency = m == 0 ? 0.0 : sum / static_cast<double>((m + 1) * m);
        if (consistency > best) {
            best = consistency;
            best_size = m + 1;
        }
    }
    for (index_t m = 0; m < best_size; ++m) chosen[ranked[m]] = true;
}

}  // namespace

void select_group(const void* similarity, bool wide, index_t n, index_t target, bool* chosen, const Where& where) {
    index_t* ranked = scratch<index_t>(n > kShared ? n : 0, where);
    double* gains = scratch<double>(n > kShared ? n : 0, where);
    if (wide)
        launch("select_group", select_kernel<double>, 1, kThreads, where, static_cast<const double*>(similarity), n,
               target, ranked, gains, chosen);
    else
        launch("select_group", select_kernel<float>, 1, kThreads, where, static_cast<const float*>(similarity), n,
               target, ranked, gains, chosen);
}

}  // namespace promptkernels::cuda
