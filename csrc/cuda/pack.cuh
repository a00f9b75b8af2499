// Packs: a few neighbouring elements that a thread reads and writes at once, by 16-byte accesses where they fill them.
#pragma once

#include <cstring>
#include <type_traits>

#include "convert.cuh"
#include "promptkernels/types.h"

namespace promptkernels::cuda {

template <class A, int V>
struct Pack {
    A v[V];
};

// Elements in 16 bytes.
PK_BOTH constexpr int pack_size(DType type) { return static_cast<int>(16 / size_of(type)); }

template <std::size_t bytes>
struct Word;
template <>
struct Word<16> {
    using type = uint4;
};
template <>
struct Word<8> {
    using type = uint2;
};
template <>
struct Word<4> {
    using type = std::uint32_t;
};
template <>
struct Word<2> {
    using type = std::uint16_t;
};

// V elements that lie as a pack does: at a multiple of the smaller of their size and 16 bytes.
template <class S, int V>
__device__ inline Pack<S, V> read(const S* from) {
    constexpr std::size_t bytes = sizeof(S) * V < 16 ? sizeof(S) * V : 16, count = sizeof(S) * V / bytes;
    using W = typename Word<bytes>::type;
    W words[count];
#pragma unroll
    for (std::size_t k = 0; k < count; ++k) words[k] = reinterpret_cast<const W*>(from)[k];
    Pack<S, V> pack;
    memcpy(&pack, words, sizeof pack);
    return pack;
}
// Streamed: what nobody reads soon leaves the caches first.
template <class S, int V>
__device__ inline void write(S* to, const Pack<S, V>& pack, bool streamed = false) {
    constexpr std::size_t bytes = sizeof(S) * V < 16 ? sizeof(S) * V : 16, count = sizeof(S) * V / bytes;
    using W = typename Word<bytes>::type;
    W words[count];
    memcpy(words, &pack, sizeof pack);
#pragma unroll
    for (std::size_t k = 0; k < count; ++k) {
        W* word = reinterpret_cast<W*>(to) + k;
        if (streamed)
            __stcs(word, words[k]);
        else
            *word = words[k];
    }
}
// Results of so many bytes are streamed: they would push everything else out of the caches.
constexpr std::size_t kStreamed = std::size_t(32) << 20;

// How an element type is stored and converted.
template <DType type>
struct Storage;
template <>
struct Storage<DType::f32> {
    using type = float;
    static __device__ float widen(float x) { return x; }
    static __device__ float narrow(float x) { return x; }
};
template <>
struct Storage<DType::f64> {
    using type = double;
    static __device__ double widen(double x) { return x; }
    static __device__ double narrow(double x) { return x; }
};
template <>
struct Storage<DType::bf16> {
    using type = std::uint16_t;
    static __device__ float widen(std::uint16_t x) { return widen_bf16(x); }
    static __device__ std::uint16_t narrow(float x) { return narrow_bf16(x); }
};
template <>
struct Storage<DType::f16> {
    using type = std::uint16_t;
    static __device__ float widen(std::uint16_t x) { return widen_f16(x); }
    static __device__ std::uint16_t narrow(float x) { return narrow_f16(x); }
};

template <class A, int V, DType type>
__device__ inline Pack<A, V> load_as(const void* data, index_t i) {
    using S = typename Storage<type>::type;
    const Pack<S, V> raw = read<S, V>(static_cast<const S*>(data) + i);
    Pack<A, V> pack;
#pragma unroll
    for (int k = 0; k < V; ++k) pack.v[k] = static_cast<A>(Storage<type>::widen(raw.v[k]));
    return pack;
}
template <DType type, class A, int V>
__device__ inline Pack<typename Storage<type>::type, V> narrowed(const Pack<A, V>& pack) {
    using S = typename Storage<type>::type;
    Pack<S, V> raw;
#pragma unroll
    for (int k = 0; k < V; ++k) raw.v[k] = static_cast<S>(Storage<type>::narrow(pack.v[k]));
    return raw;
}

// Calls `function(std::integral_constant<DType, type>)` for a type that is known at run time (the branch is the same
// for a whole grid).
template <class F>
__device__ inline void with_type(DType type, F&& function) {
    switch (type) {
        case DType::f32: return function(std::integral_constant<DType, DType::f32>{});
        case DType::bf16: return function(std::integral_constant<DType, DType::bf16>{});
        case DType::f16: return function(std::integral_constant<DType, DType::f16>{});
        default: return function(std::integral_constant<DType, DType::f64>{});
    }
}

// The same, but only for the types that are handled V at a time: 16-bit ones in packs of 8, the others in packs of 4.
template <int V, class F>
__device__ inline void with_packed_type(DType type, F&& function) {
    with_type(type, [&](auto t) {
        if constexpr (V == 1 || (V == 8) == (size_of(decltype(t)::value) == 2)) function(t);
    });
}

}  // namespace promptkernels::cuda
