// Batched SparseGPT against spade_sparsegpt_prune_f64: the same masks as far as the scores at every
// threshold so far are apart by more than 1e-5, and weights to 1e-4; ties, dead columns, singular
// samples, chunks.
#include <algorithm>
#include <random>

#include "check.h"
#include "cuda/cholesky.cu"
#include "cuda/sparsegpt.cu"

namespace {

std::vector<float> normal(int64_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> distribution;
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = distribution(generator);
  return values;
}

// X^T X of 40 random rows, and a diagonal.
std::vector<float> hessian(int64_t D, unsigned seed) {
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

struct Problem {
  int64_t S, R, D;
  spade_sparsegpt_t options;
  std::vector<float> w, h;  // [1 or S, R, D], [S, D, D]

  int64_t w_stride() const { return static_cast<int64_t>(w.size()) > R * D ? R * D : 0; }
  const float* weights(int64_t s) const { return w.data() + s * w_stride(); }
  int64_t mask() const { return options.m > 0 ? options.m : std::min(options.block_size, D); }
};

Problem problem(int64_t S, int64_t R, int64_t D, const spade_sparsegpt_t& options) {
  Problem p{S, R, D, options, normal(R * D, 1), {}};
  for (int64_t s = 0; s < S; ++s) {
    const std::vector<float> h = hessian(D, static_cast<unsigned>(2 + s));
    p.h.insert(p.h.end(), h.begin(), h.end());
  }
  return p;
}

struct Result {
  std::vector<float> out;
  std::vector<double> damp_used;
  std::vector<int32_t> info;
};

Result prune(const Problem& p, size_t limit = SIZE_MAX) {
  const DeviceArray<float> w(p.w), h(p.h);
  DeviceArray<float> out(p.S * p.R * p.D);
  DeviceArray<double> damp_used(p.S);
  DeviceArray<int32_t> info(p.S);
  size_t bytes = 0;
  CHECK_SUCCESS(
      spade::cuda::sparsegpt_prune_workspace_bytes(p.S, p.R, p.D, &p.options, limit, &bytes));
  DeviceArray<char> workspace(static_cast<int64_t>(bytes));
  CHECK_SUCCESS(spade::cuda::sparsegpt_prune(w.get(), p.w_stride(), h.get(), p.S, p.R, p.D,
                                             &p.options, out.get(), damp_used.get(), info.get(),
                                             workspace.get(), bytes, nullptr));
  return {out.values(), damp_used.values(), info.values()};
}

// Columns of sample s before the first mask block whose threshold separates scores by less than
// 1e-5, from the published recurrence in double, U by Cholesky of the inverse; D if there is none.
int64_t clear_columns(const Problem& p, int64_t s, double damp) {
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
      return low == high || high - low > 1e-5 * high;
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
double check_against_cpu(const Problem& p, const Result& result) {
  const std::vector<double> w(p.w.begin(), p.w.end()), h(p.h.begin(), p.h.end());
  std::vector<double> out(static_cast<size_t>(p.S * p.R * p.D)), damp_used(p.S);
  std::vector<int32_t> info(p.S);
  CHECK_SUCCESS(spade_sparsegpt_prune_f64(w.data(), p.w_stride(), h.data(), p.S, p.R, p.D,
                                          &p.options, out.data(), damp_used.data(), info.data(), 1,
                                          nullptr));
  CHECK(result.info == info && result.damp_used == damp_used);
  int64_t compared = 0;
  for (int64_t s = 0; s < p.S; ++s) {
    const float* got = result.out.data() + s * p.R * p.D;
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
        same_weights = same_weights && std::fabs(a - b) <= 1e-4 * (1 + std::fabs(b));
      }
    CHECK(same_mask && same_weights);
    for (int64_t first = 0; first < p.D && p.options.m == 0; first += p.mask()) {
      const int64_t width = std::min(p.mask(), p.D - first);
      int64_t zeros = 0;
      for (int64_t r = 0; r < p.R; ++r)
        zeros += std::count(got + r * p.D + first, got + r * p.D + first + width, 0.0f);
      CHECK(zeros >= spade::block_count(p.options.sparsity, p.R * width, p.options.extra));
    }
  }
  return static_cast<double>(compared) / static_cast<double>(std::max<int64_t>(1, p.S * p.D));
}

void check(const Problem& p) {
  const double compared = check_against_cpu(p, prune(p));
  if (!(compared > 0.5)) std::printf("R %ld D %ld mask %ld: %g\n", p.R, p.D, p.mask(), compared);
  CHECK(compared > 0.5);
}

spade_sparsegpt_t unstructured(double sparsity, int64_t block_size, double damp = 0.1,
                               int64_t extra = 0) {
  return {sparsity, block_size, 0, 0, damp, extra};
}

// Block sizes of one column, of kernel taps, of a lazy block and beyond, at the edges of tiles,
// groups, lazy blocks and thread blocks.
void test_sizes() {
  check(problem(1, 1, 1, unstructured(0.5, 1)));
  check(problem(2, 33, 40, unstructured(0.5, 1)));
  check(problem(2, 5, 65, unstructured(0.7, 9)));
  check(problem(1, 64, 18, unstructured(0.9, 9)));
  check(problem(1, 31, 98, unstructured(0.5, 49)));
  check(problem(1, 65, 127, unstructured(0.6, 16)));
  check(problem(1, 20, 150, unstructured(0.5, 17)));
  check(problem(1, 32, 129, unstructured(0.5, 128)));
  check(problem(1, 9, 270, unstructured(0.4, 132)));
  check(problem(1, 6, 60, unstructured(0.5, 1000)));
}

void test_groups_of_columns() {
  check(problem(2, 35, 64, {0, 1, 2, 4, 0.01, 0}));
  check(problem(1, 7, 96, {0, 1, 3, 32, 0.01, 0}));
  check(problem(1, 3, 130, {0, 1, 60, 130, 0.1, 0}));
  check(problem(1, 4, 12, {0, 1, 0, 4, 0.01, 0}));
}

void test_counts() {
  for (const double sparsity : {0.0, 1.0}) check(problem(1, 6, 20, unstructured(sparsity, 8)));
  check(problem(1, 6, 20, unstructured(0.5, 8, 0.1, 1)));
  check(problem(1, 6, 20, unstructured(0.95, 1, 0.1, 3)));
}

// Equal scores: the lowest row-major index goes first.
void test_ties() {
  for (const int64_t block : {1, 7, 20, 130}) {
    Problem p = problem(1, 37, block > 100 ? 130 : 50, unstructured(0.5, block));
    for (int64_t i = 0; i < p.D * p.D; ++i) p.h[i] = i % (p.D + 1) == 0 ? 4.0f : 0.0f;
    for (size_t i = 0; i < p.w.size(); ++i) p.w[i] = i % 3 ? 1.5f : (i % 2 ? -0.5f : 0.5f);
    check(p);
  }
  Problem p = problem(1, 37, 6, {0, 1, 1, 3, 0.1, 0});
  for (int64_t i = 0; i < p.D * p.D; ++i) p.h[i] = i % (p.D + 1) == 0 ? 4.0f : 0.0f;
  std::fill(p.w.begin(), p.w.end(), -1.0f);
  check(p);
}

// A singular sample and one that needs more damping between good ones; each has its own weights.
void test_samples() {
  Problem p = problem(4, 24, 40, unstructured(0.5, 9));
  p.w = normal(p.S * p.R * p.D, 7);
  p.h[1 * p.D * p.D] = -1e6f;
  p.h[2 * p.D * p.D + 5 * p.D + 5] = -10.0f;
  const Result together = prune(p);
  CHECK(check_against_cpu(p, together) > 0.5);
  CHECK(together.info[1] == SPADE_SINGULAR && together.damp_used[1] == 1.0);
  CHECK(together.info[2] == 0 && together.damp_used[2] > 0.1);
  size_t one = 0;
  CHECK_SUCCESS(spade::cuda::sparsegpt_prune_workspace_bytes(p.S, p.R, p.D, &p.options, 0, &one));
  for (const size_t limit : {size_t{0}, 3 * one}) {
    size_t bytes = 0;
    CHECK_SUCCESS(
        spade::cuda::sparsegpt_prune_workspace_bytes(p.S, p.R, p.D, &p.options, limit, &bytes));
    CHECK(bytes <= std::max(limit, one) && bytes > std::max(limit, one) - one);
    const Result chunked = prune(p, limit);
    CHECK(chunked.out == together.out && chunked.info == together.info &&
          chunked.damp_used == together.damp_used);
  }
}

void test_dead_columns() {
  Problem p = problem(2, 21, 40, unstructured(0.5, 9));
  for (const int64_t dead : {0, 7, 38})
    for (int64_t k = 0; k < p.D; ++k) p.h[k * p.D + dead] = p.h[dead * p.D + k] = 0;
  const Result result = prune(p);
  CHECK(check_against_cpu(p, result) > 0.5);
  for (int64_t r = 0; r < p.R; ++r) CHECK(result.out[r * p.D + 7] == 0);
}

// The scale of H matters nowhere, a power of 4 not in the last bit: scores neither vanish nor
// overflow. Factors are double below a damping of 1e-3.
void test_scales() {
  for (const double damp : {0.1, 1e-5})
    for (const float size : {1e-4f, 1.0f, 1e4f}) {
      Problem plain = problem(2, 20, 40, unstructured(0.5, 9, damp));
      for (float& weight : plain.w) weight *= size;
      const Result expected = prune(plain);
      for (const double scale : {0x1p-110, 0x1p-62, 0x1p100, 0x1p118, 1e-36, 1e-30, 1e30, 1e36}) {
        Problem p = plain;
        for (float& entry : p.h) entry = static_cast<float>(entry * scale);
        const Result got = prune(p);
        CHECK(check_against_cpu(p, got) > 0.5);
        if (std::exp2(std::ilogb(scale)) == scale)
          CHECK(got.out == expected.out && got.info == expected.info);
      }
    }
  Problem p = problem(2, 6, 20, unstructured(0.5, 9));  // a scale each; the first climbs the ladder
  for (int64_t i = 0; i < p.D * p.D; ++i) {
    p.h[i] *= 1e-30f;
    p.h[p.D * p.D + i] *= 1e30f;
  }
  p.h[5 * p.D + 5] = -1e-29f;
  const Result climbed = prune(p);
  CHECK(climbed.damp_used[0] > 0.1 && climbed.damp_used[1] == 0.1);
  CHECK(check_against_cpu(p, climbed) > 0.5);
}

// Rank-deficient Hessians with little damping are factorised in double.
void test_little_damping() {
  Problem p = problem(1, 16, 60, unstructured(0.5, 9, 1e-5));
  check(p);
  p.options.damp = 0;
  check(p);
}

// More rows than a thread block has threads; then all scores equal.
void test_many_rows() {
  check(problem(1, 600, 8, unstructured(0.5, 4)));
  Problem p = problem(1, 1100, 3, unstructured(0.95, 3));
  for (int64_t i = 0; i < p.D * p.D; ++i) p.h[i] = i % (p.D + 1) == 0 ? 4.0f : 0.0f;
  std::fill(p.w.begin(), p.w.end(), -1.0f);
  check(p);
}

void test_errors() {
  const float one[1] = {1};
  float out[1];
  double damp[1];
  int32_t info[1];
  size_t bytes = 0;
  DeviceArray<char> workspace(1 << 20);
  spade_sparsegpt_t options = unstructured(0.5, 1);
  int64_t S = 1, R = 1, D = 1;
  const float* w = one;
  size_t capacity = 1 << 20;
  const auto call = [&] {
    return spade::cuda::sparsegpt_prune(w, 0, one, S, R, D, &options, out, damp, info,
                                        workspace.get(), capacity, nullptr);
  };
  CHECK_SUCCESS(call());
  options.sparsity = 1.5;
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT,
              "spade_cuda_sparsegpt_prune: sparsity must be in [0, 1], got 1.5");
  options = unstructured(0.5, 0);
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "block_size must");
  options = {0.5, 0, 1, 2, 0.01, 0};
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "m must divide D");
  options = unstructured(0.5, 1, -1);
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "damp must be finite and >= 0");
  options = unstructured(0.5, 1);
  w = nullptr;
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "w must not be NULL");
  w = one;
  capacity = 256;
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "workspace_bytes must be at least");
  S = -1;
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "S must be in [0");
  S = 1;
  CHECK_FAILS(spade::cuda::sparsegpt_prune_workspace_bytes(1, 1 << 30, 1, &options, 0, &bytes),
              SPADE_INVALID_ARGUMENT, "R x max(block_size, 128) must be < 2^31");
  R = 0;
  info[0] = 7;
  damp[0] = -1;
  CHECK_SUCCESS(call());
  CHECK(info[0] == 0 && damp[0] == 0.1);
  CHECK_SUCCESS(spade::cuda::sparsegpt_prune_workspace_bytes(1, 0, 1, &options, 0, &bytes));
  CHECK(bytes == 0);
}

}  // namespace

int main() {
  for_each_schedule([] {
    for (const int64_t block : {3, 40}) check(problem(1, 40, 70, unstructured(0.5, block)));
    check(problem(1, 10, 135, unstructured(0.5, 132)));
  });
  test_sizes();
  test_scales();
  spade::emulation::device.minor = 6;  // Cholesky factors in float from a damping of 1e-3 on
  test_groups_of_columns();
  test_counts();
  test_ties();
  test_samples();
  test_dead_columns();
  test_scales();
  test_little_damping();
  test_errors();
  test_many_rows();  // last: large blocks make every later barrier slow under ThreadSanitizer
  return report();
}
