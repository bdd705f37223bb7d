// spade_cuda_sparsegpt_prune: batched SparseGPT with one Cholesky a Hessian, H = V V^T but for a
// scale that no result depends on (cholesky.cu), and four launches a lazy block of about 128
// columns for all samples: the weights as they are now, the recurrence and its masks
// (sparsegpt_block.cuh), the result, and its errors carried to the columns on the right
// (sparsegpt_lazy.cuh).
//
// A mask block of more than 128 columns needs all its weights before the first of them goes: a
// first pass over its lazy blocks removes nothing and keeps its products apart, then comes the
// selection, then the pass as above with the mask given.

#include <algorithm>

#include "core/sparsegpt_options.h"
#include "cuda/cholesky.cuh"
#include "cuda/ops.h"
#include "cuda/sparsegpt_block.cuh"
#include "cuda/sparsegpt_lazy.cuh"

namespace spade::cuda::sparsegpt {
namespace {

constexpr int64_t kMostSamples = 65535;  // of a chunk: one dimension of a grid
constexpr int64_t kRowAlignment = 32;    // rows: columns start at multiples of 128 bytes

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

class Batch {
 public:
  Batch(const char* function, int64_t R, int64_t D, const spade_sparsegpt_t& options)
      : function_(function),
        device_(current_device(function)),
        R_(R),
        D_(D),
        stride_(round_up(R, kRowAlignment)),
        options_(options),
        mask_(options.m > 0 ? options.m : std::min(options.block_size, D)),
        wide_(mask_ > kLazy),
        lazy_(wide_ ? kLazy : std::min(D, kLazy / mask_ * mask_)),
        partition_{D, wide_ ? mask_ : lazy_, lazy_} {
    // Kernels index the columns of a block in 32 bits.
    SPADE_CHECK(std::max<int64_t>(mask_, kLazy) <= INT32_MAX / stride_,
                "%s: R x max(block_size, %d) must be < 2^31, got R = %lld, block_size = %lld",
                function, kLazy, static_cast<long long>(R), static_cast<long long>(mask_));
  }

  size_t bytes(int64_t S) {
    Workspace count;
    take(count, S);
    return count.bytes();
  }

  // Samples at a time: as many as stay within `limit` bytes, at least one.
  int64_t chunk(int64_t S, size_t limit) {
    int64_t most = std::min(S, kMostSamples), least = 1;
    while (least < most) {
      const int64_t middle = (least + most + 1) / 2;
      if (bytes(middle) <= limit)
        least = middle;
      else
        most = middle - 1;
    }
    return least;
  }

  void prune(const float* w, int64_t w_stride, const float* h, int64_t S, float* out,
             double* damp_used, int32_t* info, void* memory, size_t capacity, cudaStream_t stream) {
    S_ = S;
    stream_ = stream;
    Workspace workspace(function_, memory, capacity, bytes(S));
    take(workspace, S);
    Workspace first(function_, shared_, shared_bytes_, shared_bytes_);
    reversed_cholesky(function_, device_, h, S, D_, options_.damp,
                      take_cholesky(first, device_, S, D_, options_.damp), v_, damp_used, info,
                      stream);
    Workspace second(function_, shared_, shared_bytes_, shared_bytes_);
    take_columns(second, S);

    const int64_t dense_samples = w_stride ? S : 1;
    SPADE_LAUNCH(turn_weights,
                 dim3(blocks_of(R_, kTurnTile), blocks_of(D_, kTurnTile),
                      static_cast<unsigned>(dense_samples)),
                 dim3(kTurnThreads), 0, stream, w, w_stride, R_, D_, stride_, dense_);
    check_launch(function_);
    layer_ = {dense_, dense_samples, h, v_, u_, info, R_, D_, stride_, partition_};
    SPADE_LAUNCH(invert_blocks, dim3(static_cast<unsigned>(partition_.count()), samples()),
                 dim3(kLazy), 0, stream, layer_);
    check_launch(function_);
    fill_bytes(function_, product_, 0, static_cast<size_t>(S * D_ * stride_) * sizeof(float),
               stream);

    for (int64_t index = 0; index < partition_.count(); ++index) {
      if (wide_ && index % partition_.per_span() == 0) choose_wide(index);
      lazy_block(index, out);
    }
    SPADE_LAUNCH(keep_dense, dim3(std::min(blocks_of(R_ * D_, kTurnThreads), 1024u), samples()),
                 dim3(kTurnThreads), 0, stream, w, w_stride, R_ * D_, info, out);
    check_launch(function_);
  }

 private:
  unsigned samples() const { return static_cast<unsigned>(S_); }

  unsigned threads() const {
    return static_cast<unsigned>(std::min<int64_t>(round_up(R_, 32), kBlockThreads));
  }

  // The factorisation and the pass over the columns take turns in one part of the memory.
  void take(Workspace& workspace, int64_t S) {
    v_ = workspace.take<float>(S * D_ * D_);
    u_ = workspace.take<float>(S * partition_.count() * kLazy * kLazy);
    dense_ = workspace.take<float>(S * D_ * stride_);
    Workspace first, second;
    take_cholesky(first, device_, S, D_, options_.damp);
    take_columns(second, S);
    shared_bytes_ = std::max(first.bytes(), second.bytes());
    shared_ = workspace.take<char>(static_cast<int64_t>(shared_bytes_));
  }

  void take_columns(Workspace& workspace, int64_t S) {
    product_ = workspace.take<float>(S * D_ * stride_);
    state_ = workspace.take<float>(S * kLazy * stride_);
    error_ = workspace.take<float>(S * kLazy * stride_);
    gone_ = workspace.take<uint8_t>(S * (wide_ ? mask_ : kLazy) * stride_);
    trial_product_ = workspace.take<float>(wide_ ? S * mask_ * stride_ : 0);
    trial_ = workspace.take<float>(wide_ ? S * mask_ * stride_ : 0);
  }

  unsigned count(int64_t width) const {
    if (options_.m > 0) return 0;
    return static_cast<unsigned>(block_count(options_.sparsity, R_ * width, options_.extra));
  }

  int of_row() const { return options_.m > 0 ? static_cast<int>(options_.n) : -1; }

  void weights_at(int64_t index, Columns<const float> product, Columns<float> to, float* error) {
    const dim3 tiles(blocks_of(R_, kTile), blocks_of(partition_.width(index), kTile), samples());
    SPADE_LAUNCH(weights_now, tiles, dim3(kTileThreads), 0, stream_, layer_, index, product, to,
                 error);
    check_launch(function_);
  }

  // The errors of lazy block `index` reach the columns after it up to `end`.
  void carry(int64_t index, int64_t end, Columns<const float> before, Columns<float> after) {
    const int64_t from = partition_.first(index) + partition_.width(index);
    if (from >= end) return;
    const dim3 tiles(blocks_of(R_, kTile), blocks_of(end - from, kTile), samples());
    SPADE_LAUNCH(carry_errors, tiles, dim3(kTileThreads), 0, stream_, layer_, index, from, end,
                 error_, before, after);
    check_launch(function_);
  }

  // gone_ of the wide mask block whose first lazy block is `index`.
  void choose_wide(int64_t index) {
    const int64_t first = partition_.first(index), end = std::min(D_, first + mask_);
    Columns<const float> product{product_, 0, D_};
    for (int64_t i = index; i < partition_.count() && partition_.first(i) < end; ++i) {
      weights_at(i, product, {trial_, first, mask_}, error_);
      carry(i, end, product, {trial_product_, first, mask_});
      product = {trial_product_, first, mask_};
    }
    SPADE_LAUNCH(select_wide, dim3(samples()), dim3(threads()), 0, stream_, layer_,
                 Columns<const float>{trial_, first, mask_}, static_cast<int>(end - first),
                 of_row(), count(end - first), gone_);
    check_launch(function_);
  }

  void lazy_block(int64_t index, float* out) {
    const int64_t first = partition_.first(index);
    const int width = partition_.width(index);
    weights_at(index, {product_, 0, D_}, {state_, first, kLazy}, nullptr);
    LazyStep step;
    step.v = v_;
    step.u = u_ + index * kLazy * kLazy;
    step.info = layer_.info;
    step.state = state_;
    step.error = error_;
    step.gone = gone_;
    step.D = D_;
    step.u_stride = partition_.count() * kLazy * kLazy;
    step.stride = static_cast<int>(stride_);
    step.gone_columns = wide_ ? mask_ : kLazy;
    step.rows = static_cast<int>(R_);
    step.first = first;
    step.width = width;
    step.mask = static_cast<int>(mask_);
    step.gone_first = wide_ ? static_cast<int>(first % mask_) : -1;
    step.n = of_row();
    step.count = count(mask_);
    step.last_count = count(D_ % mask_);
    SPADE_LAUNCH(prune_lazy_block, dim3(samples()), dim3(threads()), 0, stream_, step);
    check_launch(function_);
    const dim3 tiles(blocks_of(R_, kTurnTile), blocks_of(width, kTurnTile), samples());
    SPADE_LAUNCH(finish_lazy_block, tiles, dim3(kTurnThreads), 0, stream_, layer_, index, state_,
                 error_, out);
    check_launch(function_);
    carry(index, D_, {product_, 0, D_}, {product_, 0, D_});
  }

  const char* function_;
  const Device device_;
  const int64_t R_, D_, stride_;
  const spade_sparsegpt_t options_;
  const int64_t mask_;  // columns of a mask block
  const bool wide_;     // it is wider than a lazy block
  const int64_t lazy_;
  const Partition partition_;
  int64_t S_ = 0;
  cudaStream_t stream_ = nullptr;
  Layer layer_{};
  float* v_ = nullptr;      // [S, D, D]: V
  float* u_ = nullptr;      // [S, lazy blocks, kLazy, kLazy]: U_bb
  float* dense_ = nullptr;  // [S, D, stride]: W^T
  char* shared_ = nullptr;  // what the factorisation, then the following needs
  size_t shared_bytes_ = 0;
  float* product_ = nullptr;        // [S, D, stride]: E V
  float* state_ = nullptr;          // [S, kLazy, stride]
  float* error_ = nullptr;          // [S, kLazy, stride]
  uint8_t* gone_ = nullptr;         // [S, kLazy or mask, stride]
  float* trial_product_ = nullptr;  // [S, mask, stride]: E V if nothing of the mask block goes
  float* trial_ = nullptr;          // [S, mask, stride]: weights then
};

void check_problem(const char* function, int64_t S, int64_t R, int64_t D,
                   const spade_sparsegpt_t* options) {
  check_size(function, "S", S);
  check_size(function, "R", R);
  check_size(function, "D", D);
  check_sparsegpt_options(function, options, D);
}

}  // namespace
}  // namespace spade::cuda::sparsegpt

namespace spade::cuda {

spade_status_t sparsegpt_prune_workspace_bytes(int64_t S, int64_t R, int64_t D,
                                               const spade_sparsegpt_t* options, size_t limit,
                                               size_t* bytes) {
  return guarded([&] {
    const char* function = "spade_cuda_sparsegpt_prune_workspace_bytes";
    sparsegpt::check_problem(function, S, R, D, options);
    check_pointer(function, "bytes", bytes, 1);
    *bytes = 0;
    if (S == 0 || R == 0 || D == 0) return;
    sparsegpt::Batch batch(function, R, D, *options);
    *bytes = batch.bytes(batch.chunk(S, limit));
  });
}

spade_status_t sparsegpt_prune(const float* w, int64_t w_stride, const float* h, int64_t S,
                               int64_t R, int64_t D, const spade_sparsegpt_t* options, float* out,
                               double* damp_used, int32_t* info, void* workspace,
                               size_t workspace_bytes, void* stream) {
  return guarded([&] {
    const char* function = "spade_cuda_sparsegpt_prune";
    sparsegpt::check_problem(function, S, R, D, options);
    SPADE_CHECK(w_stride >= 0, "%s: w_stride must be >= 0, got %lld", function,
                static_cast<long long>(w_stride));
    check_pointer(function, "damp_used", damp_used, S);
    check_pointer(function, "info", info, S);
    if (S == 0) return;
    if (R == 0 || D == 0) {
      SPADE_LAUNCH(sparsegpt::nothing_to_prune, dim3(blocks_of(S, sparsegpt::kTurnThreads)),
                   dim3(sparsegpt::kTurnThreads), 0, as_stream(stream), S, options->damp, damp_used,
                   info);
      check_launch(function);
      return;
    }
    check_pointer(function, "w", w, 1);
    check_pointer(function, "h", h, 1);
    check_pointer(function, "out", out, 1);
    sparsegpt::Batch batch(function, R, D, *options);
    const int64_t chunk = batch.chunk(S, workspace_bytes);
    for (int64_t s = 0; s < S; s += chunk)
      batch.prune(w + s * w_stride, w_stride, h + s * D * D, std::min(chunk, S - s),
                  out + s * R * D, damp_used + s, info + s, workspace, workspace_bytes,
                  as_stream(stream));
  });
}

}  // namespace spade::cuda
