// Merging of task vectors on the GPU: forwards a thread per pack of columns, in one launch; backwards two at most.
#include "device.cuh"

namespace promptkernels::cuda {
namespace {

constexpr int kRowsAtOnce = 4;  // whose loads are under way together

template <class A>
__device__ A weight_of(const void* weights, index_t row) {
    return weights ? static_cast<const A*>(weights)[row] : A(1);
}
// A row that is not there (weight 0) has the factor 0, whatever its scale.
template <class A>
__device__ A factor_of(const Rows& x, const void* weights, index_t row, index_t c) {
    const A weight = weight_of<A>(weights, row);
    return weight == A(0) ? A(0) : weight * factor<A>(x, row, c);
}

template <class A, int V>
__global__ void merge_kernel(Rows x, const void* weights, A* out) {
    const index_t c = global_thread() * V;
    if (c >= x.columns()) return;
    with_row_type<A>(x.type, [&](auto type) {
        constexpr DType kType = decltype(type)::value;
        const Pack<A, V> start = load_as<A, V, kType>(x.reference, c);
        Pack<A, V> sum = start;
        for (index_t first = 0; first < x.count; first += kRowsAtOnce) {
            Pack<A, V> vector[kRowsAtOnce] = {};
            bool there[kRowsAtOnce];
#pragma unroll
            for (int r = 0; r < kRowsAtOnce; ++r) {
                const index_t row = first + r;
                there[r] = row < x.count && weight_of<A>(weights, row) != A(0);
                if (there[r]) vector[r] = load_as<A, V, kType>(x.data, row * x.columns() + c);
            }
#pragma unroll
            for (int r = 0; r < kRowsAtOnce; ++r) {
                // A row that is not selected must not reach the sum, not even as 0 * inf.
                if (!there[r]) continue;
                const A by = factor_of<A>(x, weights, first + r, c);
#pragma unroll
                for (int k = 0; k < V; ++k) sum.v[k] += by * (vector[r].v[k] - start.v[k]);
            }
        }
        write<A, V>(out + c, sum);
    });
}

// Thread per column: d_reference and d_prompts.
template <class A>
__device__ void element_gradients(const A* grad, const Rows& x, const void* weights, index_t c, A* d_reference,
                                  A* d_prompts) {
    if (c >= x.columns()) return;
    const A gradient = grad[c];
    A total = 0;
    for (index_t row = 0; row < x.count; ++row) {
        const A by = factor_of<A>(x, weights, row, c);
        total += by;
        if (d_prompts) d_prompts[row * x.columns() + c] = by * gradient;
    }
    if (d_reference) d_reference[c] = gradient * (A(1) - total);
}

// Block per (row, token): dots (count, length) = <grad, prompt - reference>; a row of weight 0 has one only for its
// weight's gradient.
template <class A>
__device__ void dot_products(const A* grad, const Rows& x, const void* weights, index_t block, double* dots, A* d_scale,
                             bool weights_wanted) {
    const index_t row = block / x.length, token = block % x.length;
    const A weight = weight_of<A>(weights, row);
    double sum = 0;
    for (index_t h = threadIdx.x; h < x.hidden && (weight != A(0) || weights_wanted); h += kThreads) {
        const index_t c = token * x.hidden + h;
        sum += static_cast<double>(grad[c]) * static_cast<double>(centred<A, 1>(x, row, c).v[0]);
    }
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    dots[block] = sum;
    if (d_scale) d_scale[block] = weight == A(0) ? A(0) : static_cast<A>(sum * static_cast<double>(weight));
}

template <class A>
__global__ void gradients_kernel(const A* grad, Rows x, const void* weights, index_t element_blocks, A* d_reference,
                                 A* d_prompts, double* dots, A* d_scale, bool weights_wanted) {
    const index_t block = blockIdx.x;
    if (block < element_blocks)
        return element_gradients(grad, x, weights, block * kThreads + threadIdx.x, d_reference, d_prompts);
    dot_products(grad, x, weights, block - element_blocks, dots, d_scale, weights_wanted);
}

template <class A>
__global__ void weights_kernel(const double* dots, Rows x, A* d_weights) {
    double sum = 0;
    for (index_t token = threadIdx.x; token < x.length; token += kThreads) {
        const index_t i = blockIdx.x * x.length + token;
        sum += dots[i] * (x.scale ? static_cast<double>(static_cast<const A*>(x.scale)[i]) : 1.0);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) d_weights[blockIdx.x] = static_cast<A>(sum);
}

template <class A, int V>
void launch_merge(const Rows& x, const void* weights, void* out, const Where& where) {
    launch("merge", merge_kernel<A, V>, blocks_for(x.columns() / V), kThreads, where, x, weights, static_cast<A*>(out));
}

template <class A>
void forward(const Rows& x, const void* weights, void* out, const Where& where) {
    const int v = pack_size(x.type);
    if (!in_packs(x, v) || !in_packs(out, sizeof(A), x.hidden, v)) return launch_merge<A, 1>(x, weights, out, where);
    if constexpr (sizeof(A) == 8) {
        launch_merge<A, 2>(x, weights, out, where);
    } else {
        (v == 8 ? launch_merge<A, 8> : launch_merge<A, 4>)(x, weights, out, where);
    }
}

template <class A>
void backward(const void* grad, const Rows& x, const void* weights, const MergeGradients& out, const Where& where) {
    const index_t element_blocks = out.reference || out.prompts ? divide_up(x.columns(), kThreads) : 0;
    const index_t dot_blocks = out.scale || out.weights ? x.count * x.length : 0;
    if (element_blocks + dot_blocks == 0) return;
    double* dots = scratch<double>(dot_blocks, where);
    launch("merge gradients", gradients_kernel<A>, static_cast<unsigned>(element_blocks + dot_blocks), kThreads, where,
           static_cast<const A*>(grad), x, weights, element_blocks, static_cast<A*>(out.reference),
           static_cast<A*>(out.prompts), dots, static_cast<A*>(out.scale), out.weights != nullptr);
    if (out.weights)
        launch("gradient of weights", weights_kernel<A>, static_cast<unsigned>(x.count), kThreads, where, dots, x,
               static_cast<A*>(out.weights));
}

}  // namespace

void merge(const Rows& prompts, const void* weights, void* out, const Where& where) {
    (wide(prompts.type) ? forward<double> : forward<float>)(prompts, weights, out, where);
}

void merge_backward(const void* grad, const Rows& prompts, const void* weights, const MergeGradients& out,
                    const Where& where) {
    (wide(prompts.type) ? backward<double> : backward<float>)(grad, prompts, weights, out, where);
}

}  // namespace promptkernels::cuda
