// MPT's prompts: shared * (u v), row by row into the batch, and the way back.
#include "simd.h"

namespace promptkernels::cpu::PK_ISA {
namespace {

// Columns computed at a time: the factors of a block stay in the first cache.
constexpr index_t kColumns = 256;

// product[c] = sum_r u[r] v[r, c]
template <class A>
PK_INLINE void low_rank_row(const A* __restrict u, const A* __restrict v, index_t rank, index_t ld, index_t n,
                            A* __restrict product) {
    for (index_t c = 0; c < n; ++c) product[c] = u[0] * v[c];
    for (index_t r = 1; r < rank; ++r)
        for (index_t c = 0; c < n; ++c) product[c] += u[r] * v[r * ld + c];
}

template <class A, class E>
void compose_row(const A* __restrict shared, const A* __restrict u, const A* __restrict v, index_t rank, index_t hidden,
                 E* __restrict out) {
    for (index_t c = 0; c < hidden; c += kColumns) {
        const index_t n = smaller(kColumns, hidden - c);
        alignas(64) A product[kColumns];
        low_rank_row(u, v + c, rank, hidden, n, product);
        for (index_t k = 0; k < n; ++k) narrow(shared[c + k] * product[k], out[c + k]);
    }
}

// Rank 1 without the detour over a buffer; the commonest case by far.
template <class A, class E>
void compose_row_rank1(const A* __restrict shared, A u, const A* __restrict v, index_t hidden, E* __restrict out) {
    for (index_t c = 0; c < hidden; ++c) narrow(shared[c] * (u * v[c]), out[c]);
}

// Copies past the caches: the destination is larger than them and is read by somebody else, later.
void copy_streaming(char* out, const char* in, index_t bytes) {
#ifdef __AVX2__
    const index_t head = smaller(bytes, (PK_VECTOR_BYTES - reinterpret_cast<std::uintptr_t>(out) % PK_VECTOR_BYTES) %
                                            PK_VECTOR_BYTES);
    __builtin_memcpy(out, in, static_cast<std::size_t>(head));
    index_t i = head;
    for (; i + PK_VECTOR_BYTES <= bytes; i += PK_VECTOR_BYTES) {
#ifdef __AVX512F__
        _mm512_stream_si512(reinterpret_cast<__m512i*>(out + i), _mm512_loadu_si512(in + i));
#else
        _mm256_stream_si256(reinterpret_cast<__m256i*>(out + i),
                            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i)));
#endif
    }
    __builtin_memcpy(out + i, in + i, static_cast<std::size_t>(bytes - i));
#else
    __builtin_memcpy(out, in, static_cast<std::size_t>(bytes));
#endif
}

template <class A, class E>
void compose_rows(const Factors& f, const index_t* ids, const E* embeds, index_t text, E* out, index_t begin,
                  index_t end, bool stream) {
    const A *shared = static_cast<const A*>(f.shared), *u = static_cast<const A*>(f.u), *v = static_cast<const A*>(f.v);
    const index_t rows = f.length + text, bytes = static_cast<index_t>(sizeof(E));
    E* buffer = stream ? static_cast<E*>(scratch(Slot::tile, static_cast<std::size_t>(f.hidden * bytes))) : nullptr;
    for (index_t row = begin; row < end;) {
        const index_t b = row / rows, l = row % rows;
        E* to = out + row * f.hidden;
        if (l >= f.length) {
            const index_t stop = smaller(end, (b + 1) * rows);
            const E* from = embeds + (b * text + l - f.length) * f.hidden;
            const index_t size = (stop - row) * f.hidden * bytes;
            if (stream)
                copy_streaming(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(from), size);
            else
                __builtin_memcpy(to, from, static_cast<std::size_t>(size));
            row = stop;
            continue;
        }
        const A *u_row = u + (ids[b] * f.length + l) * f.rank, *v_task = v + ids[b] * f.rank * f.hidden;
        E* target = stream ? buffer : to;
        if (f.rank == 1)
            compose_row_rank1(shared + l * f.hidden, u_row[0], v_task, f.hidden, target);
        else
            compose_row(shared + l * f.hidden, u_row, v_task, f.rank, f.hidden, target);
        if (stream)
            copy_streaming(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(buffer), f.hidden * bytes);
        ++row;
    }
#ifdef __AVX2__
    if (stream) _mm_sfence();
#endif
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
                const E* __restrict g = static_cast<const E*>(job.grad) + job.order[k] * job.grad_stride +
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
                A *__restrict s = sum, *__restrict d = d_row;
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
             index_t begin, index_t end, bool stream) {
    with_type(type, [&](auto* t) {
        using E = Element<decltype(t)>;
        const E* from = static_cast<const E*>(embeds);
        E* to = static_cast<E*>(out);
        if (factors.wide)
            compose_rows<double, E>(factors, ids, from, text, to, begin, end, stream);
        else
            compose_rows<float, E>(factors, ids, from, text, to, begin, end, stream);
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
