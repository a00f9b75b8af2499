#include "simd.h"

namespace promptkernels::cpu::PK_ISA {

extern const Kernels table;
const Kernels table = {gram,    against_one, squares,          mix,   token_means,   unscaled_dot, scale_and_subtract,
                       compose, append_text, compose_backward, merge, merge_backward};

}  // namespace promptkernels::cpu::PK_ISA
