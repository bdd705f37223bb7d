#include "cpu/sparsegpt_factor.h"

#include <algorithm>

#include "core/damping.h"
#include "cpu/cholesky.h"

namespace spade {
namespace {

template <class T, class Wide>
bool factorise(const T* h, const double* diagonal, double shift, const Panels<Wide>& factor,
               int threads) {
  const Buffer<Wide> inverses(factor.count * kPanel * kPanel);
  pack(h, diagonal, shift, true, factor, threads);
  return cholesky(factor, inverses.get(), threads);
}

}  // namespace

template <class T>
bool sparsegpt_factor(const T* h, double* damp, const Panels<T>& factor, int threads) {
  const Buffer<double> diagonal(factor.n);
  const double mean = live_diagonal(h, factor.n, diagonal.get());
  for (; *damp >= 0; *damp = next_damp(*damp)) {
    const double shift = mean * *damp;
    if (sizeof(T) == sizeof(double) || *damp >= kFloatFromDamp) {
      if (factorise(h, diagonal.get(), shift, factor, threads)) return true;
    } else {
      const Panels<double> wide(factor.n);
      if (!factorise(h, diagonal.get(), shift, wide, threads)) continue;
      std::copy(wide.panel(0), wide.panel(wide.count), factor.panel(0));
      return true;
    }
  }
  return false;
}

template bool sparsegpt_factor(const float*, double*, const Panels<float>&, int);
template bool sparsegpt_factor(const double*, double*, const Panels<double>&, int);

}  // namespace spade
