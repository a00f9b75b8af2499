// Weighted sums of task vectors, reference + sum_t w_t s_t (P_t - reference), and the way back; one token at a time.
#include "simd.h"

namespace promptkernels::cpu::PK_ISA {
namespace {

template <class T>
PK_INLINE Acc<T> scale_of(const Rows& x, index_t row, index_t token) {
    return x.scale ? static_cast<const Acc<T>*>(x.scale)[row * x.length + token] : Acc<T>(1);
}

// out += factor of R rows times these rows, centred: they share one load of the reference and one of out.
template <class T, int R>
PK_INLINE void add_rows(const T* const* data, const Acc<T>* factor, const T* __restrict reference, index_t n,
                        Acc<T>* __restrict out) {
    const T* rows[R];
    Acc<T> factors[R];
    for (int r = 0; r < R; ++r) {
        rows[r] = data[r];
        factors[r] = factor[r];
    }
    for (index_t c = 0; c < n; ++c) {
        const Acc<T> centre = widen(reference[c]);
        Acc<T> sum = out[c];
        PK_UNROLL
        for (int r = 0; r < R; ++r) sum += factors[r] * (widen(rows[r][c]) - centre);
        out[c] = sum;
    }
}

template <class T>
void merge_of(const Rows& x, const Acc<T>* weights, Acc<T>* all, index_t token_begin, index_t token_end) {
    using A = Acc<T>;
    const index_t n = x.hidden;
    for (index_t token = token_begin; token < token_end; ++token) {
        const T* reference = static_cast<const T*>(x.reference) + token * n;
        A* out = all + token * n;
        for (index_t c = 0; c < n; ++c) out[c] = widen(reference[c]);
        const T* rows[4];
        A factors[4];
        auto add = [&](index_t, auto... k) { add_rows<T, sizeof...(k)>(rows, factors, reference, n, out); };
        index_t waiting = 0;
        for (index_t row = 0; row < x.count; ++row) {
            const A weight = weights ? weights[row] : A(1);
            // A row that is not selected must not reach the sum, not even as 0 * inf.
            if (weight == A(0)) continue;
            rows[waiting] = static_cast<const T*>(x.data) + row * x.columns() + token * n;
            factors[waiting++] = weight * scale_of<T>(x, row, token);
            if (waiting < 4) continue;
            in_fours(0, waiting, add);
            waiting = 0;
        }
        in_fours(0, waiting, add);
    }
}

template <class T>
void merge_backward_of(const Acc<T>* grad, const Rows& x, const Acc<T>* weights, const MergeGradients& out,
                       double* dots, index_t token_begin, index_t token_end) {
    using A = Acc<T>;
    constexpr index_t kColumns = 512;
    const index_t n = x.hidden;
    const bool want_dots = out.scale || out.weights;
    for (index_t token = token_begin; token < token_end; ++token) {
        const A* __restrict g = grad + token * n;
        A total = 0;
        for (index_t row = 0; row < x.count; ++row) {
            const A weight = weights ? weights[row] : A(1);
            const A factor = weight == A(0) ? A(0) : weight * scale_of<T>(x, row, token);
            total += factor;
            if (out.prompts) {
                A* __restrict to = static_cast<A*>(out.prompts) + row * x.columns() + token * n;
                for (index_t c = 0; c < n; ++c) to[c] = factor * g[c];
            }
            if (!want_dots) continue;
            double along = 0;
            if (weight != A(0) || out.weights) {
                alignas(64) A value[kColumns];
                for (index_t c = 0; c < n; c += kColumns) {
                    const index_t m = smaller(kColumns, n - c);
                    load_row<T>(x, row, token * n + c, token * n + c + m, value, false);
                    Vector<A> sum = {};
                    index_t k = 0;
                    for (; k + kLanes<A> <= m; k += kLanes<A>) sum += load(value + k) * load(g + c + k);
                    along += sum_lanes<A>(sum);
                    for (; k < m; ++k) along += value[k] * g[c + k];
                }
            }
            dots[row * x.length + token] = along;
        }
        if (out.reference) {
            A* __restrict to = static_cast<A*>(out.reference) + token * n;
            for (index_t c = 0; c < n; ++c) to[c] = g[c] * (A(1) - total);
        }
    }
}

}  // namespace

void merge(const Rows& prompts, const void* weights, void* out, index_t token_begin, index_t token_end) {
    with_type(prompts.type, [&](auto* t) {
        using T = Element<decltype(t)>;
        merge_of<T>(prompts, static_cast<const Acc<T>*>(weights), static_cast<Acc<T>*>(out), token_begin, token_end);
    });
}

void merge_backward(const void* grad, const Rows& prompts, const void* weights, const MergeGradients& out, double* dots,
                    index_t token_begin, index_t token_end) {
    with_type(prompts.type, [&](auto* t) {
        using T = Element<decltype(t)>;
        merge_backward_of<T>(static_cast<const Acc<T>*>(grad), prompts, static_cast<const Acc<T>*>(weights), out, dots,
                             token_begin, token_end);
    });
}

}  // namespace promptkernels::cpu::PK_ISA
