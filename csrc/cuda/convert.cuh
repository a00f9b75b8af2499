// 16-bit floats by their bits; widening is exact, narrowing rounds to nearest even, once.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace promptkernels::cuda {

__device__ inline float as_float(std::uint32_t bits) { return __uint_as_float(bits); }
__device__ inline float widen_bf16(std::uint16_t bits) { return as_float(static_cast<std::uint32_t>(bits) << 16); }
#ifdef __CUDACC__
__device__ inline float widen_f16(std::uint16_t bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
#else
__device__ inline float widen_f16(std::uint16_t bits) {
    const std::uint32_t w = static_cast<std::uint32_t>(bits) << 16, twice = w + w;
    const float normal = as_float((twice >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
    const float subnormal = as_float((twice >> 17) | (126u << 23)) - 0.5f;
    return as_float((w & 0x80000000u) | __float_as_uint(twice < (1u << 27) ? subnormal : normal));
}
#endif

__device__ inline std::uint16_t narrow_bf16(float x) {
    const std::uint32_t w = __float_as_uint(x);
    if ((w & 0x7FFFFFFFu) > 0x7F800000u) return 0x7FC0u;
    return static_cast<std::uint16_t>((w + 0x7FFFu + ((w >> 16) & 1u)) >> 16);
}
#ifdef __CUDACC__
__device__ inline std::uint16_t narrow_f16(float x) {
    std::uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#else
__device__ inline std::uint16_t narrow_f16(float x) {
    const std::uint32_t w = __float_as_uint(x), twice = w + w;
    float base = (as_float(w & 0x7FFFFFFFu) * 0x1.0p+112f) * 0x1.0p-110f;
    const std::uint32_t exponent = twice & 0xFF000000u, bias = exponent < 0x71000000u ? 0x71000000u : exponent;
    base += as_float((bias >> 1) + 0x07800000u);
    const std::uint32_t bits = __float_as_uint(base);
    const std::uint32_t magnitude = twice > 0xFF000000u ? 0x7E00u : ((bits >> 13) & 0x7C00u) + (bits & 0x0FFFu);
    return static_cast<std::uint16_t>(((w & 0x80000000u) >> 16) | magnitude);
}
#endif

}  // namespace promptkernels::cuda
