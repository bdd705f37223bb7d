// One launch over pieces of many sizes. A piece is some samples of one layer, all of one size; each
// of its samples takes as many blocks as its size asks for, and the grid holds no others.
#pragma once

#include "cuda/launch.h"

namespace spade::cuda {

constexpr int kMostPieces = 64;  // of a launch: a Spread travels in its arguments

struct Spread {
  int pieces;
  unsigned end[kMostPieces];   // blocks of pieces 0 to i
  unsigned each[kMostPieces];  // blocks of a sample of piece i

  __host__ __device__ unsigned blocks() const { return pieces > 0 ? end[pieces - 1] : 0; }
};

struct Place {
  int piece;
  int64_t sample;
  unsigned block;  // among those of the sample
};

// What block `block` of the launch works on: bisection for the first piece that ends behind it.
__device__ __forceinline__ Place place_of(const Spread& spread, unsigned block) {
  int low = 0, high = spread.pieces - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (spread.end[middle] > block)
      high = middle;
    else
      low = middle + 1;
  }
  const unsigned within = block - (low > 0 ? spread.end[low - 1] : 0);
  return {low, within / spread.each[low], within % spread.each[low]};
}

// samples(piece) times each(piece) blocks for every piece; each may be 0. The sum stays below 2^31:
// every block of a launch stands for kilobytes of scratch memory of its own.
template <class Pieces, class Samples, class Each>
Spread spread_over(const Pieces& pieces, Samples&& samples, Each&& each) {
  Spread spread{};
  int64_t total = 0;
  for (const auto& piece : pieces) {
    const int64_t blocks = each(piece);
    total += blocks * samples(piece);
    spread.each[spread.pieces] = static_cast<unsigned>(blocks);
    spread.end[spread.pieces++] = static_cast<unsigned>(total);
  }
  return spread;
}

// The same for all samples of each piece.
template <class Pieces, class Each>
Spread spread_over(const Pieces& pieces, Each&& each) {
  return spread_over(pieces, [](const auto& piece) { return piece.S; }, each);
}

}  // namespace spade::cuda
