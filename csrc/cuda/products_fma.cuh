// Products of all pairs of up to T rows in double: a block stages a chunk of columns in shared memory, and its threads
// form slices. A slice covers the upper triangle of the Gram matrix with micro-tiles that live in registers; the slices
// share the columns of the chunk.
#pragma once

#include "stack.cuh"

namespace promptkernels::cuda {

// Tile number -> its place in the upper triangle of a square of `side` tiles.
struct TilePlace {
    int row, column;
    __device__ TilePlace(int tile, int side) : row(0), column(tile) {
        for (; column >= side - row; ++row) column -= side - row;
        column += row;
    }
};

template <int T>
struct FmaProducts {
    static constexpr int lanes = 2, micro = 4;  // numbers read from shared memory at once; rows of a micro-tile
    static constexpr int side = T / micro, tiles = side * (side + 1) / 2;
    static constexpr int slices = kThreads / tiles;
    static constexpr int rounds = (24 * 1024 / (T * slices * 16) + 1) / 2 * 2;  // about 24 KiB
    static constexpr int chunk = slices * rounds * lanes;                       // columns
    static constexpr int stride = ((slices * rounds) | 1) * lanes;  // of a row: neighbouring rows in other banks
    static constexpr int entries = tiles * micro * micro, batch = 8;
    static constexpr int blocks = 2, most_stages = 1;                // on a multiprocessor; of columns in shared memory
    static constexpr index_t most_chunks = 2048 / (rounds * lanes);  // so many terms a thread adds

    union Shared {
        alignas(16) double tile[T * stride];
        double sums[batch][kThreads];
    };

    static constexpr std::size_t shared_bytes(int) { return sizeof(Shared); }

    double sum[micro][micro] = {};

    // Adds the products of columns begin to end.
    __device__ void add(const Stack& z, index_t begin, index_t end, int, Shared& shared) {
        const int me = static_cast<int>(threadIdx.x), slice = me / tiles;
        const TilePlace place(me % tiles, side);
        for (int e = z.count() * stride + me; e < T * stride; e += kThreads) shared.tile[e] = 0;
        for (index_t c = begin; c < end; c += chunk) {
            stage(z, c, end, shared.tile);
            __syncthreads();
            for (int round = 0; round < rounds && slice < slices; ++round) {
                const double* column = shared.tile + (slice + round * slices) * lanes;
                Pack<double, lanes> left[micro];
#pragma unroll
                for (int i = 0; i < micro; ++i) left[i] = read<double, lanes>(column + (i * side + place.row) * stride);
#pragma unroll
                for (int j = 0; j < micro; ++j) {
                    const auto right = read<double, lanes>(column + (j * side + place.column) * stride);
#pragma unroll
                    for (int i = 0; i < micro; ++i)
#pragma unroll
                        for (int v = 0; v < lanes; ++v) sum[i][j] += left[i].v[v] * right.v[v];
                }
            }
            __syncthreads();
        }
    }

    // Calls take(entry, value) for the sums of the block, each in one thread.
    template <class F>
    __device__ void each_sum(Shared& shared, F&& take) {
        const int me = static_cast<int>(threadIdx.x);
#pragma unroll
        for (int first = 0; first < micro * micro; first += batch) {
#pragma unroll
            for (int b = 0; b < batch; ++b) shared.sums[b][me] = sum[(first + b) / micro][(first + b) % micro];
            __syncthreads();
            for (int e = me; e < batch * tiles; e += kThreads) {
                double total = 0;
                for (int s = 0; s < slices; ++s) total += shared.sums[e / tiles][s * tiles + e % tiles];
                take(first * tiles + e, total);
            }
            __syncthreads();
        }
    }

    // Whose product an entry is; the entries below the diagonal of a tile on it repeat those above.
    static __device__ Pair pair(int entry) {
        const TilePlace at(entry % tiles, side);
        const int i = entry / tiles / micro, j = entry / tiles % micro;
        return {i * side + at.row, j * side + at.column, at.row == at.column && i > j};
    }

private:
    // Rows from column `begin` into shared memory, centred and scaled; columns from `end` on are 0.
    __device__ static void stage(const Stack& z, index_t begin, index_t end, double* tile) {
        for (int s = 0; s < z.sources; ++s) {
            const Rows& x = z.rows[s];
            const int count = static_cast<int>(x.count) * chunk;
            for (int e = static_cast<int>(threadIdx.x); e < count; e += kThreads) {
                const int row = e / chunk, column = e % chunk;
                const index_t c = begin + column;
                double value = 0;
                if (c < end) value = centred<double, 1>(x, row, c).v[0] * factor<double>(x, row, c);
                tile[row * stride + column] = value;
            }
            tile += x.count * stride;
        }
    }
};

}  // namespace promptkernels::cuda
