// Batched SparseGPT of one layer: sizes, patterns, ties, dead columns, scales.
#include "sparsegpt_problem.h"

namespace {

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
    SparseGptProblem<float> p = problem(1, 37, block > 100 ? 130 : 50, unstructured(0.5, block));
    for (int64_t i = 0; i < p.D * p.D; ++i) p.h[i] = i % (p.D + 1) == 0 ? 4.0f : 0.0f;
    for (size_t i = 0; i < p.w.size(); ++i) p.w[i] = i % 3 ? 1.5f : (i % 2 ? -0.5f : 0.5f);
    check(p);
  }
  SparseGptProblem<float> p = problem(1, 37, 6, {0, 1, 1, 3, 0.1, 0});
  for (int64_t i = 0; i < p.D * p.D; ++i) p.h[i] = i % (p.D + 1) == 0 ? 4.0f : 0.0f;
  std::fill(p.w.begin(), p.w.end(), -1.0f);
  check(p);
}

void test_dead_columns() {
  SparseGptProblem<float> p = problem(2, 21, 40, unstructured(0.5, 9));
  for (const int64_t dead : {0, 7, 38})
    for (int64_t k = 0; k < p.D; ++k) p.h[k * p.D + dead] = p.h[dead * p.D + k] = 0;
  const Result<float> result = prune(p);
  CHECK(check_against_cpu(p, result) > 0.5);
  for (int64_t r = 0; r < p.R; ++r) CHECK(result.out[r * p.D + 7] == 0);
}

// The scale of H matters nowhere, a power of 4 not in the last bit: scores neither vanish nor
// overflow. Factors are double below a damping of 1e-3.
void test_scales() {
  for (const double damp : {0.1, 1e-5})
    for (const float size : {1e-4f, 1.0f, 1e4f}) {
      SparseGptProblem<float> plain = problem(2, 20, 40, unstructured(0.5, 9, damp));
      for (float& weight : plain.w) weight *= size;
      const Result<float> expected = prune(plain);
      for (const double scale : {0x1p-110, 0x1p-62, 0x1p100, 0x1p118, 1e-36, 1e-30, 1e30, 1e36}) {
        SparseGptProblem<float> p = plain;
        for (float& entry : p.h) entry = static_cast<float>(entry * scale);
        const Result<float> got = prune(p);
        CHECK(check_against_cpu(p, got) > 0.5);
        if (std::exp2(std::ilogb(scale)) == scale) CHECK(got == expected);
      }
    }
  SparseGptProblem<float> p =
      problem(2, 6, 20, unstructured(0.5, 9));  // a scale each; the first climbs the ladder
  for (int64_t i = 0; i < p.D * p.D; ++i) {
    p.h[i] *= 1e-30f;
    p.h[p.D * p.D + i] *= 1e30f;
  }
  p.h[5 * p.D + 5] = -1e-29f;
  const Result<float> climbed = prune(p);
  CHECK(climbed.damp_used[0] > 0.1 && climbed.damp_used[1] == 0.1);
  CHECK(check_against_cpu(p, climbed) > 0.5);
}

// Rank-deficient Hessians with little damping are factorised in double.
void test_little_damping() {
  SparseGptProblem<float> p = problem(1, 16, 60, unstructured(0.5, 9, 1e-5));
  check(p);
  p.options.damp = 0;
  check(p);
}

// More rows than a thread block has threads; then all scores equal.
void test_many_rows() {
  check(problem(1, 600, 8, unstructured(0.5, 4)));
  SparseGptProblem<float> p = problem(1, 1100, 3, unstructured(0.95, 3));
  for (int64_t i = 0; i < p.D * p.D; ++i) p.h[i] = i % (p.D + 1) == 0 ? 4.0f : 0.0f;
  std::fill(p.w.begin(), p.w.end(), -1.0f);
  check(p);
}

}  // namespace

int main() {
#ifdef __SANITIZE_THREAD__  // races show in one schedule, whatever the numbers
  check(problem(2, 40, 135, unstructured(0.5, 9)));
  check(problem(1, 40, 70, unstructured(0.5, 40)));
  check(problem(1, 10, 135, unstructured(0.5, 132)));
  check(problem(1, 7, 96, {0, 1, 3, 32, 0.01, 0}));
  test_many_rows();  // last: large blocks make every later barrier slow
  return report();
#endif
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
  test_dead_columns();
  test_scales();
  test_little_damping();
  test_many_rows();
  return report();
}
