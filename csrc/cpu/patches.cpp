#include "cpu/patches.h"

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "cpu/transpose4.h"

namespace spade {
namespace {

constexpr int64_t kPackRows = 64;          // of a packing task
constexpr int64_t kPackEntries = 1 << 14;  // copied at a time then: they stay in L1 or L2

// A 1 x 1 convolution reads images as lines of pixels, and one line if images follow each other.
spade_conv2d_t flattened(spade_conv2d_t c) {
  const ConvSizes sizes(c);
  const bool every_pixel = sizes.taps == 1 && c.stride_h == 1 && c.stride_w == 1 &&
                           sizes.out_h == c.height && sizes.out_w == c.width &&
                           c.pad_top + c.pad_left == 0;
  if (!every_pixel || c.stride_row != c.width * c.stride_col) return c;
  c.width *= c.height;
  c.height = 1;
  c.stride_row = c.width * c.stride_col;
  if (c.stride_batch == c.stride_row) {
    c.width *= c.batch;
    c.batch = 1;
  }
  return c;
}

// Four entries at a time: constant sizes are vector moves.
template <class T>
inline void copy_run(const T* from, int64_t length, T* to) {
  for (int64_t i = 0; i < length; i += kOverrun)
    std::memcpy(to + i, from + i, kOverrun * sizeof(T));
}

}  // namespace

template <class T>
PatchRows<T>::PatchRows(const T* x, const spade_conv2d_t& conv)
    : x_(x),
      conv_(flattened(conv)),
      sizes_(conv_),
      taps_first_(sizes_.taps > 1 && sizes_.channels > 1 && conv_.stride_channel == 1) {
  const spade_conv2d_t& c = conv_;
  transposes_ = sizes_.taps == 1 && c.stride_col == 1 && c.stride_channel != 1 && c.pad_left == 0 &&
                (sizes_.out_w - 1) * c.stride_w < c.width;
  if (sizes_.taps == 1 && c.groups == 1 && c.stride_channel == 1 && c.batch == 1 && c.height == 1 &&
      sizes_.out_w == c.width && sizes_.out_h == 1 && c.pad_left + c.pad_top == 0)
    in_place_stride_ = c.stride_col;
  for (int64_t i = 0; i < sizes_.D; ++i) {
    const int64_t channel = taps_first_ ? i % sizes_.channels : i / sizes_.taps;
    const int64_t tap = taps_first_ ? i / sizes_.channels : i % sizes_.taps;
    const int64_t offset = channel * c.stride_channel +
                           tap / c.kernel_w * c.dilation_h * c.stride_row +
                           tap % c.kernel_w * c.dilation_w * c.stride_col;
    if (!runs_.empty() && runs_.back().offset + runs_.back().length == offset)
      ++runs_.back().length;
    else
      runs_.push_back({offset, 1});
  }
  for (const Run& run : runs_) reach_ = std::max(reach_, run.offset + run.length + kOverrun - 1);
  extent_ = (c.batch - 1) * c.stride_batch + (c.channels - 1) * c.stride_channel +
            (c.height - 1) * c.stride_row + (c.width - 1) * c.stride_col + 1;
}

template <class T>
void PatchRows<T>::fill(int64_t group, int64_t first, int64_t count, T* to, int64_t ld) const {
  const spade_conv2d_t& c = conv_;
  const int64_t pixels = sizes_.out_h * sizes_.out_w;
  const int64_t bottom = c.height - c.dilation_h * (c.kernel_h - 1),
                right = c.width - c.dilation_w * (c.kernel_w - 1);
  for (int64_t i = 0; i < count;) {  // a line of the output at a time
    const int64_t image = (first + i) / pixels, o = (first + i) % pixels;
    const int64_t y = o / sizes_.out_w * c.stride_h - c.pad_top;
    const int64_t run = std::min(count - i, sizes_.out_w - o % sizes_.out_w);
    int64_t z = o % sizes_.out_w * c.stride_w - c.pad_left;
    const int64_t start =
        image * c.stride_batch + group * sizes_.channels * c.stride_channel;  // of the image
    const bool inside = y >= 0 && y < bottom;
    if (transposes_ && inside) {
      transpose(x_ + start + y * c.stride_row + z, run, to + i * ld, ld);
    } else {
      for (int64_t k = 0; k < run; ++k, z += c.stride_w) {
        T* row = to + (i + k) * ld;
        const int64_t at = start + y * c.stride_row + z * c.stride_col;
        if (inside && z >= 0 && z < right && at + reach_ <= extent_)
          for (int64_t r = 0, done = 0; r < static_cast<int64_t>(runs_.size()); ++r) {
            copy_run(x_ + at + runs_[r].offset, runs_[r].length, row + done);
            done += runs_[r].length;
          }
        else
          fill_clipped(x_ + start, y, z, row);
      }
    }
    i += run;
  }
}

// The patch at (y, z), zero where it leaves the image.
template <class T>
void PatchRows<T>::fill_clipped(const T* image, int64_t y, int64_t z, T* to) const {
  const spade_conv2d_t& c = conv_;
  for (int64_t tap = 0; tap < sizes_.taps; ++tap) {
    const int64_t a = y + tap / c.kernel_w * c.dilation_h, b = z + tap % c.kernel_w * c.dilation_w;
    const bool inside = a >= 0 && a < c.height && b >= 0 && b < c.width;
    const int64_t at = a * c.stride_row + b * c.stride_col;
    const int64_t step = taps_first_ ? 1 : sizes_.taps;
    T* out = to + column(0, tap);
    for (int64_t channel = 0; channel < sizes_.channels; ++channel)
      out[channel * step] = inside ? image[at + channel * c.stride_channel] : T(0);
  }
}

// `count` positions of a line, by 4 x 4 entries; 16 positions at a time, whole cache lines. Those
// that do not lie together are brought together first.
template <class T>
void PatchRows<T>::transpose(const T* from, int64_t count, T* to, int64_t ld) const {
  constexpr int64_t kRows = 16, kAhead = 32;
  const int64_t D = sizes_.D, stride = conv_.stride_channel, step = conv_.stride_w;
  for (int64_t i = 0; i < count; i += kRows) {
    const int64_t rows = std::min(kRows, count - i), whole = rows / 4 * 4;
    for (int64_t j = 0; j < D; j += 4) {
      const int64_t columns = std::min<int64_t>(4, D - j);
      T together[4 * kRows];
      const T* line = from + j * stride + i * step;
      int64_t line_stride = stride;
      for (int64_t q = 0; q < columns; ++q) {  // lines of far columns: no hardware fetches them
        __builtin_prefetch(line + (q + kAhead) * stride);
        __builtin_prefetch(line + (q + kAhead) * stride + (rows - 1) * step);
      }
      if (step > 1) {
        for (int64_t q = 0; q < columns; ++q)
          for (int64_t k = 0; k < rows; ++k) together[q * kRows + k] = line[q * stride + k * step];
        line = together;
        line_stride = kRows;
      }
      T* const out = to + i * ld + j;
      int64_t k = 0;
      if (columns == 4)
        for (; k < whole; k += 4) transpose4(line + k, line_stride, out + k * ld, ld);
      for (; k < rows; ++k)
        for (int64_t q = 0; q < columns; ++q) out[k * ld + q] = line[q * line_stride + k];
    }
  }
}

template <class T>
void PatchRows<T>::pack(int64_t group, int64_t first, int64_t count, const PackedRows<T>& to,
                        int threads) const {
  const int64_t D = sizes_.D, ld = in_place_stride_ ? in_place_stride_ : row_stride(D);
  const int64_t lines = std::clamp<int64_t>(kPackEntries / ld / 8 * 8, 8, kPackRows);
  parallel_for(
      threads, (count + kPackRows - 1) / kPackRows,
      [&] { return Buffer<T>(in_place_stride_ ? 0 : lines * ld + kOverrun); },
      [&](Buffer<T>& line, int64_t task) {
        const int64_t end = std::min(count, (task + 1) * kPackRows);
        for (int64_t row = task * kPackRows; row < end; row += lines) {
          const int64_t rows = std::min(lines, end - row);
          if (!in_place_stride_) fill(group, first + row, rows, line.get(), ld);
          const T* from = in_place_stride_ ? x_ + (first + row) * ld : line.get();
          for (int64_t j = 0; j < D; j += kGramColumns)
            for (int64_t i = 0; i < rows; ++i) {
              const T* columns = from + i * ld + j;
              if (j + kGramColumns <= D)  // a constant size is a few vector moves
                std::copy_n(columns, kGramColumns, to.at(row + i, j));
              else
                std::copy_n(columns, D - j, to.at(row + i, j));
            }
        }
      });
}

template class PatchRows<float>;
template class PatchRows<double>;

}  // namespace spade
