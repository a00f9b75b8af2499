// Shared by composing and its gradients.
#pragma once

#include <cassert>

#include "device.cuh"

namespace promptkernels::cuda {

__device__ inline index_t task_of(const TaskIds& ids, index_t b, index_t tasks) {
    const index_t t =
        ids.is64 ? static_cast<const std::int64_t*>(ids.data)[b] : static_cast<const std::int32_t*>(ids.data)[b];
    assert(t >= 0 && t < tasks && "task_ids holds a value outside 0..tasks-1");
    return t;
}

}  // namespace promptkernels::cuda
