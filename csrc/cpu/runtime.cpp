#include "runtime.h"

#include <dlfcn.h>

#include <cstdlib>
#include <new>

#include "promptkernels/cpu.h"

namespace promptkernels::cpu {
namespace {

// The entry points of an OpenMP runtime as GCC calls them; LLVM's and Intel's runtimes export the same names.
struct OpenMP {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;
    int (*thread_num)() = nullptr;
    int (*num_threads)() = nullptr;

    bool from(void* library) {
        parallel = reinterpret_cast<decltype(parallel)>(dlsym(library, "GOMP_parallel"));
        thread_num = reinterpret_cast<decltype(thread_num)>(dlsym(library, "omp_get_thread_num"));
        num_threads = reinterpret_cast<decltype(num_threads)>(dlsym(library, "omp_get_num_threads"));
        if (parallel && thread_num && num_threads) return true;
        parallel = nullptr;
        return false;
    }
};

// Looked up at run time instead of linked: a linked libgomp may be another copy than the one torch brought along (its
// wheels rename theirs), and two pools would fight for the cores. torch loads its own with global visibility.
const OpenMP& openmp() {
    static const OpenMP found = [] {
        OpenMP runtime;
        if (runtime.from(RTLD_DEFAULT)) return runtime;
        for (const char* name : {"libgomp.so.1", "libiomp5.so", "libomp.so"})
            if (void* library = dlopen(name, RTLD_LAZY | RTLD_NOLOAD); library && runtime.from(library)) return runtime;
        return OpenMP{};
    }();
    return found;
}

struct Job {
    index_t parts;
    void (*body)(void*, index_t);
    void* context;
};

void run_share(void* argument) {
    const Job& job = *static_cast<const Job*>(argument);
    const index_t threads = openmp().num_threads(), me = openmp().thread_num();
    for (index_t part = job.parts * me / threads; part < job.parts * (me + 1) / threads; ++part)
        job.body(job.context, part);
}

struct Buffer {
    void* data = nullptr;
    std::size_t size = 0;
    ~Buffer() { std::free(data); }
};

}  // namespace

void run_parts(index_t parts, int threads, void (*body)(void*, index_t), void* context) {
    if (parts < threads) threads = static_cast<int>(parts);
    if (threads <= 1 || !openmp().parallel) {
        for (index_t part = 0; part < parts; ++part) body(context, part);
        return;
    }
    Job job{parts, body, context};
    openmp().parallel(run_share, &job, static_cast<unsigned>(threads), 0);
}

void* scratch(Slot slot, std::size_t bytes) {
    thread_local Buffer buffers[static_cast<int>(Slot::count)];
    Buffer& buffer = buffers[static_cast<int>(slot)];
    if (buffer.size < bytes) {
        std::free(buffer.data);
        buffer.size = (bytes + 4095) / 4096 * 4096;
        buffer.data = std::aligned_alloc(64, buffer.size);
        if (!buffer.data) {
            buffer.size = 0;
            throw std::bad_alloc();
        }
    }
    return buffer.data;
}

std::string openmp_library() {
    Dl_info where;
    if (!openmp().parallel || !dladdr(reinterpret_cast<void*>(openmp().parallel), &where)) return "";
    return where.dli_fname;
}

}  // namespace promptkernels::cpu
