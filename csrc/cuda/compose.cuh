// Shared by composing and its gradients.
#pragma once

#include <cassert>

#include "device.cuh"

namespace promptkernels::cuda {

// Tokens that a thread handles together, of V columns each: 64 bytes at most. Of ranks it takes half as many at once.
template <class A, int V>
constexpr int kTogether = 64 / (V * sizeof(A)) < 4 ? 64 / (V * sizeof(A)) : 4;

__device__ inline index_t id_at(const TaskIds& ids, index_t b) {
    return ids.is64 ? static_cast<const std::int64_t*>(ids.data)[b] : static_cast<const std::int32_t*>(ids.data)[b];
}
__device__ inline index_t task_of(const TaskIds& ids, index_t b, index_t tasks) {
    const index_t t = id_at(ids, b);
    assert(t >= 0 && t < tasks && "task_ids holds a value outside 0..tasks-1");
    return t;
}

// Checks all ids, by the threads of a block. Kernels that list rows do this last: a wrong id is on no list, and at the
// end no value has to outlive the call that reports it.
__device__ inline void check_ids(const TaskIds& ids, index_t tasks) {
    for (index_t b = threadIdx.x; b < ids.batch; b += kThreads) task_of(ids, b, tasks);
}

// The batch rows of a task, listed kThreads ids at a time by all threads of a block. Ids are read one step ahead.
class TaskRows {
public:
    __device__ TaskRows(const TaskIds& ids, index_t task) : ids_(ids), task_(task) { read(); }
    __device__ bool more() const { return first_ < ids_.batch; }
    // The next ones in their order; returns how many.
    __device__ int list(index_t* listed) {
        const index_t b = first_ + threadIdx.x;
        const bool wanted = b < ids_.batch && id_ == task_;
        first_ += kThreads;
        read();
        return cuda::list(wanted, b, listed);
    }

private:
    __device__ void read() {
        if (first_ + threadIdx.x < ids_.batch) id_ = id_at(ids_, first_ + threadIdx.x);
    }

    const TaskIds& ids_;
    index_t task_, first_ = 0, id_ = 0;
};

}  // namespace promptkernels::cuda
