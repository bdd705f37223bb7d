// The Hessian of two samples and SparseGPT on it; a callback that cancels.
#include <spade/spade.h>

#include <iostream>
#include <vector>

int main() {
  const std::vector<float> x = {1, 0, 0, 0, 2, 0};  // two samples of three inputs; the last is dead
  std::vector<double> h(9, 0.0);
  if (spade_hessian_linear_f32(x.data(), 2, 3, 3, h.data(), 2, nullptr) != SPADE_SUCCESS) return 1;
  if (h != std::vector<double>{1, 0, 0, 0, 4, 0, 0, 0, 0}) return 2;
  const std::vector<float> w = {1, 1, 1}, hessian(h.begin(), h.end());
  std::vector<float> out(3);
  double damp = 0;
  int32_t info = 0;
  const spade_sparsegpt_t options{2.0 / 3, 3, 0, 0, 0.0, 0};
  if (spade_sparsegpt_prune_f32(w.data(), 0, hessian.data(), 1, 1, 3, &options, out.data(), &damp,
                                &info, 2, nullptr) != SPADE_SUCCESS)
    return 3;
  if (out != std::vector<float>{0, 1, 0} || info != 0) return 4;
  const spade_progress_t stop{[](void*, int64_t, int64_t) { return 1; }, nullptr};
  if (spade_hessian_linear_f32(x.data(), 2, 3, 3, h.data(), 1, &stop) != SPADE_CANCELLED) return 5;
  std::cout << "libspade works from C++: " << spade_build_info() << "\n";
}
