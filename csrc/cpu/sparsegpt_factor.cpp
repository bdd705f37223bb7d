#include "cpu/sparsegpt_factor.h"

#include <algorithm>
#include <cmath>

#include "core/damping.h"
#include "cpu/cholesky.h"

namespace spade {
namespace {

template <class T, class Wide>
bool factorise(const T* h, const double* diagonal, double mean, double damp,
               const Panels<Wide>& factor, int threads, Progress& done) {
  const Buffer<Wide> inverses(factor.count * kPanel * kPanel);
  pack(h, diagonal, mean * damp, sparsegpt_scale<T>(mean), true, factor, threads);
  return cholesky(factor, inverses.get(), threads, done);
}

}  // namespace

template <class T>
bool sparsegpt_factor(const T* h, double* damp, const Panels<T>& factor, int threads,
                      Progress& done) {
  const Buffer<double> diagonal(factor.n);
  const double mean = live_diagonal(h, factor.n, diagonal.get());
  for (; *damp >= 0 && std::isfinite(mean) && !done.cancelled(); *damp = next_damp(*damp)) {
    if (sizeof(T) == sizeof(double) || *damp >= kFloatFromDamp) {
      if (factorise(h, diagonal.get(), mean, *damp, factor, threads, done)) return true;
    } else {
      const Panels<double> wide(factor.n);
      if (!factorise(h, diagonal.get(), mean, *damp, wide, threads, done)) continue;
      std::copy(wide.panel(0), wide.panel(wide.count), factor.panel(0));
      return true;
    }
  }
  return false;
}

template bool sparsegpt_factor(const float*, double*, const Panels<float>&, int, Progress&);
template bool sparsegpt_factor(const double*, double*, const Panels<double>&, int, Progress&);

}  // namespace spade
