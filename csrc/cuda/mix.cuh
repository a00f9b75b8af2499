// Mix: rows that are sums of other rows, the second primitive of similarity and SVGD.
#pragma once

#include "gram.cuh"

namespace promptkernels::cuda {

// The rows of a result: the first `count` at `first`, the others at `second` (which may be missing).
template <class A>
struct Output {
    A* first = nullptr;
    index_t count = 0;
    A* second = nullptr;
};

// out[i, c] = sum_j weights[group of c][i, j] * z_j[c] for `rows` rows i, z the rows of a stack with at most
// 2 * kMostRows of them; weights (groups, rows, k) on the device. The columns are those of z, in equal groups.
void mix(const Stack& z, const float* weights, index_t rows, index_t groups, const Output<float>& out,
         const Where& where);
void mix(const Stack& z, const double* weights, index_t rows, index_t groups, const Output<double>& out,
         const Where& where);

}  // namespace promptkernels::cuda
