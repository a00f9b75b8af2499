// Merging of task vectors on the GPU: forwards a thread per pack of columns, in one launch; backwards two at most.
#include "device.cuh"

namespace promptkernels::cuda {
namespace {

constexpr int kRowsAtOnce = 4;  // whose loads are under way together
constexpr int kWarps = kThreads / 32;

template <class A>
__device__ A weight_of(const void* weights, index_t row) {
    return weights ? static_cast<const A*>(weights)[row] : A(1);
}
template <class A>
__device__ A scale_of(const Rows& x, index_t row, index_t token) {
    return x.scale ? static_cast<const A*>(x.scale)[row * x.length + token] : A(1);
}

// Thread per V columns. Only rows that are there (weight not 0) are listed and read: the others must not reach the sum,
// not even as 0 * inf.
template <class A, int V>
__global__ void merge_kernel(Rows x, const void* weights, A* out) {
    __shared__ index_t listed[kThreads];
    const index_t c = global_thread() * V, token = c / x.hidden;
    const bool inside = c < x.columns();
    with_row_type<A>(x.type, [&](auto type) {
        using Stored = Storage<decltype(type)::value>;
        using S = typename Stored::type;
        Pack<S, V> start{};
        if (inside) start = read<S, V>(static_cast<const S*>(x.reference) + c);
        Pack<A, V> sum;
#pragma unroll
        for (int k = 0; k < V; ++k) sum.v[k] = Stored::widen(start.v[k]);
        for (index_t first = 0; first < x.count; first += kThreads) {
            const index_t mine = first + threadIdx.x;
            const int count = list(mine < x.count && weight_of<A>(weights, mine) != A(0), mine, listed);
            for (int e = 0; e < count && inside; e += kRowsAtOnce) {
                Pack<S, V> prompt[kRowsAtOnce];
                A weight[kRowsAtOnce], scale[kRowsAtOnce];
#pragma unroll
                for (int r = 0; r < kRowsAtOnce; ++r) {
                    const index_t row = listed[e + r < count ? e + r : e];
                    prompt[r] = read<S, V>(static_cast<const S*>(x.data) + row * x.columns() + c);
                    weight[r] = weight_of<A>(weights, row);
                    scale[r] = scale_of<A>(x, row, token);
                }
#pragma unroll
                for (int r = 0; r < kRowsAtOnce; ++r) {
                    if (e + r >= count) continue;
                    const A by = weight[r] * scale[r];
#pragma unroll
                    for (int k = 0; k < V; ++k) {
                        const A value = Stored::widen(prompt[r].v[k]), origin = Stored::widen(start.v[k]);
                        sum.v[k] += by * (value - origin);
                    }
                }
            }
        }
        if (inside) write<A, V>(out + c, sum);
    });
}

// Thread per V columns: d_reference and d_prompts. A row that is not there has the factor 0, whatever its scale.
template <class A, int V>
__device__ void element_gradients(const A* grad, const Rows& x, const void* weights, index_t c, A* d_reference,
                                  A* d_prompts) {
    if (c >= x.columns()) return;
    const Pack<A, V> gradient = read<A, V>(grad + c);
    const index_t token = c / x.hidden;
    Pack<A, V> result;
    A total = 0;
#pragma unroll 4
    for (index_t row = 0; row < x.count; ++row) {
        const A weight = weight_of<A>(weights, row), scale = scale_of<A>(x, row, token);
        const A by = weight == A(0) ? A(0) : weight * scale;
        total += by;
#pragma unroll
        for (int k = 0; k < V; ++k) result.v[k] = by * gradient.v[k];
        if (d_prompts) write<A, V>(d_prompts + row * x.columns() + c, result);
    }
#pragma unroll
    for (int k = 0; k < V; ++k) result.v[k] = gradient.v[k] * (A(1) - total);
    if (d_reference) write<A, V>(d_reference + c, result);
}

// The part of a lane in <grad, prompt - reference> at one token, which begins at column `at`.
template <class A, int V>
__device__ double dot_of_lane(const A* grad, const Rows& x, index_t row, index_t at, int lane) {
    constexpr int kPacks = V < 8 ? 4 : 2;  // whose loads are under way together
    double sum = 0;
    with_row_type<A>(x.type, [&](auto type) {
        using Stored = Storage<decltype(type)::value>;
        using S = typename Stored::type;
        const S *prompts = static_cast<const S*>(x.data) + row * x.columns() + at,
                *reference = static_cast<const S*>(x.reference) + at;
        for (index_t first = lane * V; first < x.hidden; first += 32 * V * kPacks) {
            Pack<A, V> gradient[kPacks] = {};
            Pack<S, V> prompt[kPacks] = {}, start[kPacks] = {};
#pragma unroll
            for (int p = 0; p < kPacks; ++p) {
                const index_t h = first + p * 32 * V;
                if (h < x.hidden) gradient[p] = read<A, V>(grad + at + h);
                if (h < x.hidden) prompt[p] = read<S, V>(prompts + h);
                if (h < x.hidden) start[p] = read<S, V>(reference + h);
            }
#pragma unroll
            for (int p = 0; p < kPacks; ++p)
#pragma unroll
                for (int k = 0; k < V; ++k) {
                    const A value = Stored::widen(prompt[p].v[k]), origin = Stored::widen(start[p].v[k]);
                    sum += static_cast<double>(gradient[p].v[k]) * static_cast<double>(value - origin);
                }
        }
    });
    return sum;
}

// Warp per (row, token): dots (count, length) = <grad, prompt - reference>; a row of weight 0 has one only for its
// weight's gradient.
template <class A, int V>
__device__ void dot_products(const A* grad, const Rows& x, const void* weights, index_t i, double* dots, A* d_scale,
                             bool weights_wanted) {
    if (i >= x.count * x.length) return;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const index_t row = i / x.length, token = i % x.length;
    const A weight = weight_of<A>(weights, row);
    double dot = 0;
    if (weight != A(0) || weights_wanted) dot = warp_sum(dot_of_lane<A, V>(grad, x, row, token * x.hidden, lane));
    if (lane != 0) return;
    dots[i] = dot;
    if (d_scale) d_scale[i] = weight == A(0) ? A(0) : static_cast<A>(dot * static_cast<double>(weight));
}

template <class A, int V>
__global__ void gradients_kernel(const A* grad, Rows x, const void* weights, index_t element_blocks, A* d_reference,
                                 A* d_prompts, double* dots, A* d_scale, bool weights_wanted) {
    const index_t block = blockIdx.x;
    if (block < element_blocks)
        return element_gradients<A, V>(grad, x, weights, (block * kThreads + threadIdx.x) * V, d_reference, d_prompts);
    const index_t warp = (block - element_blocks) * kWarps + threadIdx.x / 32;
    dot_products<A, V>(grad, x, weights, warp, dots, d_scale, weights_wanted);
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

template <class A, int V>
void launch_gradients(const A* grad, const Rows& x, const void* weights, const MergeGradients& out, double* dots,
                      const Where& where) {
    const index_t element_blocks = out.reference || out.prompts ? divide_up(x.columns() / V, kThreads) : 0;
    const index_t dot_blocks = dots ? divide_up(x.count * x.length, kWarps) : 0;
    launch("merge gradients", gradients_kernel<A, V>, static_cast<unsigned>(element_blocks + dot_blocks), kThreads,
           where, grad, x, weights, element_blocks, static_cast<A*>(out.reference), static_cast<A*>(out.prompts), dots,
           static_cast<A*>(out.scale), out.weights != nullptr);
}

template <class A>
void backward(const void* grad, const Rows& x, const void* weights, const MergeGradients& out, const Where& where) {
    const bool elements = out.reference || out.prompts, dots_wanted = out.scale || out.weights;
    if (!elements && !dots_wanted) return;
    double* dots = scratch<double>(dots_wanted ? x.count * x.length : 0, where);
    const int v = pack_size(x.type);
    bool packed = in_packs(x, v);
    for (const void* data : {grad, static_cast<const void*>(out.reference), static_cast<const void*>(out.prompts)})
        packed = packed && in_packs(data, sizeof(A), x.hidden, v);
    const A* gradient = static_cast<const A*>(grad);
    if (!packed)
        launch_gradients<A, 1>(gradient, x, weights, out, dots, where);
    else if constexpr (sizeof(A) == 8)
        launch_gradients<A, 2>(gradient, x, weights, out, dots, where);
    else
        (v == 8 ? launch_gradients<A, 8> : launch_gradients<A, 4>)(gradient, x, weights, out, dots, where);
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
