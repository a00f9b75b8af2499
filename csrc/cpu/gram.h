// Gram matrix over all threads: float within a chunk of columns, double from chunk to chunk.
#pragma once

#include "kernels.h"

namespace promptkernels::cpu {

// gram (n, m) = X Y^T over columns [begin, end); without y the whole symmetric X X^T.
// left_squares (n) and right_squares (m), unless null, are the squared norms; only with y.
void full_gram(const Rows& x, const Rows* y, index_t begin, index_t end, double* gram, double* left_squares,
               double* right_squares, int threads);

// The same over all columns, one Gram matrix per token: gram is their sum, gram_squares (n, m) that of their squares.
void token_gram(const Rows& x, const Rows* y, double* gram, double* gram_squares, double* left_squares,
                double* right_squares, int threads);

}  // namespace promptkernels::cpu
