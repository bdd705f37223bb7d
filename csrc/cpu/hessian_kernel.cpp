// Kernels of hessian, compiled once an instruction set (see core/isa.h).
