// Assembly of one piece of H (hessian_assembly.h). Bound by the memory that H is written to.
//
// Sums run along channels, where tiles are contiguous; rows of H alternate taps, so that they are
// put together from sums that stay in L1 and L2.

#include <algorithm>

#include "cpu/hessian_assembly.h"
#include "cpu/simd.h"
#include "cpu/transpose4.h"

namespace spade {
namespace SPADE_ISA {
namespace {

constexpr int kLanes = Simd<double>::lanes;
template <class T>
struct Narrow {  // as many lanes as a vector of doubles
  typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};

template <class P>
inline Vec<double> load_doubles(const P* p) {
  typename Narrow<P>::type v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Vec<double>);
}

template <class P, class S>
void sum_tiles(const AssemblyTask<P, S>& task, S* sums) {
  const AssemblyTables& tables = task.tables;
  for (int64_t k = 0; k < tables.sums(); ++k)
    for (int64_t i = 0; i < task.m; ++i)
      for (int64_t j = 0; j < task.n; j += kLanes) {
        const P* from = task.tiles + i * task.ld + j;
        Vec<double> sum{};
        for (int64_t term = tables.first[k]; term < tables.first[k + 1]; ++term)
          sum += load_doubles(from + tables.terms[term]);
        const auto entry = __builtin_convertvector(sum, typename Narrow<S>::type);
        std::memcpy(sums + k * tables.area() + i * tables.stride + j, &entry, sizeof entry);
      }
}

// to[i step_i + j step_j + u] = the sum at places[u place_step], [m, n], for every tap u; or
// further in j, up to a multiple of 4.
template <class S>
void interleave(const AssemblyTables& tables, const S* sums, const int64_t* places,
                int64_t place_step, int64_t m, int64_t n, S* to, int64_t step_i, int64_t step_j) {
  const int64_t taps = tables.taps;
  for (int64_t i = 0; i < m; ++i, sums += tables.stride, to += step_i) {
    const auto sum = [&](int64_t u) { return sums + places[u * place_step]; };
    for (int64_t next = 0; next < taps; next += 4) {
      const int64_t u = std::max<int64_t>(0, std::min(next, taps - 4));
      if (taps < 4) {
        for (int64_t v = 0; v < taps; ++v)
          for (int64_t j = 0; j < n; ++j) to[j * step_j + v] = sum(v)[j];
      } else {
        const S *a = sum(u), *b = sum(u + 1), *c = sum(u + 2), *d = sum(u + 3);
        for (int64_t j = 0; j < n; j += 4)
          transpose4<S>({a + j, b + j, c + j, d + j}, to + j * step_j + u, step_j);
      }
    }
  }
}

// row = or += from. What is written goes past the caches where it can: H is far larger than they
// are, and a line that is stored to is read first.
template <bool kAdd, class S>
void write_row(const S* from, int64_t count, S* row) {
  constexpr int L = Simd<S>::lanes;
  const bool whole = is_aligned(row);
  int64_t k = 0;
  for (; k + L <= count; k += L) {
    if constexpr (kAdd)
      store(row + k, load(row + k) + load(from + k));
    else if (whole)
      stream(row + k, load(from + k));
    else
      store(row + k, load(from + k));
  }
  for (; k < count; ++k) row[k] = kAdd ? row[k] + from[k] : from[k];
}

template <bool kAdd, class P, class S>
void write_rows(const AssemblyTask<P, S>& task, const S* sums, S* rows) {
  const AssemblyTables& tables = task.tables;
  const int64_t taps = tables.taps, row = tables.block * taps;
  for (int64_t t = 0; t < taps; ++t) {
    interleave(tables, sums, &tables.sum_of[t * taps], 1, task.m, task.n, rows, row, taps);
    for (int64_t i = 0; i < task.m; ++i)
      write_row<kAdd>(rows + i * row, task.n * taps, task.h + (i * taps + t) * task.D);
  }
  if (!task.mirror) return;
  for (int64_t u = 0; u < taps; ++u) {
    interleave(tables, sums, &tables.sum_of[u], taps, task.m, task.n, rows, taps, row);
    for (int64_t j = 0; j < task.n; ++j)
      write_row<kAdd>(rows + j * row, task.m * taps, task.mirror + (j * taps + u) * task.D);
  }
}

template <class P, class S>
void assemble_piece(const AssemblyTask<P, S>& task, S* scratch) {
  S* rows = scratch + task.tables.sums() * task.tables.area();
  sum_tiles(task, scratch);
  if (task.add)
    write_rows<true>(task, scratch, rows);
  else
    write_rows<false>(task, scratch, rows);
  end_stream();
}

}  // namespace

void assemble(const AssemblyTask<float, float>& task, float* scratch) {
  assemble_piece(task, scratch);
}
void assemble(const AssemblyTask<double, float>& task, float* scratch) {
  assemble_piece(task, scratch);
}
void assemble(const AssemblyTask<float, double>& task, double* scratch) {
  assemble_piece(task, scratch);
}
void assemble(const AssemblyTask<double, double>& task, double* scratch) {
  assemble_piece(task, scratch);
}

}  // namespace SPADE_ISA
}  // namespace spade
