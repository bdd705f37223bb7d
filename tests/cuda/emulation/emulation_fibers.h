// CUDA threads as fibers of one CPU thread: the scheduler below emulation.h.
//
// Blocks of a launch run one after another, each thread of a block as a fiber that runs until it
// meets a barrier or a warp operation, so a run is a schedule: forward, reverse or random by seed.
// Reported, with exit status kFaultStatus: barriers and warp operations that threads reach at
// different places, lanes missing from a mask, deadlock, misaligned or too many async copies, too
// much shared memory. Shared memory starts as 0xFF bytes (NaN), as do the targets of async copies
// until they are waited for, so what is read too early shows in the result. Under ThreadSanitizer
// barriers, warp operations and the end of the kernel are the only orderings, hence a missing one
// is a data race, within a block and between blocks, whatever the schedule; between blocks that run
// a multiple of kFiberSets apart it goes unseen, for they share fibers. Under AddressSanitizer 128
// bytes past each shared array are out of bounds.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "emulation/emulation_switch.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace spade::emulation {

constexpr int kFaultStatus = 86;
constexpr size_t kStackBytes = size_t(128) << 10;
constexpr size_t kArenaBytes = size_t(1) << 30;  // shared memory of the blocks; touched as needed
constexpr size_t kGap = 128;                     // bytes between shared arrays
constexpr int kCopies = 512;                     // async copies in flight per thread
constexpr int kArrays = 64;                      // shared arrays per kernel
constexpr int kMasks = 8;                        // distinct warp masks in flight per warp
constexpr int kWords = 4;                        // 64-bit words a lane brings to a warp operation

enum class Schedule { kForward, kReverse, kRandom };
inline Schedule schedule = Schedule::kForward;
inline std::mt19937 generator(1);

// The device that launch.h reports; tests set it.
struct Device {
  int major = 9, minor = 0, multiprocessors = 132;
  size_t shared_bytes = 227 << 10;  // a block
};
inline Device device;

// Where in the kernel's source a thread stands.
struct Site {
  const char* file;
  int line;
};
constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return {file, line};
}

enum class State { kReady, kAtBarrier, kInWarp, kDone };

// Blocks take turns in sets of fibers: ThreadSanitizer makes a fiber in a millisecond, and what one
// does is ordered in itself.
#if defined(__SANITIZE_THREAD__)
constexpr int kFiberSets = 3;
#else
constexpr int kFiberSets = 1;
#endif

struct Copy {
  void* to;
  const void* from;
  int bytes, group;
};

struct Fiber {
  void* stack_pointer;
  char* stack;
  void *tsan, *asan;
  bool started;  // in this block
  State state;
  Site site;
  uint3 thread;
  Copy* copies;  // [kCopies]
  int copy_count, copy_group;
};

// Lanes of one mask meeting at one warp operation. `given` fills while lanes arrive; `taken` is its
// copy at the moment the last one did and holds until all have come again.
struct Rendezvous {
  unsigned mask, arrived, generation;
  int operation;
  Site site;
  uint64_t given[32][kWords], taken[32][kWords];
  char order[2];
};

struct SharedArray {
  const void* key;
  unsigned char* data;
};

// The block that is running.
struct Block {
  void (*body)(void*);
  void* arguments;
  int threads, running, at_barrier, current;
  Site barrier;
  unsigned generation;
  Rendezvous* meetings;  // [warps, kMasks]
  SharedArray arrays[kArrays];
  int array_count;
  unsigned char* dynamic;
  size_t used, allotted;  // of the arena; of the block's limit
  void *main_stack_pointer, *main_tsan, *main_asan;
  const void* main_stack;
  size_t main_stack_bytes;
  char order[2], ended;
};
inline Block block;
inline Fiber* fibers;
inline unsigned char* arena;

[[noreturn]] inline void fault(const char* text) {
  std::fprintf(stderr, "[emulation] %s in block (%u, %u, %u), thread (%u, %u, %u)\n", text,
               blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  for (int i = 0, shown = 0; i < block.threads && shown < 8; ++i) {
    const Fiber& f = fibers[i];
    if (f.state != State::kAtBarrier && f.state != State::kInWarp) continue;
    std::fprintf(stderr, "  thread %d waits at %s:%d\n", i, f.site.file, f.site.line);
    ++shown;
  }
  _exit(kFaultStatus);
}

SPADE_UNSEEN inline void leave() {
  Fiber& f = fibers[block.current];
  SPADE_TSAN(__tsan_switch_to_fiber(block.main_tsan, 1);)
  SPADE_ASAN(__sanitizer_start_switch_fiber(f.state == State::kDone ? nullptr : &f.asan,
                                            block.main_stack, block.main_stack_bytes);)
  spade_emulation_switch(&f.stack_pointer, block.main_stack_pointer);
  SPADE_ASAN(__sanitizer_finish_switch_fiber(f.asan, &block.main_stack, &block.main_stack_bytes);)
}

SPADE_UNSEEN inline void enter() {
  SPADE_ASAN(__sanitizer_finish_switch_fiber(nullptr, &block.main_stack, &block.main_stack_bytes);)
  block.body(block.arguments);
  SPADE_TSAN(__tsan_release(&block.ended);)
  fibers[block.current].state = State::kDone;
  --block.running;
  leave();
  std::abort();
}

SPADE_UNSEEN inline void resume(int i) {
  Fiber& f = fibers[i];
  block.current = i;
  threadIdx = f.thread;
  // The first switch orders the launch before the thread (0), the others order nothing (1).
  SPADE_TSAN(__tsan_switch_to_fiber(f.tsan, f.started);)
  f.started = true;
  SPADE_ASAN(__sanitizer_start_switch_fiber(&block.main_asan, f.stack, kStackBytes);)
  spade_emulation_switch(&block.main_stack_pointer, f.stack_pointer);
  SPADE_ASAN(__sanitizer_finish_switch_fiber(block.main_asan, nullptr, nullptr);)
}

SPADE_UNSEEN inline void barrier(Site site) {
  Fiber& f = fibers[block.current];
  if (block.at_barrier && (block.barrier.line != site.line || block.barrier.file != site.file))
    fault("divergent __syncthreads: threads stand at different ones");
  block.barrier = site;
  SPADE_TSAN(char* order = &block.order[block.generation & 1]; __tsan_release(order);)
  f.state = State::kAtBarrier;
  f.site = site;
  ++block.at_barrier;
  leave();
  SPADE_TSAN(__tsan_acquire(order);)
}

// Meet the other lanes of `mask`; returns what each brought.
SPADE_UNSEEN inline const Rendezvous& exchange(unsigned mask, int operation, Site site,
                                               const uint64_t* words = nullptr, int count = 0) {
  const int thread = block.current, lane = thread & 31;
  Fiber& f = fibers[thread];
  f.site = site;
  if (!(mask >> lane & 1)) fault("warp operation: the calling lane is not in its mask");
  Rendezvous* meeting = nullptr;
  for (int i = 0; i < kMasks && !meeting; ++i) {
    Rendezvous* m = &block.meetings[(thread >> 5) * kMasks + i];
    if (m->mask == mask || m->mask == 0) meeting = m;
  }
  if (!meeting) fault("warp operation: too many distinct masks");
  Rendezvous& m = *meeting;
  m.mask = mask;
  if (m.arrived &&
      (m.operation != operation || m.site.line != site.line || m.site.file != site.file))
    fault("divergent warp operation: lanes stand at different ones");
  m.operation = operation;
  m.site = site;
  for (int k = 0; k < count; ++k) m.given[lane][k] = words[k];
  m.arrived |= 1u << lane;
  SPADE_TSAN(char* order = &m.order[m.generation & 1]; __tsan_release(order);)
  if (m.arrived == mask) {
    for (int i = 0; i < 32; ++i)
      for (int k = 0; k < kWords; ++k) m.taken[i][k] = m.given[i][k];
    m.arrived = 0;
    ++m.generation;
    for (int i = 0; i < 32; ++i)
      if (mask >> i & 1) fibers[(thread & ~31) + i].state = State::kReady;
  } else {
    f.state = State::kInWarp;
    leave();
  }
  SPADE_TSAN(__tsan_acquire(order);)
  return m;
}

SPADE_UNSEEN inline unsigned char* allot(size_t bytes) {
  unsigned char* data = arena + block.used;
  block.used += (bytes + kGap - 1) / kGap * kGap + kGap;
  block.allotted += bytes;
  if (block.allotted > device.shared_bytes) fault("more shared memory than the device has");
  if (block.used > kArenaBytes) fault("the emulation's arena of shared memory is full");
  for (size_t i = 0; i < bytes; ++i) data[i] = 0xFF;
  SPADE_ASAN(__asan_poison_memory_region(data + bytes, arena + block.used - data - bytes);)
  return data;
}

// The block's shared array of this key, made by the first thread that asks.
SPADE_UNSEEN inline unsigned char* shared(const void* key, size_t bytes) {
  for (int i = 0; i < block.array_count; ++i)
    if (block.arrays[i].key == key) return block.arrays[i].data;
  if (block.array_count == kArrays) fault("too many shared arrays");
  unsigned char* data = allot(bytes);
  block.arrays[block.array_count].key = key;
  block.arrays[block.array_count++].data = data;
  return data;
}

SPADE_UNSEEN inline unsigned char* dynamic_shared() { return block.dynamic; }

SPADE_UNSEEN inline void prepare(Fiber& f, int i) {
  if (!f.copies) f.copies = static_cast<Copy*>(std::malloc(kCopies * sizeof(Copy)));
  f.copy_count = f.copy_group = 0;
  if (!f.stack)
    f.stack = static_cast<char*>(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  const uintptr_t top = (reinterpret_cast<uintptr_t>(f.stack) + kStackBytes - 256) & ~uintptr_t(15);
#if defined(__x86_64__)
  void** frame = reinterpret_cast<void**>(top) - 8;  // six registers, return address, its caller
  for (int k = 0; k < 8; ++k) frame[k] = nullptr;
  frame[6] = reinterpret_cast<void*>(enter);
#else
  void** frame = reinterpret_cast<void**>(top - 176);
  for (int k = 0; k < 22; ++k) frame[k] = nullptr;
  frame[11] = reinterpret_cast<void*>(enter);
#endif
  f.stack_pointer = frame;
  SPADE_TSAN(if (!f.tsan) f.tsan = __tsan_create_fiber(0);)
  f.started = false;
  f.state = State::kReady;
  const unsigned x = static_cast<unsigned>(i);
  f.thread = {x % blockDim.x, x / blockDim.x % blockDim.y, x / (blockDim.x * blockDim.y)};
}

inline void put_in_order(std::vector<int>& order) {
  std::iota(order.begin(), order.end(), 0);
  if (schedule == Schedule::kReverse) std::reverse(order.begin(), order.end());
  if (schedule == Schedule::kRandom) std::shuffle(order.begin(), order.end(), generator);
}

SPADE_UNSEEN inline void run_block(size_t dynamic_bytes) {
  block.running = block.threads;
  block.at_barrier = block.array_count = 0;
  block.allotted = 0;
  // Under ThreadSanitizer each block has shared memory of its own: reuse would look like a race.
#if !defined(__SANITIZE_THREAD__)
  SPADE_ASAN(__asan_unpoison_memory_region(arena, block.used);)
  block.used = 0;
#endif
  block.dynamic = allot(dynamic_bytes);
  std::vector<Rendezvous> meetings(static_cast<size_t>((block.threads + 31) / 32 * kMasks));
  block.meetings = meetings.data();
  for (int i = 0; i < block.threads; ++i) prepare(fibers[i], i);
  SPADE_TSAN(block.main_tsan = __tsan_get_current_fiber();)
  std::vector<int> order(static_cast<size_t>(block.threads));
  put_in_order(order);
  while (block.running) {
    bool any = false;
    if (schedule == Schedule::kRandom) put_in_order(order);
    for (const int i : order) {
      if (fibers[i].state != State::kReady) continue;
      any = true;
      resume(i);
    }
    if (block.at_barrier && block.at_barrier == block.running) {
      any = true;
      block.at_barrier = 0;
      ++block.generation;
      for (int i = 0; i < block.threads; ++i)
        if (fibers[i].state == State::kAtBarrier) fibers[i].state = State::kReady;
    }
    if (!any) fault("deadlock: every thread waits");
  }
}

SPADE_UNSEEN inline void run_grid(dim3 grid, dim3 threads, size_t dynamic_bytes,
                                  void (*body)(void*), void* arguments) {
  gridDim = grid;
  blockDim = threads;
  block.threads = static_cast<int>(threads.x * threads.y * threads.z);
  if (block.threads < 1 || block.threads > 1024) fault("threads of a block not in [1, 1024]");
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535)
    fault("grid out of range");
  static Fiber all[kFiberSets][1024];
  static unsigned turn = 0;
  block.body = body;
  block.arguments = arguments;
  block.used = 0;
  arena = static_cast<unsigned char*>(mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  std::vector<int> order(size_t(grid.x) * grid.y * grid.z);
  put_in_order(order);
  for (const int i : order) {
    const unsigned x = static_cast<unsigned>(i);
    blockIdx = {x % grid.x, x / grid.x % grid.y, x / (grid.x * grid.y)};
    fibers = all[turn++ % kFiberSets];
    run_block(dynamic_bytes);
  }
  SPADE_TSAN(__tsan_acquire(&block.ended);)
  SPADE_ASAN(__asan_unpoison_memory_region(arena, block.used);)
  munmap(arena, kArenaBytes);
}

}  // namespace spade::emulation
