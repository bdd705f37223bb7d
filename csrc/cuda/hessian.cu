// hessian_linear and hessian_conv2d on the GPU: H += X X^T in at most five launches a group of
// samples, besides one that stores the plan.
//
//   largest -> pack -> gram (hessian_gram.cuh)  or  largest -> gather (hessian_gather.cuh)
//   -> assemble
// A linear layer is a 1 x 1 convolution of 1 x 1 images. Sizes alone decide how sums are cut, so H
// has the same bits on every GPU and whatever samples are beside one in the call.

#include "cuda/hessian_assemble.cuh"
#include "cuda/hessian_gather.cuh"
#include "cuda/hessian_gram.cuh"
#include "cuda/hessian_pack.cuh"
#include "cuda/hessian_plan.h"
#include "cuda/launch.h"
#include "cuda/ops.h"

namespace spade::cuda {
namespace {

constexpr int64_t kLeastChannels = 32;  // of a group, for grams of channels
constexpr int64_t kMostTaps = 81;       // for a plan of tap offsets
constexpr int64_t kMostSize = 1 << 30;  // of a padded side, in 32-bit coordinates
constexpr int64_t kMostRows = 65535;    // of a grid

// One call: what is computed and the sizes of its scratch.
class HessianCall {
 public:
  HessianCall(const char* function, const spade_conv2d_t& conv, int64_t S, int dtype, int precision)
      : function_(function), conv_(conv), S_(S), dtype_(dtype) {
    check_size(function, "S", S);
    SPADE_CHECK(S > 0 ? conv.batch % S == 0 : conv.batch == 0,
                "%s: S must divide the %lld rows or images, got %lld", function,
                static_cast<long long>(conv.batch), static_cast<long long>(S));
    SPADE_CHECK(dtype == SPADE_FLOAT32 || dtype == SPADE_FLOAT16 || dtype == SPADE_BFLOAT16,
                "%s: dtype must be a spade_dtype_t, got %d", function, dtype);
    SPADE_CHECK(precision == SPADE_PRECISION_DEFAULT || precision == SPADE_PRECISION_FAST,
                "%s: precision must be a spade_precision_t, got %d", function, precision);
    three_products_ = dtype == SPADE_FLOAT32 && precision == SPADE_PRECISION_DEFAULT;
    check_side("height", conv.height + conv.pad_top + conv.pad_bottom);
    check_side("width", conv.width + conv.pad_left + conv.pad_right);
    SPADE_CHECK(conv.height * conv.width <= INT32_MAX,
                "%s: height x width must be below 2^31, got %lld", function,
                static_cast<long long>(conv.height * conv.width));
    keep_read_pixels();
    const ConvSizes sizes(conv_);
    if (sizes.positions == 0 || sizes.D == 0 || conv_.height == 0 || conv_.width == 0) return;
    D_ = sizes.D;
    SPADE_CHECK(D_ * D_ / kAssembleThreads < INT32_MAX,
                "%s: columns of H must be below 741000, got %lld", function,
                static_cast<long long>(D_));
    images_ = conv_.batch / S;
    const bool single_gram = sizes.taps == 1 && conv_.groups == 1;
    packed_ = single_gram || (sizes.channels >= kLeastChannels && sizes.taps <= kMostTaps);
    make_plan(sizes);
    const int64_t blocks = plan_.blocks * conv_.groups;
    SPADE_CHECK(blocks <= INT32_MAX, "%s: the input is too large for one call", function);
    if (blocks == 0) return;
    at_once_ = std::min({S, kMostRows, std::max<int64_t>(1, 4 * plan::kBlocks / blocks)});
  }

  bool empty() const { return at_once_ == 0; }

  size_t workspace_bytes() const {
    if (empty()) return 0;
    Workspace counted;
    carve(counted);
    return counted.bytes();
  }

  void run(const void* x, double* h, void* workspace, size_t bytes, cudaStream_t stream) const {
    if (empty()) return;
    check_pointer(function_, "x", x, 1);
    check_pointer(function_, "h", h, 1);
    Workspace carved(function_, workspace, bytes, workspace_bytes());
    const Scratch scratch = carve(carved);
    store_plan(scratch.words, stream);
    if (dtype_ == SPADE_FLOAT32) return run_as(static_cast<const float*>(x), h, scratch, stream);
    if (dtype_ == SPADE_FLOAT16) return run_as(static_cast<const Half*>(x), h, scratch, stream);
    run_as(static_cast<const Bfloat16*>(x), h, scratch, stream);
  }

 private:
  struct Scratch {
    int32_t* words;
    unsigned* largest;  // [at once]; NULL: not scaled
    uint16_t *hi, *lo;  // [at once * images, height, width, groups * padded]; NULL: not packed
    float* sums;        // [at once * groups * blocks, tile, tile]
  };

  void check_side(const char* name, int64_t padded) const {
    SPADE_CHECK(padded < kMostSize, "%s: padded %s must be below 2^30, got %lld", function_, name,
                static_cast<long long>(padded));
  }

  // A 1 x 1 convolution reads every stride-th pixel: the others leave the problem.
  void keep_read_pixels() {
    if (conv_.kernel_h != 1 || conv_.kernel_w != 1) return;
    const ConvSizes sizes(conv_);
    const plan::Lines y =
        plan::axis_pairs(conv_.height, sizes.out_h, 1, conv_.stride_h, conv_.pad_top, 1)[0].lines;
    const plan::Lines x =
        plan::axis_pairs(conv_.width, sizes.out_w, 1, conv_.stride_w, conv_.pad_left, 1)[0].lines;
    offset_ = y.count && x.count ? y.first * conv_.stride_row + x.first * conv_.stride_col : 0;
    conv_.height = y.count;
    conv_.width = x.count;
    conv_.stride_row *= conv_.stride_h;
    conv_.stride_col *= conv_.stride_w;
    conv_.stride_h = conv_.stride_w = conv_.dilation_h = conv_.dilation_w = 1;
    conv_.pad_top = conv_.pad_bottom = conv_.pad_left = conv_.pad_right = 0;
  }

  void make_plan(const ConvSizes& sizes) {
    if (packed_) {
      const int64_t width = sizes.channels <= 64 ? 64 : 128;
      plan_ = plan::cut(function_, plan::rectangles(conv_, sizes), images_, conv_.groups,
                        sizes.taps, sizes.channels, width);
      return;
    }
    // Columns of the unfolded input are the channels of one gram over all output positions.
    const plan::Rectangles all{
        {{0, static_cast<int32_t>(sizes.out_h), 0, static_cast<int32_t>(sizes.out_w), 0, 0}},
        {{0}}};
    plan_ = plan::cut(function_, all, images_, conv_.groups, 1, sizes.D, sizes.D <= 16 ? 16 : 64);
  }

  Scratch carve(Workspace& from) const {
    Scratch s{};
    s.words = from.take<int32_t>(static_cast<int64_t>(plan_.words.size()));
    if (dtype_ != SPADE_FLOAT16) s.largest = from.take<unsigned>(at_once_);
    if (packed_) {
      const Images m = images_of();
      const int64_t numbers = at_once_ * m.images * m.height * m.width * m.groups * m.padded;
      s.hi = from.take<uint16_t>(numbers);
      if (three_products_) s.lo = from.take<uint16_t>(numbers);
    }
    s.sums = from.take<float>(at_once_ * conv_.groups * plan_.blocks * plan_.width * plan_.width);
    return s;
  }

  void store_plan(int32_t* to, cudaStream_t stream) const {
    const int64_t count = static_cast<int64_t>(plan_.words.size());
    for (int64_t i = 0; i < count; i += kPassedWords) {
      PassedWords part{};
      const int64_t size = std::min<int64_t>(kPassedWords, count - i);
      std::copy_n(plan_.words.begin() + i, size, part.words);
      SPADE_LAUNCH(store_plan_kernel, dim3(1), dim3(256), 0, stream, part, static_cast<int>(size),
                   to + i);
    }
    check_launch(function_);
  }

  template <class T>
  void run_as(const T* x, double* h, const Scratch& scratch, cudaStream_t stream) const {
    x += offset_;
    for (int64_t first = 0; first < S_; first += at_once_) {
      const int64_t samples = std::min(at_once_, S_ - first);
      add_samples(x + first * images_ * conv_.stride_batch, samples,
                  h + first * conv_.groups * D_ * D_, scratch, stream);
    }
  }

  template <class T>
  void add_samples(const T* x, int64_t samples, double* h, const Scratch& scratch,
                   cudaStream_t stream) const {
    const Images images = images_of();
    const dim3 walk(static_cast<unsigned>(std::min(pack_tiles(images), 8 * plan::kBlocks)),
                    static_cast<unsigned>(samples));
    if (scratch.largest) {
      fill_bytes(function_, scratch.largest, 0, static_cast<size_t>(samples) * sizeof(unsigned),
                 stream);
      SPADE_LAUNCH(largest_kernel<T>, walk, dim3(kPackThreads), 0, stream, x, images,
                   scratch.largest);
      check_launch(function_);
    }
    const dim3 blocks(static_cast<unsigned>(samples * conv_.groups * plan_.blocks));
    if (!packed_) {
      sum_gathered(x, blocks, scratch, stream);
    } else if (three_products_) {
      SPADE_LAUNCH((pack_kernel<T, 2>), walk, dim3(kPackThreads), 0, stream, x, images,
                   scratch.largest, scratch.hi, scratch.lo);
      check_launch(function_);
      sum_packed<3>(blocks, scratch, stream);
    } else {
      SPADE_LAUNCH((pack_kernel<T, 1>), walk, dim3(kPackThreads), 0, stream, x, images,
                   scratch.largest, scratch.hi, scratch.lo);
      check_launch(function_);
      sum_packed<1>(blocks, scratch, stream);
    }
    const int problems = static_cast<int>(samples * conv_.groups);
    const dim3 grid(static_cast<unsigned>(plan::divide_up(D_ * D_, kAssembleThreads)),
                    static_cast<unsigned>(std::min<int64_t>(problems, kMostRows)));
    const auto assemble = plan_.width == 16   ? assemble_kernel<16>
                          : plan_.width == 64 ? assemble_kernel<64>
                                              : assemble_kernel<128>;
    SPADE_LAUNCH(assemble, grid, dim3(kAssembleThreads), 0, stream, on_device(scratch.words),
                 scratch.sums, scratch.largest, problems, static_cast<int>(conv_.groups), h);
    check_launch(function_);
  }

  template <int kProducts>
  void sum_packed(dim3 blocks, const Scratch& scratch, cudaStream_t stream) const {
    const PackedInput in{scratch.hi,
                         scratch.lo,
                         images_,
                         static_cast<int>(conv_.height),
                         static_cast<int>(conv_.width),
                         static_cast<int>(conv_.stride_h),
                         static_cast<int>(conv_.stride_w),
                         images_of().channels,
                         images_of().padded,
                         static_cast<int>(conv_.groups)};
    const PlanOnDevice plan = on_device(scratch.words);
    if (plan_.width == 64)
      SPADE_LAUNCH((gram_kernel<64, 32, 32, kProducts>), blocks, dim3(kGramThreads<64, 32, 32>),
                   (kGramSharedBytes<64, kProducts>), stream, in, plan, scratch.sums);
    else
      SPADE_LAUNCH((gram_kernel<128, 64, 32, kProducts>), blocks, dim3(kGramThreads<128, 64, 32>),
                   (kGramSharedBytes<128, kProducts>), stream, in, plan, scratch.sums);
    check_launch(function_);
  }

  template <class T>
  void sum_gathered(const T* x, dim3 blocks, const Scratch& scratch, cudaStream_t stream) const {
    if constexpr (std::is_same_v<T, float>)
      if (three_products_) return sum_gathered_by<3>(x, blocks, scratch, stream);
    sum_gathered_by<1>(x, blocks, scratch, stream);
  }

  template <int kProducts, class T>
  void sum_gathered_by(const T* x, dim3 blocks, const Scratch& scratch, cudaStream_t stream) const {
    const ConvSizes sizes(conv_);
    const auto narrow = [](int64_t value) { return static_cast<int>(value); };
    const Unfold in{conv_.stride_batch,
                    conv_.stride_channel,
                    conv_.stride_row,
                    conv_.stride_col,
                    images_,
                    narrow(conv_.height),
                    narrow(conv_.width),
                    narrow(sizes.out_h),
                    narrow(sizes.out_w),
                    narrow(conv_.kernel_h),
                    narrow(conv_.kernel_w),
                    narrow(conv_.stride_h),
                    narrow(conv_.stride_w),
                    narrow(conv_.pad_top),
                    narrow(conv_.pad_left),
                    narrow(conv_.dilation_h),
                    narrow(conv_.dilation_w),
                    narrow(sizes.channels),
                    narrow(conv_.groups)};
    const PlanOnDevice plan = on_device(scratch.words);
    if (plan_.width == 16)
      SPADE_LAUNCH((gather_kernel<T, 16, 16, 16, kProducts>), blocks,
                   dim3(kGramThreads<16, 16, 16>), (kGatherSharedBytes<16, kProducts>), stream, x,
                   in, plan, scratch.largest, scratch.sums);
    else
      SPADE_LAUNCH((gather_kernel<T, 64, 32, 32, kProducts>), blocks,
                   dim3(kGramThreads<64, 32, 32>), (kGatherSharedBytes<64, kProducts>), stream, x,
                   in, plan, scratch.largest, scratch.sums);
    check_launch(function_);
  }

  Images images_of() const {
    const int64_t channels = conv_.channels / conv_.groups;
    return {conv_.stride_batch,
            conv_.stride_channel,
            conv_.stride_row,
            conv_.stride_col,
            images_,
            static_cast<int>(conv_.height),
            static_cast<int>(conv_.width),
            static_cast<int>(channels),
            static_cast<int>(plan::divide_up(channels, 8) * 8),
            static_cast<int>(conv_.groups),
            conv_.stride_channel == 1};
  }

  PlanOnDevice on_device(const int32_t* words) const {
    return {words,          plan_.jobs, plan_.taps,
            plan_.channels, plan_.span, static_cast<int>(plan_.blocks)};
  }

  const char* function_;
  spade_conv2d_t conv_;
  int64_t S_;
  int dtype_;
  bool three_products_ = false, packed_ = false;
  int64_t offset_ = 0;  // of the first pixel that is read
  int64_t D_ = 0, images_ = 0;
  int64_t at_once_ = 0;  // samples
  GramPlan plan_{};
};

HessianCall linear_call(const char* function, int64_t S, int64_t N, int64_t D, int64_t ldx,
                        int dtype, int precision) {
  SPADE_CHECK(N >= 0, "%s: N must be >= 0, got %lld", function, static_cast<long long>(N));
  check_size(function, "D", D);
  SPADE_CHECK(ldx >= D, "%s: ldx must be at least D = %lld, got %lld", function,
              static_cast<long long>(D), static_cast<long long>(ldx));
  const spade_conv2d_t rows{N, D, 1, 1, ldx, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1};
  return {function, rows, S, dtype, precision};
}

HessianCall conv2d_call(const char* function, const spade_conv2d_t* conv, int64_t S, int dtype,
                        int precision) {
  check_conv(function, conv);
  return {function, *conv, S, dtype, precision};
}

constexpr char kLinear[] = "spade_cuda_hessian_linear", kConv2d[] = "spade_cuda_hessian_conv2d";

}  // namespace

spade_status_t hessian_linear_workspace_bytes(int64_t S, int64_t N, int64_t D, int dtype,
                                              int precision, size_t* bytes) {
  return guarded([&] {
    check_pointer(kLinear, "bytes", bytes, 1);
    *bytes = linear_call(kLinear, S, N, D, D, dtype, precision).workspace_bytes();
  });
}

spade_status_t hessian_linear(const void* x, int dtype, int64_t S, int64_t N, int64_t D,
                              int64_t ldx, int precision, double* h, void* workspace,
                              size_t workspace_bytes, void* stream) {
  return guarded([&] {
    linear_call(kLinear, S, N, D, ldx, dtype, precision)
        .run(x, h, workspace, workspace_bytes, as_stream(stream));
  });
}

spade_status_t hessian_conv2d_workspace_bytes(const spade_conv2d_t* conv, int64_t S, int dtype,
                                              int precision, size_t* bytes) {
  return guarded([&] {
    check_pointer(kConv2d, "bytes", bytes, 1);
    *bytes = conv2d_call(kConv2d, conv, S, dtype, precision).workspace_bytes();
  });
}

spade_status_t hessian_conv2d(const void* x, int dtype, const spade_conv2d_t* conv, int64_t S,
                              int precision, double* h, void* workspace, size_t workspace_bytes,
                              void* stream) {
  return guarded([&] {
    conv2d_call(kConv2d, conv, S, dtype, precision)
        .run(x, h, workspace, workspace_bytes, as_stream(stream));
  });
}

}  // namespace spade::cuda
