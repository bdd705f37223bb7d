# Cross-compile for aarch64 with Debian's compiler, and run tests under QEMU as a Neoverse N1. QEMU's "max" has SME, with
# which OpenBLAS takes kernels whose float64 products come out wrong under QEMU 7.2.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
if(NOT SPADE_PYTHON)  # which CMake would look for by running the interpreter of this machine under QEMU
  set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu neoverse-n1 -L /usr/aarch64-linux-gnu)
endif()
