// The input of a tap-offset Hessian, packed so that the pixels of each gram's lines are contiguous.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/conv.h"
#include "core/parallel.h"
#include "core/tap_plan.h"
#include "cpu/gram.h"

namespace spade {

// Places of packed pixels: line, slot, image, where the slots of a line hold its pixels 0, s, 2 s,
// ..., then 1, s + 1, ...
class PackedLines {
 public:
  // `along` pixels a line at stride s.
  PackedLines(int64_t along, int64_t stride, int64_t batch)
      : along_(along), batch_(batch), slot_(static_cast<size_t>(along)) {
    int64_t next = 0;
    for (int64_t residue = 0; residue < std::min(stride, along); ++residue)
      for (int64_t z = residue; z < along; z += stride) slot_[z] = next++;
  }

  int64_t row(int64_t line, int64_t z) const { return (line * along_ + slot_[z]) * batch_; }

  // Rows of the products between pixels zs of line `line` and zs + dz of line `other`.
  void add_segment(int64_t line, int64_t other, const Lines& zs, int64_t dz,
                   std::vector<Segment>& out) const {
    const Segment next{row(line, zs.first), row(other, zs.first + dz), zs.count * batch_};
    if (!out.empty() && out.back().a + out.back().length == next.a &&
        out.back().b + out.back().length == next.b)
      out.back().length += next.length;
    else
      out.push_back(next);
  }

 private:
  int64_t along_, batch_;
  std::vector<int64_t> slot_;
};

// One group's pixels: rows of the image, and those of its columns that grams are summed along.
template <class T>
class TapRows {
 public:
  TapRows(const spade_conv2d_t& conv, const TapPlan& plan)
      : conv_(conv),
        row_lines_(conv.width, conv.stride_w, conv.batch),
        column_lines_(conv.height, conv.stride_h, conv.batch),
        column_(static_cast<size_t>(conv.width), -1),
        rows_(conv.batch * conv.height * conv.width, ConvSizes(conv).channels),
        columns_(place_columns(plan) * conv.height * conv.batch, ConvSizes(conv).channels) {}

  // Width of a packed tile.
  int64_t width() const { return rows_.width; }

  TiledRows<T> view(const OffsetGram& gram) const {
    return (gram.by_columns() ? columns_ : rows_).view();
  }

  // Rows of view(gram) whose products the gram sums.
  std::vector<Segment> segments(const OffsetGram& gram) const {
    std::vector<Segment> out;
    if (gram.by_columns()) {
      for (int64_t i = 0; i < gram.xs.count; ++i) {
        const int64_t x = gram.xs.first + i * conv_.stride_w;
        column_lines_.add_segment(column_[x], column_[x + gram.dx], gram.ys, gram.dy, out);
      }
    } else {
      for (int64_t i = 0; i < gram.ys.count; ++i) {
        const int64_t y = gram.ys.first + i * conv_.stride_h;
        row_lines_.add_segment(y, y + gram.dy, gram.xs, gram.dx, out);
      }
    }
    return out;
  }

  // Copy the group whose first entry is x.
  void pack(const T* x, int threads) const {
    const auto none = [] { return 0; };
    parallel_for(threads, conv_.height, none, [&](int, int64_t y) {
      pack_line(x + y * conv_.stride_row, conv_.width, conv_.stride_col, row_lines_,
                row_lines_.row(y, 0), rows_);
    });
    parallel_for(threads, conv_.width, none, [&](int, int64_t z) {
      if (column_[z] >= 0)
        pack_line(x + z * conv_.stride_col, conv_.height, conv_.stride_row, column_lines_,
                  column_lines_.row(column_[z], 0), columns_);
    });
  }

 private:
  // Give each column of a gram summed along columns its place in columns_.
  int64_t place_columns(const TapPlan& plan) {
    int64_t count = 0;
    for (const OffsetGram& gram : plan.grams())
      if (gram.by_columns())
        for (int64_t i = 0; i < gram.xs.count; ++i)
          for (const int64_t dx : {int64_t{0}, gram.dx}) {
            int64_t& place = column_[gram.xs.first + i * conv_.stride_w + dx];
            if (place < 0) place = count++;
          }
    return count;
  }

  // One line of all images from row `first` of `to`.
  void pack_line(const T* x, int64_t along, int64_t stride_along, const PackedLines& lines,
                 int64_t first, const PackedRows<T>& to) const {
    for (int64_t image = 0; image < conv_.batch; ++image)
      for (int64_t channel = 0; channel < to.columns; channel += to.width) {
        const int64_t count = std::min(to.width, to.columns - channel);
        const T* from = x + image * conv_.stride_batch + channel * conv_.stride_channel;
        for (int64_t z = 0; z < along; ++z) {
          T* pixel = to.at(first + lines.row(0, z) + image, channel);
          for (int64_t k = 0; k < count; ++k)
            pixel[k] = from[z * stride_along + k * conv_.stride_channel];
          std::fill(pixel + count, pixel + to.width, T(0));
        }
      }
  }

  const spade_conv2d_t conv_;
  const PackedLines row_lines_, column_lines_;
  std::vector<int64_t> column_;  // place of an image column in columns_, or -1
  const PackedRows<T> rows_;     // [height, width, batch] x channels
  const PackedRows<T> columns_;  // [columns needed, height, batch] x channels
};

}  // namespace spade
