// The only instructions here that not every architecture has: copies to shared memory that pass no registers (sm_80 and
// later). Without CUDA's compiler they are plain copies.
#pragma once

#include <cuda_runtime.h>

#include <cstring>

#ifdef __CUDACC__
#include <cuda_pipeline.h>
#endif

namespace promptkernels::cuda {

// Starts a copy of 16 bytes, aligned at both ends.
__device__ inline void copy_to_shared(void* shared, const void* global) {
#ifdef __CUDACC__
    __pipeline_memcpy_async(shared, global, 16);
#else
    std::memcpy(shared, __builtin_assume_aligned(global, 16), 16);
#endif
}

// Waits until the copies that this thread has started are there, for this thread.
__device__ inline void wait_for_copies() {
#ifdef __CUDACC__
    __pipeline_commit();
    __pipeline_wait_prior(0);
#endif
}

}  // namespace promptkernels::cuda
