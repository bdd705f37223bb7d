#include "core/threads.h"

#include <atomic>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace spade {
namespace {

std::atomic<bool> forked{false};

#if !defined(_WIN32)
[[maybe_unused]] const int registered =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
#endif

}  // namespace

bool is_forked() { return forked.load(std::memory_order_relaxed); }

}  // namespace spade
