// Centred Gram matrix of up to kMostRows rows in one launch, and whatever follows from it in the block that ends last.
//
// Sums are acc within a thread (a few thousand terms at most) and double between threads and blocks, always in the same
// order, so every entry is summed alike: equal rows are exactly 0 apart.
#pragma once

#include <algorithm>
#include <cmath>

#include "products_fma.cuh"
#include "products_tf32.cuh"

namespace promptkernels::cuda {

// Columns in `groups` equal ranges, each with a Gram matrix of its own. The columns of a group are cut into parts, one
// block each; the parts are added up in bundles, then the bundles (more than one part only with a single group).
struct GramPlan {
    index_t groups, columns, parts, part_columns, bundle;
    int stages;  // of columns in shared memory
};

constexpr int kFinishShared = 2048;  // doubles

// Of the products; then, in the block that ends last, of the finish and the Gram matrix.
template <class Products>
std::size_t shared_bytes(int stages, int k) {
    const std::size_t products = Products::shared_bytes(stages);
    const std::size_t finish = (kFinishShared + static_cast<std::size_t>(k * k)) * sizeof(double);
    return std::max(products, finish);
}

template <class Products>
GramPlan plan_gram(const Stack& z, index_t groups) {
    // Fewer chunks are not worth the sum of one part more; so many parts are added up by one block.
    constexpr index_t least_chunks = Products::chunk < 1024 ? 2 : 1, few_parts = 128;
    GramPlan plan{groups, z.rows[0].columns() / groups, 1, 0, 1, Products::most_stages};
    const index_t chunks = divide_up(plan.columns, Products::chunk);
    index_t chunks_per_part = chunks;
    if (groups == 1) {
        chunks_per_part = divide_up(chunks, Products::blocks * multiprocessors());
        if (chunks_per_part < least_chunks) chunks_per_part = least_chunks;
        if (chunks_per_part > Products::most_chunks) chunks_per_part = Products::most_chunks;
        plan.parts = divide_up(chunks, chunks_per_part);
        plan.bundle = plan.parts;
        if (plan.parts > few_parts)
            for (plan.bundle = 1; plan.bundle * plan.bundle < plan.parts;) ++plan.bundle;
    }
    plan.part_columns = chunks_per_part * Products::chunk;
    const index_t shared = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor), reserved = 1024;  // of each block
    auto of_block = [&] { return static_cast<index_t>(shared_bytes<Products>(plan.stages, z.count())) + reserved; };
    if (Products::blocks * of_block() > shared) plan.stages = 1;
    return plan;
}

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

// The sum of `count` parts at one place, `stride` numbers apart.
__device__ inline double sum_of_parts(const double* parts, index_t count, index_t stride) {
    double sum = 0;
#pragma unroll 16
    for (index_t p = 0; p < count; ++p) sum += __ldcg(parts + p * stride);
    return sum;
}

// The finish is called once per group, by a whole block, with the Gram matrix (k, k) and kFinishShared doubles. Without
// `grams`, the matrix lies in shared memory.
template <class Products, class Finish>
__global__ void __launch_bounds__(kThreads, Products::blocks)
    gram_kernel(const PK_GRID_CONSTANT Stack z, GramPlan plan, double* partials, double* grams, unsigned* tickets,
                Finish finish) {
    auto& shared = *reinterpret_cast<typename Products::Shared*>(dynamic_shared());
    const int me = static_cast<int>(threadIdx.x), k = z.count();
    const index_t group = blockIdx.x / plan.parts, part = blockIdx.x % plan.parts;
    const index_t begin = group * plan.columns + part * plan.part_columns, group_end = (group + 1) * plan.columns;
    const index_t end = begin + plan.part_columns < group_end ? begin + plan.part_columns : group_end;

    double* const room = reinterpret_cast<double*>(dynamic_shared());
    double* gram = grams ? grams + group * k * k : room + kFinishShared;
    auto put = [&](int entry, double value) {
        const auto [row, column, repeated] = Products::pair(entry);
        if (repeated || row >= k || column >= k) return;
        gram[row * k + column] = value;
        gram[column * k + row] = value;
    };
    {
        Products products;
        products.add(z, begin, end, plan.stages, shared);
        double* mine = partials + part * Products::entries;
        products.each_sum(shared, [&](int entry, double value) {
            if (plan.parts > 1)
                mine[entry] = value;
            else
                put(entry, value);
        });
    }
    if (plan.parts > 1) {
        constexpr int entries = Products::entries;
        const index_t bundle = part / plan.bundle, first = bundle * plan.bundle;
        const index_t bundles = (plan.parts + plan.bundle - 1) / plan.bundle;
        const index_t members = first + plan.bundle < plan.parts ? plan.bundle : plan.parts - first;
        if (!last_of(tickets + 1 + bundle, members)) return;
        double* total = partials + first * entries;
        for (int e = me; e < entries; e += kThreads) total[e] = sum_of_parts(total + e, members, entries);
        if (bundles > 1 && !last_of(tickets, bundles)) return;
        for (int e = me; e < entries; e += kThreads) put(e, sum_of_parts(partials + e, bundles, plan.bundle * entries));
    }
    __syncthreads();
    finish(gram, room, group);
}

template <class Products, class Finish>
double* launch_gram(const char* what, const Stack& z, index_t groups, const Finish& finish, const Where& where) {
    const GramPlan plan = plan_gram<Products>(z, groups);
    double* partials = scratch<double>(plan.parts > 1 ? plan.parts * Products::entries : 0, where);
    // A single part is still being read from shared memory when its matrix is written.
    const bool shared = plan.parts > 1 && !Finish::keeps_gram;
    double* grams = scratch<double>(shared ? 0 : groups * z.count() * z.count(), where);
    launch(what, gram_kernel<Products, Finish>, static_cast<unsigned>(groups * plan.parts),
           Block(kThreads, shared_bytes<Products>(plan.stages, z.count())), where, z, plan, partials, grams,
           where.tickets, finish);
    return grams;
}

// Enqueues the Gram matrices of a stack and their finish; returns where the matrices (groups, k, k) will lie
// if the finish keeps them.
template <class A, class Finish>
double* gram(const char* what, const Stack& z, index_t groups, const Finish& finish, const Where& where) {
    const int k = z.count();
    if (k > kMostRows)
        throw std::invalid_argument(std::string("promptkernels cuda: ") + what + ": at most " +
                                    std::to_string(kMostRows) + " rows, got " + std::to_string(k));
    if constexpr (sizeof(A) == 8)
        return (k <= 16 ? launch_gram<FmaProducts<16>, Finish> : launch_gram<FmaProducts<64>, Finish>)(what, z, groups,
                                                                                                       finish, where);
    else if (k <= 8)
        return launch_gram<Tf32Products<1>>(what, z, groups, finish, where);
    else if (k <= 16)
        return launch_gram<Tf32Products<2>>(what, z, groups, finish, where);
    else if (k <= 32)
        return launch_gram<Tf32Products<4>>(what, z, groups, finish, where);
    else
        return launch_gram<Tf32Products<8>>(what, z, groups, finish, where);
}

}  // namespace promptkernels::cuda
