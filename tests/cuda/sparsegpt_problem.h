// Problems of batched SparseGPT, and their comparison with spade_sparsegpt_prune_f64: the same
// masks as far as the scores at every threshold so far are clearly apart, and weights.
#pragma once

#include <algorithm>
#include <memory>
#include <random>

#include "check.h"
#include "core/sparsegpt_options.h"
#include "cuda/ops.h"
#include "cuda/spread.cuh"

template <class T>
constexpr double kClear = sizeof(T) == 4 ? 1e-5 : 1e-11;  // of scores: they are in one order
template <class T>
constexpr double kClose = sizeof(T) == 4 ? 1e-4 : 1e-9;  // of weights

inline std::vector<float> normal(int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = distribution(generator);
  return values;
}

// X^T X of 40 random rows, and a diagonal.
inline std::vector<float> hessian(int64_t D, unsigned seed) {
  constexpr int64_t kSamples = 40;
  const std::vector<float> x = normal(D * kSamples, seed);  // [D, samples]
  std::vector<float> h(static_cast<size_t>(D * D));
  for (int64_t i = 0; i < D; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = i == j ? 10.0 : 0.0;
      for (int64_t k = 0; k < kSamples; ++k)
        sum += double(x[i * kSamples + k]) * double(x[j * kSamples + k]);
      h[i * D + j] = h[j * D + i] = static_cast<float>(sum);
    }
  return h;
}

template <class T>
struct SparseGptProblem {
  int64_t S, R, D;
  spade_sparsegpt_t options;
  std::vector<T> w, h;  // [1 or S, R, D], [S, D, D]

  int64_t w_stride() const { return static_cast<int64_t>(w.size()) > R * D ? R * D : 0; }
  const T* weights(int64_t s) const { return w.data() + s * w_stride(); }
  int64_t mask() const { return options.m > 0 ? options.m : std::min(options.block_size, D); }
};

template <class T = float>
SparseGptProblem<T> problem(int64_t S, int64_t R, int64_t D, const spade_sparsegpt_t& options) {
  const std::vector<float> w = normal(R * D, 1);
  SparseGptProblem<T> p{S, R, D, options, {w.begin(), w.end()}, {}};
  for (int64_t s = 0; s < S; ++s) {
    const std::vector<float> h = hessian(D, static_cast<unsigned>(2 + s));
    p.h.insert(p.h.end(), h.begin(), h.end());
  }
  return p;
}

template <class T>
struct Result {
  std::vector<T> out;
  std::vector<double> damp_used;
  std::vector<int32_t> info;

  bool operator==(const Result& other) const {
    return out == other.out && damp_used == other.damp_used && info == other.info;
  }
};

template <class T>
constexpr int kDtype = sizeof(T) == 4 ? SPADE_FLOAT32 : SPADE_FLOAT64;

// A problem on the device.
template <class T>
struct OnDevice {
  explicit OnDevice(const SparseGptProblem<T>& p)
      : w(p.w), h(p.h), out(p.S * p.R * p.D), damp_used(p.S), info(p.S) {
    layer = {p.S,          p.R,     p.D,       p.options,       w.get(),
             p.w_stride(), h.get(), out.get(), damp_used.get(), info.get()};
  }
  Result<T> result() const { return {out.values(), damp_used.values(), info.values()}; }

  const DeviceArray<T> w, h;
  DeviceArray<T> out;
  DeviceArray<double> damp_used;
  DeviceArray<int32_t> info;
  spade_cuda_sparsegpt_layer_t layer;
};

// All problems in one call, on a stream of their own: the emulation refuses work on any other.
template <class T>
std::vector<Result<T>> prune(const std::vector<SparseGptProblem<T>>& problems,
                             size_t limit = SIZE_MAX) {
  std::vector<std::unique_ptr<OnDevice<T>>> held;
  std::vector<spade_cuda_sparsegpt_layer_t> layers;
  for (const SparseGptProblem<T>& p : problems) {
    held.push_back(std::make_unique<OnDevice<T>>(p));
    layers.push_back(held.back()->layer);
  }
  const int64_t L = static_cast<int64_t>(layers.size());
  size_t bytes = 0;
  CHECK_SUCCESS(
      spade::cuda::sparsegpt_prune_workspace_bytes(L, layers.data(), kDtype<T>, limit, &bytes));
  DeviceArray<char> workspace(static_cast<int64_t>(bytes));
  char stream;
  spade_emulation_stream = &stream;
  CHECK_SUCCESS(
      spade::cuda::sparsegpt_prune(L, layers.data(), kDtype<T>, workspace.get(), bytes, &stream));
  spade_emulation_stream = nullptr;
  std::vector<Result<T>> results;
  for (const auto& one : held) results.push_back(one->result());
  return results;
}

template <class T>
Result<T> prune(const SparseGptProblem<T>& p, size_t limit = SIZE_MAX) {
  return prune(std::vector<SparseGptProblem<T>>{p}, limit)[0];
}

// Columns of sample s before the first mask block whose threshold separates scores by less than
// kClear, from the published recurrence in double, U by Cholesky of the inverse; D if there is
// none.
template <class T>
int64_t clear_columns(const SparseGptProblem<T>& p, int64_t s, double damp) {
  const int64_t R = p.R, D = p.D, mask = p.mask();
  std::vector<double> h(p.h.begin() + s * D * D, p.h.begin() + (s + 1) * D * D);
  std::vector<double> a(h.size());
  double used;
  if (spade_damped_inverse_f64(h.data(), D, damp, a.data(), nullptr, &used, 1, nullptr)) return 0;
  for (int64_t j = 0; j < D; ++j)  // rows of a become those of U, U^T U = A
    for (int64_t i = D - 1; i >= j; --i) {
      for (int64_t k = 0; k < j; ++k) a[j * D + i] -= a[k * D + j] * a[k * D + i];
      a[j * D + i] /= std::sqrt(i == j ? a[j * D + j] : 1.0);
      if (i == j)
        for (int64_t l = j + 1; l < D; ++l) a[j * D + l] /= a[j * D + j];
    }
  std::vector<double> w(p.weights(s), p.weights(s) + R * D);
  for (int64_t j = 0; j < D; ++j)
    for (int64_t r = 0; r < R && h[j * D + j] == 0; ++r) w[r * D + j] = 0;
  for (int64_t first = 0; first < D; first += mask) {
    const int64_t end = std::min(D, first + mask), width = end - first;
    std::vector<char> goes(static_cast<size_t>(R * width));
    // A set of scores from which the `count` least go.
    const auto choose = [&](int64_t row, int64_t rows, int64_t count) {
      std::vector<std::pair<double, int64_t>> scores;
      for (int64_t r = row; r < row + rows; ++r)
        for (int64_t j = first; j < end; ++j) {
          const double z = w[r * D + j] / a[j * D + j];
          scores.emplace_back(z * z, r * width + j - first);
        }
      std::sort(scores.begin(), scores.end());
      for (int64_t i = 0; i < count; ++i) goes[scores[i].second] = 1;
      if (count == 0 || count == static_cast<int64_t>(scores.size())) return true;
      const double low = scores[count - 1].first, high = scores[count].first;
      return low == high || high - low > kClear<T> * high;
    };
    bool clear = true;
    if (p.options.m > 0)
      for (int64_t r = 0; r < R; ++r) clear = choose(r, 1, p.options.n) && clear;
    else
      clear = choose(0, R, spade::block_count(p.options.sparsity, R * width, p.options.extra));
    if (!clear) return first;
    for (int64_t j = first; j < end; ++j)
      for (int64_t r = 0; r < R; ++r) {
        if (!goes[r * width + j - first]) continue;
        const double e = w[r * D + j] / a[j * D + j];
        for (int64_t k = j + 1; k < D; ++k) w[r * D + k] -= e * a[j * D + k];
        w[r * D + j] = 0;
      }
  }
  return D;
}

// Share of the columns that could be compared.
template <class T>
double check_against_cpu(const SparseGptProblem<T>& p, const Result<T>& result) {
  const std::vector<double> w(p.w.begin(), p.w.end()), h(p.h.begin(), p.h.end());
  std::vector<double> out(static_cast<size_t>(p.S * p.R * p.D)), damp_used(p.S);
  std::vector<int32_t> info(p.S);
  CHECK_SUCCESS(spade_sparsegpt_prune_f64(w.data(), p.w_stride(), h.data(), p.S, p.R, p.D,
                                          &p.options, out.data(), damp_used.data(), info.data(), 1,
                                          nullptr));
  CHECK(result.info == info && result.damp_used == damp_used);
  int64_t compared = 0;
  for (int64_t s = 0; s < p.S; ++s) {
    const T* got = result.out.data() + s * p.R * p.D;
    const double* expected = out.data() + s * p.R * p.D;
    if (info[s] != 0) {
      CHECK(std::equal(got, got + p.R * p.D, p.weights(s)));
      compared += p.D;
      continue;
    }
    const int64_t clear = clear_columns(p, s, p.options.damp);
    compared += clear;
    bool same_mask = true, same_weights = true;
    for (int64_t r = 0; r < p.R; ++r)
      for (int64_t j = 0; j < clear; ++j) {
        const double a = got[r * p.D + j], b = expected[r * p.D + j];
        same_mask = same_mask && (a == 0) == (b == 0);
        same_weights = same_weights && std::fabs(a - b) <= kClose<T> * (1 + std::fabs(b));
      }
    CHECK(same_mask && same_weights);
    for (int64_t first = 0; first < p.D && p.options.m == 0; first += p.mask()) {
      const int64_t width = std::min(p.mask(), p.D - first);
      int64_t zeros = 0;
      for (int64_t r = 0; r < p.R; ++r)
        zeros += std::count(got + r * p.D + first, got + r * p.D + first + width, T(0));
      CHECK(zeros >= spade::block_count(p.options.sparsity, p.R * width, p.options.extra));
    }
  }
  return static_cast<double>(compared) / static_cast<double>(std::max<int64_t>(1, p.S * p.D));
}

template <class T>
void check(const SparseGptProblem<T>& p) {
  const double compared = check_against_cpu(p, prune(p));
  if (!(compared > 0.5)) std::printf("R %ld D %ld mask %ld: %g\n", p.R, p.D, p.mask(), compared);
  CHECK(compared > 0.5);
}

inline spade_sparsegpt_t unstructured(double sparsity, int64_t block_size, double damp = 0.1,
                                      int64_t extra = 0) {
  return {sparsity, block_size, 0, 0, damp, extra};
}
