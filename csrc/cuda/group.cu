// DTVG's greedy prefix rule in one block, so that the choice never visits the host.
#include "device.cuh"

namespace promptkernels::cuda {
namespace {

constexpr int kShared = 512;  // sources for which shared memory has room
constexpr int kStaged = 64;   // sources whose matrix has room there too

// ranked (n): sources in order of similarity; gains (n): what the m-th of them adds to the sum over ordered pairs;
// consistencies (n): the mean over the pairs of the first m + 1.
template <class A>
__global__ void select_kernel(const A* similarity, int n, int target, int* ranked, double* gains, double* consistencies,
                              bool* chosen) {
    __shared__ A staged[kStaged * (kStaged + 1)];
    __shared__ int shared_ranked[kShared];
    __shared__ double shared_gains[kShared], shared_consistencies[kShared];
    __shared__ int size;
    const int me = static_cast<int>(threadIdx.x);
    index_t stride = n;
    if (n <= kShared) {
        ranked = shared_ranked;
        gains = shared_gains;
        consistencies = shared_consistencies;
    }
    if (n <= kStaged) {
        stride = n | 1;  // a column lies in different banks
        for (int e = me; e < n * n; e += kThreads) staged[e / n * stride + e % n] = similarity[e];
        similarity = staged;
        __syncthreads();
    }
    double mine = 0;
    for (int s = me; s < n; s += kThreads) {
        chosen[s] = s == target;
        const A value = similarity[s * stride + target];
        if (s == target || !(value >= A(0))) continue;
        int rank = 0;
#pragma unroll 4
        for (int o = 0; o < n; ++o) {
            const A other = similarity[o * stride + target];
            if (o != target && other >= A(0) && (other > value || (other == value && o < s))) ++rank;
        }
        ranked[rank] = s;
        mine += 1;
    }
    const int count = static_cast<int>(block_sum(mine));
    __syncthreads();
    for (int m = me; m < count; m += kThreads) {
        double gain = 0;
#pragma unroll 4
        for (int k = 0; k < m; ++k)
            gain += static_cast<double>(similarity[ranked[m] * stride + ranked[k]]) +
                    static_cast<double>(similarity[ranked[k] * stride + ranked[m]]);
        gains[m] = gain;
    }
    __syncthreads();
    for (int m = me; m < count; m += kThreads) {
        double sum = 0;
#pragma unroll 4
        for (int k = 0; k <= m; ++k) sum += gains[k];
        consistencies[m] = m == 0 ? 0.0 : sum / static_cast<double>(static_cast<index_t>(m + 1) * m);
    }
    __syncthreads();
    if (me == 0) {
        size = 0;
        double best = -INFINITY;
#pragma unroll 4
        for (int m = 0; m < count; ++m) {
            if (!(consistencies[m] > best)) continue;
            best = consistencies[m];
            size = m + 1;
        }
    }
    __syncthreads();
    for (int m = me; m < size; m += kThreads) chosen[ranked[m]] = true;
}

template <class A>
void select(const void* similarity, index_t n, index_t target, bool* chosen, const Where& where) {
    const index_t in_memory = n > kShared ? n : 0;
    int* ranked = scratch<int>(in_memory, where);
    double* gains = scratch<double>(in_memory, where);
    double* consistencies = scratch<double>(in_memory, where);
    launch("select_group", select_kernel<A>, 1, kThreads, where, static_cast<const A*>(similarity), static_cast<int>(n),
           static_cast<int>(target), ranked, gains, consistencies, chosen);
}

}  // namespace

void select_group(const void* similarity, bool wide, index_t n, index_t target, bool* chosen, const Where& where) {
    (wide ? select<double> : select<float>)(similarity, n, target, chosen, where);
}

}  // namespace promptkernels::cuda
