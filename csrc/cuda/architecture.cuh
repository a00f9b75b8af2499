// The only instructions here that not every architecture has (sm_80 and later): copies to shared memory that pass no
// registers, and TF32 products of tensor cores. Without CUDA's compiler they are plain copies, and products of what the
// lanes of a warp hand each other.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#include <cuda_pipeline.h>
#endif

namespace promptkernels::cuda {

// Whether this architecture's code of the Gram matrix of 32 rows has registers for four columns at a time (sm_90, 100).
#ifdef __CUDA_ARCH__
constexpr bool kSparesRegisters = __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1200;
#else
constexpr bool kSparesRegisters = true;
#endif

// Starts a copy of 8 or 16 bytes, aligned at both ends, or puts zeros there; then nothing is read.
template <int bytes>
__device__ inline void copy_to_shared(void* shared, const void* global, bool there) {
#ifdef __CUDACC__
    const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const int taken = there ? bytes : 0;
    if constexpr (bytes == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(taken) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(global), "r"(taken) : "memory");
#else
    if (there)
        std::memcpy(shared, __builtin_assume_aligned(global, bytes), bytes);
    else
        std::memset(shared, 0, bytes);
#endif
}
// Ends a group of copies of this thread.
__device__ inline void end_copies() {
#ifdef __CUDACC__
    __pipeline_commit();
#endif
}
// Waits, for this thread, until all its groups but the last `groups` are there.
template <int groups>
__device__ inline void wait_for_copies() {
#ifdef __CUDACC__
    __pipeline_wait_prior(groups);
#endif
}

// A float as the sum of two TF32 numbers (11 significant bits each), exact but for the last bit: three TF32 products
// have nearly the accuracy of a float product.
struct Split {
    float high, low;
};
__device__ inline float cut_to_tf32(std::uint32_t bits) { return __uint_as_float(bits & 0xFFFFE000u); }
__device__ inline Split split(float x) {
    const float high = cut_to_tf32(__float_as_uint(x) + 0x1000u);  // rounded, ties away from zero
    return {high, cut_to_tf32(__float_as_uint(x - high))};
}

// Fragments of a warp, as the instruction has them. Lane 4 g + t holds, of a left matrix (16, 8), entries (g, t),
// (g + 8, t), (g, t + 4), (g + 8, t + 4); of a right matrix (8, 8), (t, g) and (t + 4, g); of their product (16, 8),
// (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1).
struct Left {
    float v[4];
};
struct Right {
    float v[2];
};
struct Product {
    float v[4];
};

#ifdef __CUDACC__
__device__ inline void add_product(Product& sum, const Left& a, const Right& b) {
    const auto bits = [](float x) { return __float_as_uint(x); };
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sum.v[0]), "+f"(sum.v[1]), "+f"(sum.v[2]), "+f"(sum.v[3])
        : "r"(bits(a.v[0])), "r"(bits(a.v[1])), "r"(bits(a.v[2])), "r"(bits(a.v[3])), "r"(bits(b.v[0])),
          "r"(bits(b.v[1])));
}
#else
__device__ inline void add_product(Product& sum, const Left& a, const Right& b) {
    struct {
        Left a;
        Right b;
    } mine{a, b}, other;
    emulation::hand_over(&mine, sizeof mine, 0xFFFFFFFFu, std::source_location::current());
    const unsigned g = emulation::lane() / 4, t = emulation::lane() % 4;
    for (unsigned r = 0; r < 4; ++r) {
        const unsigned column = 2 * t + r % 2;
        double total = sum.v[r];
        for (unsigned k = 0; k < 8; ++k) {
            std::memcpy(&other, emulation::handed_over(4 * g + k % 4), sizeof other);
            const double left = other.a.v[r / 2 + k / 4 * 2];
            std::memcpy(&other, emulation::handed_over(4 * column + k % 4), sizeof other);
            total += left * static_cast<double>(other.b.v[k / 4]);
        }
        sum.v[r] = static_cast<float>(total);
    }
}
#endif

}  // namespace promptkernels::cuda
