// The Hessians of a depthwise convolution: kChannels channels at a time, by tiles of the output
// whose padded pixels stay in L1. One thread owns the channels; sums go to double every kPromote
// positions. Bound by FMA; for 3 x 3 kernels by reading X.

#include "core/isa.h"
#include "cpu/depthwise.h"
#include "cpu/gram.h"
#include "cpu/hessian.h"

namespace spade {
namespace {

constexpr int64_t kTileColumns = 128;      // widest tile of the output
constexpr int64_t kTileEntries = 6 << 10;  // of a tile's pixels, if one row of output has no more

template <class T>
class DepthwiseHessian {
 public:
  DepthwiseHessian(const T* x, const spade_conv2d_t& conv, double* h)
      : x_(x),
        conv_(conv),
        sizes_(conv),
        h_(h),
        reach_h_((conv.kernel_h - 1) * conv.dilation_h + 1),
        reach_w_((conv.kernel_w - 1) * conv.dilation_w + 1),
        columns_(std::min(sizes_.out_w, kTileColumns)),
        width_((columns_ - 1) * conv.stride_w + reach_w_),
        rows_(std::clamp<int64_t>(
            (kTileEntries / (width_ * kChannels) - reach_h_) / conv.stride_h + 1, 1,
            std::min(sizes_.out_h, kPromote / columns_))) {
    for (int64_t t = 0; t < (sizes_.taps + kTaps - 1) / kTaps * kTaps; ++t) {
      const int64_t tap = std::min(t, sizes_.taps - 1);
      taps_.push_back(
          (tap / conv.kernel_w * conv.dilation_h * width_ + tap % conv.kernel_w * conv.dilation_w) *
          kChannels);
    }
  }

  struct State {
    Buffer<T> pixels, sums;
  };
  State state() const {
    const int64_t last = static_cast<int64_t>(taps_.size()) - 1;
    State state{Buffer<T>(((rows_ - 1) * conv_.stride_h + reach_h_) * width_ * kChannels),
                Buffer<T>(tap_pair(last, last) + kChannels)};
    std::fill_n(state.sums.get(), tap_pair(last, last) + kChannels, T(0));
    return state;
  }

  // All of channels [channel, channel + kChannels).
  void add(State& state, int64_t channel, Progress& done) const {
    const int64_t channels = std::min(kChannels, conv_.groups - channel);
    int64_t summed = 0;  // positions in state.sums
    for (int64_t image = 0; image < conv_.batch && !done.cancelled(); ++image) {
      for (int64_t y = 0; y < sizes_.out_h; y += rows_)
        for (int64_t z = 0; z < sizes_.out_w; z += columns_) {
          const int64_t rows = std::min(rows_, sizes_.out_h - y),
                        columns = std::min(columns_, sizes_.out_w - z);
          if (summed + rows * columns > kPromote) {
            promote(state.sums.get(), channel, channels);
            summed = 0;
          }
          copy(image, y, z, rows, columns, channel, channels, state.pixels.get());
          const DepthwiseTile<T> tile{
              state.pixels.get(),         rows, columns, conv_.stride_h * width_ * kChannels,
              conv_.stride_w * kChannels, taps_};
          SPADE_DISPATCH(depthwise(tile, state.sums.get()));
          summed += rows * columns;
        }
      done.add(channels);
    }
    promote(state.sums.get(), channel, channels);
  }

 private:
  // Pixels that the outputs from (y, z) read, zero beyond the image and the last channel.
  void copy(int64_t image, int64_t y, int64_t z, int64_t rows, int64_t columns, int64_t channel,
            int64_t channels, T* to) const {
    const spade_conv2d_t& c = conv_;
    const int64_t top = y * c.stride_h - c.pad_top, left = z * c.stride_w - c.pad_left;
    const int64_t height = (rows - 1) * c.stride_h + reach_h_,
                  width = (columns - 1) * c.stride_w + reach_w_;
    const int64_t begin = std::clamp<int64_t>(-left, 0, width),
                  end = std::clamp<int64_t>(c.width - left, begin, width);
    for (int64_t i = 0; i < height; ++i, to += width_ * kChannels) {
      const bool outside = top + i < 0 || top + i >= c.height;
      if (outside || end - begin < width || channels < kChannels)
        std::fill_n(to, width * kChannels, T(0));
      if (outside) continue;
      const T* from = x_ + image * c.stride_batch + channel * c.stride_channel +
                      (top + i) * c.stride_row + left * c.stride_col;
      if (c.stride_channel == 1 && channels == kChannels)
        for (int64_t k = begin; k < end; ++k)
          std::copy_n(from + k * c.stride_col, kChannels, to + k * kChannels);
      else
        for (int64_t q = 0; q < channels; ++q)
          for (int64_t k = begin; k < end; ++k)
            to[k * kChannels + q] = from[q * c.stride_channel + k * c.stride_col];
    }
  }

  // Add the sums to H, both triangles, and clear them.
  void promote(T* sums, int64_t channel, int64_t channels) const {
    const int64_t D = sizes_.taps;
    for (int64_t q = 0; q < channels; ++q) {
      double* h = h_ + (channel + q) * D * D;
      for (int64_t a = 0; a < D; ++a)
        for (int64_t b = 0; b <= a; ++b) {
          h[a * D + b] += static_cast<double>(sums[tap_pair(a, b) + q]);
          h[b * D + a] = h[a * D + b];
        }
    }
    const int64_t last = static_cast<int64_t>(taps_.size()) - 1;
    std::fill_n(sums, tap_pair(last, last) + kChannels, T(0));
  }

  const T* const x_;
  const spade_conv2d_t& conv_;
  const ConvSizes sizes_;
  double* const h_;
  const int64_t reach_h_, reach_w_;  // pixels a kernel spans
  const int64_t columns_, width_;    // of a tile's output, of its pixels
  const int64_t rows_;               // of a tile's output
  std::vector<int64_t> taps_;
};

}  // namespace

template <class T>
void hessian_depthwise(const T* x, const spade_conv2d_t& conv, double* h, int threads,
                       const spade_progress_t* progress) {
  const DepthwiseHessian<T> hessian(x, conv, h);
  Progress done(progress, conv.batch * conv.groups);
  using State = typename DepthwiseHessian<T>::State;
  parallel_for(
      threads, (conv.groups + kChannels - 1) / kChannels, [&] { return hessian.state(); },
      [&](State& state, int64_t block) { hessian.add(state, block * kChannels, done); });
  done.finish();
}

template void hessian_depthwise(const float*, const spade_conv2d_t&, double*, int,
                                const spade_progress_t*);
template void hessian_depthwise(const double*, const spade_conv2d_t&, double*, int,
                                const spade_progress_t*);

}  // namespace spade
