// Products of all pairs of up to 8 G rows in float, by tensor cores. The instruction takes the same fragment of eight
// rows on its left and on its right, and any order of the columns will do: each warp copies columns of its own to
// shared memory, a stage ahead, in whole lines of 128 bytes, and no warp waits for another.
//
// A product of floats is three of TF32 numbers: high parts with high parts, and either's high part with the other's low
// part. Eight or sixteen columns of high parts are multiplied from zero, then added as floats are: tensor cores cut off
// what they add, and over many columns that would be a bias. Products with low parts are smaller by a factor of 2000,
// so tensor cores add them up. They are kept as H L^T, of all pairs of groups, and its transpose is added at the end;
// 64 rows have no registers for it.
#pragma once

#include <algorithm>

#include "architecture.cuh"
#include "stack.cuh"

namespace promptkernels::cuda {

template <int G>  // groups of eight rows
struct Tf32Products {
    static constexpr int warps = kThreads / 32, most_stages = 2;
    static constexpr int lines = G < 4 ? 4 / G : 1, packs = 8, pack = 16;  // of a row in a stage; of a line; bytes
    static constexpr int chunk = warps * lines * 32;                       // columns
    static constexpr int row_tiles = (G + 1) / 2, tiles = row_tiles * (G + 1 - row_tiles);
    static constexpr bool crossed = G < 8;  // whether products with low parts are kept apart
    static constexpr int crosses = crossed ? row_tiles * G : 1;
    static constexpr int entries = tiles * 128, batch = crossed ? tiles : 5;
    static constexpr int blocks = G < 8 ? 2 : 1;  // on a multiprocessor
    static constexpr index_t most_chunks = 512 / lines;

    // Packs of odd rows change places with those four apart: eight lanes that read two rows meet all banks.
    struct Stage {
        alignas(16) unsigned char rows[lines][8 * G][packs][pack], reference[lines][packs][pack];
    };
    static __device__ int place(int row, int pack_of_line) { return pack_of_line ^ (row % 2 * 4); }
    struct Shared {
        const char* data[8 * G];  // of a row; null for one that is not there
        union {
            Stage ring[warps * most_stages];
            float sums[warps][batch][128];
            float others[warps][crosses * 128];
        };
    };
    static constexpr std::size_t shared_bytes(int stages) {
        constexpr std::size_t fixed = sizeof(Shared) - sizeof(Shared::ring);
        constexpr std::size_t added = std::max(sizeof(Shared::sums), sizeof(Shared::others));
        return fixed + std::max(sizeof(Stage) * static_cast<std::size_t>(warps * stages), added);
    }

    Product sum[tiles] = {}, cross[crosses] = {};

    // Adds the products of columns begin to end. Lane 4 g + t has rows g, g + 8, ... and of the columns of a stage the
    // packs t, t + 4, ...
    __device__ void add(const Stack& z, index_t begin, index_t end, int stages, Shared& shared) {
        const bool raw = z.packed && z.same_type && !z.scaled;  // copied as they are
        for (int j = static_cast<int>(threadIdx.x); j < 8 * G; j += kThreads) {
            const StackedRow row(z, j);
            const index_t bytes = z.rows[0].columns() * static_cast<index_t>(size_of(z.rows[0].type));
            shared.data[j] = row.source ? static_cast<const char*>(row.source->data) + row.row * bytes : nullptr;
        }
        __syncthreads();
        with_row_type<float>(raw ? z.rows[0].type : DType::f32,
                             [&](auto type) {  // columns as 32-bit numbers: see bindings.h
                                 add_as<decltype(type)::value>(z, raw, static_cast<unsigned>(begin),
                                                               static_cast<unsigned>(end), stages, shared);
                             });
    }

    // Calls take(entry, value) for the sums of the block, each in one thread.
    template <class F>
    __device__ void each_sum(Shared& shared, F&& take) {
        constexpr int numbers = batch * 128, mine = (numbers + kThreads - 1) / kThreads;
        const int me = static_cast<int>(threadIdx.x), warp = me / 32, lane = me % 32;
#pragma unroll
        for (int first = 0; first < tiles; first += batch) {
            double total[mine] = {};
            auto each_of_mine = [&](auto&& act) {
#pragma unroll
                for (int i = 0; i < mine; ++i)
                    if (const int e = me + i * kThreads; e < numbers) act(e, total[i]);
            };
            __syncthreads();
#pragma unroll
            for (int b = 0; b < batch; ++b)
#pragma unroll
                for (int r = 0; r < 4; ++r) shared.sums[warp][b][r * 32 + lane] = sum[first + b].v[r];
            __syncthreads();
            each_of_mine([&](int e, double& to) {
#pragma unroll
                for (int w = 0; w < warps; ++w) to += static_cast<double>(shared.sums[w][e / 128][e % 128]);
            });
            if constexpr (crossed) {
                __syncthreads();
#pragma unroll
                for (int c = 0; c < crosses; ++c)
#pragma unroll
                    for (int r = 0; r < 4; ++r) shared.others[warp][c * 128 + r * 32 + lane] = cross[c].v[r];
                __syncthreads();
                each_of_mine([&](int e, double& to) {
                    const auto [row, column, repeated] = pair(e);
                    if (row >= 8 * G) return;  // below the rows of a single group
                    const int one = cross_entry(row, column), other = cross_entry(column, row);
                    double low = 0;
#pragma unroll
                    for (int w = 0; w < warps; ++w)
                        low +=
                            static_cast<double>(shared.others[w][one]) + static_cast<double>(shared.others[w][other]);
                    to += low;
                });
            }
            each_of_mine([&](int e, double& value) { take(first * 128 + e, value); });
        }
    }

    static __device__ Pair pair(int entry) {
        int tile = entry / 128, i = 0;
        for (; tile >= G - 2 * i; ++i) tile -= G - 2 * i;
        const int row = 16 * i + entry / 64 % 2 * 8 + entry % 32 / 4;
        const int column = (2 * i + tile) * 8 + entry % 4 * 2 + entry / 32 % 2;
        return {row, column, row > column};
    }

private:
    // Place of the product of a row's high part with another's low part.
    static __device__ int cross_entry(int row, int column) {
        const int lane = row % 8 * 4 + column % 8 / 2, r = row % 16 / 8 * 2 + column % 2;
        return (row / 16 * G + column / 8) * 128 + r * 32 + lane;
    }

    template <DType type>
    __device__ void add_as(const Stack& z, bool raw, unsigned begin, unsigned end, int stages, Shared& shared) {
        using S = typename Storage<type>::type;
        constexpr int V = pack / static_cast<int>(sizeof(S)), columns = lines * packs * V;  // of a stage
        constexpr int taken = G < (kSparesRegisters ? 8 : 4) ? 4 : 2;                       // elements at a time
        const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
        const int g = lane / 4, t = lane % 4;
        Stage* const ring = shared.ring + warp * stages;
        const char* const start = raw ? static_cast<const char*>(z.reference()) : nullptr;
        unsigned centred_rows = 0;  // a bit for each row g, g + 8, ...
#pragma unroll
        for (int j = 0; j < G; ++j) {
            const StackedRow row(z, g + 8 * j);
            centred_rows |= static_cast<unsigned>(start && row.source && row.source->reference) << j;
        }
        auto fill = [&](Stage& stage, unsigned first) {
            if (!raw) return convert(z, first, end, stage);
            const int p = lane % packs;
#pragma unroll
            for (int l = 0; l < lines; ++l) {
                const unsigned c = first + static_cast<unsigned>((l * packs + p) * V);
                const index_t at = static_cast<index_t>(c) * static_cast<index_t>(sizeof(S));
#pragma unroll 4
                for (int r = 0; r < 2 * G; ++r) {
                    const int row = lane / packs + 4 * r;
                    const char* data = shared.data[row];
                    copy_to_shared<pack>(stage.rows[l][row][place(row, p)], data + at, data && c < end);
                }
                if (lane < packs && start) copy_to_shared<pack>(stage.reference[l][p], start + at, c < end);
            }
        };
        constexpr unsigned stride = warps * columns;
        unsigned first = begin + static_cast<unsigned>(warp * columns), ahead = first;
        auto fill_next = [&](int stage) {
            if (ahead < end) fill(ring[stage], ahead);
            ahead += stride;
            end_copies();
        };
        for (int stage = 0; stage + 1 < stages; ++stage) fill_next(stage);
        int stage = 0, free = stages - 1;
        for (; first < end; first += stride) {
            fill_next(free);
            stages == most_stages ? wait_for_copies<most_stages - 1>() : wait_for_copies<0>();
            __syncwarp();  // other lanes have copied, too
#pragma unroll 1
            for (int n = 0; n < lines * 2 * V / taken; ++n) {
                const int l = n / (2 * V / taken), e = n % (V / taken) * taken, p = n / (V / taken) % 2 * 4 + t;
                const auto centre = load_as<float, taken, type>(ring[stage].reference[l][p], e);
                float high[G][taken], low[G][taken];
#pragma unroll
                for (int j = 0; j < G; ++j) {
                    const auto value = load_as<float, taken, type>(ring[stage].rows[l][g + 8 * j][place(g, p)], e);
#pragma unroll
                    for (int k = 0; k < taken; ++k) {
                        const float centred = centred_rows >> j & 1 ? value.v[k] - centre.v[k] : value.v[k];
                        const Split parts = split(centred);
                        high[j][k] = parts.high;
                        low[j][k] = parts.low;
                    }
                }
                multiply(high, low);
            }
            __syncwarp();  // the stage is free
            free = stage;
            stage = stage + 1 < stages ? stage + 1 : 0;
        }
    }

    // Rows that cannot be copied as they are: centred and scaled, as floats.
    __device__ static void convert(const Stack& z, index_t first, index_t end, Stage& stage) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll 1
        for (int e = 0; e < lines * 8 * G; ++e) {
            const int l = e / (8 * G), row = e % (8 * G);
            const index_t c = first + l * 32 + lane;
            const StackedRow at(z, row);
            float value = 0;
            if (at.source && c < end)
                value = centred<float, 1>(*at.source, at.row, c).v[0] * factor<float>(*at.source, at.row, c);
            reinterpret_cast<float*>(stage.rows[l][row][place(row, lane / 4)])[lane % 4] = value;
        }
    }

    // Of some columns, eight at a time: lane 4 g + t has columns t and t + 4 of rows g, g + 8, ... Rows change places
    // without changing a bit: equal rows are exactly 0 apart.
    template <int K>
    __device__ void multiply(const float (&high)[G][K], const float (&low)[G][K]) {
        int tile = 0;
#pragma unroll
        for (int i = 0; i < row_tiles; ++i) {
            if constexpr (crossed)
#pragma unroll
                for (int j = 0; j < G; ++j)
#pragma unroll
                    for (int k = 0; k < K; k += 2)
                        add_product(cross[i * G + j], on_left(high, i, k), on_right(low, j, k));
#pragma unroll
            for (int j = 2 * i; j < G; ++j, ++tile) {
                Product product{};
                if constexpr (!crossed) product = cross_products(high, low, i, j);
#pragma unroll
                for (int k = 0; k < K; k += 2) add_product(product, on_left(high, i, k), on_right(high, j, k));
#pragma unroll
                for (int r = 0; r < 4; ++r) sum[tile].v[r] += product.v[r];
            }
        }
    }
    template <int K>
    __device__ static Product cross_products(const float (&high)[G][K], const float (&low)[G][K], int i, int j) {
        Product product{}, other{};
#pragma unroll
        for (int k = 0; k < K; k += 2) {
            add_product(product, on_left(low, i, k), on_right(high, j, k));
            add_product(other, on_left(high, i, k), on_right(low, j, k));
        }
#pragma unroll
        for (int r = 0; r < 4; ++r) product.v[r] += other.v[r];
        return product;
    }

    // Sixteen rows on the left: two groups of eight; one group on the right.
    template <int K>
    __device__ static Left on_left(const float (&groups)[G][K], int i, int k) {
        const int below = 2 * i + 1;
        if (below >= G) return {{groups[2 * i][k], 0, groups[2 * i][k + 1], 0}};
        return {{groups[2 * i][k], groups[below % G][k], groups[2 * i][k + 1], groups[below % G][k + 1]}};
    }
    template <int K>
    __device__ static Right on_right(const float (&groups)[G][K], int j, int k) {
        return {{groups[j][k], groups[j][k + 1]}};
    }
};

}  // namespace promptkernels::cuda
