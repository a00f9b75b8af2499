// The CUDA kernels: the functions of cpu.h on device addresses, enqueued on a stream; none of them waits for the
// device. A failed launch throws std::runtime_error.
#pragma once

#include "promptkernels/types.h"

namespace promptkernels::cuda {

// Where the work goes and what it may use.
struct Where {
    void* stream = nullptr;  // cudaStream_t
    // Gives device memory, aligned to 16 bytes, that stays valid for the work enqueued by the call that asks for it.
    void* (*allocate)(void* context, std::size_t bytes) = nullptr;
    void* context = nullptr;
    // kTickets zeros on the device, which no other work uses at the same time; the kernels leave them zero.
    unsigned* tickets = nullptr;
};
constexpr int kTickets = 256;
constexpr int kTicketSets = 1024;  // of kTickets each, in the memory of every device
unsigned* ticket_sets();           // address of the first set on the current device

// A Gram matrix is taken of at most so many rows: the prompts and the others of a similarity together; the particles
// of an SVGD direction, and of its gradients the particles, scores and gradients together.
constexpr index_t kMostRows = 64;

int runtime_version();  // of the CUDA runtime compiled in; asks no driver

void similarity(const Rows& left, const Rows* others, Metric metric, double eps, void* similarity, void* left_norm,
                void* right_norm, void* z, const Where& where);
void similarity_backward(const void* grad, const Rows& left, const Rows* others, Metric metric, double eps,
                         const void* similarity, const void* left_norm, const void* right_norm,
                         const SimilarityGradients& out, const Where& where);
void svgd(const Rows& particles, const Rows& scores, Bandwidth convention, double bandwidth, bool per_token, void* phi,
          void* kernel, void* h, const Where& where);
void svgd_backward(const Rows& grad, const Rows& particles, const Rows& scores, const void* kernel, const void* h,
                   bool per_token, void* d_particles, void* d_scores, const Where& where);

// Task ids are 32 or 64-bit numbers on the device; one out of range is a device-side assertion.
struct TaskIds {
    const void* data = nullptr;
    bool is64 = false;
    index_t batch = 0;
};
void compose(const Factors& factors, const TaskIds& ids, const void* embeds, index_t text, DType type, void* out,
             const Where& where);
void compose_backward(const void* grad, index_t grad_stride, DType grad_type, const Factors& factors,
                      const TaskIds& ids, void* d_shared, void* d_u, void* d_v, const Where& where);

void merge(const Rows& prompts, const void* weights, void* out, const Where& where);
void merge_backward(const void* grad, const Rows& prompts, const void* weights, const MergeGradients& out,
                    const Where& where);
void select_group(const void* similarity, bool wide, index_t n, index_t target, bool* chosen, const Where& where);

}  // namespace promptkernels::cuda
