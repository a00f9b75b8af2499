// What every CUDA kernel here uses: rows, sums over a block, launches, scratch memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "pack.cuh"
#include "promptkernels/cuda.h"

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
// The factor of a row at column c; all columns of a pack that lies within one token have the same.
template <class A>
__device__ inline A factor(const Rows& x, index_t row, index_t c) {
    return x.scale ? static_cast<const A*>(x.scale)[row * x.length + c / x.hidden] : A(1);
}

// Whether V columns at a time can be read from such an address, and V columns from every V-th on never cross a token.
inline bool in_packs(const void* data, std::size_t element, index_t hidden, int v) {
    const std::size_t bytes = element * static_cast<std::size_t>(v);
    return hidden % v == 0 && reinterpret_cast<std::uintptr_t>(data) % (bytes < 16 ? bytes : 16) == 0;
}
inline bool in_packs(const Rows& x, int v) {
    return in_packs(x.data, size_of(x.type), x.hidden, v) && in_packs(x.reference, size_of(x.type), x.hidden, v);
}

// Sum over a block of kThreads, in a fixed order; every thread must call it and gets it.
__device__ inline double block_sum(double value) {
    __shared__ double of_warp[kThreads / 32];
    for (unsigned lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, lanes);
    __syncthreads();  // an earlier sum has been read
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0;
    for (double part : of_warp) sum += part;
    return sum;
}

__device__ inline index_t global_thread() {
    return static_cast<index_t>(blockIdx.x) * blockDim.x + static_cast<index_t>(threadIdx.x);
}

inline index_t divide_up(index_t a, index_t b) { return (a + b - 1) / b; }
inline unsigned blocks_for(index_t threads) { return static_cast<unsigned>(divide_up(threads, kThreads)); }

// Enqueue a kernel; `what` names it in the error of a launch that fails.
template <class... Wanted, class... Given>
void launch(const char* what, void (*kernel)(Wanted...), dim3 grid, unsigned threads, const Where& where,
            const Given&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.stream = static_cast<cudaStream_t>(where.stream);
    const cudaError_t status = cudaLaunchKernelEx(&config, kernel, static_cast<Wanted>(arguments)...);
    if (status != cudaSuccess)
        throw std::runtime_error(std::string("promptkernels cuda: ") + what + ": " + cudaGetErrorString(status));
}

// Device memory for work that this call enqueues; none for 0 elements.
template <class T>
T* scratch(index_t elements, const Where& where) {
    return elements > 0 ? static_cast<T*>(where.allocate(where.context, static_cast<std::size_t>(elements) * sizeof(T)))
                        : nullptr;
}

}  // namespace promptkernels::cuda
