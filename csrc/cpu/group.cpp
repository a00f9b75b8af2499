// DTVG's greedy prefix rule, on a matrix of a few dozen rows.
#include <algorithm>
#include <cmath>
#include <vector>

#include "promptkernels/cpu.h"

namespace promptkernels::cpu {
namespace {

template <class A>
void select_group_of(const A* similarity, index_t n, index_t target, bool* chosen) {
    auto at = [&](index_t i, index_t j) { return static_cast<double>(similarity[i * n + j]); };
    std::vector<index_t> ranked;
    for (index_t s = 0; s < n; ++s) {
        chosen[s] = s == target;
        if (s != target && at(s, target) >= 0) ranked.push_back(s);
    }
    std::stable_sort(ranked.begin(), ranked.end(), [&](index_t a, index_t b) { return at(a, target) > at(b, target); });
    std::size_t best_size = 0;
    double sum = 0, best = -INFINITY;
    for (std::size_t m = 0; m < ranked.size(); ++m) {
        for (std::size_t k = 0; k < m; ++k) sum += at(ranked[m], ranked[k]) + at(ranked[k], ranked[m]);
        const double consistency = m == 0 ? 0.0 : sum / static_cast<double>((m + 1) * m);
        if (consistency > best) {
            best = consistency;
            best_size = m + 1;
        }
    }
    for (std::size_t m = 0; m < best_size; ++m) chosen[ranked[m]] = true;
}

}  // namespace

void select_group(const void* similarity, bool wide, index_t n, index_t target, bool* chosen, int) {
    if (wide) return select_group_of(static_cast<const double*>(similarity), n, target, chosen);
    select_group_of(static_cast<const float*>(similarity), n, target, chosen);
}

}  // namespace promptkernels::cpu
