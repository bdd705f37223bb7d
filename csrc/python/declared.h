// Functions of the C API that are bound as spade.h declares them: their arguments are addresses,
// numbers and, last, a progress. SPADE_BIND(module, name) binds spade_<name>_f32 and _f64.
#pragma once

#include <tuple>
#include <type_traits>
#include <utility>

#include "python/common.h"

namespace spade::python {

// An argument as Python gives it.
template <class A>
using Given = std::conditional_t<std::is_pointer_v<A>, uintptr_t, A>;

template <class A>
A taken(Given<A> given) {
  if constexpr (std::is_pointer_v<A>)
    return pointer<std::remove_pointer_t<A>>(given);
  else
    return given;
}

template <class... A, size_t... I>
void bind_declared(py::module_& module, const char* name, spade_status_t (*function)(A...),
                   std::index_sequence<I...>) {
  using All = std::tuple<A...>;
  static_assert(std::is_same_v<std::tuple_element_t<sizeof...(I), All>, const spade_progress_t*>);
  module.def(name, [=](Given<std::tuple_element_t<I, All>>... given, const py::object& progress) {
    run(progress, [&](const spade_progress_t* target) {
      return function(taken<std::tuple_element_t<I, All>>(given)..., target);
    });
  });
}

template <class... A>
void bind_declared(py::module_& module, const char* name, spade_status_t (*function)(A...)) {
  bind_declared(module, name, function, std::make_index_sequence<sizeof...(A) - 1>());
}

#define SPADE_BIND(module, name)                                            \
  ::spade::python::bind_declared(module, #name "_f32", spade_##name##_f32); \
  ::spade::python::bind_declared(module, #name "_f64", spade_##name##_f64)

}  // namespace spade::python
