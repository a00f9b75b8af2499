// Python module promptkernels._C_cpu: addresses and sizes in, nothing of torch.
#include <vector>

#include "promptkernels/cpu.h"

namespace {
namespace backend = promptkernels::cpu;
using Where = int;  // threads
}  // namespace

#define PK_WHERE(where) where
#include "bindings.h"

namespace {

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

void compose(Address shared, Address u, Address v, index_t tasks, index_t length, index_t rank, index_t hidden,
             bool wide, Address ids, bool ids64, index_t batch, Address embeds, index_t text, int type, Address out,
             int threads) {
    std::vector<index_t> copy;
    const index_t* checked = checked_ids(ids, ids64, batch, tasks, copy);
    MaybeRelease release(batch * (length + text) * hidden);
    backend::compose(factors(shared, u, v, tasks, length, rank, hidden, wide), checked, batch, at(embeds), text,
                     static_cast<DType>(type), at(out), threads);
}

void compose_backward(Address grad, index_t grad_stride, int grad_type, Address shared, Address u, Address v,
                      index_t tasks, index_t length, index_t rank, index_t hidden, bool wide, Address ids, bool ids64,
                      index_t batch, Address d_shared, Address d_u, Address d_v, int threads) {
    std::vector<index_t> copy;
    const index_t* checked = checked_ids(ids, ids64, batch, tasks, copy);
    MaybeRelease release(batch * length * hidden);
    backend::compose_backward(at(grad), grad_stride, static_cast<DType>(grad_type),
                              factors(shared, u, v, tasks, length, rank, hidden, wide), checked, batch, at(d_shared),
                              at(d_u), at(d_v), threads);
}

py::dict build_info() {
    py::dict info;
    info["version"] = PK_VERSION;
#ifdef __clang__
    info["compiler"] = "clang " __clang_version__;
#else
    info["compiler"] = "gcc " __VERSION__;
#endif
    info["isa_compiled"] = backend::isa_compiled();
    info["isa"] = backend::isa_chosen();
    const std::string openmp = backend::openmp_library();
    info["openmp"] = openmp.empty() ? "none found: one thread" : openmp;
    return info;
}

}  // namespace

PYBIND11_MODULE(_C_cpu, module) {
    module.doc() = "CPU kernels of promptkernels; called by promptkernels.backends.cpu only.";
    add_common(module);
    module.def("compose", compose);
    module.def("compose_backward", compose_backward);
    module.def("build_info", build_info);
    module.def("choose_isa", backend::choose_isa, "Run another compiled instruction set; ValueError if it cannot run.");
    // A wrong PROMPTKERNELS_CPU is told at import, not at the first call.
    backend::isa_chosen();
}
