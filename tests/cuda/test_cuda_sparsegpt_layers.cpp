// Batched SparseGPT of several samples and layers: each finds what it finds alone, whatever the
// company, the order and the chunks. Doubles. Errors.
#include "sparsegpt_problem.h"

namespace {

// A singular sample and one that needs more damping between good ones; each has its own weights.
void test_samples() {
  SparseGptProblem<float> p = problem(4, 24, 40, unstructured(0.5, 9));
  p.w = normal(p.S * p.R * p.D, 7);
  p.h[1 * p.D * p.D] = -1e6f;
  p.h[2 * p.D * p.D + 5 * p.D + 5] = -10.0f;
  const Result<float> together = prune(p);
  CHECK(check_against_cpu(p, together) > 0.5);
  CHECK(together.info[1] == SPADE_SINGULAR && together.damp_used[1] == 1.0);
  CHECK(together.info[2] == 0 && together.damp_used[2] > 0.1);
  spade_cuda_sparsegpt_layer_t layer{};
  layer.S = p.S, layer.R = p.R, layer.D = p.D, layer.options = p.options;
  const auto bytes_within = [&](size_t limit) {
    size_t bytes = 0;
    CHECK_SUCCESS(
        spade::cuda::sparsegpt_prune_workspace_bytes(1, &layer, SPADE_FLOAT32, limit, &bytes));
    return bytes;
  };
  const size_t one = bytes_within(0);
  for (const size_t limit : {size_t{0}, 3 * one}) {
    const size_t bytes = bytes_within(limit);
    CHECK(bytes <= std::max(limit, one) && bytes > std::max(limit, one) - one);
    CHECK(prune(p, limit) == together);
  }
}

// Layers of every kind: fewer and more columns than a lazy block, wide masks of different lengths,
// n:m, weights of each sample, one that climbs the ladder, one that fails.
template <class T>
std::vector<SparseGptProblem<T>> many_layers(double damp) {
  std::vector<SparseGptProblem<T>> all = {
      problem<T>(1, 6, 20, unstructured(0.5, 9, damp)),
      problem<T>(2, 35, 150, unstructured(0.9, 1, damp)),
      problem<T>(1, 5, 270, unstructured(0.4, 132, damp)),
      problem<T>(3, 1, 1, unstructured(0.0, 1, damp)),
      problem<T>(1, 3, 300, unstructured(0.6, 290, damp)),
      problem<T>(2, 7, 96, {0, 1, 3, 32, damp, 0}),
      problem<T>(1, 33, 64, unstructured(0.7, 49, damp)),
      problem<T>(2, 4, 66, unstructured(0.5, 128, damp, 2)),
  };
  for (size_t i = 0; i < all.size(); ++i) {
    const std::vector<float> w = normal(all[i].S * all[i].R * all[i].D, 20 + unsigned(i));
    if (i % 2) all[i].w.assign(w.begin(), w.end());
  }
  all[1].h[150 * 150 + 5 * 150 + 5] = -10;  // its second sample
  all[6].h[0] = -1e6;
  return all;
}

template <class T>
void test_layers(double damp) {
  const std::vector<SparseGptProblem<T>> all = many_layers<T>(damp);
  const std::vector<Result<T>> together = prune(all);
  for (size_t i = 0; i < all.size(); ++i) {
    CHECK(together[i] == prune(all[i]));
    CHECK(check_against_cpu(all[i], together[i]) > 0.3);
  }
  CHECK(together[1].damp_used[0] == damp && together[1].damp_used[1] > damp);
  CHECK(together[6].info[0] == SPADE_SINGULAR);
}

// Launches are those of the layer of most columns, not one after another's.
void test_launches() {
  const auto launches = [](const std::vector<SparseGptProblem<float>>& problems) {
    const int64_t before = spade::emulation::launches;
    prune(problems);
    return spade::emulation::launches - before;
  };
  const SparseGptProblem<float> large = problem(1, 8, 260, unstructured(0.5, 9));
  const SparseGptProblem<float> small = problem(1, 30, 140, unstructured(0.5, 4));
  const int64_t alone = launches({large});
  CHECK(alone > 40);
  CHECK(launches({small, large, small, small}) == alone);
  SparseGptProblem<float> samples = large;
  samples.S = 3;
  for (int i = 0; i < 2; ++i) samples.h.insert(samples.h.end(), large.h.begin(), large.h.end());
  CHECK(launches({samples, small}) == alone);
}

// Within a limit of bytes, past the most pieces of a launch, of different dampings: the same.
void test_chunks() {
  std::vector<SparseGptProblem<float>> all = many_layers<float>(0.1);
  const std::vector<Result<float>> together = prune(all);
  for (const size_t limit : {size_t{0}, size_t{1} << 20, size_t{3} << 20})
    CHECK(prune(all, limit) == together);
  std::vector<SparseGptProblem<float>> few;
  for (unsigned i = 0; i < spade::cuda::kMostPieces + 3; ++i) {
    few.push_back(problem(1, 2, 1 + i % 5, unstructured(0.5, 1, i % 2 ? 0.1 : 0.2)));
    few.back().w = normal(few.back().R * few.back().D, i);
  }
  const std::vector<Result<float>> results = prune(few);
  for (size_t i = 0; i < few.size(); ++i) CHECK(results[i] == prune(few[i]));
}

// Doubles: masks where floats could not tell scores apart, ties, Hessians out of the range of
// floats, with masks of every kind.
void test_doubles() {
  test_layers<double>(0.1);
  check(problem<double>(1, 40, 70, unstructured(0.5, 40, 1e-9)));
  SparseGptProblem<double> p = problem<double>(1, 24, 30, unstructured(0.5, 30));
  for (int64_t i = 0; i < p.D * p.D; ++i) p.h[i] = i % (p.D + 1) == 0 ? 4.0 : 0.0;
  for (size_t i = 0; i < p.w.size(); ++i) p.w[i] = 1 + 1e-10 * double(i * 7 % p.w.size() / 2);
  check(p);
  for (const double scale : {0x1p-1000, 0x1p-800, 0x1p800, 0x1p1000}) {
    const SparseGptProblem<double> plain = problem<double>(1, 12, 40, unstructured(0.5, 9));
    SparseGptProblem<double> scaled = plain;
    for (double& entry : scaled.h) entry *= scale;
    CHECK(prune(scaled) == prune(plain));
    check(plain);
  }
}

void test_errors() {
  const float one[1] = {1};
  float out[2];
  double damp[2];
  int32_t info[2];
  size_t bytes = 0;
  DeviceArray<char> workspace(1 << 20);
  const spade_cuda_sparsegpt_layer_t good{
      1, 1, 1, unstructured(0.5, 1), one, 0, one, out + 1, damp + 1, info + 1};
  spade_cuda_sparsegpt_layer_t layers[2] = {good, good};
  layers[0].out = out, layers[0].damp_used = damp, layers[0].info = info;
  spade_cuda_sparsegpt_layer_t& layer = layers[1];
  size_t capacity = 1 << 20;
  int dtype = SPADE_FLOAT32;
  const auto call = [&] {
    return spade::cuda::sparsegpt_prune(2, layers, dtype, workspace.get(), capacity, nullptr);
  };
  CHECK_SUCCESS(call());
  layer.options.sparsity = 1.5;
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT,
              "spade_cuda_sparsegpt_prune: layers[1]: sparsity must be in [0, 1], got 1.5");
  layer.options = unstructured(0.5, 0);
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "block_size must");
  layer.options = {0.5, 0, 1, 2, 0.01, 0};
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "m must divide D");
  layer.options = unstructured(0.5, 1, -1);
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "damp must be finite and >= 0");
  layer = good;
  layer.w = nullptr;
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "layers[1]: w must not be NULL");
  layer = good;
  layer.w_stride = -1;
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "w_stride must be >= 0, got -1");
  layer = good;
  capacity = 256;
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "workspace_bytes must be at least");
  capacity = 1 << 20;
  dtype = SPADE_FLOAT16;
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT,
              "dtype must be SPADE_FLOAT32 or SPADE_FLOAT64, got 1");
  dtype = SPADE_FLOAT32;
  layer.S = -1;
  CHECK_FAILS(call(), SPADE_INVALID_ARGUMENT, "layers[1]: S must be in [0");
  layer = good;
  layer.R = 1 << 30;
  CHECK_FAILS(spade::cuda::sparsegpt_prune_workspace_bytes(2, layers, dtype, 0, &bytes),
              SPADE_INVALID_ARGUMENT, "layers[1]: R x max(block_size, 128) must be < 2^31");
  CHECK_FAILS(spade::cuda::sparsegpt_prune_workspace_bytes(1, nullptr, dtype, 0, &bytes),
              SPADE_INVALID_ARGUMENT, "layers must not be NULL");
  layers[0].R = layer.R = 0;
  info[0] = 7;
  damp[0] = -1;
  CHECK_SUCCESS(call());
  CHECK(info[0] == 0 && damp[0] == 0.1 && info[1] == 0);
  CHECK_SUCCESS(spade::cuda::sparsegpt_prune_workspace_bytes(2, layers, dtype, 0, &bytes));
  CHECK(bytes == 0);
  CHECK_SUCCESS(spade::cuda::sparsegpt_prune(0, nullptr, dtype, nullptr, 0, nullptr));
}

}  // namespace

int main() {
#ifdef __SANITIZE_THREAD__  // races show in one schedule, whatever the numbers and chunks
  prune(many_layers<float>(0.01));
  prune(problem<double>(1, 40, 130, unstructured(0.5, 40)));
  prune(problem<double>(1, 5, 140, unstructured(0.5, 132)));
  return report();
#endif
  for_each_schedule([] {
    const std::vector<SparseGptProblem<float>> all = {problem(2, 9, 70, unstructured(0.5, 7)),
                                                      problem(1, 40, 33, unstructured(0.5, 1))};
    for (const Result<float>& result : prune(all)) CHECK(result.info[0] == 0);
    CHECK(prune(all)[0] == prune(all[0]) && prune(all)[1] == prune(all[1]));
  });
  test_layers<float>(0.01);
  spade::emulation::device.minor = 6;  // Cholesky factors in float from a damping of 1e-3 on
  test_samples();
  test_errors();
  test_layers<float>(0.1);
  test_launches();
  test_chunks();
  test_doubles();
  return report();
}
