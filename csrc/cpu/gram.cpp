#include "gram.h"

#include <algorithm>

#include "runtime.h"

namespace promptkernels::cpu {

void full_gram(const Rows& x, const Rows* y, index_t begin, index_t end, double* gram, double* left_squares,
               double* right_squares, int threads) {
    const index_t n = x.count, m = y ? y->count : n, columns = end - begin;
    const index_t size = n * m + (left_squares ? n : 0) + (right_squares ? m : 0);
    const Parts parts(columns, 2048, 32, 512);
    double* partials =
        static_cast<double*>(scratch(Slot::partials, static_cast<std::size_t>(parts.count * size) * sizeof(double)));
    for_parts(parts.count, threads_for((n + m) / 2 * columns, threads), [&](index_t part) {
        const index_t from = begin + parts.begin(part), to = begin + parts.end(part, columns);
        double* mine = partials + part * size;
        std::fill(mine, mine + size, 0.0);
        if (left_squares && m == 1) {
            kernels().against_one(x, *y, from, to, mine, mine + n);
            mine += 2 * n;
        } else {
            kernels().gram(x, y, from, to, mine);
            mine += n * m;
            if (left_squares) {
                kernels().squares(x, from, to, mine);
                mine += n;
            }
        }
        if (right_squares) kernels().squares(*y, from, to, mine);
    });
    auto total = [&](index_t i) {
        double sum = 0;
        for (index_t part = 0; part < parts.count; ++part) sum += partials[part * size + i];
        return sum;
    };
    for (index_t i = 0; i < n; ++i)
        for (index_t j = y ? 0 : i; j < m; ++j) gram[i * m + j] = total(i * m + j);
    if (!y)
        for (index_t i = 0; i < n; ++i)
            for (index_t j = 0; j < i; ++j) gram[i * m + j] = gram[j * m + i];
    index_t next = n * m;
    if (left_squares)
        for (index_t i = 0; i < n; ++i) left_squares[i] = total(next++);
    if (right_squares)
        for (index_t j = 0; j < m; ++j) right_squares[j] = total(next++);
}

}  // namespace promptkernels::cpu
