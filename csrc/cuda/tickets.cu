// Sets of tickets in static memory: zero when the module is loaded, and never in the hands of an allocator that could
// give them to somebody else, as torch's does with what it allocates for a CUDA graph.
#include "device.cuh"

namespace promptkernels::cuda {
namespace {

__device__ unsigned sets[kTicketSets * kTickets];

}  // namespace

unsigned* ticket_sets() {
    void* address = nullptr;
    if (const cudaError_t status = cudaGetSymbolAddress(&address, sets); status != cudaSuccess)
        throw std::runtime_error(std::string("tickets: ") + cudaGetErrorString(status));
    return static_cast<unsigned*>(address);
}

}  // namespace promptkernels::cuda
