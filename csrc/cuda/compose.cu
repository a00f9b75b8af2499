// MPT's prompts on the GPU: composed straight into the batch, and the text copied behind them, in one launch.
#include "compose.cuh"

namespace promptkernels::cuda {
namespace {

constexpr int kRows = 4;   // of a task that a block serves on average
constexpr int kWords = 4;  // of the text that a thread copies, all on their way together

// What the first blocks do: each composes a part of the prompt of one task once and writes it into rows of that task;
// `slices` blocks share these. With more tasks than rows, a block serves one row instead.
struct PromptPlan {
    bool by_task;
    int tokens;  // of a thread
    unsigned slices, blocks_of_prompt, blocks;
};

template <class A, int V>
PromptPlan plan_prompts(const Factors& f, index_t batch) {
    PromptPlan plan{};
    plan.by_task = f.tasks <= batch;
    const index_t slices = plan.by_task ? divide_up(batch, kRows * f.tasks) : 1;
    const index_t prompts = plan.by_task ? f.tasks * slices : batch;
    index_t blocks = 0;
    for (plan.tokens = kTogether<A, V>;; plan.tokens /= 2) {
        blocks = divide_up(divide_up(f.length, plan.tokens) * (f.hidden / V), kThreads);
        if (plan.tokens == 1 || prompts * blocks >= kEnoughBlocks) break;
    }
    plan.slices = static_cast<unsigned>(slices);
    plan.blocks_of_prompt = static_cast<unsigned>(blocks);
    plan.blocks = static_cast<unsigned>(prompts * blocks);
    return plan;
}

// value[l] = shared * (u v) at `tokens` tokens from `first` on and V columns from h on.
template <class A, int V>
__device__ void compose_tokens(const Factors& f, index_t task, index_t first, int tokens, index_t h,
                               Pack<A, V> (&value)[kTogether<A, V>]) {
    constexpr int K = kTogether<A, V>, R = (K + 1) / 2;  // tokens and ranks at once
    const A* u = static_cast<const A*>(f.u) + (task * f.length + first) * f.rank;
    const A* v = static_cast<const A*>(f.v) + task * f.rank * f.hidden + h;
    Pack<A, V> shared[K] = {};
#pragma unroll
    for (int l = 0; l < K; ++l)
        if (l < tokens) shared[l] = read<A, V>(static_cast<const A*>(f.shared) + (first + l) * f.hidden + h);
#pragma unroll 1
    for (index_t r = 0; r < f.rank; r += R) {
        Pack<A, V> right[R] = {};
#pragma unroll
        for (int k = 0; k < R; ++k)
            if (r + k < f.rank) right[k] = read<A, V>(v + (r + k) * f.hidden);
#pragma unroll
        for (int l = 0; l < K; ++l) {
#pragma unroll
            for (int k = 0; k < R; ++k) {
                const A left = l < tokens && r + k < f.rank ? u[l * f.rank + r + k] : A(0);
#pragma unroll
                for (int c = 0; c < V; ++c) value[l].v[c] += left * right[k].v[c];
            }
        }
    }
#pragma unroll
    for (int l = 0; l < K; ++l)
#pragma unroll
        for (int c = 0; c < V; ++c) value[l].v[c] *= shared[l].v[c];
}

template <class A, int V>
__device__ void write_prompts(const Factors& f, const TaskIds& ids, const PromptPlan& plan, index_t text, DType type,
                              void* out, bool streamed) {
    constexpr int K = kTogether<A, V>;
    __shared__ index_t listed[kThreads];
    const index_t packs = f.hidden / V, prompt = blockIdx.x / plan.blocks_of_prompt;
    const index_t i = static_cast<index_t>(blockIdx.x % plan.blocks_of_prompt) * kThreads + threadIdx.x;
    const index_t h = i % packs * V, first = i / packs * plan.tokens, left = f.length - first;
    const int tokens = static_cast<int>(left < 0 ? 0 : left < plan.tokens ? left : plan.tokens);
    const index_t task = plan.by_task ? prompt / plan.slices : task_of(ids, prompt, f.tasks);
    TaskRows rows(ids, task);
    Pack<A, V> value[K] = {};
    compose_tokens<A, V>(f, task, first, tokens, h, value);
    with_packed_type<V>(type, [&](auto t) {
        constexpr DType kType = decltype(t)::value;
        using S = typename Storage<kType>::type;
        Pack<S, V> raw[K];
#pragma unroll
        for (int l = 0; l < K; ++l) raw[l] = narrowed<kType>(value[l]);
        auto put = [&](index_t b) {
            S* to = static_cast<S*>(out) + (b * (f.length + text) + first) * f.hidden + h;
#pragma unroll
            for (int l = 0; l < K; ++l)
                if (l < tokens) write<S, V>(to + l * f.hidden, raw[l], streamed);
        };
        if (!plan.by_task) return put(prompt);
        int next = static_cast<int>(prompt % plan.slices);
        while (rows.more()) {
            const int count = rows.list(listed);
            for (; next < count; next += plan.slices) put(listed[next]);
            next -= count;
        }
    });
    check_ids(ids, f.tasks);
}

// What the other blocks do: each copies kThreads * kWords words of the text of one batch row.
struct TextPlan {
    const void* embeds;
    index_t rows;  // of text
    unsigned blocks_of_row;
};

template <class W>
__device__ void copy_text(const TextPlan& text, index_t block, index_t length, index_t row_words, void* out,
                          bool streamed) {
    const index_t b = block / text.blocks_of_row, begin = block % text.blocks_of_row * (kThreads * kWords);
    const index_t words = text.rows * row_words, first = begin + threadIdx.x;
    const W* from = static_cast<const W*>(text.embeds) + b * words + first;
    W* to = static_cast<W*>(out) + b * (length * row_words + words) + length * row_words + first;
    Pack<W, 1> word[kWords];
#pragma unroll
    for (int k = 0; k < kWords; ++k)
        if (first + k * kThreads < words) word[k] = read<W, 1>(from + k * kThreads);
#pragma unroll
    for (int k = 0; k < kWords; ++k)
        if (first + k * kThreads < words) write<W, 1>(to + k * kThreads, word[k], streamed);
}

template <class A, int V>
__global__ void __launch_bounds__(kThreads, 3)
    compose_kernel(Factors f, TaskIds ids, PromptPlan plan, TextPlan text, DType type, void* out, bool streamed) {
    if (blockIdx.x < plan.blocks) return write_prompts<A, V>(f, ids, plan, text.rows, type, out, streamed);
    const index_t block = blockIdx.x - plan.blocks;
    if constexpr (V == 1)
        with_type(type, [&](auto t) {
            copy_text<typename Storage<decltype(t)::value>::type>(text, block, f.length, f.hidden, out, streamed);
        });
    else
        copy_text<uint4>(text, block, f.length, f.hidden / pack_size(type), out, streamed);
}

template <class A, int V>
void launch_compose(const Factors& f, const TaskIds& ids, const void* embeds, index_t text, DType type, void* out,
                    const Where& where) {
    const PromptPlan plan = plan_prompts<A, V>(f, ids.batch);
    const index_t row_words = V == 1 ? f.hidden : f.hidden / pack_size(type);
    const index_t blocks = divide_up(text * row_words, kThreads * kWords);
    const TextPlan copied{embeds, text, static_cast<unsigned>(blocks)};
    const std::size_t bytes = static_cast<std::size_t>(ids.batch * (f.length + text) * f.hidden) * size_of(type);
    launch("compose", compose_kernel<A, V>, plan.blocks + static_cast<unsigned>(ids.batch * blocks), kThreads, where, f,
           ids, plan, copied, type, out, bytes >= kStreamed);
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
