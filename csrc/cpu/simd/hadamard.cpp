// MPT's prompts: shared * (u v), row by row into the batch, and the way back.
#include "simd.h"

namespace promptkernels::cpu::PK_ISA {
namespace {

template <class A, int V>
PK_INLINE void low_rank_block(const A* __restrict u, const A* __restrict v, index_t rank, index_t ld,
                              const A* __restrict factor, A* __restrict out) {
    Vector<A> sum[V];
    PK_UNROLL
    for (int k = 0; k < V; ++k) sum[k] = u[0] * load(v + k * kLanes<A>);
    for (index_t r = 1; r < rank; ++r) PK_UNROLL
    for (int k = 0; k < V; ++k) sum[k] += u[r] * load(v + r * ld + k * kLanes<A>);
    PK_UNROLL
    for (int k = 0; k < V; ++k) store(out + k * kLanes<A>, factor ? sum[k] * load(factor + k * kLanes<A>) : sum[k]);
}

// out[c] = factor[c] * sum_r u[r] v[r, c]; no factor means 1.
template <class A>
void low_rank_row(const A* u, const A* v, index_t rank, index_t ld, index_t n, const A* factor, A* out) {
    constexpr index_t lanes = kLanes<A>;
    index_t c = 0;
    for (; c + 4 * lanes <= n; c += 4 * lanes)
        low_rank_block<A, 4>(u, v + c, rank, ld, factor ? factor + c : nullptr, out + c);
    for (; c + lanes <= n; c += lanes) low_rank_block<A, 1>(u, v + c, rank, ld, factor ? factor + c : nullptr, out + c);
    for (; c < n; ++c) {
        A sum = u[0] * v[c];
        for (index_t r = 1; r < rank; ++r) sum += u[r] * v[r * ld + c];
        out[c] = factor ? sum * factor[c] : sum;
    }
}

template <class A, class E>
void compose_row(const A* shared, const A* u, const A* v, index_t rank, index_t hidden, E* __restrict out) {
    if constexpr (sizeof(A) == sizeof(E)) {
        low_rank_row<A>(u, v, rank, hidden, hidden, shared, reinterpret_cast<A*>(out));
    } else {
        constexpr index_t kColumns = 512;
        alignas(64) A row[kColumns];
        for (index_t c = 0; c < hidden; c += kColumns) {
            const index_t n = smaller(kColumns, hidden - c);
            low_rank_row<A>(u, v + c, rank, hidden, n, shared + c, row);
            for (index_t k = 0; k < n; ++k) narrow(row[k], out[c + k]);
        }
    }
}

// Output rows in the order of memory. A prompt is computed anew for every batch row of its task: to copy it from the
// first of them is slower at the usual ranks, for a product from the first cache is cheaper than a load from beyond it.
template <class A, class E>
void compose_rows(const Factors& f, const index_t* ids, const E* embeds, index_t text, E* out, index_t begin,
                  index_t end) {
    const A *shared = static_cast<const A*>(f.shared), *u = static_cast<const A*>(f.u), *v = static_cast<const A*>(f.v);
    const index_t rows = f.length + text;
    for (index_t row = begin; row < end;) {
        const index_t b = row / rows, l = row % rows;
        E* to = out + row * f.hidden;
        if (l < f.length) {
            compose_row(shared + l * f.hidden, u + (ids[b] * f.length + l) * f.rank, v + ids[b] * f.rank * f.hidden,
                        f.rank, f.hidden, to);
            ++row;
        } else {
            const index_t stop = smaller(end, (b + 1) * rows);
            __builtin_memcpy(to, embeds + (b * text + l - f.length) * f.hidden,
                             static_cast<std::size_t>((stop - row) * f.hidden) * sizeof(E));
            row = stop;
        }
    }
}

template <class A>
PK_INLINE A dot(const A* __restrict x, const A* __restrict y, index_t n) {
    Vector<A> sum = {};
    index_t k = 0;
    for (; k + kLanes<A> <= n; k += kLanes<A>) sum += load(x + k) * load(y + k);
    A total = sum_lanes<A>(sum);
    for (; k < n; ++k) total += x[k] * y[k];
    return total;
}

// The gradient is summed over the batch rows of a task first; the products then run over tasks, not batch rows.
template <class A, class E>
void backward_of(const ComposeBackward& job) {
    const Factors& f = *job.factors;
    const index_t n = job.column_end - job.column_begin;
    const A *shared = static_cast<const A*>(f.shared), *u = static_cast<const A*>(f.u), *v = static_cast<const A*>(f.v);
    A *d_shared = static_cast<A*>(job.d_shared), *d_u = static_cast<A*>(job.d_u), *d_v = static_cast<A*>(job.d_v);
    const index_t padded = round_up(n, 64);
    A* sum = static_cast<A*>(scratch(Slot::tile, static_cast<std::size_t>(3 * padded) * sizeof(A)));
    A *product = sum + padded, *d_row = product + padded;

    for (index_t t = 0; t < f.tasks; ++t)
        for (index_t r = 0; r < f.rank; ++r) {
            A* __restrict row = d_v + (t * f.rank + r) * f.hidden + job.column_begin;
            for (index_t c = 0; c < n; ++c) row[c] = 0;
        }
    for (index_t l = job.token_begin; l < job.token_end; ++l) {
        const A* __restrict p = shared + l * f.hidden + job.column_begin;
        for (index_t c = 0; c < n; ++c) d_row[c] = 0;
        for (index_t t = 0; t < f.tasks; ++t) {
            const index_t first = job.starts[t], last = job.starts[t + 1];
            A* d_u_row = d_u + (t * f.length + l) * f.rank;
            if (first == last) {
                for (index_t r = 0; r < f.rank; ++r) d_u_row[r] = 0;
                continue;
            }
            for (index_t k = first; k < last; ++k) {
                const E* __restrict g =
                    static_cast<const E*>(job.grad) + job.order[k] * job.grad_stride + l * f.hidden + job.column_begin;
                A* __restrict s = sum;
                if (k == first)
                    for (index_t c = 0; c < n; ++c) s[c] = static_cast<A>(widen(g[c]));
                else
                    for (index_t c = 0; c < n; ++c) s[c] += static_cast<A>(widen(g[c]));
            }
            const A *u_row = u + (t * f.length + l) * f.rank, *v_task = v + t * f.rank * f.hidden + job.column_begin;
            low_rank_row<A>(u_row, v_task, f.rank, f.hidden, n, nullptr, product);
            {
                A* __restrict s = sum, * __restrict d = d_row;
                const A* __restrict w = product;
                for (index_t c = 0; c < n; ++c) {
                    d[c] += s[c] * w[c];
                    s[c] *= p[c];
                }
            }
            for (index_t r = 0; r < f.rank; ++r) {
                d_u_row[r] = dot(sum, v_task + r * f.hidden, n);
                A* __restrict to = d_v + (t * f.rank + r) * f.hidden + job.column_begin;
                const A* __restrict s = sum;
                const A factor = u_row[r];
                for (index_t c = 0; c < n; ++c) to[c] += factor * s[c];
            }
        }
        A* __restrict to = d_shared + l * f.hidden + job.column_begin;
        for (index_t c = 0; c < n; ++c) to[c] = d_row[c];
    }
}

}  // namespace

void compose(const Factors& factors, const index_t* ids, const void* embeds, index_t text, DType type, void* out,
             index_t begin, index_t end) {
    with_type(type, [&](auto* t) {
        using E = Element<decltype(t)>;
        const E* from = static_cast<const E*>(embeds);
        E* to = static_cast<E*>(out);
        factors.wide ? compose_rows<double, E>(factors, ids, from, text, to, begin, end)
                     : compose_rows<float, E>(factors, ids, from, text, to, begin, end);
    });
}

void compose_backward(const ComposeBackward& job) {
    with_type(job.grad_type, [&](auto* t) {
        using E = Element<decltype(t)>;
        if (job.factors->wide)
            backward_of<double, E>(job);
        else
            backward_of<float, E>(job);
    });
}

}  // namespace promptkernels::cpu::PK_ISA
