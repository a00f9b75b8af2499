#include "gram.h"

#include <algorithm>

#include "runtime.h"

namespace promptkernels::cpu {
namespace {

// products (n, m) and, unless null, squared norms (n) and (m) += over columns [begin, end).
void add_columns(const Rows& x, const Rows* y, index_t begin, index_t end, double* products, double* left_squares,
                 double* right_squares) {
    if (left_squares && y->count == 1) {
        kernels().against_one(x, *y, begin, end, products, left_squares);
    } else {
        kernels().gram(x, y, begin, end, products);
        if (left_squares) kernels().squares(x, begin, end, left_squares);
    }
    if (right_squares) kernels().squares(*y, begin, end, right_squares);
}

// Sums of all parts, `size` numbers each, in the order of the parts.
struct PartSums {
    const double* partials;
    index_t parts, size;

    double total(index_t i) const {
        double sum = 0;
        for (index_t part = 0; part < parts; ++part) sum += partials[part * size + i];
        return sum;
    }
    // The matrix (n, m) that starts at `first`; a symmetric one has its upper triangle only.
    void matrix(index_t first, index_t n, index_t m, bool symmetric, double* out) const {
        for (index_t i = 0; i < n; ++i)
            for (index_t j = symmetric ? i : 0; j < m; ++j) out[i * m + j] = total(first + i * m + j);
        if (symmetric)
            for (index_t i = 0; i < n; ++i)
                for (index_t j = 0; j < i; ++j) out[i * m + j] = out[j * m + i];
    }
    void vector(index_t first, index_t n, double* out) const {
        for (index_t i = 0; i < n; ++i) out[i] = total(first + i);
    }
};

double* zeroed(double* values, index_t size) {
    std::fill(values, values + size, 0.0);
    return values;
}

}  // namespace

void full_gram(const Rows& x, const Rows* y, index_t begin, index_t end, double* gram, double* left_squares,
               double* right_squares, int threads) {
    const index_t n = x.count, m = y ? y->count : n, columns = end - begin;
    const index_t left = n * m, right = left + (left_squares ? n : 0), size = right + (right_squares ? m : 0);
    const Parts parts(columns, 2048, 32, 512);
    double* partials =
        static_cast<double*>(scratch(Slot::partials, static_cast<std::size_t>(parts.count * size) * sizeof(double)));
    for_parts(parts.count, threads_for((n + m) / 2 * columns, threads), [&](index_t part) {
        double* mine = zeroed(partials + part * size, size);
        add_columns(x, y, begin + parts.begin(part), begin + parts.end(part, columns), mine,
                    left_squares ? mine + left : nullptr, right_squares ? mine + right : nullptr);
    });
    const PartSums sums{partials, parts.count, size};
    sums.matrix(0, n, m, !y, gram);
    if (left_squares) sums.vector(left, n, left_squares);
    if (right_squares) sums.vector(right, m, right_squares);
}

void token_gram(const Rows& x, const Rows* y, double* gram, double* gram_squares, double* left_squares,
                double* right_squares, int threads) {
    const index_t n = x.count, m = y ? y->count : n, entries = n * m;
    const index_t left = 2 * entries, right = left + (left_squares ? n : 0), size = right + (right_squares ? m : 0);
    const Parts parts(x.length, (2048 + x.hidden - 1) / x.hidden, 32, 1);  // of whole tokens
    double* partials =
        static_cast<double*>(scratch(Slot::partials, static_cast<std::size_t>(parts.count * size) * sizeof(double)));
    for_parts(parts.count, threads_for((n + m) / 2 * x.columns(), threads), [&](index_t part) {
        double* mine = zeroed(partials + part * size, size);
        double* products =
            static_cast<double*>(scratch(Slot::outputs, static_cast<std::size_t>(entries) * sizeof(double)));
        for (index_t token = parts.begin(part); token < parts.end(part, x.length); ++token) {
            zeroed(products, entries);
            add_columns(x, y, token * x.hidden, (token + 1) * x.hidden, products, left_squares ? mine + left : nullptr,
                        right_squares ? mine + right : nullptr);
            for (index_t e = 0; e < entries; ++e) {
                mine[e] += products[e];
                mine[entries + e] += products[e] * products[e];
            }
        }
    });
    const PartSums sums{partials, parts.count, size};
    sums.matrix(0, n, m, !y, gram);
    sums.matrix(entries, n, m, !y, gram_squares);
    if (left_squares) sums.vector(left, n, left_squares);
    if (right_squares) sums.vector(right, m, right_squares);
}

}  // namespace promptkernels::cpu
