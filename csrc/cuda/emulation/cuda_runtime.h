// Stands for CUDA's own <cuda_runtime.h> where the .cu files are compiled for the host: every construct that they use,
// and no more. Blocks run one after another, the threads of a block as fibers that switch at barriers (scheduler.cpp).
//
// What a GPU would refuse or leave undefined is an exception here: grids and blocks beyond the limits, shared memory
// that nobody asked for, a barrier that not every thread of the block (or warp) reaches, or that they reach at
// different places in the source.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <source_location>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
// One block runs at a time, so what its threads share is what all calls of the function share.
#define __shared__ static

#define CUDART_VERSION 0  // no CUDA runtime

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

// Of the thread that is running.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;

using std::isfinite;
using std::isnan;

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
template <class T>
T __ldcg(const T* from) {
    return *from;
}
template <class T>
void __stcs(T* to, T value) {
    *to = value;
}
inline void __threadfence() {}
// Blocks and threads never run at the same time, so a plain read-modify-write is atomic.
inline unsigned atomicInc(unsigned* counter, unsigned limit) {
    const unsigned old = *counter;
    *counter = old >= limit ? 0 : old + 1;
    return old;
}

namespace emulation {

constexpr unsigned kWarp = 32;
constexpr std::size_t kExchanged = 32;

void wait_for_block(const std::source_location& where);
void wait_for_warp(unsigned mask, const std::source_location& where);
unsigned lane();
bool has_lane(unsigned lane);  // a last warp may be short
// Hands up to kExchanged bytes to the other lanes of the warp, and waits until all of them have done so.
void hand_over(const void* value, std::size_t bytes, unsigned mask, const std::source_location& where);
const void* handed_over(unsigned lane);

constexpr std::size_t kMostShared = 227 * 1024;  // bytes of dynamic shared memory
// What a kernel gets without asking, less what its own variables may take.
constexpr std::size_t kFreeShared = (48 - 8) * 1024;
inline std::map<const void*, std::size_t> asked_for;
inline std::size_t allowed_shared(const void* kernel) {
    const auto found = asked_for.find(kernel);
    return found == asked_for.end() ? kFreeShared : found->second;
}
unsigned char* dynamic_shared();

void run(dim3 grid, dim3 block, const std::function<void()>& thread);

}  // namespace emulation

inline void __syncthreads(std::source_location where = std::source_location::current()) {
    emulation::wait_for_block(where);
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, std::source_location where = std::source_location::current()) {
    emulation::wait_for_warp(mask, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, unsigned lanes,
                  std::source_location where = std::source_location::current()) {
    static_assert(sizeof(T) <= emulation::kExchanged);
    emulation::hand_over(&value, sizeof value, mask, where);
    if (const unsigned from = emulation::lane() ^ lanes; emulation::has_lane(from))
        std::memcpy(&value, emulation::handed_over(from), sizeof value);
    return value;
}
inline unsigned __ballot_sync(unsigned mask, bool predicate,
                              std::source_location where = std::source_location::current()) {
    emulation::hand_over(&predicate, sizeof predicate, mask, where);
    unsigned votes = 0;
    for (unsigned other = 0; other < emulation::kWarp && emulation::has_lane(other); ++other) {
        bool vote;
        std::memcpy(&vote, emulation::handed_over(other), sizeof vote);
        votes |= static_cast<unsigned>(vote) << other;
    }
    return votes;
}

// The runtime API, as far as it is used.
using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
inline const char* cudaGetErrorString(cudaError_t status) {
    return status == cudaSuccess ? "no error" : "invalid configuration argument";
}
template <class T>
cudaError_t cudaGetSymbolAddress(void** address, const T& symbol) {
    *address = const_cast<void*>(static_cast<const void*>(&symbol));
    return cudaSuccess;
}
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerMultiprocessor };
inline cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    // So little shared memory that a Gram matrix of up to eight rows has one stage of columns there, others two.
    *value = attribute == cudaDevAttrMultiProcessorCount ? 12 : 145 * 1024;
    return cudaSuccess;
}
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
    emulation::asked_for[reinterpret_cast<const void*>(kernel)] = static_cast<std::size_t>(bytes);
    return cudaSuccess;
}
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    std::size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
};
template <class... Wanted, class... Given>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Wanted...), Given&&... arguments) {
    const dim3 grid = config->gridDim, block = config->blockDim;
    const std::uint64_t threads = std::uint64_t(block.x) * block.y * block.z;
    if (grid.x == 0 || grid.x > 0x7FFFFFFFu || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535)
        return cudaErrorInvalidConfiguration;
    if (threads == 0 || threads > 1024 || block.z > 64 || config->dynamicSmemBytes > emulation::kMostShared)
        return cudaErrorInvalidConfiguration;
    if (config->dynamicSmemBytes > emulation::allowed_shared(reinterpret_cast<const void*>(kernel)))
        return cudaErrorInvalidValue;
    emulation::run(grid, block, [kernel, arguments...] { kernel(arguments...); });
    return cudaSuccess;
}
