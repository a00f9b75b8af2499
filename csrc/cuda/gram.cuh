// Centred Gram matrix of up to kMostRows rows in one launch, and whatever follows from it in the block that ends last.
//
// A block stages a chunk of columns of all rows in shared memory. Its threads form slices: a slice covers the upper
// triangle of the Gram matrix with micro-tiles that live in registers, and the slices share the columns of the chunk.
// Sums are acc within a thread (a few thousand terms at most) and double between threads and blocks, always in the same
// order, so every entry is summed alike: equal rows are exactly 0 apart.
#pragma once

#include <cmath>

#include "architecture.cuh"
#include "device.cuh"

namespace promptkernels::cuda {

// Rows of up to three matrices of the same length and hidden size, one below the other.
struct Stack {
    Rows rows[3];
    bool packed[3] = {};
    int sources = 0;

    PK_BOTH int count() const {
        index_t count = 0;
        for (int s = 0; s < sources; ++s) count += rows[s].count;
        return static_cast<int>(count);
    }
    void add(const Rows& x) {
        packed[sources] = in_packs(x, pack_size(x.type));
        rows[sources++] = x;
    }
};

template <class A, int T>  // T: the most rows
struct GramShape {
    static constexpr int lanes = 16 / sizeof(A);                     // elements read from shared memory at once
    static constexpr int micro = sizeof(A) == 4 && T >= 32 ? 8 : 4;  // rows and columns of a micro-tile
    static constexpr int side = T / micro, tiles = side * (side + 1) / 2;
    static constexpr int slices = kThreads / tiles;
    static constexpr int rounds = (24 * 1024 / (T * slices * 16) + 1) / 2 * 2;  // about 24 KiB, and 16-bit packs fit
    static constexpr int columns = slices * rounds * lanes;                     // of a chunk
    static constexpr int stride = ((slices * rounds) | 1) * lanes;  // of a row: neighbouring rows in other banks
    static constexpr int step = micro == 8 ? lanes / 2 : lanes;     // read at once: registers are full of sums
    static constexpr int entries = tiles * micro * micro;
    static constexpr int batch = 64 / sizeof(A);  // sums of a thread that are handed over at once
};

// Columns in `groups` equal ranges, each with a Gram matrix of its own. The columns of a group are cut into parts, one
// block each; the parts are added up in bundles, then the bundles (more than one part only with a single group).
struct GramPlan {
    index_t groups, columns, parts, part_columns, bundle;
};

template <class Shape>
GramPlan plan_gram(const Stack& z, index_t groups) {
    constexpr index_t most_parts = 256, most_chunks = 2048 / (Shape::rounds * Shape::lanes);
    GramPlan plan{groups, z.rows[0].columns() / groups, 1, 0, 1};
    const index_t chunks = divide_up(plan.columns, Shape::columns);
    index_t chunks_per_part = chunks;
    if (groups == 1) {
        chunks_per_part = divide_up(chunks, most_parts);
        if (chunks_per_part > most_chunks) chunks_per_part = most_chunks;
        plan.parts = divide_up(chunks, chunks_per_part);
        while (plan.bundle * plan.bundle < plan.parts) ++plan.bundle;
    }
    plan.part_columns = chunks_per_part * Shape::columns;
    return plan;
}

// Calls function(row, column of the chunk, column of x) for every pack of V columns that this thread stages.
template <class Shape, int V, class F>
__device__ inline void each_pack(const Rows& x, index_t begin, F&& function) {
    constexpr int packs = Shape::columns / V;
    const int count = static_cast<int>(x.count) * packs;
#pragma unroll 1
    for (int p = static_cast<int>(threadIdx.x); p < count; p += kThreads) {
        const int row = p / packs, column = p % packs * V;
        function(row, column, begin + column);
    }
}

// Rows of one source from column `begin` into shared memory; columns from `end` on are 0. Packs of the type of the sums
// are copied as they are, all of a thread under way together, and centred and scaled where they arrive.
template <class A, class Shape>
__device__ inline void stage_copies(const Rows& x, index_t begin, index_t end, A* tile) {
    constexpr int v = Shape::lanes;
    each_pack<Shape, v>(x, begin, [&](int row, int column, index_t c) {
        A* to = tile + row * Shape::stride + column;
        if (c < end)
            copy_to_shared(to, static_cast<const A*>(x.data) + row * x.columns() + c);
        else
            write<A, v>(to, Pack<A, v>{});
    });
    wait_for_copies();
    if (!x.reference && !x.scale) return;
    each_pack<Shape, v>(x, begin, [&](int row, int column, index_t c) {
        if (c >= end) return;
        A* to = tile + row * Shape::stride + column;
        Pack<A, v> pack = read<A, v>(to);
        if (x.reference) {
            const Pack<A, v> start = read<A, v>(static_cast<const A*>(x.reference) + c);
#pragma unroll
            for (int k = 0; k < v; ++k) pack.v[k] -= start.v[k];
        }
        if (x.scale) {
            const A scale = factor<A>(x, row, c);
#pragma unroll
            for (int k = 0; k < v; ++k) pack.v[k] *= scale;
        }
        write<A, v>(to, pack);
    });
}

// The same for 16-bit types, which widen on their way, and for rows that cannot be read in packs.
template <class A, class Shape, DType type, int V>
__device__ inline void stage_elements(const Rows& x, index_t begin, index_t end, A* tile) {
    each_pack<Shape, V>(x, begin, [&](int row, int column, index_t c) {
        Pack<A, V> pack{};
        if (c < end) pack = centred<A, V, type>(x, row, c);
        const A scale = c < end ? factor<A>(x, row, c) : A(0);
        constexpr int part = V < Shape::lanes ? V : Shape::lanes;
#pragma unroll
        for (int first = 0; first < V; first += part) {
            Pack<A, part> scaled;
#pragma unroll
            for (int k = 0; k < part; ++k) scaled.v[k] = pack.v[first + k] * scale;
            write<A, part>(tile + row * Shape::stride + column + first, scaled);
        }
    });
}

template <class A, class Shape>
__device__ inline void stage(const Stack& z, index_t begin, index_t end, A* tile) {
    for (int s = 0; s < z.sources; ++s) {
        const Rows& x = z.rows[s];
        with_row_type<A>(x.type, [&](auto type) {
            constexpr DType kType = decltype(type)::value;
            constexpr bool narrow = size_of(kType) == 2;
            if (!z.packed[s])
                stage_elements<A, Shape, kType, 1>(x, begin, end, tile);
            else if constexpr (narrow)
                stage_elements<A, Shape, kType, 8>(x, begin, end, tile);
            else
                stage_copies<A, Shape>(x, begin, end, tile);
        });
        tile += x.count * Shape::stride;
    }
}

// Tile number -> its place in the upper triangle of a square of `side` tiles.
struct TilePlace {
    int row, column;
    __device__ TilePlace(int tile, int side) : row(0), column(tile) {
        for (; column >= side - row; ++row) column -= side - row;
        column += row;
    }
};

// Whether this block is the last of `count` to come here; it then sees what all of them wrote. The ticket returns to 0.
__device__ inline bool last_of(unsigned* ticket, index_t count) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    const unsigned others = static_cast<unsigned>(count - 1);
    if (threadIdx.x == 0) last = atomicInc(ticket, others) == others;
    __syncthreads();
    if (last) __threadfence();
    return last;
}

// The finish is called once per group, by a whole block, with the Gram matrix (k, k) and shared memory.
constexpr int kFinishShared = 2048;  // doubles

template <class A, int T, class Finish>
__global__ void __launch_bounds__(kThreads, 2)
    gram_kernel(Stack z, GramPlan plan, double* partials, double* grams, unsigned* tickets, Finish finish) {
    using S = GramShape<A, T>;
    union Shared {
        alignas(16) A tile[T * S::stride];
        A sums[S::batch][kThreads];
        double finish[kFinishShared];
    };
    __shared__ Shared shared;
    const int me = static_cast<int>(threadIdx.x), slice = me / S::tiles, k = z.count();
    const TilePlace place(me % S::tiles, S::side);
    const index_t group = blockIdx.x / plan.parts, part = blockIdx.x % plan.parts;
    const index_t begin = group * plan.columns + part * plan.part_columns, group_end = (group + 1) * plan.columns;
    const index_t end = begin + plan.part_columns < group_end ? begin + plan.part_columns : group_end;

    A sum[S::micro][S::micro] = {};
    for (int e = k * S::stride + me; e < T * S::stride; e += kThreads) shared.tile[e] = 0;
    for (index_t c = begin; c < end; c += S::columns) {
        stage<A, S>(z, c, end, shared.tile);
        __syncthreads();
        if (slice < S::slices) {
#pragma unroll 1
            for (int round = 0; round < S::rounds; ++round) {
                const A* column = shared.tile + (slice + round * S::slices) * S::lanes;
#pragma unroll
                for (int first = 0; first < S::lanes; first += S::step) {
                    Pack<A, S::step> left[S::micro];
#pragma unroll
                    for (int i = 0; i < S::micro; ++i)
                        left[i] = read<A, S::step>(column + first + (i * S::side + place.row) * S::stride);
#pragma unroll
                    for (int j = 0; j < S::micro; ++j) {
                        const auto right = read<A, S::step>(column + first + (j * S::side + place.column) * S::stride);
#pragma unroll
                        for (int i = 0; i < S::micro; ++i)
#pragma unroll
                            for (int v = 0; v < S::step; ++v) sum[i][j] += left[i].v[v] * right.v[v];
                    }
                }
            }
        }
        __syncthreads();
    }

    double* gram = grams + group * k * k;
    auto put = [&](int entry, double value) {
        const TilePlace at(entry % S::tiles, S::side);
        const int i = entry / S::tiles / S::micro, j = entry / S::tiles % S::micro;
        const int row = i * S::side + at.row, column = j * S::side + at.column;
        if (row >= k || column >= k || (at.row == at.column && i > j)) return;
        gram[row * k + column] = value;
        gram[column * k + row] = value;
    };
    double* mine = partials + part * S::entries;
#pragma unroll
    for (int first = 0; first < S::micro * S::micro; first += S::batch) {
#pragma unroll
        for (int b = 0; b < S::batch; ++b) shared.sums[b][me] = sum[(first + b) / S::micro][(first + b) % S::micro];
        __syncthreads();
        for (int e = me; e < S::batch * S::tiles; e += kThreads) {
            double total = 0;
            for (int s = 0; s < S::slices; ++s) total += shared.sums[e / S::tiles][s * S::tiles + e % S::tiles];
            const int entry = first * S::tiles + e;
            if (plan.parts > 1)
                mine[entry] = total;
            else
                put(entry, total);
        }
        __syncthreads();
    }
    if (plan.parts > 1) {
        const index_t bundle = part / plan.bundle, first = bundle * plan.bundle;
        const index_t bundles = (plan.parts + plan.bundle - 1) / plan.bundle;
        const index_t members = first + plan.bundle < plan.parts ? plan.bundle : plan.parts - first;
        if (!last_of(tickets + 1 + bundle, members)) return;
        double* total = partials + first * S::entries;
        for (int e = me; e < S::entries; e += kThreads) {
            double added = 0;
#pragma unroll 4
            for (index_t p = 0; p < members; ++p) added += __ldcg(total + p * S::entries + e);
            total[e] = added;
        }
        if (!last_of(tickets, bundles)) return;
        for (int e = me; e < S::entries; e += kThreads) {
            double added = 0;
#pragma unroll 4
            for (index_t b = 0; b < bundles; ++b) added += __ldcg(partials + b * plan.bundle * S::entries + e);
            put(e, added);
        }
    }
    __syncthreads();
    finish(gram, shared.finish, group);
}

template <class A, int T, class Finish>
double* launch_gram(const char* what, const Stack& z, index_t groups, const Finish& finish, const Where& where) {
    using S = GramShape<A, T>;
    const GramPlan plan = plan_gram<S>(z, groups);
    double* partials = scratch<double>(plan.parts > 1 ? plan.parts * S::entries : 0, where);
    double* grams = scratch<double>(groups * z.count() * z.count(), where);
    launch(what, gram_kernel<A, T, Finish>, static_cast<unsigned>(groups * plan.parts), kThreads, where, z, plan,
           partials, grams, where.tickets, finish);
    return grams;
}

// Enqueues the Gram matrices of a stack and their finish; returns where the matrices (groups, k, k) will lie.
template <class A, class Finish>
double* gram(const char* what, const Stack& z, index_t groups, const Finish& finish, const Where& where) {
    const int k = z.count();
    if constexpr (sizeof(A) == 4) {
        if (k <= 8) return launch_gram<A, 8>(what, z, groups, finish, where);
        if (k > 16 && k <= 32) return launch_gram<A, 32>(what, z, groups, finish, where);
    }
    if (k <= 16) return launch_gram<A, 16>(what, z, groups, finish, where);
    if (k <= kMostRows) return launch_gram<A, 64>(what, z, groups, finish, where);
    throw std::invalid_argument(std::string("promptkernels cuda: ") + what + ": at most " + std::to_string(kMostRows) +
                                " rows, got " + std::to_string(k));
}

}  // namespace promptkernels::cuda
