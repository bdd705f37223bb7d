// spade_obc_trace and spade_obc_trace_nm: checks, packing of H^-1, rows in parallel.

#include <algorithm>

#include "core/checks.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "cpu/obc_kernel.h"

namespace spade {
namespace {

template <class T>
void obc_trace(const char* function, const T* w, const T* hinv, int64_t R, ObcTask<T> task,
               int32_t* order, T* loss, int32_t* info, int threads,
               const spade_progress_t* progress) {
  const int64_t D = task.D;
  check_size(function, "R", R);
  check_size(function, "D", D);
  SPADE_CHECK(task.m >= 0 && task.n >= 0 && task.n <= std::max<int64_t>(task.m, 0),
              "%s: n must be in [0, m], got n = %lld, m = %lld", function,
              static_cast<long long>(task.n), static_cast<long long>(task.m));
  SPADE_CHECK(task.m == 0 || D % task.m == 0, "%s: m must divide D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(task.m));
  if (task.m > 0) task.steps = D / task.m * task.n;
  SPADE_CHECK(task.steps >= 0 && task.steps <= D, "%s: steps must be in [0, D = %lld], got %lld",
              function, static_cast<long long>(D), static_cast<long long>(task.steps));
  check_threads(function, threads);
  check_pointer(function, "info", info, R);
  std::fill_n(info, R, 0);
  if (R == 0 || task.steps == 0) return;
  check_pointer(function, "w", w, 1);
  check_pointer(function, "hinv", hinv, 1);
  check_pointer(function, "order", order, 1);
  check_pointer(function, "loss", loss, 1);
  check_finite(function, "w", w, R * D);
  check_finite(function, "hinv", hinv, D * D);

  const double d = static_cast<double>(D), work = static_cast<double>(R) * d * d * d / 6;
  threads = worth_waking(work, threads);
  Buffer<T> packed(packed_size(D));
  parallel_for(
      threads, tiles(D), [] { return 0; },
      [&](int, int64_t I) { pack_row(hinv, D, I, packed.get() + tile_offset(I, 0)); });
  task.hinv = packed.get();

  Progress done(progress, R);
  task.stopped = [](void* to) { return static_cast<Progress*>(to)->stopped(); };
  task.progress = &done;
  parallel_for(
      threads, R, [&] { return ObcScratch<T>(task); },
      [&](ObcScratch<T>& scratch, int64_t r) {
        if (done.cancelled()) return;
        info[r] = SPADE_DISPATCH(
            obc_row(task, w + r * D, scratch, order + r * task.steps, loss + r * task.steps));
        done.add(1);
      });
  done.finish();
}

}  // namespace
}  // namespace spade

#define SPADE_DEFINE_OBC_TRACE(suffix, T)                                                          \
  spade_status_t spade_obc_trace_##suffix(const T* w, const T* hinv, int64_t R, int64_t D,         \
                                          int64_t steps, int32_t* order, T* loss, int32_t* info,   \
                                          int threads, const spade_progress_t* progress) {         \
    return spade::guarded([&] {                                                                    \
      spade::ObcTask<T> task{};                                                                    \
      task.D = D;                                                                                  \
      task.steps = steps;                                                                          \
      spade::obc_trace("spade_obc_trace", w, hinv, R, task, order, loss, info, threads, progress); \
    });                                                                                            \
  }                                                                                                \
  spade_status_t spade_obc_trace_nm_##suffix(                                                      \
      const T* w, const T* hinv, int64_t R, int64_t D, int64_t n, int64_t m, int32_t* order,       \
      T* loss, int32_t* info, int threads, const spade_progress_t* progress) {                     \
    return spade::guarded([&] {                                                                    \
      SPADE_CHECK(m >= 1, "spade_obc_trace_nm: m must be >= 1, got %lld",                          \
                  static_cast<long long>(m));                                                      \
      spade::ObcTask<T> task{};                                                                    \
      task.D = D;                                                                                  \
      task.n = n;                                                                                  \
      task.m = m;                                                                                  \
      spade::obc_trace("spade_obc_trace_nm", w, hinv, R, task, order, loss, info, threads,         \
                       progress);                                                                  \
    });                                                                                            \
  }

SPADE_DEFINE_OBC_TRACE(f32, float)
SPADE_DEFINE_OBC_TRACE(f64, double)
