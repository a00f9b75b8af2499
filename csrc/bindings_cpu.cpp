// Python module promptkernels._C_cpu: addresses and sizes in, nothing of torch.
#include <pybind11/pybind11.h>

#include <optional>
#include <vector>

#include "promptkernels/cpu.h"

namespace py = pybind11;
namespace cpu = promptkernels::cpu;
using promptkernels::DType;
using promptkernels::index_t;
using promptkernels::Rows;
using Address = std::uintptr_t;

namespace {

void* at(Address address) { return reinterpret_cast<void*>(address); }

// Another Python thread may run meanwhile, where the work is long enough to pay for the hand-over.
class MaybeRelease {
public:
    explicit MaybeRelease(index_t operations) {
        if (operations > 200'000) release_.emplace();
    }

private:
    std::optional<py::gil_scoped_release> release_;
};

Rows rows(Address data, Address reference, Address scale, index_t count, index_t length, index_t hidden, int type) {
    Rows made;
    made.data = at(data);
    made.reference = at(reference);
    made.scale = at(scale);
    made.count = count;
    made.length = length;
    made.hidden = hidden;
    made.type = static_cast<DType>(type);
    return made;
}

// Task ids as 64-bit numbers, every one of them checked.
const index_t* checked_ids(Address ids, bool ids64, index_t batch, index_t tasks, std::vector<index_t>& copy) {
    const index_t* found = static_cast<const index_t*>(at(ids));
    if (!ids64) {
        const std::int32_t* narrow = static_cast<const std::int32_t*>(at(ids));
        copy.assign(narrow, narrow + batch);
        found = copy.data();
    }
    for (index_t b = 0; b < batch; ++b)
        if (found[b] < 0 || found[b] >= tasks)
            throw py::index_error("task_ids holds " + std::to_string(found[b]) + ", but valid task ids are 0.." +
                                  std::to_string(tasks - 1));
    return found;
}

cpu::Factors factors(Address shared, Address u, Address v, index_t tasks, index_t length, index_t rank, index_t hidden,
                     bool wide) {
    return {at(shared), at(u), at(v), tasks, length, rank, hidden, wide};
}

void similarity(Address prompts, Address reference, Address others, Address scale, index_t n, index_t m, index_t length,
                index_t hidden, int type, int metric, double eps, Address out, Address left_norm, Address right_norm,
                int threads) {
    MaybeRelease release(n * length * hidden);
    const Rows left = rows(prompts, reference, scale, n, length, hidden, type);
    const Rows right = rows(others, reference, 0, m, length, hidden, type);
    cpu::similarity(left, others ? &right : nullptr, static_cast<promptkernels::Metric>(metric), eps, at(out),
                    at(left_norm), at(right_norm), threads);
}

void similarity_backward(Address grad, Address prompts, Address reference, Address others, Address scale, index_t n,
                         index_t m, index_t length, index_t hidden, int type, int metric, double eps, Address similarity,
                         Address left_norm, Address right_norm, Address d_prompts, Address d_reference, Address d_others,
                         Address d_scale, int threads) {
    MaybeRelease release(n * length * hidden);
    const Rows left = rows(prompts, reference, scale, n, length, hidden, type);
    const Rows right = rows(others, reference, 0, m, length, hidden, type);
    cpu::similarity_backward(at(grad), left, others ? &right : nullptr, static_cast<promptkernels::Metric>(metric), eps,
                             at(similarity), at(left_norm), at(right_norm),
                             {at(d_prompts), at(d_reference), at(d_others), at(d_scale)}, threads);
}

void svgd(Address particles, Address scores, Address reference, index_t m, index_t length, index_t hidden, int type,
          int scores_type, int convention, double bandwidth, bool per_token, Address phi, Address kernel, Address h,
          int threads) {
    MaybeRelease release(m * length * hidden);
    cpu::svgd(rows(particles, reference, 0, m, length, hidden, type), rows(scores, 0, 0, m, length, hidden, scores_type),
              static_cast<promptkernels::Bandwidth>(convention), bandwidth, per_token, at(phi), at(kernel), at(h),
              threads);
}

void svgd_backward(Address grad, Address particles, Address scores, Address reference, index_t m, index_t length,
                   index_t hidden, int grad_type, int type, int scores_type, Address kernel, Address h, bool per_token,
                   Address d_particles, Address d_scores, int threads) {
    MaybeRelease release(m * length * hidden);
    cpu::svgd_backward(rows(grad, 0, 0, m, length, hidden, grad_type),
                       rows(particles, reference, 0, m, length, hidden, type),
                       rows(scores, 0, 0, m, length, hidden, scores_type), at(kernel), at(h), per_token, at(d_particles),
                       at(d_scores), threads);
}

void compose(Address shared, Address u, Address v, index_t tasks, index_t length, index_t rank, index_t hidden,
             bool wide, Address ids, bool ids64, index_t batch, Address embeds, index_t text, int type, Address out,
             int threads) {
    std::vector<index_t> copy;
    const index_t* checked = checked_ids(ids, ids64, batch, tasks, copy);
    MaybeRelease release(batch * (length + text) * hidden);
    cpu::compose(factors(shared, u, v, tasks, length, rank, hidden, wide), checked, batch, at(embeds), text,
                 static_cast<DType>(type), at(out), threads);
}

void compose_backward(Address grad, index_t grad_stride, int grad_type, Address shared, Address u, Address v,
                      index_t tasks, index_t length, index_t rank, index_t hidden, bool wide, Address ids, bool ids64,
                      index_t batch, Address d_shared, Address d_u, Address d_v, int threads) {
    std::vector<index_t> copy;
    const index_t* checked = checked_ids(ids, ids64, batch, tasks, copy);
    MaybeRelease release(batch * length * hidden);
    cpu::compose_backward(at(grad), grad_stride, static_cast<DType>(grad_type),
                          factors(shared, u, v, tasks, length, rank, hidden, wide), checked, batch, at(d_shared), at(d_u),
                          at(d_v), threads);
}

void merge(Address reference, Address prompts, Address scale, Address weights, index_t tasks, index_t length,
           index_t hidden, int type, Address out, int threads) {
    MaybeRelease release(tasks * length * hidden);
    cpu::merge(rows(prompts, reference, scale, tasks, length, hidden, type), at(weights), at(out), threads);
}

void merge_backward(Address grad, Address reference, Address prompts, Address scale, Address weights, index_t tasks,
                    index_t length, index_t hidden, int type, Address d_reference, Address d_prompts, Address d_scale,
                    Address d_weights, int threads) {
    MaybeRelease release(tasks * length * hidden);
    cpu::merge_backward(at(grad), rows(prompts, reference, scale, tasks, length, hidden, type), at(weights),
                        {at(d_reference), at(d_prompts), at(d_scale), at(d_weights)}, threads);
}

void select_group(Address similarity, bool wide, index_t n, index_t target, Address chosen) {
    cpu::select_group(at(similarity), wide, n, target, static_cast<bool*>(at(chosen)));
}

py::dict build_info() {
    py::dict info;
    info["version"] = PK_VERSION;
#ifdef __clang__
    info["compiler"] = "clang " __clang_version__;
#else
    info["compiler"] = "gcc " __VERSION__;
#endif
    info["isa_compiled"] = cpu::isa_compiled();
    info["isa"] = cpu::isa_chosen();
    const std::string openmp = cpu::openmp_library();
    info["openmp"] = openmp.empty() ? "none found: one thread" : openmp;
    return info;
}

}  // namespace

PYBIND11_MODULE(_C_cpu, module) {
    module.doc() = "CPU kernels of promptkernels; called by promptkernels.backends.cpu only.";
    module.def("similarity", similarity);
    module.def("similarity_backward", similarity_backward);
    module.def("svgd", svgd);
    module.def("svgd_backward", svgd_backward);
    module.def("compose", compose);
    module.def("compose_backward", compose_backward);
    module.def("merge", merge);
    module.def("merge_backward", merge_backward);
    module.def("select_group", select_group);
    module.def("build_info", build_info);
    module.def("choose_isa", cpu::choose_isa, "Run another compiled instruction set; ValueError if it cannot run here.");
    // A wrong PROMPTKERNELS_CPU is told at import, not at the first call.
    cpu::isa_chosen();
}
