// What exact OBC does alike for every pattern: checks, H^-1 in tiles, rows in parallel.
#pragma once

#include <algorithm>

#include "core/checks.h"
#include "core/finite.h"
#include "core/parallel.h"
#include "cpu/obc_kernel.h"

namespace spade {

// A layer R x D and where its eliminations go; see spade_obc_trace in spade.h.
template <class T>
struct ObcLayer {
  const char* function;
  const T *w, *hinv;
  int64_t R, D;
  int32_t* order;
  T* loss;
  int32_t* info;
  int threads;

  void check_sizes() const {
    check_size(function, "R", R);
    check_size(function, "D", D);
    check_threads(function, threads);
  }

  void check_arrays(int64_t steps) const {
    check_entries(function, "w", {R, D});
    check_entries(function, "hinv", {D, D});
    check_entries(function, "order", {R, steps});
  }

  // Clears info and leaves no more threads than are worth it; false if there is nothing to do.
  bool begin(int64_t steps) {
    check_arrays(steps);
    check_pointer(function, "info", info, R);
    std::fill_n(info, R, 0);
    if (R == 0 || steps == 0) return false;
    const double d = static_cast<double>(D);
    threads = worth_waking(static_cast<double>(R) * d * d * d / 6, threads);
    check_pointer(function, "w", w, 1);
    check_pointer(function, "hinv", hinv, 1);
    check_pointer(function, "order", order, 1);
    check_pointer(function, "loss", loss, 1);
    check_finite(function, "w", w, R * D, threads);
    check_finite(function, "hinv", hinv, D * D, threads);
    return true;
  }

  // info[r] = row(scratch, r) for every row, in type P; what `task` has of H^-1 and of progress is
  // set here.
  template <class P, class MakeScratch, class Row>
  void each_row(ObcTask<P>& task, const spade_progress_t* progress, MakeScratch&& make_scratch,
                Row&& row) const {
    const Buffer<P> packed(packed_size(D));
    parallel_for(
        threads, tiles(D), [] { return 0; },
        [&](int, int64_t I) { pack_row(I, packed.get() + tile_offset(I, 0)); });
    Progress done(progress, R);
    task.hinv = packed.get();
    task.stopped = [](void* to) { return static_cast<Progress*>(to)->stopped(); };
    task.progress = &done;
    parallel_for(threads, R, make_scratch, [&](auto& scratch, int64_t r) {
      if (done.cancelled()) return;
      info[r] = row(scratch, r);
      done.add(1);
    });
    done.finish();
  }

 private:
  // Row I of the tiles of H^-1, zeros beyond it; tiles hold 4 x 4 blocks.
  template <class P>
  void pack_row(int64_t I, P* to) const {
    for (int64_t J = 0; J <= I; ++J, to += kObcTileSize)
      for (int64_t r = 0; r < kObcTile; ++r)
        for (int64_t q = 0; q < 4; ++q) {
          const int64_t i = I * kObcTile + r, j = J * kObcTile + q * 4;
          P* block = to + (r / 4 * 4 + q) * 16 + r % 4 * 4;
          if (i < D && j + 4 <= D)
            std::copy_n(hinv + i * D + j, 4, block);
          else
            for (int64_t k = 0; k < 4; ++k)
              block[k] = i < D && j + k < D ? static_cast<P>(hinv[i * D + j + k]) : P(0);
        }
  }
};

}  // namespace spade
