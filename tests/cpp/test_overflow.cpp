// Sizes whose products leave 64 bits are refused by every function that takes sizes, before
// anything is read or written: the arrays here have one entry.
#include "check.h"

namespace {

const int64_t kMost = INT32_MAX;

// One entry per array, and what the outputs held before.
template <class T>
struct Arrays {
  T w[1] = {1}, h[1] = {1}, out[1] = {7}, more[1] = {7}, again[1] = {7}, damped[1] = {7};
  double sum[1] = {7}, damp[1] = {7};
  int32_t order[1] = {7}, info[1] = {7};
  int64_t counts[1] = {7};
  spade_obc_outcome_t outcome{7, 7, 7, 7};

  void check_unchanged() const {
    CHECK(out[0] == 7 && more[0] == 7 && again[0] == 7 && damped[0] == 7);
    CHECK(sum[0] == 7 && damp[0] == 7 && order[0] == 7 && info[0] == 7 && counts[0] == 7);
    CHECK(outcome.damp == 7 && outcome.row == 7 && outcome.step == 7 && outcome.needs_double == 7);
  }
};

const char* const kTooMany = "must have fewer than 2^60 entries";

#define REFUSED(call)                                    \
  do {                                                   \
    CHECK_FAILS(call, SPADE_INVALID_ARGUMENT, kTooMany); \
    a.check_unchanged();                                 \
  } while (0)

const int32_t kOrder[1] = {0};
const int64_t kCounts[1] = {0};

#define TEST_BOTH(name, T, suffix)                                                                 \
  TEST_CASE(name) {                                                                                \
    Arrays<T> a;                                                                                   \
    REFUSED(spade_hessian_linear_##suffix(a.w, 1, kMost, kMost, a.sum, 1, nullptr));               \
    REFUSED(spade_hessian_linear_##suffix(a.w, kMost, 1, kMost, a.sum, 1, nullptr));               \
    REFUSED(spade_hessian_linear_set_##suffix(a.w, 1, kMost, kMost, a.out, 1, nullptr));           \
    REFUSED(spade_hessian_linear_set_##suffix(a.w, kMost, 1, kMost, a.out, 1, nullptr));           \
    const int64_t channels = 1 << 20, taps = 1 << 11;                                              \
    spade_conv2d_t conv{1, channels, 1,    1, 1,    1, 1, 1, taps,    taps,                        \
                        1, 1,        taps, 0, taps, 0, 1, 1, channels};                            \
    for (const int64_t groups : {channels, channels / 2, channels / 256}) {                        \
      conv.groups = groups;                                                                        \
      REFUSED(spade_hessian_conv2d_##suffix(a.w, &conv, SPADE_HESSIAN_AUTO, a.sum, 1, nullptr));   \
      REFUSED(                                                                                     \
          spade_hessian_conv2d_set_##suffix(a.w, &conv, SPADE_HESSIAN_DIRECT, a.out, 1, nullptr)); \
    }                                                                                              \
    REFUSED(spade_damped_inverse_##suffix(a.h, kMost, 0.1, a.out, a.damped, a.damp, 1, nullptr));  \
    REFUSED(spade_damped_inverse_##suffix(a.h, kMost, 0.1, a.out, nullptr, a.damp, 1, nullptr));   \
    for (const auto& [R, D] :                                                                      \
         {std::pair{kMost, int64_t{1} << 30}, std::pair{int64_t{1}, kMost}}) {                     \
      REFUSED(spade_obc_trace_##suffix(a.w, a.h, R, D, D, a.order, a.out, a.info, 1, nullptr));    \
      REFUSED(spade_obc_trace_##suffix(a.w, a.h, R, D, 0, a.order, a.out, a.info, 1, nullptr));    \
      REFUSED(                                                                                     \
          spade_obc_trace_nm_##suffix(a.w, a.h, R, D, 1, 1, a.order, a.out, a.info, 1, nullptr));  \
      REFUSED(                                                                                     \
          spade_obc_trace_block_##suffix(a.w, a.h, R, D, 1, a.order, a.out, a.info, 1, nullptr));  \
      REFUSED(spade_obc_weights_##suffix(a.w, a.h, a.h, R, D, 1, kOrder, kCounts, a.out, a.info,   \
                                         1, nullptr));                                             \
      REFUSED(spade_obc_weights_block_##suffix(a.w, a.h, a.h, R, D, 1, 1, kOrder, kCounts, a.out,  \
                                               a.info, 1, nullptr));                               \
      for (const spade_obc_t& o :                                                                  \
           {spade_obc_t{0.5, 0, 0, 1, 0.1}, spade_obc_t{0, 1, 1, 1, 0.1}}) {                       \
        REFUSED(spade_obc_eliminate_##suffix(a.w, a.h, R, D, &o, a.order, a.out, a.more, a.damped, \
                                             a.again, &a.outcome, 1, nullptr));                    \
        REFUSED(spade_obc_prune_##suffix(a.w, a.h, R, D, &o, a.out, &a.outcome, 1, nullptr));      \
      }                                                                                            \
      for (const spade_sparsegpt_t& o :                                                            \
           {spade_sparsegpt_t{0.5, 128, 0, 0, 0.1, 0}, spade_sparsegpt_t{0, 1, 1, 1, 0.1, 0}})     \
        REFUSED(spade_sparsegpt_prune_##suffix(a.w, 0, a.h, 1, R, D, &o, a.out, a.damp, a.info, 1, \
                                               nullptr));                                          \
    }                                                                                              \
    REFUSED(spade_obc_counts_##suffix(a.w, kMost, kMost, 0.5, a.counts));                          \
    /* Each product but that over the samples is small. */                                         \
    const spade_sparsegpt_t half{0.5, 128, 0, 0, 0.1, 0};                                          \
    const int64_t S = int64_t{1} << 30, side = int64_t{1} << 15;                                   \
    REFUSED(spade_sparsegpt_prune_##suffix(a.w, 0, a.h, S, side, side, &half, a.out, a.damp,       \
                                           a.info, 1, nullptr));                                   \
    REFUSED(spade_sparsegpt_prune_##suffix(a.w, 0, a.h, S, 1, side, &half, a.out, a.damp, a.info,  \
                                           1, nullptr));                                           \
    REFUSED(spade_sparsegpt_prune_##suffix(a.w, INT64_MAX / 2, a.h, 2, 1, 1, &half, a.out, a.damp, \
                                           a.info, 1, nullptr));                                   \
  }

TEST_BOTH(sizes_that_overflow_in_float, float, f32)
TEST_BOTH(sizes_that_overflow_in_double, double, f64)

}  // namespace
