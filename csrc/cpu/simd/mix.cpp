// Mix: small matrices times a few long rows, Y = W Z, in one pass over the columns of Z; and means over tokens.
#include "simd.h"

namespace promptkernels::cpu::PK_ISA {
namespace {

constexpr int kRows = 4;
constexpr int kVectors = PK_REGISTERS == 32 ? 4 : 2;

template <class A, int I, int V>
PK_INLINE void block(const A* __restrict weights, index_t inputs, const A* __restrict tile, index_t tile_stride,
                     A* __restrict out, index_t out_stride) {
    Vector<A> sum[I][V] = {};
    for (index_t j = 0; j < inputs; ++j) {
        Vector<A> z[V];
        PK_UNROLL
        for (int v = 0; v < V; ++v) z[v] = load(tile + j * tile_stride + v * kLanes<A>);
        PK_UNROLL
        for (int i = 0; i < I; ++i) {
            const A weight = weights[i * inputs + j];
            PK_UNROLL
            for (int v = 0; v < V; ++v) sum[i][v] += weight * z[v];
        }
    }
    PK_UNROLL
    for (int i = 0; i < I; ++i) PK_UNROLL
    for (int v = 0; v < V; ++v) store(out + i * out_stride + v * kLanes<A>, sum[i][v]);
}

template <class A, int I>
void rows_of(const A* weights, index_t inputs, const A* tile, index_t tile_stride, index_t columns, A* out,
             index_t out_stride) {
    constexpr index_t lanes = kLanes<A>;
    index_t c = 0;
    for (; c + kVectors * lanes <= columns; c += kVectors * lanes)
        block<A, I, kVectors>(weights, inputs, tile + c, tile_stride, out + c, out_stride);
    for (; c + lanes <= columns; c += lanes)
        block<A, I, 1>(weights, inputs, tile + c, tile_stride, out + c, out_stride);
    if (c == columns) return;
    alignas(64) A last[I * lanes];
    block<A, I, 1>(weights, inputs, tile + c, tile_stride, last, lanes);
    for (int i = 0; i < I; ++i)
        for (index_t k = 0; c + k < columns; ++k) out[i * out_stride + c + k] = last[i * lanes + k];
}

template <class A>
void product_of(const Product& product, const A* tile, index_t tile_stride, index_t columns, index_t offset) {
    const A* weights = static_cast<const A*>(product.weights);
    A* out = static_cast<A*>(product.out) + offset;
    index_t i = 0;
    for (; i + kRows <= product.rows; i += kRows)
        rows_of<A, kRows>(weights + i * product.inputs, product.inputs, tile, tile_stride, columns,
                          out + i * product.stride, product.stride);
    for (; i < product.rows; ++i)
        rows_of<A, 1>(weights + i * product.inputs, product.inputs, tile, tile_stride, columns,
                      out + i * product.stride, product.stride);
}

template <class A>
void mix_of(const Rows* inputs, int input_count, index_t begin, index_t end, const Product* products,
            int product_count) {
    index_t rows = 0;
    for (int k = 0; k < input_count; ++k) rows += inputs[k].count;
    const index_t stride = tile_columns<A>(rows, 256, 1024, 65536);
    A* tile = static_cast<A*>(scratch(Slot::tile, rows * stride * sizeof(A)));
    for (index_t c = begin; c < end; c += stride) {
        const index_t stop = smaller(end, c + stride);
        A* next = tile;
        for (int k = 0; k < input_count; ++k, next += inputs[k - 1].count * stride)
            load_tile_of<A>(inputs[k], c, stop, next, stride);
        for (int p = 0; p < product_count; ++p) product_of<A>(products[p], tile, stride, stop - c, c - begin);
    }
}

constexpr index_t kMeanColumns = 256;

// sum[r] += factors of K tokens times these tokens of R rows: rows share a load of the reference, tokens one of the
// sum.
template <class T, bool Centred, int R, int K>
PK_INLINE void add_tokens(const T* const (&data)[R], const T* reference, const Acc<T> (&factor)[R][K], index_t hidden,
                          index_t n, Acc<T> (*__restrict sum)[kMeanColumns]) {
    using A = Acc<T>;
    for (index_t i = 0; i < n; ++i) {
        A centre[K] = {};
        PK_UNROLL
        for (int t = 0; t < K; ++t)
            if (Centred) centre[t] = widen(reference[t * hidden + i]);
        PK_UNROLL
        for (int r = 0; r < R; ++r) {
            A total = sum[r][i];
            PK_UNROLL
            for (int t = 0; t < K; ++t) total += factor[r][t] * (widen(data[r][t * hidden + i]) - centre[t]);
            sum[r][i] = total;
        }
    }
}

// Sums of 16 tokens stay in A, and only their totals meet in double.
template <class T, bool Centred, int R>
void token_means_of(const Rows& x, index_t row, index_t begin, index_t n, Acc<T>* out) {
    using A = Acc<T>;
    constexpr index_t kTokens = 16;
    const T* reference = static_cast<const T*>(x.reference);
    alignas(64) double total[R][kMeanColumns] = {};
    auto add = [&]<int K>(index_t token, A(*sum)[kMeanColumns]) {
        const index_t first = token * x.hidden + begin;
        const T* data[R];
        A factor[R][K];
        for (int r = 0; r < R; ++r) {
            data[r] = static_cast<const T*>(x.data) + (row + r) * x.columns() + first;
            for (int t = 0; t < K; ++t)
                factor[r][t] = x.scale ? static_cast<const A*>(x.scale)[(row + r) * x.length + token + t] : A(1);
        }
        add_tokens<T, Centred, R, K>(data, Centred ? reference + first : nullptr, factor, x.hidden, n, sum);
    };
    for (index_t first = 0; first < x.length; first += kTokens) {
        alignas(64) A sum[R][kMeanColumns] = {};
        const index_t last = smaller(first + kTokens, x.length);
        index_t token = first;
        for (; token + 2 <= last; token += 2) add.template operator()<2>(token, sum);
        if (token < last) add.template operator()<1>(token, sum);
        for (int r = 0; r < R; ++r)
            for (index_t i = 0; i < n; ++i) total[r][i] += sum[r][i];
    }
    for (int r = 0; r < R; ++r)
        for (index_t i = 0; i < n; ++i)
            out[(row + r) * x.hidden + begin + i] = static_cast<A>(total[r][i] / static_cast<double>(x.length));
}

template <class T>
double unscaled_dot_of(const Rows& x, index_t row, index_t begin, index_t end, const Acc<T>* left) {
    using A = Acc<T>;
    constexpr index_t kColumns = 512, lanes = kLanes<A>;
    alignas(64) A value[kColumns];
    double total = 0;
    for (index_t c = begin; c < end; c += kColumns) {
        const index_t n = smaller(kColumns, end - c);
        load_row<T>(x, row, c, c + n, value, false);
        const A* other = left + (c - begin);
        Vector<A> sum = {};
        index_t k = 0;
        for (; k + lanes <= n; k += lanes) sum += load(value + k) * load(other + k);
        total += sum_lanes<A>(sum);
        for (; k < n; ++k) total += value[k] * other[k];
    }
    return total;
}

template <class A>
void scale_and_subtract_of(A* __restrict values, A factor, A* __restrict sum, index_t n) {
    if (factor != A(1))
        for (index_t k = 0; k < n; ++k) values[k] *= factor;
    if (sum)
        for (index_t k = 0; k < n; ++k) sum[k] -= values[k];
}

}  // namespace

void mix(const Rows* inputs, int input_count, index_t begin, index_t end, const Product* products, int product_count) {
    if (wide(inputs[0].type)) return mix_of<double>(inputs, input_count, begin, end, products, product_count);
    mix_of<float>(inputs, input_count, begin, end, products, product_count);
}

void token_means(const Rows& x, index_t row_begin, index_t row_end, index_t begin, index_t end, void* out) {
    with_type(x.type, [&](auto* t) {
        using T = Element<decltype(t)>;
        Acc<T>* to = static_cast<Acc<T>*>(out);
        for (index_t c = begin; c < end; c += kMeanColumns)
            in_fours(row_begin, row_end, [&](index_t row, auto... k) {
                const index_t n = smaller(kMeanColumns, end - c);
                x.reference ? token_means_of<T, true, sizeof...(k)>(x, row, c, n, to)
                            : token_means_of<T, false, sizeof...(k)>(x, row, c, n, to);
            });
    });
}

double unscaled_dot(const Rows& x, index_t row, index_t begin, index_t end, const void* left) {
    double result = 0;
    with_type(x.type, [&](auto* t) {
        using T = Element<decltype(t)>;
        result = unscaled_dot_of<T>(x, row, begin, end, static_cast<const Acc<T>*>(left));
    });
    return result;
}

void scale_and_subtract(void* values, double factor, void* sum, index_t n, bool wide) {
    if (wide) return scale_and_subtract_of(static_cast<double*>(values), factor, static_cast<double*>(sum), n);
    scale_and_subtract_of(static_cast<float*>(values), static_cast<float>(factor), static_cast<float*>(sum), n);
}

}  // namespace promptkernels::cpu::PK_ISA
