// MPT's prompts: shared * (u v), row by row into the batch, and the way back.
#include "simd.h"

namespace promptkernels::cpu::PK_ISA {
namespace {

// out[c] = sum_r u[r] v[r, c].
template <class A>
void low_rank_row(const A* __restrict u, const A* __restrict v, index_t rank, index_t ld, index_t n,
                  A* __restrict out) {
    for (index_t c = 0; c < n; ++c) out[c] = u[0] * v[c];
    for (index_t r = 1; r < rank; ++r)
        for (index_t c = 0; c < n; ++c) out[c] += u[r] * v[r * ld + c];
}

// A few columns of one token of one task, composed once and stored to every batch row of the task.
template <class A, class E, int V>
PK_INLINE void compose_block(const A* __restrict shared, const A* __restrict u, const A* __restrict v, index_t rank,
                             index_t ld, const index_t* row, const index_t* last, index_t stride, E* __restrict out) {
    Vector<A> value[V];
    PK_UNROLL
    for (int k = 0; k < V; ++k) value[k] = u[0] * load(v + k * kLanes<A>);
    for (index_t r = 1; r < rank; ++r) PK_UNROLL
    for (int k = 0; k < V; ++k) value[k] += u[r] * load(v + r * ld + k * kLanes<A>);
    PK_UNROLL
    for (int k = 0; k < V; ++k) value[k] *= load(shared + k * kLanes<A>);
    if constexpr (sizeof(A) == sizeof(E)) {
        for (; row != last; ++row) {
            A* to = reinterpret_cast<A*>(out + *row * stride);
            PK_UNROLL
            for (int k = 0; k < V; ++k) store(to + k * kLanes<A>, value[k]);
        }
    } else {
        alignas(64) A wide[V * kLanes<A>];
        alignas(64) E narrowed[V * kLanes<A>];
        PK_UNROLL
        for (int k = 0; k < V; ++k) store(wide + k * kLanes<A>, value[k]);
        for (index_t k = 0; k < V * kLanes<A>; ++k) narrow(wide[k], narrowed[k]);
        for (; row != last; ++row) __builtin_memcpy(out + *row * stride, narrowed, sizeof narrowed);
    }
}

template <class A, class E>
void compose_token(const A* shared, const A* u, const A* v, index_t rank, index_t hidden, const index_t* row,
                   const index_t* last, index_t stride, E* out) {
    constexpr index_t lanes = kLanes<A>;
    index_t c = 0;
    for (; c + 4 * lanes <= hidden; c += 4 * lanes)
        compose_block<A, E, 4>(shared + c, u, v + c, rank, hidden, row, last, stride, out + c);
    for (; c + lanes <= hidden; c += lanes)
        compose_block<A, E, 1>(shared + c, u, v + c, rank, hidden, row, last, stride, out + c);
    for (; c < hidden; ++c) {
        A sum = u[0] * v[c];
        for (index_t r = 1; r < rank; ++r) sum += u[r] * v[r * hidden + c];
        for (const index_t* b = row; b != last; ++b) narrow(shared[c] * sum, out[*b * stride + c]);
    }
}

// A few tokens at a time, so that the factors of a task stay in the first cache.
template <class A, class E>
void compose_tokens(const Compose& job, index_t begin, index_t end) {
    constexpr index_t kTokens = 4;
    const Factors& f = *job.factors;
    const A *shared = static_cast<const A*>(f.shared), *u = static_cast<const A*>(f.u), *v = static_cast<const A*>(f.v);
    const index_t stride = (f.length + job.text) * f.hidden;
    for (index_t first = begin; first < end; first += kTokens)
        for (index_t t = 0; t < f.tasks; ++t)
            for (index_t l = first; l < smaller(first + kTokens, end); ++l)
                compose_token<A, E>(shared + l * f.hidden, u + (t * f.length + l) * f.rank, v + t * f.rank * f.hidden,
                                    f.rank, f.hidden, job.rows.order + job.rows.starts[t],
                                    job.rows.order + job.rows.starts[t + 1], stride,
                                    static_cast<E*>(job.out) + l * f.hidden);
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
            const index_t first = job.rows.starts[t], last = job.rows.starts[t + 1];
            A* d_u_row = d_u + (t * f.length + l) * f.rank;
            if (first == last) {
                for (index_t r = 0; r < f.rank; ++r) d_u_row[r] = 0;
                continue;
            }
            for (index_t k = first; k < last; ++k) {
                const E* __restrict g = static_cast<const E*>(job.grad) + job.rows.order[k] * job.grad_stride +
                                        l * f.hidden + job.column_begin;
                A* __restrict s = sum;
                if (k == first)
                    for (index_t c = 0; c < n; ++c) s[c] = static_cast<A>(widen(g[c]));
                else
                    for (index_t c = 0; c < n; ++c) s[c] += static_cast<A>(widen(g[c]));
            }
            const A *u_row = u + (t * f.length + l) * f.rank, *v_task = v + t * f.rank * f.hidden + job.column_begin;
            low_rank_row(u_row, v_task, f.rank, f.hidden, n, product);
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

void compose(const Compose& job, index_t begin, index_t end) {
    with_type(job.type, [&](auto* t) {
        using E = Element<decltype(t)>;
        job.factors->wide ? compose_tokens<double, E>(job, begin, end) : compose_tokens<float, E>(job, begin, end);
    });
}

void append_text(const Compose& job, index_t begin, index_t end) {
    const std::size_t row = static_cast<std::size_t>(job.factors->hidden) * size_of(job.type);
    const char* from = static_cast<const char*>(job.embeds);
    char* to = static_cast<char*>(job.out);
    while (begin < end) {
        const index_t b = begin / job.text, stop = smaller(end, (b + 1) * job.text);
        __builtin_memcpy(to + static_cast<std::size_t>(begin + (b + 1) * job.factors->length) * row,
                         from + static_cast<std::size_t>(begin) * row, static_cast<std::size_t>(stop - begin) * row);
        begin = stop;
    }
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
