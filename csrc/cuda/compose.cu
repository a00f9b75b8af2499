// MPT's prompts on the GPU: composed straight into the batch, and the text copied behind them, in one launch.
#include "compose.cuh"

namespace promptkernels::cuda {
namespace {

constexpr int kTokens = 4;  // of a thread: it reads its columns of v once for all of them

// The first blocks compose: thread per (batch row, kTokens tokens, V columns). The others copy the text, 16 bytes (or
// one element) per thread.
template <class A, int V>
__global__ void compose_kernel(Factors f, TaskIds ids, index_t compose_blocks, index_t text, DType type, void* out,
                               const void* embeds, index_t copied) {
    const index_t packs = f.hidden / V, rows = f.length + text;
    if (blockIdx.x >= compose_blocks) {
        const index_t i = (blockIdx.x - compose_blocks) * kThreads + threadIdx.x;
        if (i >= copied) return;
        const index_t row_packs = text * packs, b = i / row_packs, within = i % row_packs;
        const index_t from = i * V, to = ((b * rows + f.length) * packs + within) * V;
        with_type(type, [&](auto t) {
            using S = typename Storage<decltype(t)::value>::type;
            write<S, V>(static_cast<S*>(out) + to, read<S, V>(static_cast<const S*>(embeds) + from));
        });
        return;
    }
    const index_t i = global_thread(), groups = (f.length + kTokens - 1) / kTokens;
    const index_t h = i % packs * V, group = i / packs % groups, b = i / packs / groups;
    if (b >= ids.batch) return;
    const index_t t = task_of(ids, b, f.tasks), first = group * kTokens;
    const int tokens = static_cast<int>(f.length - first < kTokens ? f.length - first : kTokens);
    const A* u = static_cast<const A*>(f.u) + (t * f.length + first) * f.rank;
    const A* v = static_cast<const A*>(f.v) + t * f.rank * f.hidden + h;
    A product[kTokens][V] = {};
    for (index_t r = 0; r < f.rank; ++r) {
        const Pack<A, V> right = read<A, V>(v + r * f.hidden);
#pragma unroll
        for (int l = 0; l < kTokens; ++l) {
            const A left = l < tokens ? u[l * f.rank + r] : A(0);
#pragma unroll
            for (int k = 0; k < V; ++k) product[l][k] += left * right.v[k];
        }
    }
#pragma unroll
    for (int l = 0; l < kTokens; ++l) {
        if (l >= tokens) break;
        Pack<A, V> value = read<A, V>(static_cast<const A*>(f.shared) + (first + l) * f.hidden + h);
#pragma unroll
        for (int k = 0; k < V; ++k) value.v[k] *= product[l][k];
        store<A, V>(out, type, (b * rows + first + l) * f.hidden + h, value);
    }
}

template <class A, int V>
void launch_compose(const Factors& f, const TaskIds& ids, const void* embeds, index_t text, DType type, void* out,
                    const Where& where) {
    const index_t packs = f.hidden / V;
    const index_t compose_blocks = divide_up(ids.batch * divide_up(f.length, kTokens) * packs, kThreads);
    const index_t copied = ids.batch * text * packs;
    launch("compose", compose_kernel<A, V>, static_cast<unsigned>(compose_blocks + divide_up(copied, kThreads)),
           kThreads, where, f, ids, compose_blocks, text, type, out, embeds, copied);
}

template <class A>
void compose_of(const Factors& f, const TaskIds& ids, const void* embeds, index_t text, DType type, void* out,
                const Where& where) {
    const int v = pack_size(type) == 8 ? 8 : 4;
    bool packed = in_packs(out, size_of(type), f.hidden, v) && in_packs(embeds, size_of(type), f.hidden, v);
    for (const void* data : {f.shared, f.v}) packed = packed && in_packs(data, sizeof(A), f.hidden, v);
    if (!packed) return launch_compose<A, 1>(f, ids, embeds, text, type, out, where);
    if (v == 8) return launch_compose<A, 8>(f, ids, embeds, text, type, out, where);
    launch_compose<A, 4>(f, ids, embeds, text, type, out, where);
}

}  // namespace

void compose(const Factors& factors, const TaskIds& ids, const void* embeds, index_t text, DType type, void* out,
             const Where& where) {
    if (ids.batch == 0) return;
    (factors.wide ? compose_of<double> : compose_of<float>)(factors, ids, embeds, text, type, out, where);
}

}  // namespace promptkernels::cuda
