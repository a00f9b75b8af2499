// The kernels that are compiled once per instruction set: each works on a range, on one thread.
#pragma once

#include "promptkernels/cpu.h"

namespace promptkernels::cpu {

// One product of a mix: out[i, c] = sum_j weights[i, j] * inputs[j, c].
struct Product {
    const void* weights = nullptr;  // (rows, inputs), acc
    index_t rows = 0;
    index_t inputs = 0;   // the first so many rows of all inputs stacked
    void* out = nullptr;  // acc, `stride` elements between rows; its first column is the first of the range
    index_t stride = 0;
};

// The rows of a batch by task.
struct TaskRows {
    const index_t* order;   // batch rows sorted by task
    const index_t* starts;  // (tasks + 1): where each task begins in `order`
};

struct Compose {
    const Factors* factors;
    TaskRows rows;
    const void* embeds;  // (batch, text, hidden), or none where text is 0
    index_t text;
    DType type;  // of embeds and out
    void* out;   // (batch, length + text, hidden)
};

struct ComposeBackward {
    const void* grad;
    index_t grad_stride;
    DType grad_type;
    const Factors* factors;
    TaskRows rows;
    index_t token_begin, token_end, column_begin, column_end;
    void* d_shared;  // (length, hidden): this block's place is written
    void* d_u;       // (tasks, length, rank) of this column block: the block's tokens are written
    void* d_v;       // (tasks, rank, hidden) of this token block: the block's columns are written
};

struct Kernels {
    // gram (rows of x, rows of y or x) += products over columns [begin, end); without y the upper triangle.
    void (*gram)(const Rows& x, const Rows* y, index_t begin, index_t end, double* gram);
    // For a y of one row: products (x.count) and squares (x.count) += over columns [begin, end), x read once.
    void (*against_one)(const Rows& x, const Rows& y, index_t begin, index_t end, double* products, double* squares);
    // squares (x.count) += sums of squares over columns [begin, end).
    void (*squares)(const Rows& x, index_t begin, index_t end, double* squares);
    // Every product over columns [begin, end) of the stacked inputs, each column of which is read once.
    void (*mix)(const Rows* inputs, int input_count, index_t begin, index_t end, const Product* products,
                int product_count);
    // out (x.count, hidden) acc = means over tokens, of some rows and hidden columns [begin, end).
    void (*token_means)(const Rows& x, index_t row_begin, index_t row_end, index_t begin, index_t end, void* out);
    // out[c] = sum over [begin, end) of left[c - begin] * (row `row` of x without its scale), as double.
    double (*unscaled_dot)(const Rows& x, index_t row, index_t begin, index_t end, const void* left);
    // values[c] *= factor; then sum[c] -= values[c], where sum is not null. acc arrays of n elements.
    void (*scale_and_subtract)(void* values, double factor, void* sum, index_t n, bool wide);
    // Prompt tokens [begin, end) of all batch rows.
    void (*compose)(const Compose& job, index_t begin, index_t end);
    // Rows [begin, end) of the batch * text rows that follow the prompts.
    void (*append_text)(const Compose& job, index_t begin, index_t end);
    // One block of tokens x hidden columns of `compose_backward`.
    void (*compose_backward)(const ComposeBackward& job);
    void (*merge)(const Rows& prompts, const void* weights, void* out, index_t token_begin, index_t token_end);
    // Also fills dots (tasks, length): <grad, prompts_t - reference> per token.
    void (*merge_backward)(const void* grad, const Rows& prompts, const void* weights, const MergeGradients& out,
                           double* dots, index_t token_begin, index_t token_end);
};

const Kernels& kernels();

}  // namespace promptkernels::cpu
