// What the emulation's fibers need of the machine: switching stacks, and telling the sanitizers.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_THREAD__)
#define SPADE_TSAN(...) __VA_ARGS__
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
void __tsan_write_range(void*, long);  // as g++ declares it
}
#else
#define SPADE_TSAN(...)
#endif
#if defined(__SANITIZE_ADDRESS__)
#define SPADE_ASAN(...) __VA_ARGS__
extern "C" {
void __sanitizer_start_switch_fiber(void**, const void*, size_t);
void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
void __asan_poison_memory_region(const void volatile*, size_t);
void __asan_unpoison_memory_region(const void volatile*, size_t);
}
#else
#define SPADE_ASAN(...)
#endif

// The scheduler's own state is shared by all fibers: invisible to ThreadSanitizer, also as memcpy.
#define SPADE_UNSEEN \
  __attribute__((no_sanitize("thread"), optimize("no-tree-loop-distribute-patterns")))

// Save the callee-saved registers, leave the stack pointer in *save and go on at `to`.
extern "C" void spade_emulation_switch(void** save, void* to);
#if defined(__x86_64__)
asm(R"(
.text
.weak spade_emulation_switch
.type spade_emulation_switch, @function
spade_emulation_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
)");
#elif defined(__aarch64__)
asm(R"(
.text
.weak spade_emulation_switch
.type spade_emulation_switch, %function
spade_emulation_switch:
  sub sp, sp, #176
  stp x19, x20, [sp]; stp x21, x22, [sp, #16]; stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]; stp x27, x28, [sp, #64]; stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]; stp d10, d11, [sp, #112]; stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp]; ldp x21, x22, [sp, #16]; ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]; ldp x27, x28, [sp, #64]; ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]; ldp d10, d11, [sp, #112]; ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #176
  ret
)");
#else
#error "the CUDA emulation switches stacks on x86-64 and AArch64 only"
#endif
