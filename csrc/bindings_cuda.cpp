// Python module promptkernels._C_cuda: device addresses and a stream in, nothing of torch; importing it asks no driver.
#include <cstdint>

#include "promptkernels/cuda.h"

namespace {
namespace backend = promptkernels::cuda;
using Where = std::uintptr_t;  // cudaStream_t, given on as Stream
}  // namespace

#define PK_WHERE(where) reinterpret_cast<backend::Stream>(where)
#include "bindings.h"

namespace {

void compose(Address shared, Address u, Address v, index_t tasks, index_t length, index_t rank, index_t hidden,
             bool wide, Address ids, bool ids64, index_t batch, Address embeds, index_t text, int type, Address out,
             Where stream) {
    backend::compose(factors(shared, u, v, tasks, length, rank, hidden, wide), {at(ids), ids64, batch}, at(embeds),
                     text, static_cast<DType>(type), at(out), PK_WHERE(stream));
}

void compose_backward(Address grad, index_t grad_stride, int grad_type, Address shared, Address u, Address v,
                      index_t tasks, index_t length, index_t rank, index_t hidden, bool wide, Address ids, bool ids64,
                      index_t batch, Address d_shared, Address d_u, Address d_v, Where stream) {
    backend::compose_backward(at(grad), grad_stride, static_cast<DType>(grad_type),
                              factors(shared, u, v, tasks, length, rank, hidden, wide), {at(ids), ids64, batch},
                              at(d_shared), at(d_u), at(d_v), PK_WHERE(stream));
}

py::dict build_info() {
    py::dict info;
    info["version"] = PK_VERSION;
    info["cuda"] = std::to_string(backend::runtime_version() / 1000) + "." +
                   std::to_string(backend::runtime_version() % 1000 / 10);
    info["architectures"] = PK_CUDA_ARCHS;
    return info;
}

}  // namespace

PYBIND11_MODULE(_C_cuda, module) {
    module.doc() = "CUDA kernels of promptkernels; called by promptkernels.backends.cuda only.";
    add_common(module);
    module.def("compose", compose);
    module.def("compose_backward", compose_backward);
    module.def("build_info", build_info);
}
