// Pieces of H from tiles of grams (hessian_taps.cpp): sums in double, then rows of H.
#pragma once

#include <cstdint>
#include <vector>

#include "core/conv.h"
#include "core/isa.h"
#include "core/tap_plan.h"

namespace spade {

// Which tiles are summed for a pair of taps.
//
// Pairs of taps of one offset that count the same pixels share a sum: of 81 pairs of a 3 x 3
// convolution 49 differ.
struct AssemblyTables {
  // Tiles lie `tile` apart: those of the plan's grams, then those of their transposes.
  AssemblyTables(const TapPlan& plan, int64_t kernel_taps, int64_t tile);

  int64_t taps, block;  // most channels a side of a piece
  int64_t stride;       // of rows of a sum [block, stride]: whole vectors
  // Sum k is that of the tiles at terms[first[k]], ..., terms[first[k + 1] - 1].
  std::vector<int64_t> first, terms;
  std::vector<int64_t> sum_of;  // [taps, taps]: offset of the sum of a pair of taps

  int64_t sums() const { return static_cast<int64_t>(first.size()) - 1; }
  int64_t area() const { return block * stride; }
  // Entries that assemble() needs: sums [sums(), block, stride] and rows of H [stride, block,
  // taps].
  int64_t scratch() const { return sums() * area() + stride * block * taps; }
};

// H between channels c, ..., c + m - 1 and d, ..., d + n - 1, all their taps, and its mirror image.
template <class P, class S>
struct AssemblyTask {
  const AssemblyTables& tables;
  const P* tiles;  // at (c, d) of the first tile
  int64_t ld;      // row stride of tiles
  int64_t m, n;    // <= tables.block
  int64_t D;
  S *h, *mirror;  // H at (c, d) and, unless c = d, at (d, c)
  bool add;       // to H, else write it
};

#define SPADE_DECLARE_ASSEMBLY(isa)                                         \
  namespace isa {                                                           \
  void assemble(const AssemblyTask<float, float>& task, float* scratch);    \
  void assemble(const AssemblyTask<double, float>& task, float* scratch);   \
  void assemble(const AssemblyTask<float, double>& task, double* scratch);  \
  void assemble(const AssemblyTask<double, double>& task, double* scratch); \
  }
SPADE_FOR_EACH_ISA(SPADE_DECLARE_ASSEMBLY)
#undef SPADE_DECLARE_ASSEMBLY

}  // namespace spade
