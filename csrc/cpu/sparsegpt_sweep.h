// One sample of SparseGPT from its factor: lazy blocks of columns, from the first to the last.
//
// The recurrence of a lazy block is one task: a threshold takes all rows, and a column is too
// little work to divide. So its neighbours on other threads meanwhile prepare the next lazy block:
// all but the errors of this one. Each sum has one owner and one order, whoever runs it.
#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/parallel.h"
#include "cpu/sparsegpt_compensation.h"
#include "cpu/sparsegpt_recurrence.h"
#include "cpu/sparsegpt_transpose.h"

namespace spade {

// The power of two that brings weights so near 1 that errors over U, whose Hessian is scaled too,
// are numbers of T. It changes no digit, and masks depend on no scale.
inline double scale_of_weights(double most) {
  constexpr int kNear = 60;
  const int exponent = most > 0 ? std::ilogb(most) : 0;
  return std::ldexp(1.0, std::clamp(exponent, -kNear, kNear) - exponent);
}

template <class T>
class SparseGptSweep {
 public:
  SparseGptSweep(const SparseGptShape& shape, const spade_sparsegpt_t& options,
                 const Panels<T>& factor, int threads)
      : shape_(shape),
        factor_(factor),
        threads_(threads),
        memory_(Compensation<T>::numbers(shape) + 2 * LazyColumns<T>::numbers(shape)),
        recurrence_(shape_, options, factor),
        compensation_(shape_, factor, memory_.get()),
        now_(shape_, memory_.get() + Compensation<T>::numbers(shape)),
        next_(shape_,
              memory_.get() + Compensation<T>::numbers(shape) + LazyColumns<T>::numbers(shape)),
        dead_(shape.D),
        sums_(static_cast<size_t>(shape.chunks)) {
    for (int64_t chunk = 0; chunk < shape_.chunks; chunk = groups_.back().end) {
      const int64_t share = (shape_.chunks - chunk + threads - 1) / threads;
      groups_.push_back({chunk, chunk + std::min(share, kGroupChunks)});
    }
  }

  // Prune w to out, both [R, D]; h is [D, D], with zeros on its diagonal for dead columns. Weights
  // are multiplied by `scale` meanwhile, a power of two. Reports D columns.
  void run(const T* w, const T* h, T* out, T scale, Progress& done) {
    w_ = w;
    out_ = out;
    scale_ = scale;
    std::fill(sums_.begin(), sums_.end(), Sums{});
    for (int64_t j = 0; j < shape_.D; ++j) dead_[j] = h[j * (shape_.D + 1)] == T(0);
    for (int64_t first = 0; first < shape_.D && !done.cancelled(); first += shape_.span) {
      const int64_t width = std::min(shape_.span, shape_.D - first);
      if (shape_.mask > shape_.lazy)
        wide_mask(first, width);
      else
        lazy_block(first, width);
      done.add(width);
    }
  }

  // ||(W - W') X||^2 of the last run, for the H that was factorised with `shift` on its diagonal,
  // all of it times `factor_scale`: sum of e^2 is the error for the damped H.
  double loss(double factor_scale, double shift) const {
    Sums all;
    for (const Sums& sums : sums_) {
      all.errors += sums.errors;
      all.changes += sums.changes;
    }
    const double squared = static_cast<double>(scale_) * static_cast<double>(scale_);
    return std::max(0.0, (all.errors / factor_scale - shift * all.changes) / squared);
  }

 private:
  // Over the rows of a chunk: of e^2 and of (W - W')^2, but for dead columns.
  struct Sums {
    double errors = 0, changes = 0;
  };

  // Chunks of rows of one task. More read the factor less often; the last groups are small, so that
  // threads end together.
  struct Group {
    int64_t begin, end;
  };

  void lazy_block(int64_t first, int64_t width) {
    if (first == 0) load(now_, 0, width);
    const int64_t after = first + width, ahead = std::min(shape_.lazy, shape_.D - after);
    next_.place(after, ahead);
    parallel(after, ahead > 0 ? 2 + groups() : 1, [&](int64_t task) {
      if (task == 0) recurrence_.run(now_);
      if (task == 1) next_.invert_diagonal(factor_);
      if (task >= 2) begin(next_, first, groups_[task - 2]);
    });
    parallel(width, groups(), [&](int64_t i) {
      store(now_, groups_[i], true);
      if (ahead > 0) finish(next_, first, groups_[i]);
    });
    std::swap(now_, next_);
  }

  // A mask block of several lazy ones: scores need all its weights as they are when all columns
  // before it are done, that is each lazy block's as if its predecessors in the mask block lost
  // nothing.
  void wide_mask(int64_t first, int64_t width) {
    for (bool chosen : {false, true}) {
      for (int64_t i = 0; i < width; i += shape_.lazy) {
        load(now_, first + i, std::min(shape_.lazy, width - i));
        if (chosen)
          recurrence_.run_chosen(now_, i);
        else
          recurrence_.score(now_, 0, now_.width, i, width);
        parallel(now_.width, groups(), [&](int64_t i) { store(now_, groups_[i], chosen); });
      }
      if (!chosen) recurrence_.select(width, 0);
    }
  }

  // b = columns [first, first + width) at the moment all columns before are done.
  void load(LazyColumns<T>& b, int64_t first, int64_t width) {
    b.place(first, width);
    b.invert_diagonal(factor_);
    parallel(first + width, groups(), [&](int64_t i) {
      begin(b, first, groups_[i]);
      finish(b, first, groups_[i]);
    });
  }

  // b = W, dead columns zero, and its sum over the errors of the columns before `known`.
  void begin(const LazyColumns<T>& b, int64_t known, Group group) const {
    for (int64_t chunk = group.begin; chunk < group.end; ++chunk) {
      T* dense = b.dense(chunk);
      transpose_in(w_ + chunk * kRowChunk * shape_.D + b.first, shape_.D, shape_.rows_of(chunk),
                   b.width, dense);
      if (scale_ != T(1))
        for (int64_t i = 0; i < b.width * kRowChunk; ++i) dense[i] *= scale_;
      for (int64_t c = 0; c < b.width; ++c)
        if (dead_[b.first + c]) std::fill_n(dense + c * kRowChunk, kRowChunk, T(0));
      std::copy_n(dense, b.width * kRowChunk, b.state(chunk));
    }
    compensation_.add(b, 0, known, group.begin, group.end);
  }

  void finish(const LazyColumns<T>& b, int64_t known, Group group) const {
    if (b.first == 0) return;
    compensation_.add(b, known, b.first, group.begin, group.end);
    compensation_.apply(b, group.begin, group.end);
  }

  void store(const LazyColumns<T>& b, Group group, bool chosen) {
    for (int64_t chunk = group.begin; chunk < group.end; ++chunk) {
      if (chosen) add_sums(b, chunk);
      compensation_.store(b, chunk);
      T* to = out_ + chunk * kRowChunk * shape_.D + b.first;
      transpose_out(b.state(chunk), shape_.D, shape_.rows_of(chunk), b.width, to);
      if (scale_ != T(1))
        for (int64_t r = 0; r < shape_.rows_of(chunk); ++r)
          for (int64_t c = 0; c < b.width; ++c) to[r * shape_.D + c] *= T(1) / scale_;
    }
  }

  void add_sums(const LazyColumns<T>& b, int64_t chunk) {
    Sums& sums = sums_[static_cast<size_t>(chunk)];
    for (int64_t c = 0; c < b.width; ++c)
      for (int64_t r = 0; r < shape_.rows_of(chunk); ++r) {
        const int64_t i = c * kRowChunk + r;
        const double error = static_cast<double>(b.errors(chunk)[i]);
        const double change =
            static_cast<double>(b.dense(chunk)[i]) - static_cast<double>(b.state(chunk)[i]);
        sums.errors += error * error;
        sums.changes += change * change;
      }
  }

  // task(i) for i in [0, n); on one thread if products of a lazy block with so many terms are
  // little work.
  template <class Task>
  void parallel(int64_t terms, int64_t n, Task&& task) const {
    const double work = static_cast<double>(shape_.R * shape_.lazy) * static_cast<double>(terms);
    parallel_for(
        work < kParallelWork ? 1 : threads_, n, [] { return 0; }, [&](int, int64_t i) { task(i); });
  }

  int64_t groups() const { return static_cast<int64_t>(groups_.size()); }

  static constexpr int64_t kGroupChunks = 4;
  static constexpr double kParallelWork = 1 << 18;  // multiply-adds worth waking other threads

  const SparseGptShape shape_;
  const Panels<T>& factor_;  // U'
  const int threads_;
  std::vector<Group> groups_;
  const Buffer<T> memory_;  // one piece: enough for huge pages sooner than its parts
  Recurrence<T> recurrence_;
  Compensation<T> compensation_;
  LazyColumns<T> now_, next_;
  Buffer<uint8_t> dead_;    // [D]
  std::vector<Sums> sums_;  // [chunks]
  const T* w_ = nullptr;    // of the sample
  T scale_ = 1;
  T* out_ = nullptr;
};

}  // namespace spade
