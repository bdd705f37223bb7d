// Exact OBC as the Python layer calls it. A call costs more in Python than the work of a small
// layer, so the steps of a layer are one call: damped inverse, elimination and, to prune, selection
// and solve.

#include <algorithm>
#include <utility>
#include <vector>

#include "core/buffer.h"
#include "python/common.h"

namespace spade::python {

namespace {

using Address = uintptr_t;

// The functions of the C API for a number type.
template <class T>
struct Api;

#define SPADE_DEFINE_API(T, suffix)                                     \
  template <>                                                           \
  struct Api<T> {                                                       \
    static constexpr auto inverse = spade_damped_inverse_##suffix;      \
    static constexpr auto trace = spade_obc_trace_##suffix;             \
    static constexpr auto trace_nm = spade_obc_trace_nm_##suffix;       \
    static constexpr auto trace_block = spade_obc_trace_block_##suffix; \
    static constexpr auto counts = spade_obc_counts_##suffix;           \
    static constexpr auto weights = spade_obc_weights_##suffix;         \
  };
SPADE_DEFINE_API(float, f32)
SPADE_DEFINE_API(double, f64)
#undef SPADE_DEFINE_API

template <class T>
struct Layer {
  const T *w, *h;  // [R, D], [D, D]
  int64_t R, D;
  int64_t n, m;   // m > 0: n of each m columns
  int64_t block;  // otherwise columns that go together
  int threads;

  int64_t steps() const { return m > 0 ? D / m * n : D / block; }
};

// What an elimination writes.
template <class T>
struct Elimination {
  int32_t* order;  // [R, steps]
  T* loss;         // [R, steps]
  T* w;            // [R, D], dead columns 0
  T* damped;       // [D, D]
  T* hinv;         // [D, D]
};

// The damping that was used, and the first row that failed with its info, or -1.
struct Outcome {
  double damp;
  int64_t row = -1;
  int32_t info = 0;

  void failed(const std::vector<int32_t>& infos) {
    const auto first = std::find_if(infos.begin(), infos.end(), [](int32_t i) { return i != 0; });
    if (first == infos.end()) return;
    row = first - infos.begin();
    info = *first;
  }
};

// Whether squares of weights times entries of H, or over those of its inverse, are numbers of T
// with all their digits: by the mean of the diagonal, which has 1 for a dead column.
template <class T>
bool in_range(const Layer<T>& layer) {
  if (sizeof(T) == sizeof(double) || layer.D == 0) return true;
  double sum = 0;
  for (int64_t j = 0; j < layer.D; ++j) {
    const double entry = static_cast<double>(layer.h[j * (layer.D + 1)]);
    sum += entry == 0 ? 1 : entry;
  }
  const double mean = sum / static_cast<double>(layer.D);
  return mean >= 1e-18 && mean <= 1e18;
}

// Nothing is eliminated, and no damping (-1) or too little is returned, if H is out of the range of
// T or less damping than least_damp was used.
template <class T>
Outcome eliminate(const Layer<T>& layer, double damp, double least_damp, const Elimination<T>& to,
                  const py::object& progress) {
  const int64_t R = layer.R, D = layer.D;
  const int threads = layer.threads;
  if (!all_finite(layer.w, R * D)) throw py::value_error("the weight must be finite");
  if (!in_range(layer)) return {-1};
  Outcome outcome{damp};
  run(py::none(), [&](const spade_progress_t* target) {
    return Api<T>::inverse(layer.h, D, damp, to.hinv, to.damped, &outcome.damp, threads, target);
  });
  if (outcome.damp < least_damp) return outcome;
  std::copy_n(layer.w, R * D, to.w);
  for (int64_t j = 0; j < D; ++j)
    if (layer.h[j * D + j] == T(0))
      for (int64_t r = 0; r < R; ++r) to.w[r * D + j] = T(0);
  std::vector<int32_t> info(static_cast<size_t>(R));
  run(progress, [&](const spade_progress_t* target) {
    if (layer.m > 0)
      return Api<T>::trace_nm(to.w, to.hinv, R, D, layer.n, layer.m, to.order, to.loss, info.data(),
                              threads, target);
    if (layer.block > 1)
      return Api<T>::trace_block(to.w, to.hinv, R, D, layer.block, to.order, to.loss, info.data(),
                                 threads, target);
    return Api<T>::trace(to.w, to.hinv, R, D, D, to.order, to.loss, info.data(), threads, target);
  });
  outcome.failed(info);
  return outcome;
}

// Weights after counts[r] of the `steps` steps that the order has of each row.
template <class T>
void solve(const Layer<T>& layer, const Elimination<T>& from, const int64_t* counts, T* out,
           int64_t steps, const py::object& progress, Outcome& outcome) {
  const int64_t R = layer.R, D = layer.D, block = layer.block;
  const int32_t* order = from.order;
  std::vector<int32_t> columns;
  std::vector<int64_t> counts_of_columns;
  if (block > 1) {
    columns.reserve(static_cast<size_t>(R * D));
    for (int64_t i = 0; i < R * steps; ++i)
      for (int64_t k = 0; k < block; ++k)
        columns.push_back(static_cast<int32_t>(order[i] * block + k));
    for (int64_t r = 0; r < R; ++r) counts_of_columns.push_back(counts[r] * block);
    steps *= block;
    order = columns.data();
    counts = counts_of_columns.data();
  }
  std::vector<int32_t> info(static_cast<size_t>(R));
  run(progress, [&](const spade_progress_t* target) {
    return Api<T>::weights(from.w, from.damped, from.hinv, R, D, steps, order, counts, out,
                           info.data(), layer.threads, target);
  });
  outcome.failed(info);
}

py::tuple tuple_of(const Outcome& outcome) {
  return py::make_tuple(outcome.damp, outcome.row, outcome.info);
}

template <class T>
void bind(py::module_& module, const std::string& suffix) {
  module.def(("obc_eliminate_" + suffix).c_str(),
             [](Address w, Address h, int64_t R, int64_t D, int64_t n, int64_t m, int64_t block,
                double damp, double least_damp, Address order, Address loss, Address dense,
                Address damped, Address hinv, int threads, const py::object& progress) {
               const Layer<T> layer{pointer<T>(w), pointer<T>(h), R, D, n, m, block, threads};
               const Elimination<T> to{pointer<int32_t>(order), pointer<T>(loss), pointer<T>(dense),
                                       pointer<T>(damped), pointer<T>(hinv)};
               return tuple_of(eliminate(layer, damp, least_damp, to, progress));
             });
  module.def(("obc_prune_" + suffix).c_str(), [](Address w, Address h, int64_t R, int64_t D,
                                                 int64_t n, int64_t m, int64_t block, double damp,
                                                 double least_damp, double sparsity, Address out,
                                                 int threads, const py::object& progress) {
    const Layer<T> layer{pointer<T>(w), pointer<T>(h), R, D, n, m, block, threads};
    const int64_t steps = layer.steps();
    const Buffer<int32_t> order(R * steps);
    const Buffer<T> loss(R * steps), dense(R * D), damped(D * D), hinv(D * D);
    const Elimination<T> to{order.get(), loss.get(), dense.get(), damped.get(), hinv.get()};
    Outcome outcome = eliminate(layer, damp, least_damp, to, progress);
    if (outcome.damp < least_damp || outcome.row >= 0) return tuple_of(outcome);
    std::vector<int64_t> counts(static_cast<size_t>(R), steps);
    if (m == 0)
      run(py::none(), [&](const spade_progress_t*) {
        return Api<T>::counts(loss.get(), R, steps, sparsity, counts.data());
      });
    solve(layer, to, counts.data(), pointer<T>(out), steps, py::none(), outcome);
    return tuple_of(outcome);
  });
  module.def(("obc_counts_" + suffix).c_str(),
             [](Address loss, int64_t R, int64_t steps, double sparsity, Address out) {
               run(py::none(), [&](const spade_progress_t*) {
                 return Api<T>::counts(pointer<T>(loss), R, steps, sparsity, pointer<int64_t>(out));
               });
             });
  module.def(("obc_weights_" + suffix).c_str(),
             [](Address w, Address damped, Address hinv, int64_t R, int64_t D, int64_t block,
                int64_t steps, Address order, Address counts, Address out, int threads,
                const py::object& progress) {
               const Layer<T> layer{pointer<T>(w), nullptr, R, D, 0, 0, block, threads};
               const Elimination<T> from{pointer<int32_t>(order), nullptr, pointer<T>(w),
                                         pointer<T>(damped), pointer<T>(hinv)};
               Outcome outcome{0};
               solve(layer, from, pointer<int64_t>(counts), pointer<T>(out), steps, progress,
                     outcome);
               return outcome.row;
             });
}

}  // namespace

void bind_obc(py::module_& module) {
  bind<float>(module, "f32");
  bind<double>(module, "f64");
}

}  // namespace spade::python
