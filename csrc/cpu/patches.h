// Rows of X of a convolution or a linear layer: one position's patch each, copied to lie as the
// gram kernel reads them.
#pragma once

#include <vector>

#include "core/conv.h"
#include "cpu/gram.h"

namespace spade {

constexpr int64_t kOverrun = 4;  // entries that are copied at a time, so the end of a row may spill

// A row stride for D columns that does not map rows to few sets of the cache.
inline int64_t row_stride(int64_t D) { return ((D + 15) / 16 | 1) * 16; }

template <class T>
class PatchRows {
 public:
  PatchRows(const T* x, const spade_conv2d_t& conv);

  // Columns are (tap, channel) where channels lie together, else (channel, tap) as those of H.
  bool taps_first() const { return taps_first_; }

  // Distance of the rows if they lie in memory as they are, else 0; row 0 is at `rows`.
  int64_t in_place_stride() const { return in_place_stride_; }
  const T* rows() const { return x_; }

  // Rows [first, first + count) of a group to to[0], to[ld], ...; rows are written in order, and
  // less than kOverrun entries behind each are overwritten.
  void fill(int64_t group, int64_t first, int64_t count, T* to, int64_t ld) const;

  // The same rows to the first ones of packed tiles as wide as kGramColumns.
  void pack(int64_t group, int64_t first, int64_t count, const PackedRows<T>& to,
            int threads) const;

 private:
  struct Run {  // columns that lie together in memory
    int64_t offset, length;
  };

  int64_t column(int64_t channel, int64_t tap) const {
    return taps_first_ ? tap * sizes_.channels + channel : channel * sizes_.taps + tap;
  }
  void transpose(const T* from, int64_t count, T* to, int64_t ld) const;
  void fill_clipped(const T* image, int64_t y, int64_t z, T* to) const;

  const T* const x_;
  const spade_conv2d_t conv_;
  const ConvSizes sizes_;
  const bool taps_first_;
  bool transposes_;  // columns are far apart, positions lie together or few entries apart
  int64_t in_place_stride_ = 0;
  std::vector<Run> runs_;
  int64_t reach_ = 0;   // entries behind the patch's first one that copying its runs may read
  int64_t extent_ = 0;  // entries of x
};

}  // namespace spade
