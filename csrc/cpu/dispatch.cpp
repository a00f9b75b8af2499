// Which instruction set's kernels run: the best this processor has, or a lower one on demand.
#ifdef PK_HAVE_X86_LEVELS
#include <cpuid.h>
#endif

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

#ifdef PK_HAVE_X86_LEVELS
// What this processor and its operating system can run. Not __builtin_cpu_supports: it is always false in what zig
// compiles, as the wheels are.
struct Processor {
    bool avx2 = false;  // with FMA
    bool avx512 = false;

    Processor() {
        unsigned a, b, c, d, saved, unused;
        constexpr unsigned ymm = 0x06, zmm = 0xE6;  // the registers of a vector, in XCR0
        constexpr unsigned f_bw_dq_vl = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
        if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_FMA)) return;
        __asm__("xgetbv" : "=a"(saved), "=d"(unused) : "c"(0));
        if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        avx2 = (b & bit_AVX2) && (saved & ymm) == ymm;
        avx512 = avx2 && (b & f_bw_dq_vl) == f_bw_dq_vl && (saved & zmm) == zmm;
    }
};

const Processor& processor() {
    static const Processor found;
    return found;
}
#endif

struct Level {
    const char* name;
    const Kernels* table;
    bool (*runs)();
};

const Level kLevels[] = {
    {"baseline", &baseline::table, [] { return true; }},
#ifdef PK_HAVE_X86_LEVELS
    {"avx2", &avx2::table, [] { return processor().avx2; }},
    {"avx512", &avx512::table, [] { return processor().avx512; }},
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
