// What an elimination takes of each row, which kernels run it and how rows lie in scratch memory.
#pragma once

#include <algorithm>

#include "cuda/obc_chunk.h"
#include "cuda/obc_rows.cuh"

namespace spade::cuda::obc {

constexpr int kMostByWarp = 64, kMostSingle = 576, kMostColumns = 4608;
constexpr int kMostRows = 65535;  // of a launch: rows are gridDim.y of some

enum class ObcForm { kWarp, kSingle, kTiled };

inline ObcForm form_of(int64_t D) {
  return D <= kMostByWarp ? ObcForm::kWarp : D <= kMostSingle ? ObcForm::kSingle : ObcForm::kTiled;
}

struct Elimination {
  int64_t D, steps;
  int64_t n = 0, m = 0;  // m > 0: n of each m consecutive columns, steps = D / m * n

  int64_t groups() const { return m > 0 ? D / m : 0; }

  // Most columns that may still go after `step` steps: the pivots have left, and with n in each
  // group but n - 1, further pivots fill a group each, which takes its m - n others along.
  int64_t most_left(int64_t step) const {
    const int64_t full = m > 0 ? std::max<int64_t>(0, step - groups() * (n - 1)) : 0;
    return D - step - full * (m - n);
  }
};

// The arrays of `count` rows.
inline ObcRows lay_out(Workspace& workspace, ObcForm form, int64_t count, const Elimination& e) {
  ObcRows rows{};
  rows.D = static_cast<int>(e.D);
  rows.steps = static_cast<int>(e.steps);
  rows.n = static_cast<int>(e.n);
  rows.m = static_cast<int>(e.m);
  if (form != ObcForm::kWarp) rows.gone = workspace.take<int>(count * e.groups());
  if (form == ObcForm::kSingle) rows.panel = workspace.take<float>(count * e.steps * e.D);
  if (form != ObcForm::kTiled) return rows;
  const int64_t width = (e.D + kPackedTile - 1) / kPackedTile * kPackedTile, all = count * width;
  rows.width = static_cast<int>(width);
  rows.matrix_size = e.steps > kPanel ? packed_size(e.most_left(kPanel)) : 0;
  rows.matrix = workspace.take<float>(count * rows.matrix_size);
  rows.panel = workspace.take<float>(all * kPanel);
  rows.high = workspace.take<uint16_t>(all * kPanel);
  rows.low = workspace.take<uint16_t>(all * kPanel);
  rows.scale = workspace.take<float>(all);
  rows.w = workspace.take<float>(all);
  rows.diagonal = workspace.take<float>(all);
  rows.column = workspace.take<int>(all);
  rows.source = workspace.take<int>(all);
  rows.size = workspace.take<int>(count);
  return rows;
}

inline size_t bytes_of(ObcForm form, int64_t count, const Elimination& e) {
  Workspace counter;
  lay_out(counter, form, count, e);
  return counter.bytes();
}

inline int64_t chunk_rows(ObcForm form, int64_t R, const Elimination& e, size_t limit) {
  return chunk_of(R, kMostRows, limit, [&](int64_t count) { return bytes_of(form, count, e); });
}

}  // namespace spade::cuda::obc
