// Tiny kernels for tests/test_emulation.py, right and wrong ones: run as `emulation_kernels CASE`.
#include <cuda_runtime.h>

#include <algorithm>
#include <cassert>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <numeric>
#include <string>

namespace {

constexpr int kThreads = 96;

template <class... Wanted, class... Given>
cudaError_t launch(void (*kernel)(Wanted...), dim3 grid, dim3 block, Given... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// Sum over a block by shuffles, shared memory and barriers; the block number is added.
__global__ void sums_kernel(const int* values, int* sums) {
    __shared__ int of_warp[kThreads / 32];
    int value = values[blockIdx.x * blockDim.x + threadIdx.x];
    for (unsigned lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, lanes);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x == 0) sums[blockIdx.x] = of_warp[0] + of_warp[1] + of_warp[2] + static_cast<int>(blockIdx.x);
}

// Every thread reads what its neighbour on one side wrote, and nothing makes it wait: whenever the
// threads run in the direction that favours the reader, it finds the neighbour late.
__global__ void race_kernel(int side, int* late) {
    __shared__ int written[kThreads];
    const int me = static_cast<int>(threadIdx.x), neighbour = me + side;
    for (int phase = 1; phase <= 16; ++phase) {
        written[me] = 0;
        __syncthreads();
        written[me] = phase;
        if (neighbour >= 0 && neighbour < kThreads) late[me] += written[neighbour] != phase;
        __syncthreads();
    }
}

__global__ void votes_kernel(unsigned* votes) { votes[threadIdx.x] = __ballot_sync(0xFFFFFFFFu, threadIdx.x % 3 == 0); }

__global__ void divergent_kernel(int* out) {
    if (threadIdx.x == 5) return;
    __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void two_barriers_kernel(int* out) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
    out[threadIdx.x] = 1;
}

__global__ void past_the_end_kernel(int* out) { out[threadIdx.x + 1] = 1; }

__global__ void misaligned_kernel(const float* from, uint4* to) {
    to[threadIdx.x] = *reinterpret_cast<const uint4*>(from + 1);
}

__global__ void past_shared_kernel(int* out) {
    __shared__ int few[8];
    few[threadIdx.x] = 1;
    __syncthreads();
    out[threadIdx.x] = few[threadIdx.x];
}

__global__ void assert_kernel(int limit) { assert(static_cast<int>(threadIdx.x) < limit && "thread beyond the limit"); }

int run(const std::string& name) {
    int* out = static_cast<int*>(std::calloc(kThreads, sizeof(int)));
    int failed = 1;
    if (name == "sums") {
        int values[2 * kThreads], sums[2];
        for (int i = 0; i < 2 * kThreads; ++i) values[i] = i;
        launch(sums_kernel, 2, kThreads, values, sums);
        failed = sums[0] != kThreads * (kThreads - 1) / 2 || sums[1] != sums[0] + kThreads * kThreads + 1;
    } else if (name == "race shows") {
        failed = 0;
        for (int side : {-1, 1}) {
            std::fill_n(out, kThreads, 0);
            launch(race_kernel, 1, kThreads, side, out);
            failed += std::accumulate(out, out + kThreads, 0) == 0;
        }
    } else if (name == "votes of a short warp") {
        unsigned votes[40];
        launch(votes_kernel, 1, 40, votes);
        failed = votes[0] != 0x49249249u || votes[39] != 0x92u;  // of threads 0..31, and of 32..39
    } else if (name == "limits") {
        const bool refused = launch(past_the_end_kernel, dim3(1, 65536), 1, out) != cudaSuccess &&
                             launch(past_the_end_kernel, dim3(1, 1, 65536), 1, out) != cudaSuccess &&
                             launch(past_the_end_kernel, 0, 1, out) != cudaSuccess &&
                             launch(past_the_end_kernel, 1, 1025, out) != cudaSuccess;
        failed = !refused || out[1] != 0;
    } else if (name == "early return") {
        launch(divergent_kernel, 1, kThreads, out);
    } else if (name == "two barriers") {
        launch(two_barriers_kernel, 1, kThreads, out);
    } else if (name == "past the end") {
        launch(past_the_end_kernel, 1, kThreads, out);
    } else if (name == "past shared memory") {
        launch(past_shared_kernel, 1, 9, out);
    } else if (name == "misaligned") {
        alignas(16) float from[8] = {};
        uint4 to[1];
        launch(misaligned_kernel, 1, 1, from, to);
    } else if (name == "assertion") {
        launch(assert_kernel, 1, kThreads, 50);
    }
    std::free(out);
    return failed;
}

}  // namespace

int main(int count, char** arguments) {
    try {
        return run(count > 1 ? arguments[1] : "");
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 2;
    }
}
