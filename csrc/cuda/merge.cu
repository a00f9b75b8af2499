// Merging of task vectors on the GPU: a thread per element forwards, a block per (task, token) for the dot products.
#include "device.cuh"

namespace promptkernels::cuda {
namespace {

template <class A>
__device__ A weight_of(const void* weights, index_t row) {
    return weights ? static_cast<const A*>(weights)[row] : A(1);
}
template <class A>
__device__ A factor_of(const Rows& x, const void* weights, index_t row, index_t token) {
    const A scale = x.scale ? static_cast<const A*>(x.scale)[row * x.length + token] : A(1);
    const A weight = weight_of<A>(weights, row);
    return weight == A(0) ? A(0) : weight * scale;
}

template <class A>
__global__ void merge_kernel(Rows x, const void* weights, A* out) {
    const index_t c = global_thread();
    if (c >= x.columns()) return;
    A sum = load<A>(x.reference, x.type, c);
    for (index_t row = 0; row < x.count; ++row) {
        // A row that is not selected must not reach the sum, not even as 0 * inf.
        if (weight_of<A>(weights, row) == A(0)) continue;
        sum += factor_of<A>(x, weights, row, c / x.hidden) * unscaled<A>(x, row, c);
    }
    out[c] = sum;
}

template <class A>
__global__ void elements_kernel(const A* grad, Rows x, const void* weights, A* d_reference, A* d_prompts) {
    const index_t c = global_thread();
    if (c >= x.columns()) return;
    A total = 0;
    for (index_t row = 0; row < x.count; ++row) {
        const A factor = factor_of<A>(x, weights, row, c / x.hidden);
        total += factor;
        if (d_prompts) d_prompts[row * x.columns() + c] = factor * grad[c];
    }
    if (d_reference) d_reference[c] = grad[c] * (A(1) - total);
}

// dots (count, length) = <grad, prompt - reference> per token; a row of weight 0 has one only for its weight's
// gradient.
template <class A>
__global__ void dots_kernel(const A* grad, Rows x, const void* weights, double* dots, A* d_scale, bool weights_wanted) {
    const index_t row = blockIdx.x / x.length, token = blockIdx.x % x.length;
    const A weight = weight_of<A>(weights, row);
    double sum = 0;
    for (index_t h = threadIdx.x; h < x.hidden && (weight != A(0) || weights_wanted); h += kThreads) {
        const index_t c = token * x.hidden + h;
        sum += static_cast<double>(grad[c]) * static_cast<double>(unscaled<A>(x, row, c));
    }
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    dots[blockIdx.x] = sum;
    if (d_scale) d_scale[blockIdx.x] = weight == A(0) ? A(0) : static_cast<A>(sum * static_cast<double>(weight));
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

template <class A>
void backward_of(const A* grad, const Rows& x, const void* weights, const MergeGradients& out, cudaStream_t stream) {
    if (out.reference || out.prompts) {
        elements_kernel<<<blocks_for(x.columns()), kThreads, 0, stream>>>(
            grad, x, weights, static_cast<A*>(out.reference), static_cast<A*>(out.prompts));
        check_launch("merge backward");
    }
    if (!out.scale && !out.weights) return;
    const Scratch<double> dots(x.count * x.length, stream);
    dots_kernel<<<static_cast<unsigned>(x.count * x.length), kThreads, 0, stream>>>(
        grad, x, weights, dots.get(), static_cast<A*>(out.scale), out.weights != nullptr);
    if (out.weights)
        weights_kernel<<<static_cast<unsigned>(x.count), kThreads, 0, stream>>>(dots.get(), x,
                                                                                static_cast<A*>(out.weights));
    check_launch("merge backward");
}

}  // namespace

void merge(const Rows& prompts, const void* weights, void* out, Stream stream) {
    const unsigned blocks = blocks_for(prompts.columns());
    if (wide(prompts.type))
        merge_kernel<<<blocks, kThreads, 0, as_stream(stream)>>>(prompts, weights, static_cast<double*>(out));
    else
        merge_kernel<<<blocks, kThreads, 0, as_stream(stream)>>>(prompts, weights, static_cast<float*>(out));
    check_launch("merge");
}

void merge_backward(const void* grad, const Rows& prompts, const void* weights, const MergeGradients& out,
                    Stream stream) {
    if (wide(prompts.type))
        return backward_of(static_cast<const double*>(grad), prompts, weights, out, as_stream(stream));
    backward_of(static_cast<const float*>(grad), prompts, weights, out, as_stream(stream));
}

}  // namespace promptkernels::cuda
