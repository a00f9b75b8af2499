// Rows of up to three matrices of the same length and hidden size, one below the other.
#pragma once

#include "device.cuh"

namespace promptkernels::cuda {

struct Stack {
    Rows rows[3];
    int sources = 0;
    bool packed = true;     // every source can be read in packs of 16 bytes
    bool same_type = true;  // of all sources
    bool scaled = false;    // any of them

    PK_BOTH int count() const {
        index_t count = 0;
        for (int s = 0; s < sources; ++s) count += rows[s].count;
        return static_cast<int>(count);
    }
    // Of the rows that are centred; null where none is.
    PK_BOTH const void* reference() const {
        const void* found = nullptr;
        for (int s = 0; s < sources; ++s)
            if (rows[s].reference) found = rows[s].reference;
        return found;
    }
    void add(const Rows& x) {
        if (reference() && x.reference && reference() != x.reference)
            throw std::logic_error("promptkernels cuda: rows that are compared have two references");
        packed = packed && in_packs(x, pack_size(x.type));
        same_type = same_type && (sources == 0 || x.type == rows[0].type);
        scaled = scaled || x.scale;
        rows[sources++] = x;
    }
};

// Two rows whose product is an entry of sums; `repeated` where another entry is the same product.
struct Pair {
    int row, column;
    bool repeated;
};

// Where a row of a stack lies; `source` is null for a row that it does not have.
struct StackedRow {
    const Rows* source = nullptr;
    index_t row = 0;

    __device__ StackedRow(const Stack& z, index_t stacked) : row(stacked) {
        for (int s = 0; s < z.sources && !source; ++s) {
            if (row < z.rows[s].count)
                source = &z.rows[s];
            else
                row -= z.rows[s].count;
        }
    }
};

}  // namespace promptkernels::cuda
