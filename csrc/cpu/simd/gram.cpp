// Centred Gram matrix: G = X Y^T over a range of columns, X and Y centred while they are read.
#include "simd.h"

namespace promptkernels::cpu::PK_ISA {
namespace {

// Accumulators of a block stay in registers: 4 x 4 where there are 32, 3 x 3 where there are 16.
constexpr int kBlock = PK_REGISTERS == 32 ? 4 : 3;

template <class A, int I, int J, bool Diagonal>
void block(const A* __restrict x, const A* __restrict y, index_t stride, index_t columns, double* gram, index_t ld) {
    Vector<A> sum[I][J] = {};
    for (index_t c = 0; c < columns; c += kLanes<A>) {
        Vector<A> right[J];
        PK_UNROLL
        for (int j = 0; j < J; ++j) right[j] = load(y + j * stride + c);
        PK_UNROLL
        for (int i = 0; i < I; ++i) {
            const Vector<A> left = load(x + i * stride + c);
            PK_UNROLL
            for (int j = 0; j < J; ++j)
                if (!Diagonal || j >= i) sum[i][j] += left * right[j];
        }
    }
    PK_UNROLL
    for (int i = 0; i < I; ++i) PK_UNROLL
    for (int j = 0; j < J; ++j)
        if (!Diagonal || j >= i) gram[i * ld + j] += sum_lanes<A>(sum[i][j]);
}

template <class A, int I, int J>
void block_of(bool diagonal, int i, int j, const A* x, const A* y, index_t stride, index_t columns, double* gram,
              index_t ld) {
    if constexpr (I < 1) {
        return;
    } else if constexpr (J < 1) {
        block_of<A, I - 1, kBlock>(diagonal, i, j, x, y, stride, columns, gram, ld);
    } else {
        if (i != I || j != J) return block_of<A, I, J - 1>(diagonal, i, j, x, y, stride, columns, gram, ld);
        if (I == J && diagonal) return block<A, I, J, I == J>(x, y, stride, columns, gram, ld);
        block<A, I, J, false>(x, y, stride, columns, gram, ld);
    }
}

template <class A>
void gram_of(const Rows& x, const Rows* y, index_t begin, index_t end, double* gram) {
    const index_t n = x.count, m = y ? y->count : n, rows = y ? n + m : n;
    const index_t stride = tile_columns<A>(rows, 512, 2048, 32768);
    A* left = static_cast<A*>(scratch(Slot::tile, rows * stride * sizeof(A)));
    const A* right = y ? left + n * stride : left;
    for (index_t c = begin; c < end; c += stride) {
        const index_t stop = smaller(end, c + stride), columns = round_up(stop - c, kLanes<A>);
        load_tile_of<A>(x, c, stop, left, stride);
        if (y) load_tile_of<A>(*y, c, stop, left + n * stride, stride);
        for (index_t i = 0; i < n; i += kBlock)
            for (index_t j = y ? 0 : i; j < m; j += kBlock)
                block_of<A, kBlock, kBlock>(!y && i == j, static_cast<int>(smaller(kBlock, n - i)),
                                            static_cast<int>(smaller(kBlock, m - j)), left + i * stride,
                                            right + j * stride, stride, columns, gram + i * m + j, m);
    }
}

template <class T>
void squares_of(const Rows& x, index_t begin, index_t end, double* squares) {
    using A = Acc<T>;
    constexpr index_t kColumns = 1024;
    alignas(64) A row[kColumns];
    for (index_t i = 0; i < x.count; ++i)
        for (index_t c = begin; c < end; c += kColumns) {
            const index_t n = smaller(kColumns, end - c), padded = round_up(n, kLanes<A>);
            load_row<T>(x, i, c, c + n, row);
            for (index_t k = n; k < padded; ++k) row[k] = 0;
            block<A, 1, 1, true>(row, row, 0, padded, squares + i, 0);
        }
}

// Products with y and squares of n elements, a multiple of the lanes: four independent sums of each hide the latency of
// an addition. center(k): what is taken off the vector at k.
template <class A, class Center>
PK_INLINE void dot_and_square(const A* left, const A* right, index_t n, Center&& center, double& dot, double& square) {
    constexpr int kSums = 4;
    Vector<A> dots[kSums] = {}, squares[kSums] = {};
    auto add = [&](int s, index_t k) {
        const Vector<A> x = load(left + k) - center(k);
        dots[s] += x * load(right + k);
        squares[s] += x * x;
    };
    index_t k = 0;
    for (; k + kSums * kLanes<A> <= n; k += kSums * kLanes<A>) PK_UNROLL
    for (int s = 0; s < kSums; ++s) add(s, k + s * kLanes<A>);
    for (; k < n; k += kLanes<A>) add(0, k);
    dot += sum_lanes<A>(dots[0] + dots[1] + (dots[2] + dots[3]));
    square += sum_lanes<A>(squares[0] + squares[1] + (squares[2] + squares[3]));
}

// The row y stays in a cache; the rows of x are read once, one after the other, as fast as memory yields them.
template <class T>
void against_one_of(const Rows& x, const Rows& y, index_t begin, index_t end, double* products, double* squares) {
    using A = Acc<T>;
    constexpr index_t kColumns = 1024;
    A* right = static_cast<A*>(scratch(Slot::tile, round_up(end - begin, kColumns) * sizeof(A)));
    load_tile_of<A>(y, begin, end, right, 0);
    alignas(64) A row[kColumns];
    for (index_t i = 0; i < x.count; ++i)
        for (index_t c = begin; c < end; c += kColumns) {
            const index_t n = smaller(kColumns, end - c);
            const A* other = right + (c - begin);
            if constexpr (sizeof(T) == sizeof(A))
                if (!x.scale && n % kLanes<A> == 0) {
                    const A* data = static_cast<const A*>(x.data) + i * x.columns() + c;
                    const A* reference = static_cast<const A*>(x.reference);
                    if (reference)
                        dot_and_square(
                            data, other, n, [&](index_t k) { return load(reference + c + k); }, products[i],
                            squares[i]);
                    else
                        dot_and_square(data, other, n, [](index_t) { return Vector<A>{}; }, products[i], squares[i]);
                    continue;
                }
            load_row<T>(x, i, c, c + n, row);
            const index_t padded = round_up(n, kLanes<A>);
            for (index_t k = n; k < padded; ++k) row[k] = 0;
            dot_and_square(row, other, padded, [](index_t) { return Vector<A>{}; }, products[i], squares[i]);
        }
}

}  // namespace

void against_one(const Rows& x, const Rows& y, index_t begin, index_t end, double* products, double* squares) {
    with_type(x.type, [&](auto* t) { against_one_of<Element<decltype(t)>>(x, y, begin, end, products, squares); });
}

void gram(const Rows& x, const Rows* y, index_t begin, index_t end, double* out) {
    wide(x.type) ? gram_of<double>(x, y, begin, end, out) : gram_of<float>(x, y, begin, end, out);
}

void squares(const Rows& x, index_t begin, index_t end, double* out) {
    with_type(x.type, [&](auto* t) { squares_of<Element<decltype(t)>>(x, begin, end, out); });
}

}  // namespace promptkernels::cpu::PK_ISA
