#include "mix.cuh"

namespace promptkernels::cuda {
namespace {

constexpr int kMixThreads = 128;
constexpr index_t kMostSources = 2 * kMostRows;

// Block.x: packs of columns of one group; block.y: R rows of the result, which a thread sums in registers.
template <class A, int R, int V>
__global__ void __launch_bounds__(kMixThreads)
    mix_kernel(Stack z, const A* weights, index_t rows, index_t group_columns, index_t group_blocks, Output<A> out) {
    alignas(16) __shared__ A weight[kMostSources * R];  // of row j in result i: [j * R + i]
    const index_t group = blockIdx.x / group_blocks, first = static_cast<index_t>(blockIdx.y) * R;
    const int k = z.count();
    weights += (group * rows + first) * k;
    for (int e = static_cast<int>(threadIdx.x); e < k * R; e += kMixThreads) {
        const int j = e / R, i = e % R;
        weight[e] = first + i < rows ? weights[i * k + j] : A(0);
    }
    __syncthreads();
    const index_t within = (blockIdx.x % group_blocks * kMixThreads + threadIdx.x) * V;
    if (within >= group_columns) return;
    const index_t c = group * group_columns + within, columns = z.rows[0].columns();
    A sum[R][V] = {};
    const A* of_source = weight;
    for (int s = 0; s < z.sources; ++s) {
        const Rows& x = z.rows[s];
        const int count = static_cast<int>(x.count);
        with_row_type<A>(x.type, [&](auto type) {
#pragma unroll 4
            for (int j = 0; j < count; ++j) {
                Pack<A, V> pack = centred<A, V, decltype(type)::value>(x, j, c);
                if (x.scale) {
                    const A scale = factor<A>(x, j, c);
#pragma unroll
                    for (int v = 0; v < V; ++v) pack.v[v] *= scale;
                }
#pragma unroll
                for (int i = 0; i < R; ++i)
#pragma unroll
                    for (int v = 0; v < V; ++v) sum[i][v] += of_source[j * R + i] * pack.v[v];
            }
        });
        of_source += count * R;
    }
#pragma unroll
    for (int i = 0; i < R; ++i) {
        const index_t row = first + i;
        if (row >= rows) break;
        A* to = row < out.count ? out.first + row * columns : out.second + (row - out.count) * columns;
        Pack<A, V> pack;
#pragma unroll
        for (int v = 0; v < V; ++v) pack.v[v] = sum[i][v];
        write<A, V>(to + c, pack);
    }
}

template <class A, int R, int V>
void launch_mix(const Stack& z, const A* weights, index_t rows, index_t groups, const Output<A>& out,
                const Where& where) {
    const index_t columns = z.rows[0].columns() / groups, blocks = divide_up(columns, kMixThreads * V);
    const dim3 grid(static_cast<unsigned>(groups * blocks), static_cast<unsigned>(divide_up(rows, R)));
    launch("mix", mix_kernel<A, R, V>, grid, kMixThreads, where, z, weights, rows, columns, blocks, out);
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
    if (!all_in_packs(z, out, 4)) return launch_mix<float, 16, 1>(z, weights, rows, groups, out, where);
    if (rows <= 8) return launch_mix<float, 8, 4>(z, weights, rows, groups, out, where);
    if (rows <= 16) return launch_mix<float, 16, 4>(z, weights, rows, groups, out, where);
    launch_mix<float, 32, 2>(z, weights, rows, groups, out, where);
}

void mix(const Stack& z, const double* weights, index_t rows, index_t groups, const Output<double>& out,
         const Where& where) {
    if (!all_in_packs(z, out, 2)) return launch_mix<double, 16, 1>(z, weights, rows, groups, out, where);
    if (rows <= 8) return launch_mix<double, 8, 2>(z, weights, rows, groups, out, where);
    launch_mix<double, 16, 2>(z, weights, rows, groups, out, where);
}

}  // namespace promptkernels::cuda
