// What every CUDA kernel here uses: rows, sums over a block, launches, scratch memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "pack.cuh"
#include "promptkernels/cuda.h"

// A kernel's parameter whose parts are found by an index, without a copy in local memory.
#ifdef __CUDACC__
#define PK_GRID_CONSTANT __grid_constant__
#else
#define PK_GRID_CONSTANT
#endif

namespace promptkernels::cuda {

constexpr int kThreads = 256;  // of every block, where nothing else is said

// As with_type, for the types that rows can have where sums are A: everything narrower than double, or double.
template <class A, class F>
__device__ inline void with_row_type(DType type, F&& function) {
    if constexpr (sizeof(A) == 8) {
        function(std::integral_constant<DType, DType::f64>{});
    } else {
        switch (type) {
            case DType::bf16: return function(std::integral_constant<DType, DType::bf16>{});
            case DType::f16: return function(std::integral_constant<DType, DType::f16>{});
            default: return function(std::integral_constant<DType, DType::f32>{});
        }
    }
}

// V columns of a row from column c on: centred, without the factor of the row.
template <class A, int V, DType type>
__device__ inline Pack<A, V> centred(const Rows& x, index_t row, index_t c) {
    Pack<A, V> pack = load_as<A, V, type>(x.data, row * x.columns() + c);
    if (x.reference) {
        const Pack<A, V> start = load_as<A, V, type>(x.reference, c);
#pragma unroll
        for (int k = 0; k < V; ++k) pack.v[k] -= start.v[k];
    }
    return pack;
}
template <class A, int V>
__device__ inline Pack<A, V> centred(const Rows& x, index_t row, index_t c) {
    Pack<A, V> pack;
    with_row_type<A>(x.type, [&](auto type) { pack = centred<A, V, decltype(type)::value>(x, row, c); });
    return pack;
}
// The token of column c. Rows have fewer than 2^31 columns (checked in bindings.h), and a division of 32-bit numbers
// takes a fraction of the time.
__device__ inline index_t token_of(const Rows& x, index_t c) {
    return static_cast<std::uint32_t>(c) / static_cast<std::uint32_t>(x.hidden);
}
// The factor of a row at column c; all columns of a pack that lies within one token have the same.
template <class A>
__device__ inline A factor(const Rows& x, index_t row, index_t c) {
    return x.scale ? static_cast<const A*>(x.scale)[row * x.length + token_of(x, c)] : A(1);
}

// Whether V columns at a time can be read from such an address, and V columns from every V-th on never cross a token.
inline bool in_packs(const void* data, std::size_t element, index_t hidden, int v) {
    const std::size_t bytes = element * static_cast<std::size_t>(v);
    return hidden % v == 0 && reinterpret_cast<std::uintptr_t>(data) % (bytes < 16 ? bytes : 16) == 0;
}
inline bool in_packs(const Rows& x, int v) {
    return in_packs(x.data, size_of(x.type), x.hidden, v) && in_packs(x.reference, size_of(x.type), x.hidden, v);
}

// The same number, unknown to the compiler: what follows from it is computed where it is used, not kept in registers.
__device__ inline long long recomputed(long long x) {
#ifdef __CUDACC__
    asm volatile("" : "+l"(x));
#endif
    return x;
}

// Sum over a warp, in a fixed order; every lane must call it and gets it.
__device__ inline double warp_sum(double value) {
    for (unsigned lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, lanes);
    return value;
}

// Sum over a block of kThreads, in a fixed order; every thread must call it and gets it.
__device__ inline double block_sum(double value) {
    __shared__ double of_warp[kThreads / 32];
    value = warp_sum(value);
    __syncthreads();  // an earlier sum has been read
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0;
    for (double part : of_warp) sum += part;
    return sum;
}

// Lists in shared memory, in their order, the numbers of those threads of a block that want it, and returns how many
// there are. Every thread must call it.
__device__ inline int list(bool wanted, index_t number, index_t* listed) {
    __shared__ int found_by_warp[kThreads / 32];
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const unsigned votes = __ballot_sync(0xFFFFFFFFu, wanted);
    if (lane == 0) found_by_warp[warp] = __popc(votes);
    __syncthreads();  // also: an earlier list has been read
    int before = __popc(votes & ((1u << lane) - 1)), count = 0;
#pragma unroll
    for (int w = 0; w < kThreads / 32; ++w) {
        if (w < warp) before += found_by_warp[w];
        count += found_by_warp[w];
    }
    if (wanted) listed[before] = number;
    __syncthreads();
    return count;
}

__device__ inline index_t global_thread() {
    return static_cast<index_t>(blockIdx.x) * blockDim.x + static_cast<index_t>(threadIdx.x);
}

// So many blocks give every multiprocessor of a large GPU two.
constexpr index_t kEnoughBlocks = 264;

inline index_t divide_up(index_t a, index_t b) { return (a + b - 1) / b; }
inline unsigned blocks_for(index_t threads) { return static_cast<unsigned>(divide_up(threads, kThreads)); }

// What a block may ask for at its launch. Blocks of all kernels see the same memory, aligned to 16 bytes.
__device__ inline unsigned char* dynamic_shared() {
#ifdef __CUDACC__
    extern __shared__ uint4 memory[];
    return reinterpret_cast<unsigned char*>(memory);
#else
    return emulation::dynamic_shared();
#endif
}

inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string("promptkernels cuda: ") + what + ": " + cudaGetErrorString(status));
}

inline index_t attribute(cudaDeviceAttr wanted) {
    int device = 0, value = 0;
    check(cudaGetDevice(&device), "current device");
    check(cudaDeviceGetAttribute(&value, wanted, device), "device attribute");
    return value;
}
inline index_t multiprocessors() { return attribute(cudaDevAttrMultiProcessorCount); }

struct Block {
    unsigned threads;
    std::size_t shared = 0;  // bytes of dynamic shared memory

    Block(int count, std::size_t bytes = 0) : threads(static_cast<unsigned>(count)), shared(bytes) {}
};

// Enqueue a kernel; `what` names it in the error of a launch that fails.
template <class... Wanted, class... Given>
void launch(const char* what, void (*kernel)(Wanted...), dim3 grid, const Block& block, const Where& where,
            const Given&... arguments) {
    constexpr std::size_t free = 48 * 1024, fixed = 8 * 1024;  // more has to be asked for; kernels' own variables count
    if (block.shared > free - fixed)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(block.shared)),
              what);
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(block.threads);
    config.dynamicSmemBytes = block.shared;
    config.stream = static_cast<cudaStream_t>(where.stream);
    check(cudaLaunchKernelEx(&config, kernel, static_cast<Wanted>(arguments)...), what);
}

// Device memory for work that this call enqueues; none for 0 elements.
template <class T>
T* scratch(index_t elements, const Where& where) {
    return elements > 0 ? static_cast<T*>(where.allocate(where.context, static_cast<std::size_t>(elements) * sizeof(T)))
                        : nullptr;
}

}  // namespace promptkernels::cuda
