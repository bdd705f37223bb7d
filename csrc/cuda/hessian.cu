// hessian_linear and hessian_conv2d on the GPU: H += X X^T.
//
// Once a call the plan is stored; then, for as many samples at once as keep the GPU busy:
//   largest -> pack -> gram (hessian_gram.cuh)  or  largest -> gather (hessian_gather.cuh)
//   -> assemble (hessian_assemble.cuh)
// 16-bit inputs need no largest, and no pack if their channels are already packed.
// The rounds share one scratch memory, in the order of the stream.

#include "cuda/hessian_assemble.cuh"
#include "cuda/hessian_gather.cuh"
#include "cuda/hessian_gram.cuh"
#include "cuda/hessian_pack.cuh"
#include "cuda/hessian_scratch.h"
#include "cuda/ops.h"
#include "cuda/store.cuh"

namespace spade::cuda {
namespace {

unsigned extent(int64_t value) { return static_cast<unsigned>(value); }

// The launches of one call on inputs of type T.
template <class T>
class HessianLaunches {
 public:
  HessianLaunches(const HessianProblem& problem, const Scratch& scratch, cudaStream_t stream)
      : p_(problem),
        scratch_(scratch),
        stream_(stream),
        plan_{scratch.words,    p_.plan.jobs, p_.plan.taps,
              p_.plan.channels, p_.plan.span, narrow(p_.plan.blocks)} {}

  void run(const T* x, double* h) const {
    store(p_.function, p_.plan.words.data(), static_cast<int64_t>(p_.plan.words.size()),
          scratch_.words, stream_);
    x += p_.offset;
    for (int64_t first = 0; first < p_.S; first += p_.at_once) {
      const int64_t samples = std::min(p_.at_once, p_.S - first);
      const T* from = x + first * p_.images * p_.conv.stride_batch;
      const dim3 blocks(extent(samples * p_.conv.groups * p_.plan.blocks));
      if constexpr (std::is_same_v<T, float>) {
        if (p_.three_products)
          sum<Arithmetic::kThreeProducts>(from, samples, blocks);
        else
          sum<Arithmetic::kOneProduct>(from, samples, blocks);
      } else if constexpr (std::is_same_v<T, Half>) {
        sum<Arithmetic::kOneProduct>(from, samples, blocks);
      } else {
        sum<Arithmetic::kBfloat16>(from, samples, blocks);
      }
      assemble(samples, h + first * p_.conv.groups * p_.D * p_.D);
    }
  }

 private:
  template <Arithmetic kArithmetic>
  void sum(const T* x, int64_t samples, dim3 blocks) const {
    const Images images = images_of(p_);
    if (scratch_.largest) {
      fill_bytes(p_.function, scratch_.largest, 0, extent(samples) * sizeof(unsigned), stream_);
      const dim3 grid(extent(plan::divide_up(pack_tiles(images), kTilesEach)), extent(samples));
      SPADE_LAUNCH(largest_kernel<T>, grid, dim3(kPackThreads), 0, stream_, x, images,
                   scratch_.largest);
    }
    if (p_.packed) {
      const PackedInput in = packed_input<kArithmetic>(x, images, samples);
      if (p_.plan.width == 64)
        sum_packed<64, 32, 32, kArithmetic>(in, blocks);
      else
        sum_packed<128, 64, 32, kArithmetic>(in, blocks);
    } else if (p_.plan.width == 16) {
      sum_gathered<16, 16, 16, kArithmetic>(x, blocks);
    } else {
      sum_gathered<64, 32, 32, kArithmetic>(x, blocks);
    }
    check_launch(p_.function);
  }

  // x itself where 16-byte pieces of its channels can be copied, else packed.
  template <Arithmetic kArithmetic>
  PackedInput packed_input(const T* x, const Images& m, int64_t samples) const {
    const bool in_place = sizeof(T) == 2 && m.by_channel && m.channels == m.padded &&
                          (m.batch_stride | m.row_stride | m.col_stride) % 8 == 0 &&
                          reinterpret_cast<uintptr_t>(x) % 16 == 0;
    PackedInput in{scratch_.hi,
                   scratch_.lo,
                   0,
                   0,
                   0,
                   m.images,
                   narrow(p_.conv.stride_h),
                   narrow(p_.conv.stride_w),
                   m.channels,
                   m.padded,
                   m.groups};
    if (in_place) {
      in.hi = reinterpret_cast<const uint16_t*>(x);
      in.batch_stride = m.batch_stride;
      in.row_stride = m.row_stride;
      in.col_stride = m.col_stride;
      return in;
    }
    in.col_stride = int64_t{m.groups} * m.padded;
    in.row_stride = m.width * in.col_stride;
    in.batch_stride = m.height * in.row_stride;
    const dim3 grid(extent(pack_tiles(m)), extent(samples));
    SPADE_LAUNCH((pack_kernel<T, kArithmetic>), grid, dim3(kPackThreads), 0, stream_, x, m,
                 scratch_.largest, scratch_.hi, scratch_.lo);
    return in;
  }

  template <int kWidth, int kRows, int kColumns, Arithmetic kArithmetic>
  void sum_packed(const PackedInput& in, dim3 blocks) const {
    SPADE_LAUNCH((gram_kernel<kWidth, kRows, kColumns, kArithmetic>), blocks,
                 dim3(kGramThreads<kWidth, kRows, kColumns>),
                 (kGramSharedBytes<kWidth, kArithmetic>), stream_, in, plan_, scratch_.sums);
  }

  template <int kWidth, int kRows, int kColumns, Arithmetic kArithmetic>
  void sum_gathered(const T* x, dim3 blocks) const {
    const spade_conv2d_t& c = p_.conv;
    const ConvSizes sizes(c);
    const Unfold in{c.stride_batch,
                    c.stride_channel,
                    c.stride_row,
                    c.stride_col,
                    p_.images,
                    narrow(c.height),
                    narrow(c.width),
                    narrow(sizes.out_h),
                    narrow(sizes.out_w),
                    narrow(c.kernel_h),
                    narrow(c.kernel_w),
                    narrow(c.stride_h),
                    narrow(c.stride_w),
                    narrow(c.pad_top),
                    narrow(c.pad_left),
                    narrow(c.dilation_h),
                    narrow(c.dilation_w),
                    narrow(sizes.channels),
                    narrow(c.groups)};
    SPADE_LAUNCH((gather_kernel<T, kWidth, kRows, kColumns, kArithmetic>), blocks,
                 dim3(kGramThreads<kWidth, kRows, kColumns>),
                 (kGatherSharedBytes<kWidth, kArithmetic>), stream_, x, in, plan_, scratch_.largest,
                 scratch_.sums);
  }

  void assemble(int64_t samples, double* h) const {
    const int64_t problems = samples * p_.conv.groups;
    const dim3 grid(extent(plan::divide_up(problems * p_.D * p_.D, kAssembleThreads * kEntries)));
    const auto kernel = p_.plan.width == 16   ? assemble_kernel<16>
                        : p_.plan.width == 64 ? assemble_kernel<64>
                                              : assemble_kernel<128>;
    SPADE_LAUNCH(kernel, grid, dim3(kAssembleThreads), 0, stream_, plan_, scratch_.sums,
                 scratch_.largest, problems, narrow(p_.conv.groups), h);
    check_launch(p_.function);
  }

  const HessianProblem& p_;
  const Scratch scratch_;
  const cudaStream_t stream_;
  const PlanOnDevice plan_;
};

void add_hessian(const HessianProblem& p, const void* x, double* h, void* workspace, size_t bytes,
                 void* stream) {
  if (p.empty()) return;
  check_pointer(p.function, "x", x, 1);
  check_pointer(p.function, "h", h, 1);
  Workspace carved(p.function, workspace, bytes, workspace_bytes_of(p));
  const auto run = [&](const auto* typed) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(typed)>>;
    HessianLaunches<T>(p, carve(p, carved), as_stream(stream)).run(typed, h);
  };
  if (p.dtype == SPADE_FLOAT32)
    run(static_cast<const float*>(x));
  else if (p.dtype == SPADE_FLOAT16)
    run(static_cast<const Half*>(x));
  else
    run(static_cast<const Bfloat16*>(x));
}

}  // namespace

spade_status_t hessian_linear_workspace_bytes(int64_t S, int64_t N, int64_t D, int dtype,
                                              int precision, size_t* bytes) {
  return guarded([&] {
    check_pointer("spade_cuda_hessian_linear", "bytes", bytes, 1);
    *bytes = workspace_bytes_of(linear_problem(S, N, D, D, dtype, precision));
  });
}

spade_status_t hessian_linear(const void* x, int dtype, int64_t S, int64_t N, int64_t D,
                              int64_t ldx, int precision, double* h, void* workspace,
                              size_t workspace_bytes, void* stream) {
  return guarded([&] {
    add_hessian(linear_problem(S, N, D, ldx, dtype, precision), x, h, workspace, workspace_bytes,
                stream);
  });
}

spade_status_t hessian_conv2d_workspace_bytes(const spade_conv2d_t* conv, int64_t S, int dtype,
                                              int precision, size_t* bytes) {
  return guarded([&] {
    check_pointer("spade_cuda_hessian_conv2d", "bytes", bytes, 1);
    *bytes = workspace_bytes_of(conv2d_problem(conv, S, dtype, precision));
  });
}

spade_status_t hessian_conv2d(const void* x, int dtype, const spade_conv2d_t* conv, int64_t S,
                              int precision, double* h, void* workspace, size_t workspace_bytes,
                              void* stream) {
  return guarded([&] {
    add_hessian(conv2d_problem(conv, S, dtype, precision), x, h, workspace, workspace_bytes,
                stream);
  });
}

}  // namespace spade::cuda
