#include "gram.cuh"

namespace promptkernels::cuda {
namespace {

constexpr int kTile = 32;          // columns staged at a time
constexpr int kRowsPerThread = 8;  // of a mix

// Block (part, pair of row blocks, group); thread (i, j) owns one pair of rows. acc within a tile, double across tiles.
template <class A>
__global__ void gram_kernel(GramPlan plan, Rows x, Rows y, double* partials) {
    __shared__ A left[kGramBlock][kTile + 1], right[kGramBlock][kTile + 1];
    const index_t blocks = (plan.m + kGramBlock - 1) / kGramBlock;
    const index_t row0 = blockIdx.y / blocks * kGramBlock, column0 = blockIdx.y % blocks * kGramBlock;
    if (plan.symmetric && column0 < row0) return;
    const index_t group_begin = blockIdx.z * plan.columns;
    const index_t begin = group_begin + plan.columns * blockIdx.x / plan.parts;
    const index_t end = group_begin + plan.columns * (blockIdx.x + 1) / plan.parts;
    const int me = static_cast<int>(threadIdx.x), i = me / kGramBlock, j = me % kGramBlock;
    double total = 0;
    for (index_t c = begin; c < end; c += kTile) {
        for (int k = me; k < kGramBlock * kTile; k += kThreads) {
            const int row = k / kTile, column = k % kTile;
            const bool inside = c + column < end;
            left[row][column] = inside && row0 + row < plan.n ? element<A>(x, row0 + row, c + column) : A(0);
            right[row][column] = inside && column0 + row < plan.m ? element<A>(y, column0 + row, c + column) : A(0);
        }
        __syncthreads();
        A sum = 0;
        for (int k = 0; k < kTile; ++k) sum += left[i][k] * right[j][k];
        total += sum;
        __syncthreads();
    }
    if (row0 + i < plan.n && column0 + j < plan.m)
        partials[((blockIdx.z * plan.parts + blockIdx.x) * plan.n + row0 + i) * plan.m + column0 + j] = total;
}

template <class A>
__global__ void squares_kernel(Rows x, double* squares) {
    double sum = 0;
    for (index_t c = threadIdx.x; c < x.columns(); c += kThreads) {
        const A value = element<A>(x, blockIdx.x, c);
        sum += static_cast<double>(value) * static_cast<double>(value);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

// Thread per column, a few output rows each.
template <class A>
__global__ void mix_kernel(Rows x, Rows y, const A* weights, index_t rows, index_t group_columns, A* out) {
    const index_t c = global_thread(), columns = x.columns(), k = x.count + y.count;
    const index_t first = static_cast<index_t>(blockIdx.y) * kRowsPerThread;
    if (c >= columns) return;
    weights += (c / group_columns * rows + first) * k;
    A sum[kRowsPerThread];
    for (int i = 0; i < kRowsPerThread; ++i) sum[i] = 0;
    for (index_t j = 0; j < k; ++j) {
        const A z = j < x.count ? element<A>(x, j, c) : element<A>(y, j - x.count, c);
#pragma unroll
        for (int i = 0; i < kRowsPerThread; ++i)
            if (first + i < rows) sum[i] += weights[i * k + j] * z;
    }
#pragma unroll
    for (int i = 0; i < kRowsPerThread; ++i)
        if (first + i < rows) out[(first + i) * columns + c] = sum[i];
}

}  // namespace

int runtime_version() { return CUDART_VERSION; }

GramPlan plan_gram(const Rows& x, const Rows* y, index_t groups) {
    GramPlan plan{x.count, y ? y->count : x.count, groups, x.columns() / groups, 1, !y};
    // Enough blocks to fill a device, as long as the partial sums stay small beside the input.
    index_t most = (index_t(1) << 18) / (plan.n * plan.m);
    if (most < 8) most = 8;
    plan.parts = (plan.columns + kThreads - 1) / kThreads;
    if (plan.parts > most) plan.parts = most;
    return plan;
}

void gram_partials(const GramPlan& plan, const Rows& x, const Rows& y, double* partials, cudaStream_t stream) {
    const index_t pairs = ((plan.n + kGramBlock - 1) / kGramBlock) * ((plan.m + kGramBlock - 1) / kGramBlock);
    const dim3 grid(static_cast<unsigned>(plan.parts), static_cast<unsigned>(pairs),
                    static_cast<unsigned>(plan.groups));
    if (wide(x.type))
        gram_kernel<double><<<grid, kThreads, 0, stream>>>(plan, x, y, partials);
    else
        gram_kernel<float><<<grid, kThreads, 0, stream>>>(plan, x, y, partials);
    check_launch("gram");
}

void squares(const Rows& x, double* out, cudaStream_t stream) {
    if (wide(x.type))
        squares_kernel<double><<<static_cast<unsigned>(x.count), kThreads, 0, stream>>>(x, out);
    else
        squares_kernel<float><<<static_cast<unsigned>(x.count), kThreads, 0, stream>>>(x, out);
    check_launch("squares");
}

void mix(const Rows& x, const Rows* y, const void* weights, index_t rows, index_t groups, void* out,
         cudaStream_t stream) {
    const dim3 grid(blocks_for(x.columns()), static_cast<unsigned>((rows + kRowsPerThread - 1) / kRowsPerThread));
    const Rows second = y ? *y : Rows{};
    const index_t group_columns = x.columns() / groups;
    if (wide(x.type))
        mix_kernel<<<grid, kThreads, 0, stream>>>(x, second, static_cast<const double*>(weights), rows, group_columns,
                                                  static_cast<double*>(out));
    else
        mix_kernel<<<grid, kThreads, 0, stream>>>(x, second, static_cast<const float*>(weights), rows, group_columns,
                                                  static_cast<float*>(out));
    check_launch("mix");
}

}  // namespace promptkernels::cuda
