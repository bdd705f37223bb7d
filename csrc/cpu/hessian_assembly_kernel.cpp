// Assembly of one piece of H (hessian_assembly.h). Bound by the memory that H is written to.
//
// Sums run along channels, where tiles are contiguous; rows of H alternate taps, so that they are
// gathered from sums that stay in L1 and L2.

#include "cpu/hessian_assembly.h"
#include "cpu/simd.h"

namespace spade {
namespace SPADE_ISA {
namespace {

template <class S>
void sum_tiles(const AssemblyTask<S>& task, S* entries) {
  constexpr int L = Simd<double>::lanes;
  typedef S Narrow __attribute__((vector_size(L * sizeof(S))));
  const int64_t stride = task.stride();
  for (int64_t q = 0; q < task.taps * task.taps; ++q)
    for (int64_t i = 0; i < task.m; ++i)
      for (int64_t j = 0; j < task.n; j += L) {
        const double* from = task.tiles + i * task.ld + j;
        Vec<double> sum{};
        for (int64_t k = task.first[q]; k < task.first[q + 1]; ++k)
          sum += load(from + task.terms[k]);
        const Narrow entry = __builtin_convertvector(sum, Narrow);
        std::memcpy(entries + q * task.area() + i * stride + j, &entry, sizeof entry);
      }
}

// row[k] = or += from[places[k]].
template <class S, bool kAdd>
void gather_row(const S* from, const int32_t* places, int64_t count, S* row) {
  constexpr int L = Simd<S>::lanes;
  int64_t k = 0;
  for (; k + L <= count; k += L) {
    Vec<S> v = gather(from, places + k);
    if constexpr (kAdd) v += load(row + k);
    store(row + k, v);
  }
  for (; k < count; ++k) row[k] = kAdd ? row[k] + from[places[k]] : from[places[k]];
}

template <class S, bool kAdd>
void write_rows(const AssemblyTask<S>& task, const S* entries) {
  const int64_t taps = task.taps, places = task.block * taps;
  for (int64_t t = 0; t < taps; ++t)
    for (int64_t i = 0; i < task.m; ++i)
      gather_row<S, kAdd>(entries + i * task.stride(), task.rows + t * places, task.n * taps,
                          task.h + (i * taps + t) * task.D);
  if (!task.mirror) return;
  for (int64_t u = 0; u < taps; ++u)
    for (int64_t j = 0; j < task.n; ++j)
      gather_row<S, kAdd>(entries + j, task.columns + u * places, task.m * taps,
                          task.mirror + (j * taps + u) * task.D);
}

template <class S>
void assemble_piece(const AssemblyTask<S>& task, S* entries) {
  sum_tiles(task, entries);
  if (task.add)
    write_rows<S, true>(task, entries);
  else
    write_rows<S, false>(task, entries);
}

}  // namespace

void assemble(const AssemblyTask<float>& task, float* entries) { assemble_piece(task, entries); }
void assemble(const AssemblyTask<double>& task, double* entries) { assemble_piece(task, entries); }

}  // namespace SPADE_ISA
}  // namespace spade
