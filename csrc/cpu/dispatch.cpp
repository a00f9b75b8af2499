// Which instruction set's kernels run: the best this processor has, or a lower one on demand.
#include <cstdlib>
#include <stdexcept>

#include "kernels.h"

namespace promptkernels::cpu {

namespace baseline {
extern const Kernels table;
}
#ifdef PK_HAVE_X86_LEVELS
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
#endif

namespace {

struct Level {
    const char* name;
    const Kernels* table;
    bool (*runs)();
};

const Level kLevels[] = {
    {"baseline", &baseline::table, [] { return true; }},
#ifdef PK_HAVE_X86_LEVELS
    {"avx2", &avx2::table, [] { return bool(__builtin_cpu_supports("avx2")) && bool(__builtin_cpu_supports("fma")); }},
    {"avx512", &avx512::table,
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
     }},
#endif
};

const Level* best() {
    const Level* found = kLevels;
    for (const Level& level : kLevels)
        if (level.runs()) found = &level;
    return found;
}

const Level* named(const std::string& name) {
    for (const Level& level : kLevels)
        if (name == level.name) {
            if (level.runs()) return &level;
            throw std::invalid_argument("PROMPTKERNELS_CPU: this processor has no " + name);
        }
    throw std::invalid_argument("PROMPTKERNELS_CPU must be one of " + std::string(isa_compiled()) + ", got '" + name +
                                "'");
}

const Level*& chosen() {
    static const Level* level = [] {
        const char* name = std::getenv("PROMPTKERNELS_CPU");
        return name && *name ? named(name) : best();
    }();
    return level;
}

}  // namespace

const Kernels& kernels() { return *chosen()->table; }
const char* isa_chosen() { return chosen()->name; }
void choose_isa(const std::string& name) { chosen() = named(name); }

const char* isa_compiled() {
#ifdef PK_HAVE_X86_LEVELS
    return "baseline, avx2, avx512";
#else
    return "baseline";
#endif
}

}  // namespace promptkernels::cpu
