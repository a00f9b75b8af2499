// Merging of task vectors over threads.
#include "kernels.h"
#include "runtime.h"

namespace promptkernels::cpu {
namespace {

// d_scale[t, l] = w_t dot[t, l]; d_weights[t] = sum_l s[t, l] dot[t, l].
template <class A>
void finish(const Rows& prompts, const A* scale, const A* weights, const double* dots, const MergeGradients& out) {
    for (index_t t = 0; t < prompts.count; ++t) {
        const A weight = weights ? weights[t] : A(1);
        double sum = 0;
        for (index_t l = 0; l < prompts.length; ++l) {
            const index_t i = t * prompts.length + l;
            if (out.scale) static_cast<A*>(out.scale)[i] = weight == A(0) ? A(0) : static_cast<A>(dots[i] * weight);
            sum += dots[i] * (scale ? scale[i] : A(1));
        }
        if (out.weights) static_cast<A*>(out.weights)[t] = static_cast<A>(sum);
    }
}

}  // namespace

void merge(const Rows& prompts, const void* weights, void* out, int threads) {
    const Parts parts(prompts.length, 1, 64, 1);
    for_parts(parts.count, threads_for(prompts.count * prompts.columns(), threads), [&](index_t part) {
        kernels().merge(prompts, weights, out, parts.begin(part), parts.end(part, prompts.length));
    });
}

void merge_backward(const void* grad, const Rows& prompts, const void* weights, const MergeGradients& out,
                    int threads) {
    const Parts parts(prompts.length, 1, 64, 1);
    double* dots = static_cast<double*>(
        scratch(Slot::partials, static_cast<std::size_t>(prompts.count * prompts.length) * sizeof(double)));
    for_parts(parts.count, threads_for(prompts.count * prompts.columns(), threads), [&](index_t part) {
        kernels().merge_backward(grad, prompts, weights, out, dots, parts.begin(part), parts.end(part, prompts.length));
    });
    if (!out.scale && !out.weights) return;
    if (wide(prompts.type))
        finish(prompts, static_cast<const double*>(prompts.scale), static_cast<const double*>(weights), dots, out);
    else
        finish(prompts, static_cast<const float*>(prompts.scale), static_cast<const float*>(weights), dots, out);
}

}  // namespace promptkernels::cpu
