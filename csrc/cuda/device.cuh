// What every CUDA kernel here uses: element types, block sums, launches, scratch memory.
#pragma once

#include <cuda_runtime.h>

#include <cassert>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "promptkernels/cuda.h"

namespace promptkernels::cuda {

constexpr int kThreads = 256;

__device__ inline float as_float(std::uint32_t bits) { return __uint_as_float(bits); }
__device__ inline float widen_bf16(std::uint16_t bits) { return as_float(static_cast<std::uint32_t>(bits) << 16); }
__device__ inline float widen_f16(std::uint16_t bits) {
    const std::uint32_t w = static_cast<std::uint32_t>(bits) << 16, twice = w + w;
    const float normal = as_float((twice >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
    const float subnormal = as_float((twice >> 17) | (126u << 23)) - 0.5f;
    return as_float((w & 0x80000000u) | __float_as_uint(twice < (1u << 27) ? subnormal : normal));
}

// Round to nearest even, once.
__device__ inline std::uint16_t narrow_bf16(float x) {
    const std::uint32_t w = __float_as_uint(x);
    if ((w & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FC0u;
    return static_cast<std::uint16_t>((w + 0x7FFFu + ((w >> 16) & 1u)) >> 16);
}
__device__ inline std::uint16_t narrow_f16(float x) {
    const std::uint32_t w = __float_as_uint(x), twice = w + w;
    float base = (as_float(w & 0x7FFFFFFFu) * 0x1.0p+112f) * 0x1.0p-110f;
    const std::uint32_t exponent = twice & 0xFF000000u, bias = exponent < 0x71000000u ? 0x71000000u : exponent;
    base += as_float((bias >> 1) + 0x07800000u);
    const std::uint32_t bits = __float_as_uint(base);
    const std::uint32_t magnitude = twice > 0xFF000000u ? 0x7E00u : ((bits >> 13) & 0x7C00u) + (bits & 0x0FFFu);
    return static_cast<std::uint16_t>(((w & 0x80000000u) >> 16) | magnitude);
}

// Element i of an array of a type that is known at run time (the branch is the same for a whole grid).
template <class A>
__device__ inline A load(const void* data, DType type, index_t i) {
    switch (type) {
        case DType::f32: return static_cast<A>(static_cast<const float*>(data)[i]);
        case DType::f64: return static_cast<A>(static_cast<const double*>(data)[i]);
        case DType::bf16: return static_cast<A>(widen_bf16(static_cast<const std::uint16_t*>(data)[i]));
        default: return static_cast<A>(widen_f16(static_cast<const std::uint16_t*>(data)[i]));
    }
}

template <class A>
__device__ inline void store(void* data, DType type, index_t i, A value) {
    switch (type) {
        case DType::f32: static_cast<float*>(data)[i] = static_cast<float>(value); break;
        case DType::f64: static_cast<double*>(data)[i] = static_cast<double>(value); break;
        case DType::bf16: static_cast<std::uint16_t*>(data)[i] = narrow_bf16(static_cast<float>(value)); break;
        default: static_cast<std::uint16_t*>(data)[i] = narrow_f16(static_cast<float>(value));
    }
}

// Row `row`, column c: centred; without and with its factor.
template <class A>
__device__ inline A unscaled(const Rows& x, index_t row, index_t c) {
    const A value = load<A>(x.data, x.type, row * x.columns() + c);
    return x.reference ? value - load<A>(x.reference, x.type, c) : value;
}
template <class A>
__device__ inline A element(const Rows& x, index_t row, index_t c) {
    const A value = unscaled<A>(x, row, c);
    return x.scale ? value * static_cast<const A*>(x.scale)[row * x.length + c / x.hidden] : value;
}

// Sum over the block, in a fixed order; valid in thread 0. Every thread of the block must call it.
__device__ inline double block_sum(double value) {
    __shared__ double shared[kThreads];
    const int me = static_cast<int>(threadIdx.x);
    __syncthreads();
    shared[me] = value;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
        if (me < half) shared[me] += shared[me + half];
        __syncthreads();
    }
    return shared[0];
}

__device__ inline index_t global_thread() {
    return static_cast<index_t>(blockIdx.x) * blockDim.x + static_cast<index_t>(threadIdx.x);
}

inline unsigned blocks_for(index_t threads) { return static_cast<unsigned>((threads + kThreads - 1) / kThreads); }

inline void check(cudaError_t status, const char* what) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string("promptkernels cuda: ") + what + ": " + cudaGetErrorString(status));
}
inline void check_launch(const char* kernel) { check(cudaGetLastError(), kernel); }

// Device memory that lives in stream order: freed when the work enqueued before its end is done.
template <class T>
class Scratch {
public:
    Scratch(index_t elements, cudaStream_t stream) : stream_(stream) {
        if (elements > 0)
            check(cudaMallocAsync(&data_, static_cast<std::size_t>(elements) * sizeof(T), stream), "scratch memory");
    }
    ~Scratch() {
        if (data_) cudaFreeAsync(data_, stream_);
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    T* get() const { return static_cast<T*>(data_); }

private:
    void* data_ = nullptr;
    cudaStream_t stream_;
};

inline cudaStream_t as_stream(Stream stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace promptkernels::cuda
