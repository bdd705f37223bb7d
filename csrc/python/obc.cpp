// Exact OBC. A call from Python costs more than the work of a small layer, so the steps of a layer
// are one call of libspade.

#include <algorithm>
#include <vector>

#include "python/common.h"

namespace spade::python {

namespace {

using Address = uintptr_t;

// The functions of the C API for a number type.
template <class T>
struct Api;

#define SPADE_DEFINE_API(T, suffix)                                   \
  template <>                                                         \
  struct Api<T> {                                                     \
    static constexpr auto eliminate = spade_obc_eliminate_##suffix;   \
    static constexpr auto prune = spade_obc_prune_##suffix;           \
    static constexpr auto counts = spade_obc_counts_##suffix;         \
    static constexpr auto weights = spade_obc_weights_block_##suffix; \
  };
SPADE_DEFINE_API(float, f32)
SPADE_DEFINE_API(double, f64)
#undef SPADE_DEFINE_API

// (damping used, row that was given up or -1, its step, whether float does not do). A row that was
// given up is no exception here: the Python layer names it.
template <class Call>
py::tuple outcome_of(const py::object& progress, Call&& call) {
  spade_obc_outcome_t outcome{0, -1, 0, 0, {}};
  const spade_status_t status =
      status_of(progress, [&](const spade_progress_t* target) { return call(&outcome, target); });
  if (outcome.row < 0 || status != SPADE_SINGULAR) check(status);
  return py::make_tuple(outcome.damp, outcome.row, outcome.step, outcome.needs_double != 0);
}

template <class T>
void bind(py::module_& module, const std::string& suffix) {
  module.def(("obc_eliminate_" + suffix).c_str(),
             [](Address w, Address h, int64_t R, int64_t D, int64_t n, int64_t m, int64_t block,
                double damp, Address order, Address loss, Address dense, Address damped,
                Address hinv, int threads, const py::object& progress) {
               const spade_obc_t options{0, n, m, block, damp, {}};
               return outcome_of(progress, [&](auto* outcome, auto* target) {
                 return Api<T>::eliminate(pointer<T>(w), pointer<T>(h), R, D, &options,
                                          pointer<int32_t>(order), pointer<T>(loss),
                                          pointer<T>(dense), pointer<T>(damped), pointer<T>(hinv),
                                          outcome, threads, target);
               });
             });
  module.def(
      ("obc_prune_" + suffix).c_str(),
      [](Address w, Address h, int64_t R, int64_t D, int64_t n, int64_t m, int64_t block,
         double damp, double sparsity, Address out, int threads, const py::object& progress) {
        const spade_obc_t options{sparsity, n, m, block, damp, {}};
        return outcome_of(progress, [&](auto* outcome, auto* target) {
          return Api<T>::prune(pointer<T>(w), pointer<T>(h), R, D, &options, pointer<T>(out),
                               outcome, threads, target);
        });
      });
  module.def(("obc_counts_" + suffix).c_str(),
             [](Address loss, int64_t R, int64_t steps, double sparsity, Address out) {
               run(py::none(), [&](const spade_progress_t*) {
                 return Api<T>::counts(pointer<T>(loss), R, steps, sparsity, pointer<int64_t>(out));
               });
             });
  // (row that was given up or -1, its info)
  module.def(("obc_weights_" + suffix).c_str(),
             [](Address w, Address damped, Address hinv, int64_t R, int64_t D, int64_t block,
                int64_t steps, Address order, Address counts, Address out, int threads,
                const py::object& progress) {
               std::vector<int32_t> info(static_cast<size_t>(R));
               run(progress, [&](const spade_progress_t* target) {
                 return Api<T>::weights(pointer<T>(w), pointer<T>(damped), pointer<T>(hinv), R, D,
                                        block, steps, pointer<int32_t>(order),
                                        pointer<int64_t>(counts), pointer<T>(out), info.data(),
                                        threads, target);
               });
               const auto bad = std::find_if(info.begin(), info.end(), [](int32_t i) { return i; });
               const bool none = bad == info.end();
               return py::make_tuple(none ? -1 : bad - info.begin(), none ? 0 : *bad);
             });
}

}  // namespace

SPADE_BINDINGS(module) {
  bind<float>(module, "f32");
  bind<double>(module, "f64");
}

}  // namespace spade::python
