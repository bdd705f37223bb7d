// spade_obc_trace and spade_obc_trace_nm: the elimination of weights one by one (obc_kernel.cpp).

#include <algorithm>

#include "core/isa.h"
#include "cpu/obc_layer.h"
#include "cpu/obc_scale.h"

namespace spade {
namespace {

template <class T>
struct Scratch {
  explicit Scratch(const ObcTask<T>& task) : row(task.D), columns(task) {}

  ScaledRow<T> row;
  ObcScratch<T> columns;
};

template <class T>
void obc_trace(ObcLayer<T> layer, ObcTask<T> task, const spade_progress_t* progress) {
  const char* function = layer.function;
  const int64_t D = task.D = layer.D;
  layer.check_sizes();
  SPADE_CHECK(task.m >= 0 && task.n >= 0 && task.n <= std::max<int64_t>(task.m, 0),
              "%s: n must be in [0, m], got n = %lld, m = %lld", function,
              static_cast<long long>(task.n), static_cast<long long>(task.m));
  SPADE_CHECK(task.m == 0 || D % task.m == 0, "%s: m must divide D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(task.m));
  if (task.m > 0) task.steps = D / task.m * task.n;
  SPADE_CHECK(task.steps >= 0 && task.steps <= D, "%s: steps must be in [0, D = %lld], got %lld",
              function, static_cast<long long>(D), static_cast<long long>(task.steps));
  if (!layer.begin(task.steps)) return;
  layer.each_row(
      task, progress, [&] { return Scratch<T>(task); },
      [&](Scratch<T>& scratch, int64_t r) {
        T* loss = layer.loss + r * task.steps;
        const int32_t info =
            SPADE_DISPATCH(obc_row(task, scratch.row.of(layer.w + r * D), scratch.columns,
                                   layer.order + r * task.steps, loss));
        scratch.row.restore(loss, task.steps);
        return info;
      });
}

}  // namespace
}  // namespace spade

#define SPADE_DEFINE_OBC_TRACE(suffix, T)                                                          \
  spade_status_t spade_obc_trace_##suffix(const T* w, const T* hinv, int64_t R, int64_t D,         \
                                          int64_t steps, int32_t* order, T* loss, int32_t* info,   \
                                          int threads, const spade_progress_t* progress) {         \
    return spade::guarded([&] {                                                                    \
      spade::ObcTask<T> task{};                                                                    \
      task.steps = steps;                                                                          \
      spade::obc_trace<T>({"spade_obc_trace", w, hinv, R, D, order, loss, info, threads}, task,    \
                          progress);                                                               \
    });                                                                                            \
  }                                                                                                \
  spade_status_t spade_obc_trace_nm_##suffix(                                                      \
      const T* w, const T* hinv, int64_t R, int64_t D, int64_t n, int64_t m, int32_t* order,       \
      T* loss, int32_t* info, int threads, const spade_progress_t* progress) {                     \
    return spade::guarded([&] {                                                                    \
      SPADE_CHECK(m >= 1, "spade_obc_trace_nm: m must be >= 1, got %lld",                          \
                  static_cast<long long>(m));                                                      \
      spade::ObcTask<T> task{};                                                                    \
      task.n = n;                                                                                  \
      task.m = m;                                                                                  \
      spade::obc_trace<T>({"spade_obc_trace_nm", w, hinv, R, D, order, loss, info, threads}, task, \
                          progress);                                                               \
    });                                                                                            \
  }

SPADE_DEFINE_OBC_TRACE(f32, float)
SPADE_DEFINE_OBC_TRACE(f64, double)
