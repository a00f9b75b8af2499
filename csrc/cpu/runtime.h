// Threads and scratch memory for the CPU kernels.
#pragma once

#include <cstddef>

#include "promptkernels/types.h"

namespace promptkernels::cpu {

// Runs body(context, part) for every part in 0..parts-1 on at most `threads` threads, each taking consecutive parts.
void run_parts(index_t parts, int threads, void (*body)(void* context, index_t part), void* context);

template <class F>
void for_parts(index_t parts, int threads, F&& f) {
    run_parts(parts, threads, [](void* context, index_t part) { (*static_cast<F*>(context))(part); }, &f);
}

// Memory of the calling thread, 64-byte aligned, kept between calls; one buffer per slot.
enum class Slot : int { tile, outputs, partials, gram, means, weights, count };
void* scratch(Slot slot, std::size_t bytes);

// How a range is cut into parts. It depends on the shape alone, so that results do not depend on the thread count.
struct Parts {
    index_t count;
    index_t size;  // of every part but the last
    Parts(index_t total, index_t at_least, index_t at_most_parts, index_t multiple) {
        index_t want = (total + at_most_parts - 1) / at_most_parts;
        if (want < at_least) want = at_least;
        size = (want + multiple - 1) / multiple * multiple;
        count = total > 0 ? (total + size - 1) / size : 0;
    }
    index_t begin(index_t part) const { return part * size; }
    index_t end(index_t part, index_t total) const { return (part + 1) * size < total ? (part + 1) * size : total; }
};

// Below this many element operations a second thread costs more than it brings.
constexpr index_t kWorthThreads = 1 << 16;
inline int threads_for(index_t operations, int threads) { return operations < kWorthThreads ? 1 : threads; }

}  // namespace promptkernels::cpu
