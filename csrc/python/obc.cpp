#include "python/common.h"

namespace spade::python {

namespace {

// The first row whose info is not 0, or -1.
int64_t first_failed(uintptr_t info, int64_t R) {
  for (int64_t r = 0; r < R; ++r)
    if (pointer<int32_t>(info)[r] != 0) return r;
  return -1;
}

template <class T, class Trace, class TraceNm, class TraceBlock, class Counts, class Weights>
void bind(py::module_& module, const std::string& suffix, Trace trace, TraceNm trace_nm,
          TraceBlock trace_block, Counts counts, Weights weights) {
  using Address = uintptr_t;
  module.def(("obc_counts_" + suffix).c_str(),
             [=](Address loss, int64_t R, int64_t steps, double sparsity, Address out) {
               run(py::none(), [&](const spade_progress_t*) {
                 return counts(pointer<T>(loss), R, steps, sparsity, pointer<int64_t>(out));
               });
             });
  module.def(("obc_trace_" + suffix).c_str(),
             [=](Address w, Address hinv, int64_t R, int64_t D, int64_t steps, Address order,
                 Address loss, Address info, int threads, py::object progress) {
               run(std::move(progress), [&](const spade_progress_t* target) {
                 return trace(pointer<T>(w), pointer<T>(hinv), R, D, steps, pointer<int32_t>(order),
                              pointer<T>(loss), pointer<int32_t>(info), threads, target);
               });
               return first_failed(info, R);
             });
  module.def(("obc_trace_nm_" + suffix).c_str(),
             [=](Address w, Address hinv, int64_t R, int64_t D, int64_t n, int64_t m, Address order,
                 Address loss, Address info, int threads, py::object progress) {
               run(std::move(progress), [&](const spade_progress_t* target) {
                 return trace_nm(pointer<T>(w), pointer<T>(hinv), R, D, n, m,
                                 pointer<int32_t>(order), pointer<T>(loss), pointer<int32_t>(info),
                                 threads, target);
               });
               return first_failed(info, R);
             });
  module.def(("obc_trace_block_" + suffix).c_str(),
             [=](Address w, Address hinv, int64_t R, int64_t D, int64_t block, Address order,
                 Address loss, Address info, int threads, py::object progress) {
               run(std::move(progress), [&](const spade_progress_t* target) {
                 return trace_block(pointer<T>(w), pointer<T>(hinv), R, D, block,
                                    pointer<int32_t>(order), pointer<T>(loss),
                                    pointer<int32_t>(info), threads, target);
               });
               return first_failed(info, R);
             });
  module.def(
      ("obc_weights_" + suffix).c_str(),
      [=](Address w, Address h, Address hinv, int64_t R, int64_t D, int64_t steps, Address order,
          Address counts, Address out, Address info, int threads, py::object progress) {
        run(std::move(progress), [&](const spade_progress_t* target) {
          return weights(pointer<T>(w), pointer<T>(h), pointer<T>(hinv), R, D, steps,
                         pointer<int32_t>(order), pointer<int64_t>(counts), pointer<T>(out),
                         pointer<int32_t>(info), threads, target);
        });
        return first_failed(info, R);
      });
}

}  // namespace

void bind_obc(py::module_& module) {
  bind<float>(module, "f32", spade_obc_trace_f32, spade_obc_trace_nm_f32, spade_obc_trace_block_f32,
              spade_obc_counts_f32, spade_obc_weights_f32);
  bind<double>(module, "f64", spade_obc_trace_f64, spade_obc_trace_nm_f64,
               spade_obc_trace_block_f64, spade_obc_counts_f64, spade_obc_weights_f64);
}

}  // namespace spade::python
