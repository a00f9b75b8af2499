// The CUDA kernels: the functions of cpu.h on device addresses, enqueued on a stream; none of them waits for the
// device. Scratch memory is allocated and freed in stream order. A failed launch throws std::runtime_error.
#pragma once

#include "promptkernels/types.h"

namespace promptkernels::cuda {

using Stream = void*;  // cudaStream_t

int runtime_version();  // of the CUDA runtime compiled in; asks no driver

void similarity(const Rows& left, const Rows* others, Metric metric, double eps, void* similarity, void* left_norm,
                void* right_norm, Stream stream);
void similarity_backward(const void* grad, const Rows& left, const Rows* others, Metric metric, double eps,
                         const void* similarity, const void* left_norm, const void* right_norm,
                         const SimilarityGradients& out, Stream stream);
void svgd(const Rows& particles, const Rows& scores, Bandwidth convention, double bandwidth, bool per_token, void* phi,
          void* kernel, void* h, Stream stream);
void svgd_backward(const Rows& grad, const Rows& particles, const Rows& scores, const void* kernel, const void* h,
                   bool per_token, void* d_particles, void* d_scores, Stream stream);

// Task ids are 32 or 64-bit numbers on the device; one out of range is a device-side assertion.
struct TaskIds {
    const void* data = nullptr;
    bool is64 = false;
    index_t batch = 0;
};
void compose(const Factors& factors, const TaskIds& ids, const void* embeds, index_t text, DType type, void* out,
             Stream stream);
void compose_backward(const void* grad, index_t grad_stride, DType grad_type, const Factors& factors,
                      const TaskIds& ids, void* d_shared, void* d_u, void* d_v, Stream stream);

void merge(const Rows& prompts, const void* weights, void* out, Stream stream);
void merge_backward(const void* grad, const Rows& prompts, const void* weights, const MergeGradients& out,
                    Stream stream);
void select_group(const void* similarity, bool wide, index_t n, index_t target, bool* chosen, Stream stream);

}  // namespace promptkernels::cuda
