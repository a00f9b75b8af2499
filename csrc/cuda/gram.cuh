// Centred Gram matrix and mix, the two primitives of similarity and SVGD.
#pragma once

#include "device.cuh"

namespace promptkernels::cuda {

// Columns of x in `groups` equal ranges, each with a Gram matrix of its own.
// partials (groups, parts, n, m): sums over parts of the columns, to be added up in order. With `symmetric` (x against
// itself) only the blocks on and above the diagonal are written.
constexpr int kGramBlock = 16;
struct GramPlan {
    index_t n, m, groups, columns, parts;
    bool symmetric;
    index_t size() const { return groups * parts * n * m; }
};
GramPlan plan_gram(const Rows& x, const Rows* y, index_t groups);
void gram_partials(const GramPlan& plan, const Rows& x, const Rows& y, double* partials, cudaStream_t stream);

__device__ inline double gram_entry(const double* partials, const GramPlan& plan, index_t group, index_t i, index_t j) {
    if (plan.symmetric && i / kGramBlock > j / kGramBlock) {
        const index_t swap = i;
        i = j;
        j = swap;
    }
    double sum = 0;
    for (index_t part = 0; part < plan.parts; ++part)
        sum += partials[((group * plan.parts + part) * plan.n + i) * plan.m + j];
    return sum;
}

// squares (x.count): squared norms of whole rows.
void squares(const Rows& x, double* squares, cudaStream_t stream);

// out (rows, columns) acc: out[i, c] = sum_j weights[group of c][i, j] * z_j[c], z the rows of x then (if given) of y;
// weights (groups, rows, k), acc.
void mix(const Rows& x, const Rows* y, const void* weights, index_t rows, index_t groups, void* out,
         cudaStream_t stream);

}  // namespace promptkernels::cuda
