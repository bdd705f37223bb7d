// OpenMP loops that report progress, can be cancelled, and carry exceptions out of the region.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>

#include "core/status.h"

namespace spade {

// Progress of one call: any thread adds work, the calling thread reports it.
class Progress {
 public:
  Progress(const spade_progress_t* target, int64_t total) : target_(target), total_(total) {}

  // Count `work` units done. Reports on the calling thread (OpenMP thread 0) at most 20 times a second.
  void add(int64_t work) {
    done_.fetch_add(work, std::memory_order_relaxed);
    if (target_ && target_->report && omp_get_thread_num() == 0) report(false);
  }

  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

  // Last report, from the calling thread after the work; throws if the call was cancelled.
  void finish() {
    if (target_ && target_->report && !cancelled()) report(true);
    if (cancelled()) fail(SPADE_CANCELLED, "cancelled by the progress callback");
  }

 private:
  void report(bool last) {
    const auto now = std::chrono::steady_clock::now();
    if (!last && now - reported_ < std::chrono::milliseconds(50)) return;
    reported_ = now;
    if (target_->report(target_->user, done_.load(std::memory_order_relaxed), total_) != 0)
      cancelled_.store(true, std::memory_order_relaxed);
  }

  const spade_progress_t* target_;
  int64_t total_;
  std::atomic<int64_t> done_{0};
  std::atomic<bool> cancelled_{false};
  std::chrono::steady_clock::time_point reported_{};
};

// Run task(state, i) for i in [0, n) on `threads` threads, dynamically scheduled; make_state() gives each
// thread its scratch. The first exception ends the loop and is rethrown on the calling thread.
template <class MakeState, class Task>
void parallel_for(int threads, int64_t n, MakeState&& make_state, Task&& task) {
  std::exception_ptr first;
  std::atomic<bool> stop{false};
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(threads, n))))
  {
    try {
      auto state = make_state();
      for (int64_t i; !stop.load(std::memory_order_relaxed) && (i = next.fetch_add(1)) < n;)
        task(state, i);
    } catch (...) {
      stop.store(true);
#pragma omp critical(spade_first_exception)
      if (!first) first = std::current_exception();
    }
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace spade
