// spade_obc_trace_block: checks, packing of H^-1 in double, rows in parallel.

#include <algorithm>

#include "core/checks.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "cpu/obc_kernel.h"

namespace spade {
namespace {

template <class T>
void obc_trace_block(const T* w, const T* hinv, int64_t R, int64_t D, int64_t block, int32_t* order,
                     T* loss, int32_t* info, int threads, const spade_progress_t* progress) {
  const char* function = "spade_obc_trace_block";
  check_size(function, "R", R);
  check_size(function, "D", D);
  check_size(function, "block", block, 1);
  SPADE_CHECK(D % block == 0, "%s: block must divide D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(block));
  check_threads(function, threads);
  check_pointer(function, "info", info, R);
  std::fill_n(info, R, 0);
  if (R == 0 || D == 0) return;
  check_pointer(function, "w", w, 1);
  check_pointer(function, "hinv", hinv, 1);
  check_pointer(function, "order", order, 1);
  check_pointer(function, "loss", loss, 1);
  check_finite(function, "w", w, R * D);
  check_finite(function, "hinv", hinv, D * D);

  const double d = static_cast<double>(D), work = static_cast<double>(R) * d * d * d / 6;
  threads = worth_waking(work, threads);
  Buffer<double> packed(packed_size(D));
  parallel_for(
      threads, tiles(D), [] { return 0; },
      [&](int, int64_t I) { pack_row(hinv, D, I, packed.get() + tile_offset(I, 0)); });
  Progress done(progress, R);
  ObcTask<double> task{};
  task.hinv = packed.get();
  task.D = D;
  task.steps = D / block;
  task.block = block;
  task.stopped = [](void* to) { return static_cast<Progress*>(to)->stopped(); };
  task.progress = &done;

  struct Scratch {
    ObcBlockScratch blocks;
    Buffer<double> w, loss;
  };
  parallel_for(
      threads, R,
      [&] { return Scratch{ObcBlockScratch(task), Buffer<double>(D), Buffer<double>(task.steps)}; },
      [&](Scratch& scratch, int64_t r) {
        if (done.cancelled()) return;
        std::copy_n(w + r * D, D, scratch.w.get());
        info[r] = SPADE_DISPATCH(obc_block_row(task, scratch.w.get(), scratch.blocks,
                                               order + r * task.steps, scratch.loss.get()));
        std::copy_n(scratch.loss.get(), task.steps, loss + r * task.steps);
        done.add(1);
      });
  done.finish();
}

}  // namespace
}  // namespace spade

spade_status_t spade_obc_trace_block_f32(const float* w, const float* hinv, int64_t R, int64_t D,
                                         int64_t block, int32_t* order, float* loss, int32_t* info,
                                         int threads, const spade_progress_t* progress) {
  return spade::guarded(
      [&] { spade::obc_trace_block(w, hinv, R, D, block, order, loss, info, threads, progress); });
}

spade_status_t spade_obc_trace_block_f64(const double* w, const double* hinv, int64_t R, int64_t D,
                                         int64_t block, int32_t* order, double* loss, int32_t* info,
                                         int threads, const spade_progress_t* progress) {
  return spade::guarded(
      [&] { spade::obc_trace_block(w, hinv, R, D, block, order, loss, info, threads, progress); });
}
