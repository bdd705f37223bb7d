#include "core/isa.h"

#include <cstring>

#include "core/environment.h"
#include "spade/spade.h"

namespace spade {
namespace {

Isa detect() {
  Isa best = Isa::plain;
#if defined(SPADE_X86_VARIANTS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) best = Isa::avx2;
  if (best == Isa::avx2 && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    best = Isa::avx512;
#endif
  if (const char* wanted = environment("SPADE_CPU_ISA")) {
    if (!std::strcmp(wanted, "plain")) return Isa::plain;
    if (!std::strcmp(wanted, "avx2") && best == Isa::avx512) return Isa::avx2;
  }
  return best;
}

}  // namespace

Isa isa() {
  static const Isa chosen = detect();
  return chosen;
}

}  // namespace spade

extern "C" const char* spade_cpu_isa(void) {
  switch (spade::isa()) {
    case spade::Isa::avx512:
      return "avx512";
    case spade::Isa::avx2:
      return "avx2";
    default:
      return "plain";
  }
}
