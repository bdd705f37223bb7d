// Which samples of which layers of a call of SparseGPT share launches, and their scratch memory
// (host).
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/sparsegpt_options.h"
#include "cuda/cholesky.cuh"
#include "cuda/sparsegpt_piece.cuh"
#include "spade/cuda.h"

namespace spade::cuda::sparsegpt {

// Samples [first, first + samples) of a layer, without scratch memory.
template <class T>
Piece<T> piece_of(const spade_cuda_sparsegpt_layer_t& layer, int64_t first, int64_t samples) {
  constexpr int64_t kRowAlignment = 32;  // rows: columns start at multiples of 128 bytes
  const spade_sparsegpt_t& options = layer.options;
  const int64_t R = layer.R, D = layer.D;
  Piece<T> p{};
  p.w_stride = layer.w_stride;
  p.w = static_cast<const T*>(layer.w) + first * p.w_stride;
  p.h = static_cast<const T*>(layer.h) + first * D * D;
  p.out = static_cast<T*>(layer.out) + first * R * D;
  p.damp_used = layer.damp_used + first;
  p.info = layer.info + first;
  p.S = samples;
  p.R = R;
  p.D = D;
  p.stride = (R + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
  p.mask = options.m > 0 ? options.m : std::min(options.block_size, D);
  const int64_t lazy = p.wide() ? kLazy : std::min(D, kLazy / p.mask * p.mask);
  p.partition = {static_cast<unsigned>(D), static_cast<unsigned>(p.wide() ? p.mask : lazy),
                 static_cast<unsigned>(lazy)};
  p.n = options.m > 0 ? static_cast<int>(options.n) : -1;
  const auto count = [&](int64_t width) {
    return static_cast<unsigned>(block_count(options.sparsity, R * width, options.extra));
  };
  if (options.m == 0) {
    p.count = count(p.mask);
    p.last_count = count(D % p.mask);
  }
  return p;
}

// Samples that share launches, at most kMostPieces pieces of one damping. The factorisation and the
// pass over the columns take turns in one part of the scratch memory.
template <class T>
class Chunk {
 public:
  std::vector<Piece<T>> pieces;
  double damp = 0;
  Piece<T>* table = nullptr;  // scratch: a copy of the pieces
  CholeskyBatch factors;

  size_t bytes(const Device& device) {
    Workspace count;
    take(count, device);
    return count.bytes();
  }

  void take(Workspace& workspace, const Device& device) {
    table = workspace.take<Piece<T>>(static_cast<int64_t>(pieces.size()));
    for (Piece<T>& p : pieces) {
      p.v = workspace.take<T>(p.S * p.D * p.D);
      p.u = workspace.take<T>(p.S * p.partition.count() * kLazy * kLazy);
      p.dense = workspace.take<T>(p.dense_samples() * p.D * p.stride);
    }
    Workspace first, second;
    take_factors(first, device);
    take_columns(second);
    shared_bytes_ = std::max(first.bytes(), second.bytes());
    shared_ = workspace.take<char>(static_cast<int64_t>(shared_bytes_));
  }

  // After take: the shared part is the factorisation's, until it is the columns'.
  void begin_factors(const char* function, const Device& device) {
    Workspace workspace(function, shared_, shared_bytes_, shared_bytes_);
    take_factors(workspace, device);
  }
  void begin_columns(const char* function) {
    Workspace workspace(function, shared_, shared_bytes_, shared_bytes_);
    take_columns(workspace);
  }

 private:
  void take_factors(Workspace& workspace, const Device& device) {
    factors.pieces.clear();
    for (const Piece<T>& p : pieces)
      factors.pieces.push_back(
          {p.h, p.v, p.damp_used, p.info, p.S, p.D, nullptr, nullptr, nullptr, nullptr});
    take_cholesky<T>(workspace, device, damp, factors);
  }

  void take_columns(Workspace& workspace) {
    for (Piece<T>& p : pieces) {
      p.product = workspace.take<T>(p.S * p.D * p.stride);
      p.state = workspace.take<T>(p.S * kLazy * p.stride);
      p.error = workspace.take<T>(p.S * kLazy * p.stride);
      p.gone = workspace.take<uint8_t>(p.S * p.gone_columns() * p.stride);
      p.trial_product = workspace.take<T>(p.wide() ? p.S * p.mask * p.stride : 0);
      p.trial = workspace.take<T>(p.wide() ? p.S * p.mask * p.stride : 0);
    }
  }

  char* shared_ = nullptr;
  size_t shared_bytes_ = 0;
};

// fn(chunk) for chunks of all samples of all layers that have weights: layers of one damping, those
// of most columns first, so that a chunk's layers end together. A chunk takes samples as long as it
// stays within `limit` bytes, at least one.
template <class T, class Fn>
void each_chunk(const Device& device, const std::vector<spade_cuda_sparsegpt_layer_t>& layers,
                size_t limit, Fn&& fn) {
  std::vector<int64_t> order(layers.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const auto &x = layers[a], &y = layers[b];
    return x.options.damp != y.options.damp ? x.options.damp < y.options.damp : x.D > y.D;
  });
  Chunk<T> chunk;
  const auto end_chunk = [&] {
    if (!chunk.pieces.empty()) fn(chunk);
    chunk.pieces.clear();
  };
  // The most of `samples` samples that the chunk can take besides.
  const auto room_for = [&](const spade_cuda_sparsegpt_layer_t& layer, int64_t samples) {
    if (chunk.pieces.size() == kMostPieces) return int64_t{0};
    int64_t least = 0;
    for (int64_t most = samples; least < most;) {
      const int64_t middle = (least + most + 1) / 2;
      Chunk<T> larger = chunk;
      larger.pieces.push_back(piece_of<T>(layer, 0, middle));
      if (larger.bytes(device) <= limit)
        least = middle;
      else
        most = middle - 1;
    }
    return least;
  };
  for (const int64_t i : order) {
    const spade_cuda_sparsegpt_layer_t& layer = layers[i];
    if (layer.R == 0 || layer.D == 0) continue;
    if (layer.options.damp != chunk.damp) end_chunk();
    chunk.damp = layer.options.damp;
    for (int64_t first = 0; first < layer.S;) {
      int64_t samples = room_for(layer, layer.S - first);
      if (samples == 0) {
        end_chunk();
        samples = std::max<int64_t>(1, room_for(layer, layer.S - first));
      }
      chunk.pieces.push_back(piece_of<T>(layer, first, samples));
      first += samples;
    }
  }
  end_chunk();
}

}  // namespace spade::cuda::sparsegpt
