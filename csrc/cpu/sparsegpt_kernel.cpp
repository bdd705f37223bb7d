// Kernels of sparsegpt, compiled once an instruction set (see core/isa.h).
