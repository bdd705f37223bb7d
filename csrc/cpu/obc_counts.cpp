// spade_obc_counts: which steps of a layer go, and so how many of each row.
//
// Losses map to integers of the same order. A histogram of their leading bits finds those that
// share them with the last loss to go; the exact one is selected among these. Three passes over R x
// steps losses instead of a sort. Few losses need no histogram.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "core/checks.h"

namespace spade {
namespace {

constexpr int kLeadingBits = 12;  // sign and exponent; three more of a float

template <class T>
using Key = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

// Integers in the order of numbers: -0 equals 0, NaN comes last.
template <class T>
Key<T> key(T loss) {
  if (std::isnan(loss)) return ~Key<T>(0);
  loss += T(0);
  Key<T> bits;
  std::memcpy(&bits, &loss, sizeof bits);
  constexpr Key<T> sign = Key<T>(1) << (8 * sizeof(T) - 1);
  return bits & sign ? ~bits : bits | sign;
}

template <class T>
size_t leading(Key<T> key) {
  return static_cast<size_t>(key >> (8 * sizeof(T) - kLeadingBits));
}

template <class T>
struct Last {
  Key<T> key;    // of the last loss to go
  int64_t ties;  // how many equal to it go
};

// The losses among which the total-th least of n is: those that share its leading bits, or all of
// few. total becomes its rank among them.
template <class T>
std::vector<Key<T>> candidates(const T* loss, int64_t n, int64_t& total) {
  std::vector<Key<T>> keys;
  if (n <= int64_t{1} << kLeadingBits) {
    keys.resize(static_cast<size_t>(n));
    std::transform(loss, loss + n, keys.begin(), key<T>);
    return keys;
  }
  std::vector<int64_t> histogram(size_t{1} << kLeadingBits);
  for (int64_t i = 0; i < n; ++i) ++histogram[leading<T>(key(loss[i]))];
  size_t bucket = 0;
  for (; histogram[bucket] < total; ++bucket) total -= histogram[bucket];
  keys.reserve(static_cast<size_t>(histogram[bucket]));
  for (int64_t i = 0; i < n; ++i)
    if (const Key<T> k = key(loss[i]); leading<T>(k) == bucket) keys.push_back(k);
  return keys;
}

// Of the total-th least of n losses, 1 <= total <= n.
template <class T>
Last<T> find_last(const T* loss, int64_t n, int64_t total) {
  std::vector<Key<T>> keys = candidates(loss, n, total);
  const auto last = keys.begin() + (total - 1);
  std::nth_element(keys.begin(), last, keys.end());
  return {*last, std::count(keys.begin(), last, *last) + 1};
}

template <class T>
void obc_counts(const T* loss, int64_t R, int64_t steps, double sparsity, int64_t* counts) {
  const char* function = "spade_obc_counts";
  check_size(function, "R", R);
  check_size(function, "steps", steps);
  SPADE_CHECK(sparsity >= 0 && sparsity <= 1, "%s: sparsity must be in [0, 1], got %g", function,
              sparsity);
  check_entries(function, "loss", {R, steps});
  check_pointer(function, "counts", counts, R);
  std::fill_n(counts, R, int64_t{0});
  const int64_t n = R * steps;
  check_pointer(function, "loss", loss, n);
  const double exact = static_cast<double>(n) * sparsity, margin = static_cast<double>(n) * 1e-9;
  const int64_t total = std::min(n, static_cast<int64_t>(std::ceil(exact - margin)));
  if (total <= 0) return;
  Last<T> last = find_last(loss, n, total);
  for (int64_t r = 0; r < R; ++r)
    for (int64_t i = r * steps; i < (r + 1) * steps; ++i) {
      const Key<T> k = key(loss[i]);
      counts[r] += k < last.key || (k == last.key && last.ties-- > 0);
    }
}

}  // namespace
}  // namespace spade

spade_status_t spade_obc_counts_f32(const float* loss, int64_t R, int64_t steps, double sparsity,
                                    int64_t* counts) {
  return spade::guarded([&] { spade::obc_counts(loss, R, steps, sparsity, counts); });
}

spade_status_t spade_obc_counts_f64(const double* loss, int64_t R, int64_t steps, double sparsity,
                                    int64_t* counts) {
  return spade::guarded([&] { spade::obc_counts(loss, R, steps, sparsity, counts); });
}
