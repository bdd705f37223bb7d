// The plan on the device, and H from the partial sums of its jobs.
//
//   H[(c, t), (d, u)] += 2^-2s sum over the terms of (t, u) of gram[c, d] (or its transpose),
//   gram = its splits' partial sums, added in order in float64
//
// A thread sums kEntries entries of H, each in one order, whatever the device. Bound by L2: 4 bytes
// a term and split, 16 bytes of H.
#pragma once

#include "cuda/hessian_gram.cuh"
#include "cuda/hessian_pack.cuh"

namespace spade::cuda {

constexpr int kAssembleThreads = 256, kEntries = 4;

// Entry (c, d) of a job's gram; sums: the partial tiles of one group of one sample.
template <int kWidth>
__device__ __forceinline__ double gram_entry(const GramJob& job, int side, const float* sums, int c,
                                             int d) {
  int tile = c / kWidth * side + d / kWidth;
  if (job.symmetric) {
    if (c < d) {
      const int lower = c;
      c = d;
      d = lower;
    }
    const int I = c / kWidth;
    tile = I * (I + 1) / 2 + d / kWidth;
  }
  const float* at =
      sums + (int64_t{job.first} + tile) * kWidth * kWidth + c % kWidth * kWidth + d % kWidth;
  double sum = 0;
  for (int split = 0; split < job.splits; ++split, at += int64_t{job.tiles} * kWidth * kWidth)
    sum += *at;
  return sum;
}

// Grid over the entries of h: [problems = samples * groups, D, D], D = channels * taps.
template <int kWidth>
__global__ void __launch_bounds__(kAssembleThreads)
    assemble_kernel(PlanOnDevice plan, const float* sums, const unsigned* largest, int64_t problems,
                    int groups, double* h) {
  const int64_t D = int64_t{plan.channels} * plan.taps;
  const int side = (plan.channels + kWidth - 1) / kWidth;
  const GramJob* jobs = reinterpret_cast<const GramJob*>(plan.words);
  const int32_t* places = plan.words + plan.jobs * kJobWords;
  const int32_t* terms = places + plan.taps * plan.taps + 1;
#pragma unroll
  for (int e = 0; e < kEntries; ++e) {
    const int64_t entry =
        (int64_t{blockIdx.x} * kEntries + e) * kAssembleThreads + static_cast<int>(threadIdx.x);
    if (entry >= problems * D * D) return;
    const int64_t problem = entry / (D * D), within = entry - problem * D * D;
    const int i = static_cast<int>(within / D), j = static_cast<int>(within - i * D);
    const int c = i / plan.taps, d = j / plan.taps;
    const int pair = (i - c * plan.taps) * plan.taps + j - d * plan.taps;
    const float* of = sums + problem * plan.blocks * kWidth * kWidth;
    double sum = 0;
    for (int place = places[pair]; place < places[pair + 1]; ++place) {
      const Term term = terms[place];
      const bool transposed = term & 1;
      sum += gram_entry<kWidth>(jobs[term >> 1], side, of, transposed ? d : c, transposed ? c : d);
    }
    h[entry] += ldexp(sum, -2 * scale_exponent(largest, static_cast<int>(problem / groups)));
  }
}

}  // namespace spade::cuda
