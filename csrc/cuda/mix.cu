#include "architecture.cuh"
#include "mix.cuh"

namespace promptkernels::cuda {
namespace {

constexpr int kMixThreads = 128;
constexpr int kMostSources = 2 * kMostRows;

// A range of columns that starts at column `group` * `columns` of the stack; its blocks are numbered through.
struct MixPlan {
    index_t columns, blocks, tiles;  // of a group; of a group; of a warp, one after another
    bool streamed;
};

template <class A>
__device__ A* row_of(const Output<A>& out, index_t row, index_t columns) {
    return row < out.count ? out.first + row * columns : out.second + (row - out.count) * columns;
}

// Few rows, or double. Block.x: packs of columns of one group; block.y: R rows of the result, which a thread sums in
// registers.
template <class A, int R, int V>
__global__ void __launch_bounds__(kMixThreads)
    mix_fma_kernel(const PK_GRID_CONSTANT Stack z, const A* weights, index_t rows, MixPlan plan, Output<A> out) {
    constexpr int kBatch = 4;                           // rows whose loads are under way together
    alignas(16) __shared__ A weight[kMostSources * R];  // of row j in result i: [j * R + i]
    const index_t group = blockIdx.x / plan.blocks, first = static_cast<index_t>(blockIdx.y) * R;
    const int k = z.count();
    weights += (group * rows + first) * k;
    for (int e = static_cast<int>(threadIdx.x); e < k * R; e += kMixThreads) {
        const int j = e / R, i = e % R;
        weight[e] = first + i < rows ? weights[i * k + j] : A(0);
    }
    __syncthreads();
    const index_t within = (blockIdx.x % plan.blocks * kMixThreads + threadIdx.x) * V;
    if (within >= plan.columns) return;
    const index_t c = group * plan.columns + within, columns = z.rows[0].columns();
    A sum[R][V] = {};
    const A* of_source = weight;
    for (int s = 0; s < z.sources; ++s) {
        const Rows& x = z.rows[s];
        const int count = static_cast<int>(x.count);
        with_row_type<A>(x.type, [&](auto type) {
            constexpr DType kType = decltype(type)::value;
            using S = typename Storage<kType>::type;
            const S* from = static_cast<const S*>(x.data) + c;
            const A* scale = x.scale ? static_cast<const A*>(x.scale) + token_of(x, c) : nullptr;
            Pack<A, V> start{};
            if (x.reference) start = load_as<A, V, kType>(x.reference, c);
            for (int j = 0; j < count; j += kBatch) {
                Pack<S, V> raw[kBatch];
                A by[kBatch];
#pragma unroll
                for (int b = 0; b < kBatch; ++b) {
                    const index_t row = j + b < count ? j + b : count - 1;
                    raw[b] = read<S, V>(from + row * columns);
                    by[b] = scale ? scale[row * x.length] : A(1);
                }
#pragma unroll
                for (int b = 0; b < kBatch; ++b) {
                    if (j + b >= count) break;
                    Pack<A, V> value;
#pragma unroll
                    for (int v = 0; v < V; ++v)
                        value.v[v] = (static_cast<A>(Storage<kType>::widen(raw[b].v[v])) - start.v[v]) * by[b];
#pragma unroll
                    for (int i = 0; i < R; ++i)
#pragma unroll
                        for (int v = 0; v < V; ++v) sum[i][v] += of_source[(j + b) * R + i] * value.v[v];
                }
            }
        });
        of_source += count * R;
    }
#pragma unroll
    for (int i = 0; i < R; ++i) {
        if (first + i >= rows) break;
        Pack<A, V> pack;
#pragma unroll
        for (int v = 0; v < V; ++v) pack.v[v] = sum[i][v];
        write<A, V>(row_of(out, first + i, columns) + c, pack, plan.streamed);
    }
}

// Float, by tensor cores: weights on the left, eight rows of the stack at a time on the right. A warp has tiles of 32
// columns, which it copies to shared memory some stages ahead, whole lines of a row at a time. The lane with fragment
// column g takes the four columns of slot(g), so that results are written in whole sectors. Block.y: 16 M rows of the
// result. The sources are packed and have one type.
__device__ inline int slot(int g) { return g / 2 + g % 2 * 4; }

struct MixShared {
    static constexpr int kStages = 4, kMostSteps = kMostSources / 8;
    const char* data[kMostSources];                              // of a row; null for one that is not there
    const float* scale[kMostSources];                            // likewise, or null
    float centring[kMostSources];                                // -1 where the reference is subtracted, else 0
    alignas(16) float ring[kMixThreads / 32][kStages][8][8][4];  // pack p of row r lies at place p ^ r % 4
    float weight[4 * kMostSteps][2][128];                        // fragments, four numbers a lane: high and low parts

    static std::size_t bytes(index_t steps, int m) {
        return sizeof(MixShared) - static_cast<std::size_t>(4 * kMostSteps - steps * m) * sizeof(weight[0]);
    }
};

template <int V>
__device__ inline Pack<float, V> load(const void* data, DType type, index_t i) {
    Pack<float, V> pack;
    with_row_type<float>(type, [&](auto t) { pack = load_as<float, V, decltype(t)::value>(data, i); });
    return pack;
}

template <int M>
__global__ void __launch_bounds__(kMixThreads, M < 4 ? 4 : 2)
    mix_tf32_kernel(const PK_GRID_CONSTANT Stack z, const float* weights, index_t rows, MixPlan plan,
                    Output<float> out) {
    constexpr int V = 4, kWarps = kMixThreads / 32, kStages = MixShared::kStages;
    auto& shared = *reinterpret_cast<MixShared*>(dynamic_shared());
    auto& [data, scale, centring, ring, weight] = shared;
    const index_t group = blockIdx.x / plan.blocks, first = static_cast<index_t>(blockIdx.y) * (16 * M);
    const int me = static_cast<int>(threadIdx.x), warp = me / 32, lane = me % 32, g = lane / 4, t = lane % 4;
    const int k = z.count(), steps = (k + 7) / 8;
    const DType type = z.rows[0].type;
    const int size = static_cast<int>(size_of(type));
    const index_t columns = z.rows[0].columns();
    weights += (group * rows + first) * k;
    for (int e = me; e < steps * M * 128; e += kMixThreads) {
        const int r = e % 4, at = e / 4 % 32, m = e / 128 % M;
        const int row = m * 16 + r % 2 * 8 + at / 4, j = e / (128 * M) * 8 + r / 2 * 4 + at % 4;
        const Split parts = split(first + row < rows && j < k ? weights[row * k + j] : 0);
        weight[e / 128][0][e % 128] = parts.high;
        weight[e / 128][1][e % 128] = parts.low;
    }
    for (int j = me; j < steps * 8; j += kMixThreads) {
        const StackedRow row(z, j);
        data[j] = row.source ? static_cast<const char*>(row.source->data) + row.row * columns * size : nullptr;
        scale[j] = row.source && row.source->scale
                       ? static_cast<const float*>(row.source->scale) + row.row * row.source->length
                       : nullptr;
        centring[j] = row.source && row.source->reference ? -1.0f : 0.0f;
    }
    __syncthreads();
    // Columns as 32-bit numbers: they and what is added to them stay below 2^32 (bindings.h).
    constexpr unsigned kTile = kWarps * 8 * V;
    const auto begin = static_cast<unsigned>(group * plan.columns), end = begin + static_cast<unsigned>(plan.columns);
    const unsigned tiles = static_cast<unsigned>(plan.tiles), block = blockIdx.x % static_cast<unsigned>(plan.blocks);
    const unsigned base = begin + block * tiles * kTile + static_cast<unsigned>(warp) * (8 * V);
    const unsigned stop = base + tiles * kTile < end ? base + tiles * kTile : end;

    int ahead = 0;
    unsigned ahead_tile = base;
    auto fill = [&](int stage) {
        if (ahead_tile < stop) {
            const int p = lane % 8;
            const unsigned c = ahead_tile + static_cast<unsigned>(p * V);
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int r = lane / 8 + 4 * e;
                const char* row = data[ahead * 8 + r];
                void* to = ring[warp][stage][r][p ^ r % 4];
                const char* from = row + static_cast<index_t>(c) * size;
                size == 4 ? copy_to_shared<16>(to, from, row && c < end) : copy_to_shared<8>(to, from, row && c < end);
            }
            if (++ahead == steps) {
                ahead = 0;
                ahead_tile += kTile;
            }
        }
        end_copies();
    };
    for (int stage = 0; stage + 1 < kStages; ++stage) fill(stage);
    int stage = 0;
    for (unsigned tile = base; tile < stop; tile += kTile) {
        const unsigned c = tile + static_cast<unsigned>(slot(g) * V);
        Product sum[M][V] = {};
        const void* reference = z.reference();  // found again for each tile: it would take a register that spills
        const Pack<float, V> start = reference && c < end ? load<V>(reference, type, c) : Pack<float, V>{};
        const index_t token = z.scaled && c < end ? token_of(z.rows[0], c) : 0;
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            fill((stage + kStages - 1) % kStages);
            wait_for_copies<kStages - 1>();
            __syncwarp();  // other lanes have copied, too
            Pack<float, V> value[2];
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const int j = step * 8 + t + 4 * e;
                const float centre = centring[j];
                value[e] = load<V>(ring[warp][stage][t + 4 * e][slot(g) ^ t], type, 0);
#pragma unroll
                for (int v = 0; v < V; ++v) value[e].v[v] += centre * start.v[v];
                if (!z.scaled || !scale[j]) continue;
                const float by = scale[j][token];
#pragma unroll
                for (int v = 0; v < V; ++v) value[e].v[v] *= by;
            }
            __syncwarp();  // the stage is free
            stage = (stage + 1) % kStages;
            Right high[V], low[V];
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const Split upper = split(value[0].v[v]), lower = split(value[1].v[v]);
                high[v] = {{upper.high, lower.high}};
                low[v] = {{upper.low, lower.low}};
            }
#pragma unroll
            for (int m = 0; m < M; ++m) {
                Left weight_high, weight_low;
                memcpy(&weight_high, weight[step * M + m][0] + lane * 4, sizeof(Left));
                memcpy(&weight_low, weight[step * M + m][1] + lane * 4, sizeof(Left));
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    // From zero: tensor cores cut off what they add, floats round it.
                    Product product{};
                    add_product(product, weight_low, high[v]);
                    add_product(product, weight_high, low[v]);
                    add_product(product, weight_high, high[v]);
#pragma unroll
                    for (int r = 0; r < 4; ++r) sum[m][v].v[r] += product.v[r];
                }
            }
        }
        const index_t top = recomputed(first);  // addresses kept over all tiles would spill registers
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            const unsigned to = tile + static_cast<unsigned>(slot(2 * t + r) * V);
            if (to >= end) continue;
#pragma unroll
            for (int m = 0; m < 2 * M; ++m) {
                const index_t row = top + m * 8 + g;
                if (row >= rows) break;
                Pack<float, V> pack;
#pragma unroll
                for (int v = 0; v < V; ++v) pack.v[v] = sum[m / 2][v].v[m % 2 * 2 + r];
                write<float, V>(row_of(out, row, columns) + to, pack, plan.streamed);
            }
        }
    }
}

bool streamed(const Stack& z, index_t rows, std::size_t element) {
    return static_cast<std::size_t>(rows * z.rows[0].columns()) * element >= kStreamed;
}

template <class A, int R, int V>
void launch_fma(const Stack& z, const A* weights, index_t rows, index_t groups, const Output<A>& out,
                const Where& where) {
    const index_t columns = z.rows[0].columns() / groups;
    const MixPlan plan{columns, divide_up(columns, kMixThreads * V), 1, streamed(z, rows, sizeof(A))};
    const dim3 grid(static_cast<unsigned>(groups * plan.blocks), static_cast<unsigned>(divide_up(rows, R)));
    launch("mix", mix_fma_kernel<A, R, V>, grid, kMixThreads, where, z, weights, rows, plan, out);
}

template <int M>
void launch_tf32(const Stack& z, const float* weights, index_t rows, index_t groups, const Output<float>& out,
                 const Where& where) {
    constexpr index_t tile = kMixThreads / 32 * 32, resident = M < 4 ? 4 : 2;
    const index_t columns = z.rows[0].columns() / groups, tiles = divide_up(columns, tile);
    // All blocks run at once, each with as many tiles: the weights take their time.
    const index_t of_block = divide_up(tiles * groups, resident * multiprocessors());
    const MixPlan plan{columns, divide_up(tiles, of_block), of_block, streamed(z, rows, 4)};
    const dim3 grid(static_cast<unsigned>(groups * plan.blocks), static_cast<unsigned>(divide_up(rows, 16 * M)));
    const Block block(kMixThreads, MixShared::bytes(divide_up(z.count(), 8), M));
    launch("mix", mix_tf32_kernel<M>, grid, block, where, z, weights, rows, plan, out);
}

// Whether every row, read and written, can be taken V columns at a time.
template <class A>
bool all_in_packs(const Stack& z, const Output<A>& out, int v) {
    const index_t hidden = z.rows[0].hidden;
    bool all = in_packs(out.first, sizeof(A), hidden, v) && in_packs(out.second, sizeof(A), hidden, v);
    for (int s = 0; s < z.sources; ++s) all = all && in_packs(z.rows[s], v);
    return all;
}

}  // namespace

int runtime_version() { return CUDART_VERSION; }

void mix(const Stack& z, const float* weights, index_t rows, index_t groups, const Output<float>& out,
         const Where& where) {
    const bool packed = all_in_packs(z, out, 4);
    if (rows <= 8)
        (packed ? launch_fma<float, 8, 4> : launch_fma<float, 8, 1>)(z, weights, rows, groups, out, where);
    else if (!packed || !z.same_type)
        (packed ? launch_fma<float, 16, 4> : launch_fma<float, 16, 1>)(z, weights, rows, groups, out, where);
    else
        (rows <= 16   ? launch_tf32<1>
         : rows <= 32 ? launch_tf32<2>
                      : launch_tf32<4>)(z, weights, rows, groups, out, where);
}

void mix(const Stack& z, const double* weights, index_t rows, index_t groups, const Output<double>& out,
         const Where& where) {
    if (!all_in_packs(z, out, 2)) return launch_fma<double, 16, 1>(z, weights, rows, groups, out, where);
    if (rows <= 8) return launch_fma<double, 8, 2>(z, weights, rows, groups, out, where);
    launch_fma<double, 16, 2>(z, weights, rows, groups, out, where);
}

}  // namespace promptkernels::cuda
