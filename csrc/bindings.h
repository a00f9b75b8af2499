// The functions that both native modules offer alike. The including file names the namespace `backend`, the type
// `Where` of the last argument (how many threads, or which stream), and PK_WHERE, which turns it into what the backend
// takes.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>

#include "promptkernels/types.h"

namespace {

namespace py = pybind11;
using promptkernels::DType;
using promptkernels::Factors;
using promptkernels::index_t;
using promptkernels::Rows;
using Address = std::uintptr_t;

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
    if (length * hidden > 0x7FFFFFFF) throw std::invalid_argument("prompts of 2^31 numbers or more are not supported");
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

Factors factors(Address shared, Address u, Address v, index_t tasks, index_t length, index_t rank, index_t hidden,
                bool wide) {
    return {at(shared), at(u), at(v), tasks, length, rank, hidden, wide};
}

void similarity(Address prompts, Address reference, Address others, Address scale, index_t n, index_t m, index_t length,
                index_t hidden, int type, int metric, double eps, Address out, Address left_norm, Address right_norm,
                Address z, Where where) {
    MaybeRelease release(n * length * hidden);
    const Rows left = rows(prompts, reference, scale, n, length, hidden, type);
    const Rows right = rows(others, reference, 0, m, length, hidden, type);
    backend::similarity(left, others ? &right : nullptr, static_cast<promptkernels::Metric>(metric), eps, at(out),
                        at(left_norm), at(right_norm), at(z), PK_WHERE(where));
}

void similarity_backward(Address grad, Address prompts, Address reference, Address others, Address scale, index_t n,
                         index_t m, index_t length, index_t hidden, int type, int metric, double eps,
                         Address similarity, Address left_norm, Address right_norm, Address d_prompts,
                         Address d_reference, Address d_others, Address d_scale, Where where) {
    MaybeRelease release(n * length * hidden);
    const Rows left = rows(prompts, reference, scale, n, length, hidden, type);
    const Rows right = rows(others, reference, 0, m, length, hidden, type);
    backend::similarity_backward(at(grad), left, others ? &right : nullptr, static_cast<promptkernels::Metric>(metric),
                                 eps, at(similarity), at(left_norm), at(right_norm),
                                 {at(d_prompts), at(d_reference), at(d_others), at(d_scale)}, PK_WHERE(where));
}

void svgd(Address particles, Address scores, index_t m, index_t length, index_t hidden, int type, int scores_type,
          int convention, double bandwidth, bool per_token, Address phi, Address kernel, Address h, Where where) {
    MaybeRelease release(m * length * hidden);
    backend::svgd(rows(particles, 0, 0, m, length, hidden, type), rows(scores, 0, 0, m, length, hidden, scores_type),
                  static_cast<promptkernels::Bandwidth>(convention), bandwidth, per_token, at(phi), at(kernel), at(h),
                  PK_WHERE(where));
}

void svgd_backward(Address grad, Address particles, Address scores, index_t m, index_t length, index_t hidden,
                   int grad_type, int type, int scores_type, Address kernel, Address h, bool per_token,
                   Address d_particles, Address d_scores, Where where) {
    MaybeRelease release(m * length * hidden);
    backend::svgd_backward(rows(grad, 0, 0, m, length, hidden, grad_type),
                           rows(particles, 0, 0, m, length, hidden, type),
                           rows(scores, 0, 0, m, length, hidden, scores_type), at(kernel), at(h), per_token,
                           at(d_particles), at(d_scores), PK_WHERE(where));
}

void merge(Address reference, Address prompts, Address scale, Address weights, index_t tasks, index_t length,
           index_t hidden, int type, Address out, Where where) {
    MaybeRelease release(tasks * length * hidden);
    backend::merge(rows(prompts, reference, scale, tasks, length, hidden, type), at(weights), at(out), PK_WHERE(where));
}

void merge_backward(Address grad, Address reference, Address prompts, Address scale, Address weights, index_t tasks,
                    index_t length, index_t hidden, int type, Address d_reference, Address d_prompts, Address d_scale,
                    Address d_weights, Where where) {
    MaybeRelease release(tasks * length * hidden);
    backend::merge_backward(at(grad), rows(prompts, reference, scale, tasks, length, hidden, type), at(weights),
                            {at(d_reference), at(d_prompts), at(d_scale), at(d_weights)}, PK_WHERE(where));
}

void select_group(Address similarity, bool wide, index_t n, index_t target, Address chosen, Where where) {
    backend::select_group(at(similarity), wide, n, target, static_cast<bool*>(at(chosen)), PK_WHERE(where));
}

// Raised with every change of the functions' arguments; promptkernels/backends/native.py holds the same number, so that
// a module left over from another version is not called with arguments it does not expect.
constexpr int kInterface = 5;

void add_common(py::module_& module) {
    module.attr("INTERFACE") = kInterface;
    module.def("similarity", similarity);
    module.def("similarity_backward", similarity_backward);
    module.def("svgd", svgd);
    module.def("svgd_backward", svgd_backward);
    module.def("merge", merge);
    module.def("merge_backward", merge_backward);
    module.def("select_group", select_group);
}

}  // namespace
