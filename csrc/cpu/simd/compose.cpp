// MPT's prompts: shared * (u v), row by row into the batch, and the way back.
#include "simd.h"

namespace promptkernels::cpu::PK_ISA {
namespace {

// So many tokens of a task at a time, for which its factors stay in the first cache.
constexpr index_t kTokens = 4;

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

template <class A, class E>
void compose_tokens(const Compose& job, index_t begin, index_t end) {
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

// One token of one task and R of its ranks: d += sum * (u v), d_v += u (sum * shared), d_u = v . (sum * shared), with
// `sum` the gradient over the batch rows of the task.
template <class A, int R>
void factor_gradients(const A* __restrict sum, const A* __restrict shared, const A* __restrict u, const A* __restrict v,
                      index_t ld, index_t n, A* __restrict d, A* __restrict d_v, A* __restrict d_u) {
    Vector<A> dot[R] = {};
    index_t c = 0;
    for (; c + kLanes<A> <= n; c += kLanes<A>) {
        const Vector<A> g = load(sum + c), scaled = g * load(shared + c);
        Vector<A> product = {};
        PK_UNROLL
        for (int r = 0; r < R; ++r) {
            const Vector<A> right = load(v + r * ld + c);
            product += u[r] * right;
            dot[r] += scaled * right;
            store(d_v + r * ld + c, load(d_v + r * ld + c) + u[r] * scaled);
        }
        store(d + c, load(d + c) + g * product);
    }
    for (int r = 0; r < R; ++r) d_u[r] = sum_lanes<A>(dot[r]);
    for (; c < n; ++c)
        for (int r = 0; r < R; ++r) {
            const A scaled = sum[c] * shared[c];
            d_u[r] += scaled * v[r * ld + c];
            d_v[r * ld + c] += u[r] * scaled;
            d[c] += sum[c] * (u[r] * v[r * ld + c]);
        }
}

// One token of one task: the gradient is summed over the task's batch rows first, so the products run over tasks.
template <class A, class E>
void token_gradients(const ComposeBackward& job, index_t t, index_t l, A* __restrict sum) {
    const Factors& f = *job.factors;
    const index_t n = job.column_end - job.column_begin, first = job.rows.starts[t], last = job.rows.starts[t + 1];
    const index_t left = (t * f.length + l) * f.rank, right = t * f.rank * f.hidden + job.column_begin;
    const index_t token = l * f.hidden + job.column_begin;
    A *d_u = static_cast<A*>(job.d_u) + left, *d_v = static_cast<A*>(job.d_v) + right;
    if (first == last) {
        for (index_t r = 0; r < f.rank; ++r) d_u[r] = 0;
        return;
    }
    const E* grad = static_cast<const E*>(job.grad) + token;
    in_fours(first, last, [&](index_t row, auto... k) {
        const E* __restrict from[] = {grad + job.rows.order[row + k] * job.grad_stride...};
        if (row == first)
            for (index_t c = 0; c < n; ++c) sum[c] = (... + static_cast<A>(widen(from[k][c])));
        else
            for (index_t c = 0; c < n; ++c) sum[c] += (... + static_cast<A>(widen(from[k][c])));
    });
    in_fours(0, f.rank, [&](index_t r, auto... k) {
        factor_gradients<A, sizeof...(k)>(sum, static_cast<const A*>(f.shared) + token,
                                          static_cast<const A*>(f.u) + left + r,
                                          static_cast<const A*>(f.v) + right + r * f.hidden, f.hidden, n,
                                          static_cast<A*>(job.d_shared) + token, d_v + r * f.hidden, d_u + r);
    });
}

template <class A, class E>
void backward_of(const ComposeBackward& job) {
    const Factors& f = *job.factors;
    const index_t n = job.column_end - job.column_begin;
    A* sum = static_cast<A*>(scratch(Slot::tile, static_cast<std::size_t>(n) * sizeof(A)));
    auto clear = [&](void* rows, index_t row) {
        A* __restrict to = static_cast<A*>(rows) + row * f.hidden + job.column_begin;
        for (index_t c = 0; c < n; ++c) to[c] = 0;
    };
    for (index_t row = 0; row < f.tasks * f.rank; ++row) clear(job.d_v, row);
    for (index_t l = job.token_begin; l < job.token_end; ++l) clear(job.d_shared, l);
    for (index_t begin = job.token_begin; begin < job.token_end; begin += kTokens)
        for (index_t t = 0; t < f.tasks; ++t)
            for (index_t l = begin; l < smaller(begin + kTokens, job.token_end); ++l)
                token_gradients<A, E>(job, t, l, sum);
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
