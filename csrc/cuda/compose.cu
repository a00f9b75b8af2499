// MPT's prompts on the GPU: composed straight into the batch, and the way back over sums per task.
#include "device.cuh"

namespace promptkernels::cuda {
namespace {

__device__ index_t task_of(const TaskIds& ids, index_t b, index_t tasks) {
    const index_t t =
        ids.is64 ? static_cast<const std::int64_t*>(ids.data)[b] : static_cast<const std::int32_t*>(ids.data)[b];
    assert(t >= 0 && t < tasks && "task_ids holds a value outside 0..tasks-1");
    return t;
}

template <class A>
__device__ A low_rank(const Factors& f, index_t t, index_t l, index_t h) {
    const A *u = static_cast<const A*>(f.u) + (t * f.length + l) * f.rank, *v = static_cast<const A*>(f.v);
    A sum = 0;
    for (index_t r = 0; r < f.rank; ++r) sum += u[r] * v[(t * f.rank + r) * f.hidden + h];
    return sum;
}

// Block.y strides over rows of the output, thread.x over hidden columns.
template <class A>
__global__ void compose_kernel(Factors f, TaskIds ids, const void* embeds, index_t text, DType type, void* out) {
    const index_t h = global_thread(), rows = f.length + text;
    if (h >= f.hidden) return;
    for (index_t row = blockIdx.y; row < ids.batch * rows; row += gridDim.y) {
        const index_t b = row / rows, l = row % rows;
        if (l < f.length) {
            const A value =
                static_cast<const A*>(f.shared)[l * f.hidden + h] * low_rank<A>(f, task_of(ids, b, f.tasks), l, h);
            store<A>(out, type, row * f.hidden + h, value);
        } else {
            const index_t from = (b * text + l - f.length) * f.hidden + h;
            if (type == DType::f64)
                static_cast<double*>(out)[row * f.hidden + h] = static_cast<const double*>(embeds)[from];
            else if (type == DType::f32)
                static_cast<float*>(out)[row * f.hidden + h] = static_cast<const float*>(embeds)[from];
            else
                static_cast<std::uint16_t*>(out)[row * f.hidden + h] = static_cast<const std::uint16_t*>(embeds)[from];
        }
    }
}

// sums (tasks, length, hidden): the gradient over the batch rows of each task.
template <class A>
__global__ void task_sum_kernel(const void* grad, index_t stride, DType type, Factors f, TaskIds ids, A* sums) {
    const index_t i = global_thread(), size = f.length * f.hidden;
    if (i >= f.tasks * size) return;
    A sum = 0;
    for (index_t b = 0; b < ids.batch; ++b)
        if (task_of(ids, b, f.tasks) == i / size) sum += load<A>(grad, type, b * stride + i % size);
    sums[i] = sum;
}

template <class A>
__global__ void shared_kernel(const A* sums, Factors f, A* d_shared) {
    const index_t i = global_thread(), size = f.length * f.hidden;
    if (i >= size) return;
    A sum = 0;
    for (index_t t = 0; t < f.tasks; ++t) sum += sums[t * size + i] * low_rank<A>(f, t, i / f.hidden, i % f.hidden);
    d_shared[i] = sum;
}

// Block per (task, token): d_u[r] = sum_h sums * shared * v[r].
template <class A>
__global__ void u_kernel(const A* sums, Factors f, A* d_u) {
    const index_t t = blockIdx.x / f.length, l = blockIdx.x % f.length;
    const A *shared = static_cast<const A*>(f.shared) + l * f.hidden, *row = sums + blockIdx.x * f.hidden;
    for (index_t r = 0; r < f.rank; ++r) {
        const A* v = static_cast<const A*>(f.v) + (t * f.rank + r) * f.hidden;
        double sum = 0;
        for (index_t h = threadIdx.x; h < f.hidden; h += kThreads) sum += row[h] * shared[h] * v[h];
        sum = block_sum(sum);
        if (threadIdx.x == 0) d_u[blockIdx.x * f.rank + r] = static_cast<A>(sum);
    }
}

// Thread per (task, rank, hidden): d_v = sum_l u * sums * shared.
template <class A>
__global__ void v_kernel(const A* sums, Factors f, A* d_v) {
    const index_t i = global_thread();
    if (i >= f.tasks * f.rank * f.hidden) return;
    const index_t t = i / (f.rank * f.hidden), r = i / f.hidden % f.rank, h = i % f.hidden;
    const A *u = static_cast<const A*>(f.u), *shared = static_cast<const A*>(f.shared);
    A sum = 0;
    for (index_t l = 0; l < f.length; ++l)
        sum += u[(t * f.length + l) * f.rank + r] * sums[(t * f.length + l) * f.hidden + h] * shared[l * f.hidden + h];
    d_v[i] = sum;
}

template <class A>
void backward_of(const void* grad, index_t stride, DType type, const Factors& f, const TaskIds& ids, A* d_shared,
                 A* d_u, A* d_v, cudaStream_t stream) {
    const index_t size = f.length * f.hidden;
    const Scratch<A> sums(f.tasks * size, stream);
    task_sum_kernel<<<blocks_for(f.tasks * size), kThreads, 0, stream>>>(grad, stride, type, f, ids, sums.get());
    shared_kernel<<<blocks_for(size), kThreads, 0, stream>>>(sums.get(), f, d_shared);
    u_kernel<<<static_cast<unsigned>(f.tasks * f.length), kThreads, 0, stream>>>(sums.get(), f, d_u);
    v_kernel<<<blocks_for(f.tasks * f.rank * f.hidden), kThreads, 0, stream>>>(sums.get(), f, d_v);
    check_launch("compose backward");
}

}  // namespace

void compose(const Factors& factors, const TaskIds& ids, const void* embeds, index_t text, DType type, void* out,
             Stream stream) {
    const index_t rows = ids.batch * (factors.length + text);
    if (rows == 0) return;
    const dim3 grid(blocks_for(factors.hidden), static_cast<unsigned>(rows < 65535 ? rows : 65535));
    if (factors.wide)
        compose_kernel<double><<<grid, kThreads, 0, as_stream(stream)>>>(factors, ids, embeds, text, type, out);
    else
        compose_kernel<float><<<grid, kThreads, 0, as_stream(stream)>>>(factors, ids, embeds, text, type, out);
    check_launch("compose");
}

void compose_backward(const void* grad, index_t grad_stride, DType grad_type, const Factors& factors,
                      const TaskIds& ids, void* d_shared, void* d_u, void* d_v, Stream stream) {
    if (factors.wide)
        return backward_of(grad, grad_stride, grad_type, factors, ids, static_cast<double*>(d_shared),
                           static_cast<double*>(d_u), static_cast<double*>(d_v), as_stream(stream));
    backward_of(grad, grad_stride, grad_type, factors, ids, static_cast<float*>(d_shared), static_cast<float*>(d_u),
                static_cast<float*>(d_v), as_stream(stream));
}

}  // namespace promptkernels::cuda
