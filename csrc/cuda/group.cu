// DTVG's greedy prefix rule in one block, so that the choice never visits the host.
#include "device.cuh"

namespace promptkernels::cuda {
namespace {

// ranked (n): sources in order of similarity; gains (n): what the m-th of them adds to the sum over ordered pairs.
template <class A>
__global__ void select_kernel(const A* similarity, index_t n, index_t target, index_t* ranked, double* gains,
                              bool* chosen) {
    __shared__ double eligible_count;
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
    mine = block_sum(mine);
    if (threadIdx.x == 0) eligible_count = mine;
    __syncthreads();
    const index_t count = static_cast<index_t>(eligible_count);
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

void select_group(const void* similarity, bool wide, index_t n, index_t target, bool* chosen, Stream stream) {
    const Scratch<index_t> ranked(n, as_stream(stream));
    const Scratch<double> gains(n, as_stream(stream));
    if (wide)
        select_kernel<<<1, kThreads, 0, as_stream(stream)>>>(static_cast<const double*>(similarity), n, target,
                                                             ranked.get(), gains.get(), chosen);
    else
        select_kernel<<<1, kThreads, 0, as_stream(stream)>>>(static_cast<const float*>(similarity), n, target,
                                                             ranked.get(), gains.get(), chosen);
    check_launch("select_group");
}

}  // namespace promptkernels::cuda
