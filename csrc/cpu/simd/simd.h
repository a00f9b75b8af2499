// What each instruction set provides, by family; gathered into a table of Kernels in table.cpp.
#pragma once

#include "vector.h"

namespace promptkernels::cpu::PK_ISA {

void gram(const Rows& x, const Rows* y, index_t begin, index_t end, double* gram);
void against_one(const Rows& x, const Rows& y, index_t begin, index_t end, double* products, double* squares);
void squares(const Rows& x, index_t begin, index_t end, double* squares);
void mix(const Rows* inputs, int input_count, index_t begin, index_t end, const Product* products, int product_count);
void token_means(const Rows& x, index_t row_begin, index_t row_end, index_t begin, index_t end, void* out);
double unscaled_dot(const Rows& x, index_t row, index_t begin, index_t end, const void* left);
void scale_and_subtract(void* values, double factor, void* sum, index_t n, bool wide);
void compose(const Compose& job, index_t begin, index_t end);
void append_text(const Compose& job, index_t begin, index_t end);
void compose_backward(const ComposeBackward& job);
void merge(const Rows& prompts, const void* weights, void* out, index_t token_begin, index_t token_end);
void merge_backward(const void* grad, const Rows& prompts, const void* weights, const MergeGradients& out, double* dots,
                    index_t token_begin, index_t token_end);

}  // namespace promptkernels::cpu::PK_ISA
