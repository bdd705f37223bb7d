// One piece of H from tiles of grams (hessian_taps.cpp): sums in double, then rows of H.
#pragma once

#include <cstdint>
#include <vector>

#include "core/conv.h"

namespace spade {

constexpr int64_t kAssemblyLanes = 8;  // doubles of the widest vector: padding of rows of entries

// H between channels c, ..., c + m - 1 and d, ..., d + n - 1, all their taps, and its mirror image.
template <class S>
struct AssemblyTask {
  const double* tiles;  // at (c, d) of the first tile
  int64_t ld;           // row stride of tiles
  // Tiles whose sum is H[(c, t), (d, u)]: terms[first[q]], ..., terms[first[q + 1] - 1] from
  // `tiles`, q = t taps + u.
  const int64_t *first, *terms;
  int64_t taps, block, m, n;  // m, n <= block
  // Places of the entries [t, u, i, j] of a row of H: of (c, t) by j, u; of (d, u) by i, t.
  const int32_t *rows, *columns;  // [taps, block, taps]
  int64_t D;
  S *h, *mirror;  // H at (c, d) and, unless c = d, at (d, c)
  bool add;       // to H, else write it

  int64_t stride() const { return (block + kAssemblyLanes - 1) / kAssemblyLanes * kAssemblyLanes; }
  int64_t area() const { return block * stride(); }
};

// entries: scratch [taps, taps, block, stride()].
#define SPADE_DECLARE_ASSEMBLY(isa)                                 \
  namespace isa {                                                   \
  void assemble(const AssemblyTask<float>& task, float* entries);   \
  void assemble(const AssemblyTask<double>& task, double* entries); \
  }
SPADE_DECLARE_ASSEMBLY(plain)
SPADE_DECLARE_ASSEMBLY(avx2)
SPADE_DECLARE_ASSEMBLY(avx512)
#undef SPADE_DECLARE_ASSEMBLY

}  // namespace spade
