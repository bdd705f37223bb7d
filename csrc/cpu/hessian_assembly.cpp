#include "cpu/hessian_assembly.h"

#include <algorithm>
#include <map>

namespace spade {
namespace {

constexpr int64_t kBlock = 16;   // most channels a side of a piece
constexpr int64_t kPiece = 180;  // most columns of H a side of a piece: its sums stay in L2
constexpr int64_t kLanes = 8;    // doubles of the widest vector

}  // namespace

AssemblyTables::AssemblyTables(const TapPlan& plan, int64_t kernel_taps, int64_t tile)
    : taps(kernel_taps),
      block(std::max<int64_t>(1, std::min(kBlock, kPiece / taps))),
      stride((block + kLanes - 1) / kLanes * kLanes) {
  const int64_t grams = static_cast<int64_t>(plan.grams().size());
  std::map<std::vector<int64_t>, int64_t> found;
  first.push_back(0);
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t u = 0; u < taps; ++u) {
      std::vector<int64_t> tiles;
      plan.each_term(std::min(t, u), std::max(t, u),
                     [&](int64_t gram) { tiles.push_back(((t > u) * grams + gram) * tile); });
      const auto [sum, is_new] = found.emplace(tiles, sums());
      sum_of.push_back(sum->second * area());
      if (!is_new) continue;
      terms.insert(terms.end(), tiles.begin(), tiles.end());
      first.push_back(static_cast<int64_t>(terms.size()));
    }
}

}  // namespace spade
