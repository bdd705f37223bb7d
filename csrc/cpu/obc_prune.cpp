// spade_obc_eliminate and spade_obc_prune: a layer in one call, from the functions of single steps:
// damped inverse, elimination and, to prune, selection and solve. What float cannot do runs in
// double.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "core/buffer.h"
#include "core/finite.h"
#include "core/obc_range.h"

namespace spade {
namespace {

// The functions of the C API for a number type.
template <class T>
struct Api;

#define SPADE_DEFINE_API(T, suffix)                                         \
  template <>                                                               \
  struct Api<T> {                                                           \
    static constexpr auto inverse = spade_damped_inverse_##suffix;          \
    static constexpr auto trace = spade_obc_trace_##suffix;                 \
    static constexpr auto trace_nm = spade_obc_trace_nm_##suffix;           \
    static constexpr auto trace_block = spade_obc_trace_block_##suffix;     \
    static constexpr auto counts = spade_obc_counts_##suffix;               \
    static constexpr auto weights_block = spade_obc_weights_block_##suffix; \
  };
SPADE_DEFINE_API(float, f32)
SPADE_DEFINE_API(double, f64)
#undef SPADE_DEFINE_API

// A progress that stands at (done, total), so that a step of a call can be stopped.
class Standing {
 public:
  Standing(const spade_progress_t* to, int64_t done, int64_t total)
      : to_(to), done_(done), total_(total) {}
  const spade_progress_t* target() { return to_ && to_->report ? &own_ : nullptr; }

 private:
  static int report(void* self, int64_t, int64_t) {
    const auto* standing = static_cast<Standing*>(self);
    return standing->to_->report(standing->to_->user, standing->done_, standing->total_);
  }

  const spade_progress_t* to_;
  int64_t done_, total_;
  spade_progress_t own_{&Standing::report, this};
};

template <class T>
struct ObcCall {
  const char* function;
  const T *w, *h;  // [R, D], [D, D]
  int64_t R, D;
  const spade_obc_t* options;
  spade_obc_outcome_t* outcome;
  int threads;
  const spade_progress_t* progress;

  int64_t steps() const {
    return options->m > 0 ? D / options->m * options->n : D / options->block;
  }

  void check_options() const {
    check_size(function, "R", R);
    check_size(function, "D", D);
    check_entries(function, "w", {R, D});
    check_entries(function, "h", {D, D});
    check_threads(function, threads);
    check_pointer(function, "options", options, 1);
    check_pointer(function, "outcome", outcome, 1);
    check_reserved(function, *options);
    check_damp(function, options->damp);
    const int64_t n = options->n, m = options->m, block = options->block;
    check_size(function, "m", m);
    SPADE_CHECK(n >= 0 && n <= m, "%s: n must be in [0, m = %lld], got %lld", function,
                static_cast<long long>(m), static_cast<long long>(n));
    SPADE_CHECK(m == 0 || D % m == 0, "%s: m must divide D = %lld, got %lld", function,
                static_cast<long long>(D), static_cast<long long>(m));
    check_size(function, "block", block, 1);
    SPADE_CHECK(m == 0 || block == 1, "%s: block must be 1 with n:m, got %lld", function,
                static_cast<long long>(block));
    SPADE_CHECK(D % block == 0, "%s: block must divide D = %lld, got %lld", function,
                static_cast<long long>(D), static_cast<long long>(block));
    *outcome = {options->damp, -1, 0, 0, {}};
  }

  // The status of a step, whose text gets the name of this function.
  void check(spade_status_t status) const {
    if (status == SPADE_SUCCESS) return;
    const std::string text = spade_last_error();
    const size_t colon = text.find(": ");
    fail(status, "%s: %s", function, text.c_str() + (colon == std::string::npos ? 0 : colon + 2));
  }

  // Fails if a row did.
  void check_rows(const std::vector<int32_t>& info, bool solved) const {
    const auto first = std::find_if(info.begin(), info.end(), [](int32_t i) { return i != 0; });
    if (first == info.end()) return;
    outcome->row = first - info.begin();
    outcome->step = solved ? 0 : *first;
    const long long row = static_cast<long long>(outcome->row);
    if (!solved)
      fail(SPADE_SINGULAR, "%s: H of row %lld loses definiteness at step %d (damp = %g)", function,
           row, *first, outcome->damp);
    if (*first == 2)
      fail(SPADE_NOT_FINITE,
           "%s: the pruned weights of row %lld are out of the range of their type", function, row);
    fail(SPADE_SINGULAR,
         "%s: H of the kept columns of row %lld is not positive definite (damp = %g)", function,
         row, outcome->damp);
  }

  double mean_of_diagonal() const {
    double sum = 0;
    for (int64_t j = 0; j < D; ++j) {
      const double entry = static_cast<double>(h[j * (D + 1)]);
      sum += entry == 0 ? 1 : entry;
    }
    return D ? sum / static_cast<double>(D) : 1;
  }
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

// False, with outcome->needs_double set, where float does not do.
template <class T>
bool eliminate(const ObcCall<T>& call, const Elimination<T>& to) {
  const int64_t R = call.R, D = call.D;
  const spade_obc_t& options = *call.options;
  spade_obc_outcome_t* outcome = call.outcome;
  const bool is_float = sizeof(T) == sizeof(float);
  check_pointer(call.function, "w", call.w, R * D);
  check_pointer(call.function, "h", call.h, D);
  check_pointer(call.function, "order", to.order, R * call.steps());
  check_pointer(call.function, "loss", to.loss, R * call.steps());
  check_pointer(call.function, "dense", to.w, R * D);
  check_pointer(call.function, "damped", to.damped, D);
  check_pointer(call.function, "hinv", to.hinv, D);
  const double most = check_finite(call.function, "w", call.w, R * D, call.threads);
  const double mean = call.mean_of_diagonal();
  const auto fits = [&](double damp) { return !is_float || obc_fits_float(mean, most, damp); };
  outcome->needs_double =
      !std::isnan(mean) && D > 0 && !fits(std::max(options.damp, kFloatFromDamp));
  if (outcome->needs_double) {
    check_finite(call.function, "h", call.h, D * D, call.threads);
    return false;
  }
  Standing before(call.progress, 0, R);
  call.check(Api<T>::inverse(call.h, D, options.damp, to.hinv, to.damped, &outcome->damp,
                             call.threads, before.target()));
  outcome->needs_double = D > 0 && !fits(outcome->damp);
  if (outcome->needs_double) return false;
  std::copy_n(call.w, R * D, to.w);
  for (int64_t j = 0; j < D; ++j)
    if (call.h[j * D + j] == T(0))
      for (int64_t r = 0; r < R; ++r) to.w[r * D + j] = T(0);
  std::vector<int32_t> info(static_cast<size_t>(R));
  const auto trace = [&](auto function, auto... sizes) {
    return function(to.w, to.hinv, R, D, sizes..., to.order, to.loss, info.data(), call.threads,
                    call.progress);
  };
  call.check(options.m > 0       ? trace(Api<T>::trace_nm, options.n, options.m)
             : options.block > 1 ? trace(Api<T>::trace_block, options.block)
                                 : trace(Api<T>::trace, D));
  const bool again = is_float && std::any_of(info.begin(), info.end(), [](int i) { return i; });
  outcome->needs_double = again;
  if (!again) call.check_rows(info, false);
  return !again;
}

template <class T>
void obc_eliminate(const ObcCall<T>& call, const Elimination<T>& to) {
  call.check_options();
  eliminate(call, to);
}

// False, with outcome->needs_double set, where float does not do.
template <class T>
bool prune(const ObcCall<T>& call, T* out) {
  const int64_t R = call.R, D = call.D, steps = call.steps();
  const spade_obc_t& options = *call.options;
  const Buffer<int32_t> order(R * steps);
  const Buffer<T> loss(R * steps), dense(R * D), damped(D * D), hinv(D * D);
  if (!eliminate(call, {order.get(), loss.get(), dense.get(), damped.get(), hinv.get()}))
    return false;
  std::vector<int64_t> counts(static_cast<size_t>(R), steps);
  if (options.m == 0)
    call.check(Api<T>::counts(loss.get(), R, steps, options.sparsity, counts.data()));
  std::vector<int32_t> info(static_cast<size_t>(R));
  Standing after(call.progress, R, R);
  call.check(Api<T>::weights_block(dense.get(), damped.get(), hinv.get(), R, D, options.block,
                                   steps, order.get(), counts.data(), out, info.data(),
                                   call.threads, after.target()));
  call.outcome->needs_double =
      sizeof(T) == sizeof(float) &&
      std::any_of(info.begin(), info.end(), [](int32_t i) { return i != 0; });
  if (!call.outcome->needs_double) call.check_rows(info, true);
  return !call.outcome->needs_double;
}

template <class T>
void obc_prune(const ObcCall<T>& call, T* out) {
  call.check_options();
  const double sparsity = call.options->sparsity;
  SPADE_CHECK(call.options->m > 0 || (sparsity >= 0 && sparsity <= 1),
              "%s: sparsity must be in [0, 1], got %g", call.function, sparsity);
  check_pointer(call.function, "out", out, call.R * call.D);
  if (prune(call, out)) return;
  const int64_t R = call.R, D = call.D;
  const Buffer<double> w(R * D), h(D * D), pruned(R * D);
  std::copy_n(call.w, R * D, w.get());
  std::copy_n(call.h, D * D, h.get());
  const double damp = call.options->damp;
  *call.outcome = {damp, -1, 0, 0, {}};
  prune<double>({call.function, w.get(), h.get(), R, D, call.options, call.outcome, call.threads,
                 call.progress},
                pruned.get());
  call.outcome->needs_double = 1;
  std::vector<int32_t> info(static_cast<size_t>(R));
  for (int64_t r = 0; r < R; ++r) {
    std::copy_n(pruned.get() + r * D, D, out + r * D);
    info[r] = std::isnan(largest(out + r * D, D)) ? 2 : 0;
  }
  call.check_rows(info, true);
}

}  // namespace
}  // namespace spade

int spade_obc_fits_float(double mean, double most, double damp) {
  return spade::obc_fits_float(mean, most, damp);
}

#define SPADE_DEFINE_OBC_PRUNE(suffix, T)                                                       \
  spade_status_t spade_obc_eliminate_##suffix(                                                  \
      const T* w, const T* h, int64_t R, int64_t D, const spade_obc_t* options, int32_t* order, \
      T* loss, T* dense, T* damped, T* hinv, spade_obc_outcome_t* outcome, int threads,         \
      const spade_progress_t* progress) {                                                       \
    return spade::guarded([&] {                                                                 \
      spade::obc_eliminate<T>(                                                                  \
          {"spade_obc_eliminate", w, h, R, D, options, outcome, threads, progress},             \
          {order, loss, dense, damped, hinv});                                                  \
    });                                                                                         \
  }                                                                                             \
  spade_status_t spade_obc_prune_##suffix(                                                      \
      const T* w, const T* h, int64_t R, int64_t D, const spade_obc_t* options, T* out,         \
      spade_obc_outcome_t* outcome, int threads, const spade_progress_t* progress) {            \
    return spade::guarded([&] {                                                                 \
      spade::obc_prune<T>({"spade_obc_prune", w, h, R, D, options, outcome, threads, progress}, \
                          out);                                                                 \
    });                                                                                         \
  }

SPADE_DEFINE_OBC_PRUNE(f32, float)
SPADE_DEFINE_OBC_PRUNE(f64, double)
