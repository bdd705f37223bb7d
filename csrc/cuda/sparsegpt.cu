// spade_cuda_sparsegpt_prune: batched SparseGPT with one Cholesky a Hessian, H = V V^T but for a
// scale that no result depends on (cholesky.cu), and four launches a lazy block of about 128
// columns for all samples of all layers: the weights as they are now, the recurrence and its masks
// (sparsegpt_block.cuh), the result, and its errors carried to the columns on the right
// (sparsegpt_lazy.cuh). A layer takes part as long as it has columns.
//
// A mask block of more than 128 columns needs all its weights before the first of them goes: a
// first pass over its lazy blocks removes nothing and keeps its products apart, then comes the
// selection, then the pass as above with the mask given.

#include <string>

#include "cuda/ops.h"
#include "cuda/sparsegpt_chunk.h"
#include "cuda/sparsegpt_lazy.cuh"
#include "cuda/store.cuh"

namespace spade::cuda::sparsegpt {
namespace {

template <class T>
class Launches {
 public:
  // A chunk with its scratch memory.
  Launches(const char* function, const Chunk<T>& chunk, cudaStream_t stream)
      : function_(function), pieces_(chunk.pieces), table_(chunk.table), stream_(stream) {}

  void prune() {
    store(function_, pieces_.data(), static_cast<int64_t>(pieces_.size()), table_, stream_);
    launch(turn_weights<T>,
           spread_over(
               pieces_, [](const Piece<T>& p) { return p.dense_samples(); },
               [](const Piece<T>& p) { return tiles(p.R, p.D, kTurnTile); }),
           kTurnThreads);
    launch(invert_blocks<T>, over([](const Piece<T>& p) { return p.partition.count(); }), kLazy);
    int most = 0;
    for (const Piece<T>& p : pieces_) most = std::max(most, p.partition.count());
    for (int index = 0; index < most; ++index) {
      choose_wide(index);
      lazy_block(index);
    }
    launch(keep_dense<T>, over([](const Piece<T>& p) {
             return std::min<int64_t>(blocks_of(p.R * p.D, kTurnThreads), kDenseBlocks);
           }),
           kTurnThreads);
  }

 private:
  static int64_t tiles(int64_t rows, int64_t columns, int64_t side) {
    return int64_t{blocks_of(rows, side)} * blocks_of(columns, side);
  }

  // fn(piece) blocks for each sample of the pieces that have a lazy block `index`.
  template <class Fn>
  Spread at(int index, Fn fn) const {
    return over([&](const Piece<T>& p) { return index < p.partition.count() ? fn(p) : 0; });
  }
  template <class Fn>
  Spread over(Fn fn) const {
    return spread_over(pieces_, fn);
  }

  template <class Kernel, class... Arguments>
  void launch(Kernel kernel, const Spread& spread, int threads, Arguments... arguments) {
    if (spread.blocks() == 0) return;
    SPADE_LAUNCH(kernel, dim3(spread.blocks()), dim3(static_cast<unsigned>(threads)), 0, stream_,
                 static_cast<const Piece<T>*>(table_), spread, arguments...);
    check_launch(function_);
  }

  // Threads of a block that works on all rows of a sample.
  int row_threads(const Spread& spread) const {
    int64_t rows = 0;
    for (size_t i = 0; i < pieces_.size(); ++i)
      if (spread.each[i] > 0) rows = std::max(rows, pieces_[i].stride);
    return static_cast<int>(std::min<int64_t>(rows, kBlockThreads<T>));
  }

  // `gone` of the wide mask blocks whose first lazy block is `begin`.
  void choose_wide(int begin) {
    const auto starts = [&](const Piece<T>& p) {
      return p.wide() && begin < p.partition.count() &&
             static_cast<unsigned>(begin) % p.partition.per_span() == 0;
    };
    // Columns of the mask block behind its first `done` lazy blocks.
    const auto left = [&](const Piece<T>& p, int done) {
      if (!starts(p)) return int64_t{0};
      const int64_t columns = p.partition.end_of_span(begin) - p.partition.first(begin);
      return std::max<int64_t>(0, columns - int64_t{done} * kLazy);
    };
    const Spread samples = over([&](const Piece<T>& p) { return starts(p) ? 1 : 0; });
    if (samples.blocks() == 0) return;
    for (int done = 0;; ++done) {
      const Spread now = over([&](const Piece<T>& p) {
        return tiles(p.R, std::min<int64_t>(kLazy, left(p, done)), kProductTile);
      });
      if (now.blocks() == 0) break;
      launch(weights_now<T>, now, kTileThreads, begin + done, begin);
      launch(carry_errors<T>,
             over([&](const Piece<T>& p) { return tiles(p.R, left(p, done + 1), kProductTile); }),
             kTileThreads, begin + done, begin);
    }
    launch(select_wide<T>, samples, row_threads(samples), begin);
  }

  void lazy_block(int index) {
    const auto width = [&](const Piece<T>& p) { return p.partition.width(index); };
    launch(weights_now<T>,
           at(index, [&](const Piece<T>& p) { return tiles(p.R, width(p), kProductTile); }),
           kTileThreads, index, -1);
    const Spread samples = at(index, [](const Piece<T>&) { return 1; });
    launch(prune_lazy_block<T>, samples, row_threads(samples), index);
    launch(finish_lazy_block<T>,
           at(index, [&](const Piece<T>& p) { return tiles(p.R, width(p), kTurnTile); }),
           kTurnThreads, index);
    launch(carry_errors<T>,
           at(index,
              [&](const Piece<T>& p) {
                return tiles(p.R, p.D - p.partition.first(index) - width(p), kProductTile);
              }),
           kTileThreads, index, -1);
  }

  const char* function_;
  const std::vector<Piece<T>>& pieces_;
  Piece<T>* const table_;
  const cudaStream_t stream_;
};

void check_layer(const std::string& function, const spade_cuda_sparsegpt_layer_t& layer) {
  const char* name = function.c_str();
  check_reserved(name, layer);
  check_size(name, "S", layer.S);
  check_size(name, "R", layer.R);
  check_size(name, "D", layer.D);
  check_sparsegpt_options(name, &layer.options, layer.D);
  if (layer.R == 0 || layer.D == 0) return;
  // Kernels index the columns of a block in 32 bits.
  const Piece<float> piece = piece_of<float>(layer, 0, 1);
  SPADE_CHECK(std::max<int64_t>(piece.mask, kLazy) <= INT32_MAX / piece.stride,
              "%s: R x max(block_size, %d) must be < 2^31, got R = %lld, block_size = %lld", name,
              kLazy, static_cast<long long>(layer.R), static_cast<long long>(piece.mask));
}

void check_pointers(const std::string& function, const spade_cuda_sparsegpt_layer_t& layer) {
  const char* name = function.c_str();
  SPADE_CHECK(layer.w_stride >= 0, "%s: w_stride must be >= 0, got %lld", name,
              static_cast<long long>(layer.w_stride));
  check_pointer(name, "damp_used", layer.damp_used, layer.S);
  check_pointer(name, "info", layer.info, layer.S);
  if (layer.S == 0 || layer.R == 0 || layer.D == 0) return;
  check_pointer(name, "w", layer.w, 1);
  check_pointer(name, "h", layer.h, 1);
  check_pointer(name, "out", layer.out, 1);
}

using Layers = std::vector<spade_cuda_sparsegpt_layer_t>;

Layers check_layers(const char* function, int64_t L, const spade_cuda_sparsegpt_layer_t* layers,
                    int dtype, bool pointers) {
  check_size(function, "L", L);
  check_pointer(function, "layers", layers, L);
  SPADE_CHECK(dtype == SPADE_FLOAT32 || dtype == SPADE_FLOAT64,
              "%s: dtype must be SPADE_FLOAT32 or SPADE_FLOAT64, got %d", function, dtype);
  for (int64_t i = 0; i < L; ++i) {
    const std::string name = std::string(function) + ": layers[" + std::to_string(i) + "]";
    check_layer(name, layers[i]);
    if (pointers) check_pointers(name, layers[i]);
  }
  return Layers(layers, layers + L);
}

template <class T>
size_t bytes_of(const char* function, const Layers& layers, size_t limit) {
  const Device device = current_device(function);
  size_t most = 0;
  each_chunk<T>(device, layers, limit,
                [&](Chunk<T>& chunk) { most = std::max(most, chunk.bytes(device)); });
  return most;
}

template <class T>
void prune(const char* function, const Layers& layers, void* memory, size_t capacity,
           cudaStream_t stream) {
  constexpr int kThreads = 256;
  for (const spade_cuda_sparsegpt_layer_t& layer : layers) {
    if (layer.S == 0 || (layer.R > 0 && layer.D > 0)) continue;
    SPADE_LAUNCH(nothing_to_prune<kThreads>, dim3(blocks_of(layer.S, kThreads)), dim3(kThreads), 0,
                 stream, layer.S, layer.options.damp, layer.damp_used, layer.info);
    check_launch(function);
  }
  const Device device = current_device(function);
  each_chunk<T>(device, layers, capacity, [&](Chunk<T>& chunk) {
    Workspace workspace(function, memory, capacity, chunk.bytes(device));
    chunk.take(workspace, device);
    chunk.begin_factors(function, device);
    reversed_cholesky<T>(function, device, chunk.damp, chunk.factors, stream);
    chunk.begin_columns(function);
    Launches<T>(function, chunk, stream).prune();
  });
}

}  // namespace
}  // namespace spade::cuda::sparsegpt

namespace spade::cuda {

spade_status_t sparsegpt_prune_workspace_bytes(int64_t L,
                                               const spade_cuda_sparsegpt_layer_t* layers,
                                               int dtype, size_t limit, size_t* bytes) {
  return guarded([&] {
    const char* function = "spade_cuda_sparsegpt_prune_workspace_bytes";
    const sparsegpt::Layers all = sparsegpt::check_layers(function, L, layers, dtype, false);
    check_pointer(function, "bytes", bytes, 1);
    *bytes = dtype == SPADE_FLOAT64 ? sparsegpt::bytes_of<double>(function, all, limit)
                                    : sparsegpt::bytes_of<float>(function, all, limit);
  });
}

spade_status_t sparsegpt_prune(int64_t L, const spade_cuda_sparsegpt_layer_t* layers, int dtype,
                               void* workspace, size_t workspace_bytes, void* stream) {
  return guarded([&] {
    const char* function = "spade_cuda_sparsegpt_prune";
    const sparsegpt::Layers all = sparsegpt::check_layers(function, L, layers, dtype, true);
    if (dtype == SPADE_FLOAT64)
      sparsegpt::prune<double>(function, all, workspace, workspace_bytes, as_stream(stream));
    else
      sparsegpt::prune<float>(function, all, workspace, workspace_bytes, as_stream(stream));
  });
}

}  // namespace spade::cuda
