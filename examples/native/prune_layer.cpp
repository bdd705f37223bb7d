// Prune a layer by SparseGPT from C++: matrices that free themselves, statuses that become
// exceptions.
#include <spade/spade.h>

#include <cstdint>
#include <iostream>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

// A row-major matrix.
template <typename T>
struct Matrix {
  int64_t rows, cols;
  std::vector<T> values;
  Matrix(int64_t r, int64_t c) : rows(r), cols(c), values(static_cast<std::size_t>(r * c)) {}
  T* data() { return values.data(); }
  const T* data() const { return values.data(); }
};

// What every call returns: throws with the library's own text.
void check(spade_status_t status) {
  if (status != SPADE_SUCCESS) throw std::runtime_error(spade_last_error());
}

// X X^T of inputs [samples, D], summed in double.
Matrix<float> hessian(const Matrix<float>& x, int threads) {
  Matrix<double> sum(x.cols, x.cols);
  check(spade_hessian_linear_f32(x.data(), x.rows, x.cols, x.cols, sum.data(), threads, nullptr));
  Matrix<float> h(x.cols, x.cols);
  h.values.assign(sum.values.begin(), sum.values.end());
  return h;
}

// The weights without the share `sparsity` that costs the layer's output least.
Matrix<float> sparsegpt(const Matrix<float>& w, const Matrix<float>& h, double sparsity,
                        int threads) {
  spade_sparsegpt_t options = {};
  options.sparsity = sparsity;
  options.block_size = 128;
  options.damp = 0.01;
  Matrix<float> out(w.rows, w.cols);
  double damp_used = 0;
  int32_t info = 0;
  check(spade_sparsegpt_prune_f32(w.data(), 0, h.data(), 1, w.rows, w.cols, &options, out.data(),
                                  &damp_used, &info, threads, nullptr));
  if (info != 0) throw std::runtime_error("the Hessian is not positive definite");
  return out;
}

}  // namespace

int main() {
  static_assert(SPADE_VERSION_MAJOR == 0, "written for libspade 0.x");
  std::mt19937 generator(0);
  std::normal_distribution<float> normal;
  Matrix<float> x(500, 64), w(32, 64);
  for (float& v : x.values) v = normal(generator);
  for (float& v : w.values) v = normal(generator);
  try {
    const Matrix<float> pruned = sparsegpt(w, hessian(x, 2), 0.75, 2);
    int64_t zeros = 0;
    for (float v : pruned.values) zeros += v == 0;
    std::cout << "libspade " << spade_version() << ": " << zeros << " of " << pruned.values.size()
              << " weights are 0\n";
    return zeros == 32 * 64 * 3 / 4 ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
}
