// Which compiled variant of the CPU kernels runs on this machine.
//
// Kernel files (csrc/cpu/*_kernel.cpp) are compiled once per instruction set, each time with
// SPADE_ISA = plain, avx2 or avx512 as the inner namespace; SPADE_DISPATCH calls the right one.
#pragma once

namespace spade {

enum class Isa { plain, avx2, avx512 };

// The best compiled set that this CPU has; the environment variable SPADE_CPU_ISA can only lower
// it.
Isa isa();

}  // namespace spade

#if defined(SPADE_X86_VARIANTS)
#define SPADE_DISPATCH(call)                             \
  (::spade::isa() == ::spade::Isa::avx512 ? avx512::call \
   : ::spade::isa() == ::spade::Isa::avx2 ? avx2::call   \
                                          : plain::call)
#else
#define SPADE_DISPATCH(call) (plain::call)
#endif

// declare(isa) for each instruction set: declarations of the functions of a kernel file.
#define SPADE_FOR_EACH_ISA(declare) declare(plain) declare(avx2) declare(avx512)
