// Kernels of obc, compiled once an instruction set (see core/isa.h).
