// The CPU kernels. Addresses are of contiguous arrays; "acc" arrays hold double for double input and float otherwise.
// `threads` is how many threads of the caller's OpenMP pool may be used; results do not depend on it, to the bit.
#pragma once

#include <cstddef>
#include <string>

#include "promptkernels/types.h"

namespace promptkernels::cpu {

// Instruction sets: baseline, avx2, avx512 on x86-64; baseline elsewhere.
const char* isa_compiled();  // comma-separated
const char* isa_chosen();
void choose_isa(const std::string& name);  // throws std::invalid_argument for one that cannot run here
std::string openmp_library();              // path of the OpenMP runtime that the kernels run on; empty without one

// similarity (n, m), left_norm (n), right_norm (m), all acc. `others` null compares `left` with itself.
// z (n, m) acc, of the tokens' dot products, unless null; only with Metric::cosine.
void similarity(const Rows& left, const Rows* others, Metric metric, double eps, void* similarity, void* left_norm,
                void* right_norm, void* z, int threads);

void similarity_backward(const void* grad, const Rows& left, const Rows* others, Metric metric, double eps,
                         const void* similarity, const void* left_norm, const void* right_norm,
                         const SimilarityGradients& out, int threads);

// phi (m, length, hidden), kernel (groups, m, m), h (groups), all acc; groups = length with per_token, else 1.
void svgd(const Rows& particles, const Rows& scores, Bandwidth convention, double bandwidth, bool per_token, void* phi,
          void* kernel, void* h, int threads);
void svgd_backward(const Rows& grad, const Rows& particles, const Rows& scores, const void* kernel, const void* h,
                   bool per_token, void* d_particles, void* d_scores, int threads);

// Writes out (batch, length + text, hidden): prompts first, then the rows of `embeds` (batch, text, hidden), both of
// `type`. text = 0 is plain composition. `ids` must be in 0..tasks-1.
void compose(const Factors& factors, const index_t* ids, index_t batch, const void* embeds, index_t text, DType type,
             void* out, int threads);
// grad (batch, length, hidden) with grad_stride elements between batch rows; the results are of the factors' type.
void compose_backward(const void* grad, index_t grad_stride, DType grad_type, const Factors& factors,
                      const index_t* ids, index_t batch, void* d_shared, void* d_u, void* d_v, int threads);

// out (length, hidden) acc = reference + sum_t weights[t] * row t of `prompts`; weights (tasks) acc or null.
void merge(const Rows& prompts, const void* weights, void* out, int threads);
void merge_backward(const void* grad, const Rows& prompts, const void* weights, const MergeGradients& out, int threads);

// similarity (n, n), float or double -> chosen (n) of 0 and 1.
void select_group(const void* similarity, bool wide, index_t n, index_t target, bool* chosen, int threads);

}  // namespace promptkernels::cpu
