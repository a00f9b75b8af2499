// Plain types that the kernels and their callers share; no torch, no Python.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define PK_BOTH __host__ __device__
#else
#define PK_BOTH
#endif

namespace promptkernels {

using index_t = std::int64_t;

// Element types; the numbers are part of the interface with promptkernels/backends/*.py.
enum class DType : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3 };

// Results and sums are double for double input and float otherwise.
PK_BOTH constexpr bool wide(DType type) { return type == DType::f64; }
PK_BOTH constexpr std::size_t size_of(DType type) { return type == DType::f64 ? 8 : type == DType::f32 ? 4 : 2; }

// Task vectors that are never stored: row i is scale[i, token] * (data[i, :] - reference).
struct Rows {
    const void* data = nullptr;       // (count, length * hidden), contiguous
    const void* reference = nullptr;  // (length * hidden), or none
    const void* scale = nullptr;      // (count, length), acc, or none
    index_t count = 0;
    index_t length = 0;
    index_t hidden = 0;
    DType type = DType::f32;  // of data and reference

    PK_BOTH index_t columns() const { return length * hidden; }
};

// Gradients of a similarity, acc; a null destination is not wanted.
struct SimilarityGradients {
    void* prompts = nullptr;    // (n, length, hidden)
    void* reference = nullptr;  // (length, hidden)
    void* others = nullptr;     // (m, length, hidden)
    void* scale = nullptr;      // (n, length)
};

// Gradients of a merge, likewise.
struct MergeGradients {
    void* reference = nullptr;  // (length, hidden)
    void* prompts = nullptr;    // (tasks, length, hidden)
    void* scale = nullptr;      // (tasks, length)
    void* weights = nullptr;    // (tasks)
};

// Factors of MPT prompts, all of one type, float or double.
struct Factors {
    const void* shared = nullptr;  // (length, hidden)
    const void* u = nullptr;       // (tasks, length, rank)
    const void* v = nullptr;       // (tasks, rank, hidden)
    index_t tasks = 0, length = 0, rank = 0, hidden = 0;
    bool wide = false;  // double
};

enum class Metric : int { cosine = 0, token_mean_cosine = 1, token_mean_dot = 2 };
enum class Bandwidth : int { fixed = 0, liu2016 = 1, numpyro = 2, blackjax = 3 };

}  // namespace promptkernels
