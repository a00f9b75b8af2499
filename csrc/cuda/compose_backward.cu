// Gradients of MPT's prompts on the GPU in one pass over the incoming gradient, which leaves partial sums, and a second
// launch that adds these up.
#include "compose.cuh"

namespace promptkernels::cuda {
namespace {

constexpr int kWarps = kThreads / 32;

// A block handles a tile, 32 packs of columns by `tokens` tokens of each warp, for the tasks of one group.
struct GradientPlan {
    int tokens, column_tiles, token_tiles, groups, group_tasks;
};

template <class A, int V>
GradientPlan plan_gradients(const Factors& f) {
    GradientPlan plan{};
    plan.column_tiles = static_cast<int>(divide_up(f.hidden, 32 * V));
    for (plan.tokens = kTogether<A, V>;; plan.tokens /= 2) {
        plan.token_tiles = static_cast<int>(divide_up(f.length, plan.tokens * kWarps));
        const index_t tiles = static_cast<index_t>(plan.column_tiles) * plan.token_tiles;
        const index_t wanted = divide_up(kEnoughBlocks, tiles), groups = wanted < f.tasks ? wanted : f.tasks;
        plan.group_tasks = static_cast<int>(divide_up(f.tasks, groups));
        plan.groups = static_cast<int>(divide_up(f.tasks, plan.group_tasks));
        if (plan.tokens == 1 || tiles * plan.groups >= kEnoughBlocks) return plan;
    }
}

// Results are sums over parts: (parts, size) where there are several, and the results themselves where there is one.
template <class A>
struct Parts {
    A* data;
    index_t parts, size;
    A* out;

    Parts(index_t parts_, index_t size_, void* out_, const Where& where)
        : data(parts_ > 1 ? scratch<A>(parts_ * size_, where) : static_cast<A*>(out_)),
          parts(parts_),
          size(size_),
          out(static_cast<A*>(out_)) {}
    PK_BOTH index_t missing() const { return parts > 1 ? size : 0; }  // results that are yet to be added up
};

// Rows of the gradient at `tokens` tokens of V columns, added up over the batch rows of a task.
template <class A, int V>
__device__ void sum_rows(const void* grad, index_t stride, DType type, index_t at, index_t hidden, int tokens,
                         TaskRows rows, index_t* listed, Pack<A, V> (&sum)[kTogether<A, V>]) {
    constexpr int K = kTogether<A, V>;
    while (rows.more()) {
        const int count = rows.list(listed);
        with_packed_type<V>(type, [&](auto t) {
            constexpr DType kType = decltype(t)::value;
            using S = typename Storage<kType>::type;
            constexpr int kRows = K * V * sizeof(S) > 64 ? 1 : 2;  // whose loads are under way together
            const S* from = static_cast<const S*>(grad) + at;
#pragma unroll 1
            for (int e = 0; e < count; e += kRows) {
                Pack<S, V> row[kRows][K] = {};
#pragma unroll
                for (int k = 0; k < kRows; ++k)
#pragma unroll
                    for (int l = 0; l < K; ++l)
                        if (e + k < count && l < tokens)
                            row[k][l] = read<S, V>(from + listed[e + k] * stride + l * hidden);
#pragma unroll
                for (int k = 0; k < kRows; ++k)
#pragma unroll
                    for (int l = 0; l < K; ++l)
#pragma unroll
                        for (int c = 0; c < V; ++c)
                            sum[l].v[c] += static_cast<A>(Storage<kType>::widen(row[k][l].v[c]));
            }
        });
    }
}

// Parts of d_shared (groups), d_u (column tiles) and d_v (token tiles).
template <class A, int V>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 8 ? 1 : 2)
    gradients_kernel(const void* grad, index_t stride, DType type, Factors f, TaskIds ids, GradientPlan plan,
                     A* d_shared, A* d_u, A* d_v) {
    constexpr int K = kTogether<A, V>, R = (K + 1) / 2;  // tokens and ranks at once
    constexpr int kColumns = 32 * V;                     // of a tile
    __shared__ index_t listed[kThreads];
    alignas(16) __shared__ A of_warp[kWarps][R][kColumns];
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int block = static_cast<int>(blockIdx.x), tile = block / plan.column_tiles;
    const int column_tile = block % plan.column_tiles, token_tile = tile % plan.token_tiles;
    const int group = tile / plan.token_tiles, first_task = group * plan.group_tasks;
    const int h = column_tile * kColumns + lane * V, first = (token_tile * kWarps + warp) * plan.tokens;
    const int left = static_cast<int>(f.length) - first, tokens = left < 0             ? 0
                                                                  : left < plan.tokens ? left
                                                                                       : plan.tokens;
    const bool inside = h < f.hidden;
    const int mine = inside ? tokens : 0;

    Pack<A, V> total[K] = {};
    for (int task = first_task; task < first_task + plan.group_tasks && task < f.tasks; ++task) {
        Pack<A, V> sum[K] = {};
        sum_rows<A, V>(grad, stride, type, first * f.hidden + h, f.hidden, mine, TaskRows(ids, task), listed, sum);
        const A* shared = static_cast<const A*>(f.shared) + first * f.hidden + h;
        const A* u = static_cast<const A*>(f.u) + (task * f.length + first) * f.rank;
        const A* v = static_cast<const A*>(f.v) + task * f.rank * f.hidden + h;
#pragma unroll 1
        for (int r = 0; r < f.rank; r += R) {
            const int ranks = static_cast<int>(f.rank - r < R ? f.rank - r : R);
            Pack<A, V> right[R] = {}, of_v[R] = {};
            A of_u[K][R] = {};
#pragma unroll
            for (int k = 0; k < R; ++k)
                if (inside && k < ranks) right[k] = read<A, V>(v + (r + k) * f.hidden);
#pragma unroll
            for (int l = 0; l < K; ++l) {
                Pack<A, V> product{}, scaled{};
                if (l < mine) scaled = read<A, V>(shared + l * f.hidden);
#pragma unroll
                for (int c = 0; c < V; ++c) scaled.v[c] *= sum[l].v[c];
#pragma unroll
                for (int k = 0; k < R; ++k) {
                    const A weight = l < tokens && k < ranks ? u[l * f.rank + r + k] : A(0);
#pragma unroll
                    for (int c = 0; c < V; ++c) {
                        product.v[c] += weight * right[k].v[c];
                        of_v[k].v[c] += weight * scaled.v[c];
                        of_u[l][k] += scaled.v[c] * right[k].v[c];
                    }
                }
#pragma unroll
                for (int c = 0; c < V; ++c) total[l].v[c] += sum[l].v[c] * product.v[c];
            }
#pragma unroll
            for (unsigned lanes = 16; lanes > 0; lanes /= 2)  // the sums of a warp, all at once
#pragma unroll
                for (int l = 0; l < K; ++l)
#pragma unroll
                    for (int k = 0; k < R; ++k) of_u[l][k] += __shfl_xor_sync(0xFFFFFFFFu, of_u[l][k], lanes);
            A* to_u = d_u + ((column_tile * f.tasks + task) * f.length + first) * f.rank + r;
#pragma unroll
            for (int l = 0; l < K; ++l)
#pragma unroll
                for (int k = 0; k < R; ++k)
                    if (lane == 0 && l < tokens && k < ranks) to_u[l * f.rank + k] = of_u[l][k];
            __syncthreads();  // earlier sums have been read
#pragma unroll
            for (int k = 0; k < R; ++k) write<A, V>(of_warp[warp][k] + lane * V, of_v[k]);
            __syncthreads();
            A* to = d_v + ((token_tile * f.tasks + task) * f.rank + r) * f.hidden;
#pragma unroll 1
            for (int e = static_cast<int>(threadIdx.x); e < ranks * kColumns; e += kThreads) {
                const int k = e / kColumns, column = column_tile * kColumns + e % kColumns;
                A added = 0;
#pragma unroll
                for (int w = 0; w < kWarps; ++w) added += of_warp[w][k][e % kColumns];
                if (column < f.hidden) to[k * f.hidden + column] = added;
            }
        }
    }
#pragma unroll
    for (int l = 0; l < K; ++l)
        if (l < mine) write<A, V>(d_shared + (group * f.length + first + l) * f.hidden + h, total[l]);
    check_ids(ids, f.tasks);
}

template <class A>
__device__ void add_up(index_t i, const Parts<A>& of) {
    double sum = 0;
#pragma unroll 8
    for (index_t p = 0; p < of.parts; ++p) sum += static_cast<double>(of.data[p * of.size + i]);
    of.out[i] = static_cast<A>(sum);
}
template <class A>
__global__ void add_up_kernel(Parts<A> a, Parts<A> b, Parts<A> c) {
    index_t i = global_thread();
    if (i < a.missing()) return add_up(i, a);
    i -= a.missing();
    if (i < b.missing()) return add_up(i, b);
    i -= b.missing();
    if (i < c.missing()) add_up(i, c);
}

template <class A, int V>
void launch_gradients(const void* grad, index_t stride, DType type, const Factors& f, const TaskIds& ids,
                      void* d_shared, void* d_u, void* d_v, const Where& where) {
    const GradientPlan plan = plan_gradients<A, V>(f);
    const Parts<A> of_shared(plan.groups, f.length * f.hidden, d_shared, where);
    const Parts<A> of_u(plan.column_tiles, f.tasks * f.length * f.rank, d_u, where);
    const Parts<A> of_v(plan.token_tiles, f.tasks * f.rank * f.hidden, d_v, where);
    launch("gradients of factors", gradients_kernel<A, V>,
           static_cast<unsigned>(plan.column_tiles) * plan.token_tiles * plan.groups, kThreads, where, grad, stride,
           type, f, ids, plan, of_shared.data, of_u.data, of_v.data);
    const index_t missing = of_shared.missing() + of_u.missing() + of_v.missing();
    if (missing > 0)
        launch("sums of gradients", add_up_kernel<A>, blocks_for(missing), kThreads, where, of_shared, of_u, of_v);
}

template <class A>
void backward(const void* grad, index_t stride, DType type, const Factors& f, const TaskIds& ids, void* d_shared,
              void* d_u, void* d_v, const Where& where) {
    const int v = pack_size(type) == 8 ? 8 : 4;
    bool packed = stride % v == 0 && in_packs(grad, size_of(type), f.hidden, v);
    for (const void* data : {f.shared, f.v, static_cast<const void*>(d_shared)})
        packed = packed && in_packs(data, sizeof(A), f.hidden, v);
    auto gradients = !packed ? launch_gradients<A, 1> : v == 8 ? launch_gradients<A, 8> : launch_gradients<A, 4>;
    gradients(grad, stride, type, f, ids, d_shared, d_u, d_v, where);
}

}  // namespace

void compose_backward(const void* grad, index_t grad_stride, DType grad_type, const Factors& factors,
                      const TaskIds& ids, void* d_shared, void* d_u, void* d_v, const Where& where) {
    (factors.wide ? backward<double> : backward<float>)(grad, grad_stride, grad_type, factors, ids, d_shared, d_u, d_v,
                                                        where);
}

}  // namespace promptkernels::cuda
