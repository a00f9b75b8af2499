// Python module promptkernels._C_cuda: device addresses and a stream in, nothing of torch; importing it asks no driver.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "promptkernels/cuda.h"

namespace {

namespace backend = promptkernels::cuda;

// What Python gives every call: a stream, a function bytes -> address of device memory that it keeps for the length of
// the call (in stream order), and kTickets zeros of 4 bytes on the device.
struct Place {
    std::uintptr_t stream;
    pybind11::function allocate;
    std::uintptr_t tickets;

    backend::Where where() const {
        backend::Where made;
        made.stream = reinterpret_cast<void*>(stream);
        made.allocate = [](void* place, std::size_t bytes) {
            const pybind11::gil_scoped_acquire held;
            const auto address = static_cast<const Place*>(place)->allocate(bytes).cast<std::uintptr_t>();
            return reinterpret_cast<void*>(address);
        };
        made.context = const_cast<Place*>(this);
        made.tickets = reinterpret_cast<unsigned*>(tickets);
        return made;
    }
};
using Where = const Place&;

}  // namespace

#define PK_WHERE(place) place.where()
#include "bindings.h"

namespace {

void compose(Address shared, Address u, Address v, index_t tasks, index_t length, index_t rank, index_t hidden,
             bool wide, Address ids, bool ids64, index_t batch, Address embeds, index_t text, int type, Address out,
             Where place) {
    backend::compose(factors(shared, u, v, tasks, length, rank, hidden, wide), {at(ids), ids64, batch}, at(embeds),
                     text, static_cast<DType>(type), at(out), PK_WHERE(place));
}

void compose_backward(Address grad, index_t grad_stride, int grad_type, Address shared, Address u, Address v,
                      index_t tasks, index_t length, index_t rank, index_t hidden, bool wide, Address ids, bool ids64,
                      index_t batch, Address d_shared, Address d_u, Address d_v, Where place) {
    backend::compose_backward(at(grad), grad_stride, static_cast<DType>(grad_type),
                              factors(shared, u, v, tasks, length, rank, hidden, wide), {at(ids), ids64, batch},
                              at(d_shared), at(d_u), at(d_v), PK_WHERE(place));
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

// The emulated module is this one, with its kernels compiled for the host.
#ifndef PK_MODULE
#define PK_MODULE _C_cuda
#endif

PYBIND11_MODULE(PK_MODULE, module) {
    module.doc() = "CUDA kernels of promptkernels; called by promptkernels.backends.cuda only.";
    py::class_<Place>(module, "Place").def(py::init<std::uintptr_t, py::function, std::uintptr_t>());
    module.attr("TICKETS") = backend::kTickets;
    module.attr("TICKET_SETS") = backend::kTicketSets;
    module.def("ticket_sets", [] { return reinterpret_cast<std::uintptr_t>(backend::ticket_sets()); });
    module.attr("MOST_ROWS") = backend::kMostRows;
    add_common(module);
    module.def("compose", compose);
    module.def("compose_backward", compose_backward);
    module.def("build_info", build_info);
}
