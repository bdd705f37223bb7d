// spade_obc_trace_block: the elimination of blocks of columns, in double (obc_block_kernel.cpp).

#include <algorithm>

#include "core/isa.h"
#include "cpu/obc_layer.h"
#include "cpu/obc_scale.h"

namespace spade {
namespace {

struct Scratch {
  explicit Scratch(const ObcTask<double>& task)
      : row(task.D), blocks(task), w(task.D), loss(task.steps) {}

  ScaledRow<double> row;
  ObcBlockScratch blocks;
  Buffer<double> w, loss;  // of the row
};

template <class T>
void obc_trace_block(ObcLayer<T> layer, int64_t block, const spade_progress_t* progress) {
  layer.check_sizes();
  check_size(layer.function, "block", block, 1);
  SPADE_CHECK(layer.D % block == 0, "%s: block must divide D = %lld, got %lld", layer.function,
              static_cast<long long>(layer.D), static_cast<long long>(block));
  ObcTask<double> task{};
  task.D = layer.D;
  task.steps = layer.D / block;
  task.block = block;
  if (!layer.begin(task.steps)) return;
  layer.each_row(
      task, progress, [&] { return Scratch(task); },
      [&](Scratch& scratch, int64_t r) {
        std::copy_n(layer.w + r * layer.D, layer.D, scratch.w.get());
        const int32_t info =
            SPADE_DISPATCH(obc_block_row(task, scratch.row.of(scratch.w.get()), scratch.blocks,
                                         layer.order + r * task.steps, scratch.loss.get()));
        scratch.row.restore(scratch.loss.get(), task.steps);
        std::copy_n(scratch.loss.get(), task.steps, layer.loss + r * task.steps);
        return info;
      });
}

}  // namespace
}  // namespace spade

spade_status_t spade_obc_trace_block_f32(const float* w, const float* hinv, int64_t R, int64_t D,
                                         int64_t block, int32_t* order, float* loss, int32_t* info,
                                         int threads, const spade_progress_t* progress) {
  return spade::guarded([&] {
    spade::obc_trace_block<float>(
        {"spade_obc_trace_block", w, hinv, R, D, order, loss, info, threads}, block, progress);
  });
}

spade_status_t spade_obc_trace_block_f64(const double* w, const double* hinv, int64_t R, int64_t D,
                                         int64_t block, int32_t* order, double* loss, int32_t* info,
                                         int threads, const spade_progress_t* progress) {
  return spade::guarded([&] {
    spade::obc_trace_block<double>(
        {"spade_obc_trace_block", w, hinv, R, D, order, loss, info, threads}, block, progress);
  });
}
