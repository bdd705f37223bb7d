// Exact OBC of one row, weight by weight: argmin w_j^2 / A_jj goes next (obc_row.h).

#include <algorithm>
#include <limits>

#include "cpu/obc_row.h"

namespace spade {
namespace SPADE_ISA {
namespace {

template <class T>
int32_t eliminate(const ObcTask<T>& task, const T* w, ObcScratch<T>& scratch, int32_t* order,
                  T* loss) {
  ObcRow<T> row(task, w, scratch);
  int64_t p = row.rescan();
  for (int64_t step = 0; step < task.steps; ++step) {
    if (row.full()) {
      if (task.stopped(task.progress)) return 0;
      row.next_panel();
      p = row.rescan();
    }
    const T pivot = p < 0 ? T(0) : row.diagonal(p);
    if (!(pivot > 0)) {
      std::fill(order + step, order + task.steps, -1);
      std::fill(loss + step, loss + task.steps, std::numeric_limits<T>::quiet_NaN());
      return static_cast<int32_t>(step + 1);
    }
    order[step] = static_cast<int32_t>(row.column(p));
    loss[step] = T(0.5) * row.weight(p) * row.weight(p) / pivot;
    p = row.apply(p);
  }
  return 0;
}

}  // namespace

int32_t obc_row(const ObcTask<float>& task, const float* w, ObcScratch<float>& scratch,
                int32_t* order, float* loss) {
  return eliminate(task, w, scratch, order, loss);
}

int32_t obc_row(const ObcTask<double>& task, const double* w, ObcScratch<double>& scratch,
                int32_t* order, double* loss) {
  return eliminate(task, w, scratch, order, loss);
}

}  // namespace SPADE_ISA
}  // namespace spade
