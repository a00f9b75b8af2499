// Vectors, element types and centred loads. Everything here lives in the namespace of one instruction set (PK_ISA), and
// no standard template is used: an inline function shared between the sets could be linked in its AVX-512 form for all.
#pragma once

#include <utility>  // index_sequence: types only

#include "../kernels.h"
#include "../runtime.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#define PK_VECTOR_BYTES 64
#define PK_REGISTERS 32
#elif defined(__AVX2__)
#include <immintrin.h>
#define PK_VECTOR_BYTES 32
#define PK_REGISTERS 16
#else
#define PK_VECTOR_BYTES 16
#ifdef __aarch64__
#define PK_REGISTERS 32
#else
#define PK_REGISTERS 16
#endif
#endif
#define PK_INLINE inline __attribute__((always_inline))
#define PK_UNROLL _Pragma("GCC unroll 8")

namespace promptkernels::cpu::PK_ISA {

template <class A, int Bytes>
struct VectorOf {
    typedef A type __attribute__((vector_size(Bytes)));
};
template <class A>
using Vector = typename VectorOf<A, PK_VECTOR_BYTES>::type;
template <class A>
constexpr index_t kLanes = PK_VECTOR_BYTES / sizeof(A);

template <class A>
PK_INLINE Vector<A> load(const A* p) {
    Vector<A> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

template <class A>
PK_INLINE void store(A* p, Vector<A> v) {
    __builtin_memcpy(p, &v, sizeof v);
}

template <class V, std::size_t... I>
PK_INLINE auto fold_half(V v, std::index_sequence<I...>) {
    return __builtin_shufflevector(v, v, I...) + __builtin_shufflevector(v, v, (I + sizeof...(I))...);
}

// Halves are added until one lane is left. Shuffles, because going over memory would keep the accumulators there.
template <class A, int Bytes>
PK_INLINE A sum_lanes(typename VectorOf<A, Bytes>::type v) {
    if constexpr (Bytes == 2 * sizeof(A))
        return v[0] + v[1];
    else
        return sum_lanes<A, Bytes / 2>(fold_half(v, std::make_index_sequence<Bytes / 2 / sizeof(A)>()));
}
template <class A>
PK_INLINE A sum_lanes(Vector<A> v) {
    return sum_lanes<A, PK_VECTOR_BYTES>(v);
}

// add(first, 0, 1, 2, 3) for four indices from `first` on, and add(first, 0, ...) for the last one to three: four rows
// that are summed together cost one load and one store of the sum.
template <class F>
PK_INLINE void in_fours(index_t begin, index_t end, F&& add) {
    for (; begin + 4 <= end; begin += 4) add(begin, 0, 1, 2, 3);
    switch (end - begin) {
        case 3: return add(begin, 0, 1, 2);
        case 2: return add(begin, 0, 1);
        case 1: return add(begin, 0);
    }
}

PK_INLINE index_t smaller(index_t a, index_t b) { return a < b ? a : b; }
PK_INLINE index_t round_up(index_t n, index_t multiple) { return (n + multiple - 1) / multiple * multiple; }

struct BFloat16 {
    std::uint16_t bits;
};
struct Float16 {
    std::uint16_t bits;
};

PK_INLINE float widen(float x) { return x; }
PK_INLINE double widen(double x) { return x; }
PK_INLINE float widen(BFloat16 x) { return __builtin_bit_cast(float, static_cast<std::uint32_t>(x.bits) << 16); }
// Branch-free, so that it vectorises without F16C: a rescaled exponent for normal numbers, a magic bias for subnormal.
PK_INLINE float widen(Float16 x) {
    const std::uint32_t w = static_cast<std::uint32_t>(x.bits) << 16, twice = w + w;
    const float normal = __builtin_bit_cast(float, (twice >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
    const float subnormal = __builtin_bit_cast(float, (twice >> 17) | (126u << 23)) - 0.5f;
    const std::uint32_t bits =
        twice < (1u << 27) ? __builtin_bit_cast(std::uint32_t, subnormal) : __builtin_bit_cast(std::uint32_t, normal);
    return __builtin_bit_cast(float, (w & 0x80000000u) | bits);
}

// Round to nearest even, once.
PK_INLINE void narrow(float x, float& out) { out = x; }
PK_INLINE void narrow(float x, double& out) { out = x; }
PK_INLINE void narrow(float x, BFloat16& out) {
    const std::uint32_t w = __builtin_bit_cast(std::uint32_t, x);
    const std::uint32_t rounded = (w + 0x7FFFu + ((w >> 16) & 1u)) >> 16;
    out.bits = static_cast<std::uint16_t>((w & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}
PK_INLINE void narrow(float x, Float16& out) {
    const std::uint32_t w = __builtin_bit_cast(std::uint32_t, x), twice = w + w;
    float base = (__builtin_bit_cast(float, w & 0x7FFFFFFFu) * 0x1.0p+112f) * 0x1.0p-110f;
    std::uint32_t bias = twice & 0xFF000000u;
    bias = bias < 0x71000000u ? 0x71000000u : bias;
    base += __builtin_bit_cast(float, (bias >> 1) + 0x07800000u);
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, base);
    const std::uint32_t magnitude = twice > 0xFF000000u ? 0x7E00u : ((bits >> 13) & 0x7C00u) + (bits & 0x0FFFu);
    out.bits = static_cast<std::uint16_t>(((w & 0x80000000u) >> 16) | magnitude);
}
PK_INLINE void narrow(double x, double& out) { out = x; }
template <class E>
PK_INLINE void narrow(double x, E& out) {
    narrow(static_cast<float>(x), out);
}

template <class T>
struct AccOf {
    using type = float;
};
template <>
struct AccOf<double> {
    using type = double;
};
template <class T>
using Acc = typename AccOf<T>::type;

// Calls f with a null pointer of the element type, so that f can be one generic lambda.
template <class F>
PK_INLINE void with_type(DType type, F&& f) {
    switch (type) {
        case DType::f32: return f(static_cast<float*>(nullptr));
        case DType::f64: return f(static_cast<double*>(nullptr));
        case DType::bf16: return f(static_cast<BFloat16*>(nullptr));
        case DType::f16: return f(static_cast<Float16*>(nullptr));
    }
}
template <class P>
struct ElementOf;
template <class T>
struct ElementOf<T*> {
    using type = T;
};
template <class P>
using Element = typename ElementOf<P>::type;

// out[0 .. end - begin) = row `row`, columns [begin, end): centred, and scaled per token unless asked not to.
template <class T>
void load_row(const Rows& x, index_t row, index_t begin, index_t end, Acc<T>* __restrict out, bool scaled = true) {
    const T* __restrict data = static_cast<const T*>(x.data) + row * x.columns() + begin;
    const index_t n = end - begin;
    if (x.reference) {
        const T* __restrict reference = static_cast<const T*>(x.reference) + begin;
        for (index_t c = 0; c < n; ++c) out[c] = widen(data[c]) - widen(reference[c]);
    } else {
        for (index_t c = 0; c < n; ++c) out[c] = widen(data[c]);
    }
    if (!x.scale || !scaled) return;
    const Acc<T>* scale = static_cast<const Acc<T>*>(x.scale) + row * x.length;
    for (index_t c = begin; c < end;) {
        const index_t token = c / x.hidden, stop = smaller(end, (token + 1) * x.hidden);
        const Acc<T> factor = scale[token];
        for (; c < stop; ++c) out[c - begin] *= factor;
    }
}

// All rows of x into a tile with `stride` elements per row; the columns up to a whole vector are zeroed.
template <class T>
void load_tile(const Rows& x, index_t begin, index_t end, Acc<T>* tile, index_t stride) {
    const index_t padded = round_up(end - begin, kLanes<Acc<T>>);
    for (index_t row = 0; row < x.count; ++row) {
        Acc<T>* out = tile + row * stride;
        load_row<T>(x, row, begin, end, out);
        for (index_t c = end - begin; c < padded; ++c) out[c] = 0;
    }
}

// The same for rows of any element type that accumulates in A.
template <class A>
void load_tile_of(const Rows& x, index_t begin, index_t end, A* tile, index_t stride) {
    with_type(x.type, [&](auto* t) {
        using T = Element<decltype(t)>;
        if constexpr (sizeof(Acc<T>) == sizeof(A)) load_tile<T>(x, begin, end, tile, stride);
    });
}

// Columns per tile: the tile should stay in the first caches, and a row of it long enough to hide the start-up.
template <class A>
PK_INLINE index_t tile_columns(index_t rows, index_t least, index_t most, index_t bytes) {
    const index_t fit = bytes / static_cast<index_t>(sizeof(A)) / rows / 64 * 64;
    return fit < least ? least : fit > most ? most : fit;
}

}  // namespace promptkernels::cpu::PK_ISA
