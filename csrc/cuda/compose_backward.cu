// Gradients of MPT's prompts on the GPU in two launches: the incoming gradient summed by task, then all three factors.
#include "compose.cuh"

namespace promptkernels::cuda {
namespace {

// Block per (task, V columns per thread of one prompt): sums (tasks, length * hidden) over the batch rows of the task.
// Rows of the task are listed in shared memory, in their order, kThreads ids at a time.
template <class A, int V>
__global__ void task_sum_kernel(const void* grad, index_t stride, DType type, Factors f, TaskIds ids, A* sums) {
    __shared__ index_t listed[kThreads];
    __shared__ int found_by_warp[kThreads / 32];
    const index_t size = f.length * f.hidden, blocks = (size / V + kThreads - 1) / kThreads;
    const index_t task = blockIdx.x / blocks, c = (blockIdx.x % blocks * kThreads + threadIdx.x) * V;
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    Pack<A, V> sum{};
    for (index_t first = 0; first < ids.batch; first += kThreads) {
        const index_t b = first + threadIdx.x;
        const bool mine = b < ids.batch && task_of(ids, b, f.tasks) == task;
        const unsigned votes = __ballot_sync(0xFFFFFFFFu, mine);
        if (lane == 0) found_by_warp[warp] = __popc(votes);
        __syncthreads();
        int before = __popc(votes & ((1u << lane) - 1)), count = 0;
        for (int w = 0; w < kThreads / 32; ++w) {
            if (w < warp) before += found_by_warp[w];
            count += found_by_warp[w];
        }
        if (mine) listed[before] = b;
        __syncthreads();
        if (c < size) {
            with_type(type, [&](auto t) {
#pragma unroll 4
                for (int e = 0; e < count; ++e) {
                    const Pack<A, V> row = load_as<A, V, decltype(t)::value>(grad, listed[e] * stride + c);
#pragma unroll
                    for (int k = 0; k < V; ++k) sum.v[k] += row.v[k];
                }
            });
        }
        __syncthreads();
    }
    if (c < size) write<A, V>(sums + task * size + c, sum);
}

// Thread per (token, hidden): d_shared = sum_t sums * (u v).
template <class A>
__device__ void shared_gradient(const A* sums, const Factors& f, index_t i, A* d_shared) {
    const index_t size = f.length * f.hidden, l = i / f.hidden, h = i % f.hidden;
    if (i >= size) return;
    const A *u = static_cast<const A*>(f.u) + l * f.rank, *v = static_cast<const A*>(f.v) + h;
    A total = 0;
    for (index_t t = 0; t < f.tasks; ++t) {
        A product = 0;
        for (index_t r = 0; r < f.rank; ++r) product += u[t * f.length * f.rank + r] * v[(t * f.rank + r) * f.hidden];
        total += sums[t * size + i] * product;
    }
    d_shared[i] = total;
}

// Block per (task, token): d_u[r] = sum_h sums * shared * v[r].
template <class A>
__device__ void u_gradient(const A* sums, const Factors& f, index_t block, A* d_u) {
    const index_t t = block / f.length, l = block % f.length;
    const A *shared = static_cast<const A*>(f.shared) + l * f.hidden, *row = sums + block * f.hidden;
    for (index_t r = 0; r < f.rank; ++r) {
        const A* v = static_cast<const A*>(f.v) + (t * f.rank + r) * f.hidden;
        double sum = 0;
        for (index_t h = threadIdx.x; h < f.hidden; h += kThreads)
            sum += static_cast<double>(row[h] * shared[h] * v[h]);
        sum = block_sum(sum);
        if (threadIdx.x == 0) d_u[block * f.rank + r] = static_cast<A>(sum);
    }
}

// Thread per (task, rank, hidden): d_v = sum_l u * sums * shared.
template <class A>
__device__ void v_gradient(const A* sums, const Factors& f, index_t i, A* d_v) {
    if (i >= f.tasks * f.rank * f.hidden) return;
    const index_t t = i / (f.rank * f.hidden), r = i / f.hidden % f.rank, h = i % f.hidden;
    const A *u = static_cast<const A*>(f.u) + t * f.length * f.rank + r, *shared = static_cast<const A*>(f.shared) + h;
    const A* row = sums + t * f.length * f.hidden + h;
    A total = 0;
#pragma unroll 4
    for (index_t l = 0; l < f.length; ++l) total += u[l * f.rank] * row[l * f.hidden] * shared[l * f.hidden];
    d_v[i] = total;
}

// The three gradients side by side, a range of blocks each.
template <class A>
__global__ void factors_kernel(const A* sums, Factors f, index_t shared_blocks, index_t u_blocks, A* d_shared, A* d_u,
                               A* d_v) {
    index_t block = blockIdx.x;
    if (block < shared_blocks) return shared_gradient(sums, f, block * kThreads + threadIdx.x, d_shared);
    block -= shared_blocks;
    if (block < u_blocks) return u_gradient(sums, f, block, d_u);
    v_gradient(sums, f, (block - u_blocks) * kThreads + threadIdx.x, d_v);
}

template <class A, int V>
void launch_task_sum(const void* grad, index_t stride, DType type, const Factors& f, const TaskIds& ids, A* sums,
                     const Where& where) {
    const index_t blocks = divide_up(f.length * f.hidden / V, kThreads);
    launch("gradient by task", task_sum_kernel<A, V>, static_cast<unsigned>(f.tasks * blocks), kThreads, where, grad,
           stride, type, f, ids, sums);
}

template <class A>
void backward(const void* grad, index_t stride, DType type, const Factors& f, const TaskIds& ids, void* d_shared,
              void* d_u, void* d_v, const Where& where) {
    A* sums = scratch<A>(f.tasks * f.length * f.hidden, where);
    const int v = pack_size(type) == 8 ? 8 : 4;
    const bool packed = stride % v == 0 && in_packs(grad, size_of(type), f.hidden, v);
    auto sum = !packed ? launch_task_sum<A, 1> : v == 8 ? launch_task_sum<A, 8> : launch_task_sum<A, 4>;
    sum(grad, stride, type, f, ids, sums, where);
    const index_t shared_blocks = divide_up(f.length * f.hidden, kThreads), u_blocks = f.tasks * f.length;
    const index_t v_blocks = divide_up(f.tasks * f.rank * f.hidden, kThreads);
    launch("gradients of factors", factors_kernel<A>, static_cast<unsigned>(shared_blocks + u_blocks + v_blocks),
           kThreads, where, sums, f, shared_blocks, u_blocks, static_cast<A*>(d_shared), static_cast<A*>(d_u),
           static_cast<A*>(d_v));
}

}  // namespace

void compose_backward(const void* grad, index_t grad_stride, DType grad_type, const Factors& factors,
                      const TaskIds& ids, void* d_shared, void* d_u, void* d_v, const Where& where) {
    (factors.wide ? backward<double> : backward<float>)(grad, grad_stride, grad_type, factors, ids, d_shared, d_u, d_v,
                                                        where);
}

}  // namespace promptkernels::cuda
