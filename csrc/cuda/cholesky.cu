// Batched reversed Cholesky: with J the reversal of indices, 4^k J (H + shift) J = R^T R, R upper,
// and V = J R^T J is upper with 4^k (H + shift) = V V^T.
//
// Right-looking in panels of 64 rows, three launches each for all matrices that reach so far
// (cholesky_panel.cuh): one block per matrix factorises the diagonal block and inverts it; one
// block a tile of 64 columns solves the rest of the panel by a product with that inverse; one block
// a tile updates the trailing upper triangle. D^3 / 3 flop per matrix at 16 flop per byte of
// trailing matrix (floats).
//
// The factor is double for doubles, and where the device multiplies doubles at half the rate of
// floats. Elsewhere, doubles at a sixty-fourth, it is so below a damping of 1e-3, and float, as on
// the CPU, from it on.

#include <algorithm>

#include "core/damping.h"
#include "cuda/cholesky.cuh"
#include "cuda/cholesky_panel.cuh"
#include "cuda/store.cuh"

namespace spade::cuda {
namespace {

using namespace cholesky;

template <class T>
bool needs_double(const Device& device, double damp) {
  const bool fast = device.minor == 0 && device.major >= 8 && device.major <= 10;
  return sizeof(T) == sizeof(double) || fast || damp < kFloatFromDamp;
}

template <class T>
class Ladder {
 public:
  Ladder(const char* function, const CholeskyBatch& batch, cudaStream_t stream)
      : function_(function),
        batch_(batch),
        matrices_(spread_over(batch.pieces, [](const CholeskyPiece&) { return 1; })),
        stream_(stream) {
    store(function, batch.pieces.data(), static_cast<int64_t>(batch.pieces.size()), batch.table,
          stream);
    launch(begin_ladder<T>, matrices_, kCholeskyThreads);
  }

  template <class F>
  void factorise(double damp) {
    launch(load_reversed<T, F>,
           over([](const CholeskyPiece& p) { return int64_t{blocks_of(p.D, kTurn)}; }),
           kCholeskyThreads, damp);
    int64_t most = 0;
    for (const CholeskyPiece& p : batch_.pieces) most = std::max(most, p.D);
    for (int64_t first = 0; first < most; first += kPanel) {
      launch(factor_diagonal<F>, over([&](const CholeskyPiece& p) { return p.D > first ? 1 : 0; }),
             kCholeskyThreads, first);
      if (first + kPanel >= most) break;
      const auto tiles = [&](const CholeskyPiece& p) {
        return int64_t{blocks_of(std::max<int64_t>(0, p.D - first - kPanel), kProductTile)};
      };
      launch(solve_panel<F>, over(tiles), kTileThreads, first);
      launch(update_trailing<F>,
             over([&](const CholeskyPiece& p) { return upper_tiles(tiles(p)); }), kTileThreads,
             first);
    }
    launch(store_factor<T, F>,
           over([](const CholeskyPiece& p) { return upper_tiles(blocks_of(p.D, kTurn)); }),
           kCholeskyThreads);
  }

  void settle(double damp, bool last) {
    SPADE_LAUNCH(settle_rung, dim3(blocks_of(matrices_.blocks(), kCholeskyThreads)),
                 dim3(kCholeskyThreads), 0, stream_, batch_.table, matrices_, damp, last);
    check_launch(function_);
  }

 private:
  template <class Each>
  Spread over(Each&& each) const {
    return spread_over(batch_.pieces, each);
  }

  template <class Kernel, class... Arguments>
  void launch(Kernel kernel, const Spread& spread, int threads, Arguments... arguments) {
    SPADE_LAUNCH(kernel, dim3(spread.blocks()), dim3(static_cast<unsigned>(threads)), 0, stream_,
                 batch_.table, spread, arguments...);
    check_launch(function_);
  }

  const char* function_;
  const CholeskyBatch& batch_;
  const Spread matrices_;  // a block each
  const cudaStream_t stream_;
};

}  // namespace

template <class T>
void take_cholesky(Workspace& workspace, const Device& device, double damp, CholeskyBatch& batch) {
  const int64_t size = needs_double<T>(device, damp) ? sizeof(double) : sizeof(float);
  batch.table = workspace.take<CholeskyPiece>(static_cast<int64_t>(batch.pieces.size()));
  for (CholeskyPiece& p : batch.pieces) {
    p.factor = workspace.take<char>(p.S * p.D * p.D * size);
    p.inverse = workspace.take<char>(p.S * kPanel * kPanel * size);
    p.mean = workspace.take<double>(p.S);
    p.failed = workspace.take<int32_t>(p.S);
  }
}

template <class T>
void reversed_cholesky(const char* function, const Device& device, double damp,
                       const CholeskyBatch& batch, cudaStream_t stream) {
  Ladder<T> ladder(function, batch, stream);
  for (double next; damp >= 0; damp = next) {
    next = next_damp(damp);
    if (needs_double<T>(device, damp))
      ladder.template factorise<double>(damp);
    else if constexpr (sizeof(T) == sizeof(float))
      ladder.template factorise<float>(damp);
    ladder.settle(damp, next < 0);
  }
}

template void take_cholesky<float>(Workspace&, const Device&, double, CholeskyBatch&);
template void take_cholesky<double>(Workspace&, const Device&, double, CholeskyBatch&);
template void reversed_cholesky<float>(const char*, const Device&, double, const CholeskyBatch&,
                                       cudaStream_t);
template void reversed_cholesky<double>(const char*, const Device&, double, const CholeskyBatch&,
                                        cudaStream_t);

}  // namespace spade::cuda
