// Composition of MPT's prompts over threads.
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "runtime.h"

namespace promptkernels::cpu {
namespace {

// malloc maps blocks of 32 MB and more again for every call. Faulting them in by small pages takes several times as
// long as writing them, so ask for large pages; a refusal only costs that time.
void prefer_large_pages(void* data, std::size_t bytes) {
#ifdef MADV_HUGEPAGE
    constexpr std::size_t kMapped = std::size_t(32) << 20, kPage = 4096;
    if (bytes < kMapped) return;
    const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(data) + kPage - 1) / kPage * kPage;
    const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kPage * kPage;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

template <class A>
void add_up(const A* partials, index_t parts, index_t n, A* out) {
    constexpr index_t kBlock = 256;
    for (index_t begin = 0; begin < n; begin += kBlock) {
        const index_t size = std::min(kBlock, n - begin);
        double sum[kBlock] = {};
        for (index_t part = 0; part < parts; ++part)
            for (index_t i = 0; i < size; ++i) sum[i] += partials[part * n + begin + i];
        for (index_t i = 0; i < size; ++i) out[begin + i] = static_cast<A>(sum[i]);
    }
}

// Blocks of columns x tokens. Those of one column block share d_v and those of one token block d_u, so these get a
// partial sum per block, unless there is only one.
template <class A>
void backward_of(ComposeBackward job, index_t batch, A* d_u, A* d_v, int threads) {
    const Factors& f = *job.factors;
    const index_t elements = batch * f.length * f.hidden;
    const index_t blocks = std::clamp<index_t>(elements / kWorthThreads, 1, 32);
    const Parts columns(f.hidden, 256, std::min<index_t>(4, blocks), 64);
    const Parts tokens(f.length, 1, (blocks + columns.count - 1) / columns.count, 1);
    const index_t u_size = f.tasks * f.length * f.rank, v_size = f.tasks * f.rank * f.hidden;
    const index_t u_partials = columns.count > 1 ? columns.count * u_size : 0;
    const index_t v_partials = tokens.count > 1 ? tokens.count * v_size : 0;
    A* u_parts =
        static_cast<A*>(scratch(Slot::partials, static_cast<std::size_t>(u_partials + v_partials) * sizeof(A)));
    A* v_parts = u_parts + u_partials;
    for_parts(columns.count * tokens.count, threads_for(elements, threads), [&](index_t part) {
        const index_t row = part / columns.count, column = part % columns.count;
        ComposeBackward mine = job;
        mine.token_begin = tokens.begin(row);
        mine.token_end = tokens.end(row, f.length);
        mine.column_begin = columns.begin(column);
        mine.column_end = columns.end(column, f.hidden);
        mine.d_u = u_partials ? u_parts + column * u_size : d_u;
        mine.d_v = v_partials ? v_parts + row * v_size : d_v;
        kernels().compose_backward(mine);
    });
    if (u_partials) add_up(u_parts, columns.count, u_size, d_u);
    if (v_partials) add_up(v_parts, tokens.count, v_size, d_v);
}

// Batch rows by task: a counting sort.
struct SortedRows {
    std::vector<index_t> memory;
    TaskRows rows;

    SortedRows(const index_t* ids, index_t batch, index_t tasks)
        : memory(static_cast<std::size_t>(batch + 2 * tasks + 1)), rows{} {
        index_t *order = memory.data(), *starts = order + batch, *next = starts + tasks + 1;
        for (index_t b = 0; b < batch; ++b) ++starts[ids[b] + 1];
        for (index_t t = 0; t < tasks; ++t) {
            starts[t + 1] += starts[t];
            next[t] = starts[t];
        }
        for (index_t b = 0; b < batch; ++b) order[next[ids[b]]++] = b;
        rows = {order, starts};
    }
};

}  // namespace

void compose(const Factors& factors, const index_t* ids, index_t batch, const void* embeds, index_t text, DType type,
             void* out, int threads) {
    const index_t length = factors.length, text_rows = batch * text;
    const index_t elements = (batch * length + text_rows) * factors.hidden;
    prefer_large_pages(out, static_cast<std::size_t>(elements) * size_of(type));
    const SortedRows sorted(ids, batch, factors.tasks);
    const Compose job{&factors, sorted.rows, embeds, text, type, out};
    // One part per thread (nothing is summed), each with its share of the prompts and of the text.
    const index_t parts = threads_for(elements, threads);
    for_parts(parts, threads, [&](index_t part) {
        kernels().compose(job, part * length / parts, (part + 1) * length / parts);
        kernels().append_text(job, part * text_rows / parts, (part + 1) * text_rows / parts);
    });
}

void compose_backward(const void* grad, index_t grad_stride, DType grad_type, const Factors& factors,
                      const index_t* ids, index_t batch, void* d_shared, void* d_u, void* d_v, int threads) {
    const SortedRows sorted(ids, batch, factors.tasks);
    ComposeBackward job{};
    job.grad = grad;
    job.grad_stride = grad_stride;
    job.grad_type = grad_type;
    job.factors = &factors;
    job.rows = sorted.rows;
    job.d_shared = d_shared;
    if (factors.wide)
        backward_of(job, batch, static_cast<double*>(d_u), static_cast<double*>(d_v), threads);
    else
        backward_of(job, batch, static_cast<float*>(d_u), static_cast<float*>(d_v), threads);
}

}  // namespace promptkernels::cpu
