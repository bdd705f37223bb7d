// Parallel loops that report progress, can be cancelled, and carry exceptions to the caller.
//
// Threads are OpenMP's. ThreadSanitizer does not understand an OpenMP runtime that was built
// without it, so its builds define SPADE_STD_THREADS and run the same loops on std::thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "core/status.h"
#include "core/threads.h"

namespace spade {

// Progress of one call: any thread adds work, the calling thread reports it.
class Progress {
 public:
  Progress(const spade_progress_t* target, int64_t total) : target_(target), total_(total) {
    if (!target) return;
    for (const void* field : target->reserved)
      SPADE_CHECK(!field, "progress: reserved fields must be NULL, got %p", field);
  }

  // Count `work` units done. Reports on the thread that made this, at most 20 times a second.
  void add(int64_t work) {
    done_.fetch_add(work, std::memory_order_relaxed);
    stopped();
  }

  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

  // The same within a unit of work: the thread that made this reports. Whether to stop.
  bool stopped() {
    if (target_ && target_->report && std::this_thread::get_id() == caller_) report(false);
    return cancelled();
  }

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
  const std::thread::id caller_ = std::this_thread::get_id();
};

// Threads for so many multiply-adds: waking others costs about as long as a million of them, and a
// pool that waits for more spins on a core for a while.
inline int worth_waking(double multiply_adds, int threads) {
  return multiply_adds < 1e6 ? 1 : threads;
}

// Run body() on `threads` threads, the calling one among them; return when all are done.
template <class Body>
void on_threads(int threads, Body&& body) {
#if defined(SPADE_STD_THREADS)
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back([&] { body(); });
  body();
  for (std::thread& other : others) other.join();
#else
#ifdef _OPENMP  // the binding, which starts no threads itself, is compiled without
#pragma omp parallel num_threads(threads)
#endif
  body();
#endif
}

// More threads only wait for one another, and an OpenMP runtime that cannot start all it is asked
// for ends the process.
inline int most_threads() {
  static const int most = std::max(64, 2 * static_cast<int>(std::thread::hardware_concurrency()));
  return most;
}

// Run task(state, i) for i in [0, n) on at most `threads` threads, dynamically scheduled;
// make_state() gives each thread its scratch. The first exception ends the loop and is rethrown on
// the calling thread.
template <class MakeState, class Task>
void parallel_for(int threads, int64_t n, MakeState&& make_state, Task&& task) {
  if (n <= 0) return;
  std::exception_ptr first;
  std::mutex first_mutex;
  std::atomic<bool> stop{false};
  std::atomic<int64_t> next{0};
  const int64_t wanted = is_forked() ? 1 : std::min<int64_t>({threads, n, most_threads()});
  const auto work = [&] {
    try {
      auto state = make_state();
      for (int64_t i; !stop.load(std::memory_order_relaxed) && (i = next.fetch_add(1)) < n;)
        task(state, i);
    } catch (...) {
      stop.store(true);
      const std::lock_guard<std::mutex> lock(first_mutex);
      if (!first) first = std::current_exception();
    }
  };
  if (wanted == 1)
    work();
  else
    on_threads(static_cast<int>(wanted), work);
  if (first) std::rethrow_exception(first);
}

}  // namespace spade
