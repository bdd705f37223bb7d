// The scratch memory of one call of hessian_linear or hessian_conv2d (host).
#pragma once

#include "cuda/hessian_pack.cuh"
#include "cuda/hessian_problem.h"
#include "cuda/launch.h"

namespace spade::cuda {

inline int narrow(int64_t value) { return static_cast<int>(value); }

inline Images images_of(const HessianProblem& p) {
  const spade_conv2d_t& c = p.conv;
  const int64_t channels = c.channels / c.groups;
  return {c.stride_batch,
          c.stride_channel,
          c.stride_row,
          c.stride_col,
          p.images,
          narrow(c.height),
          narrow(c.width),
          narrow(channels),
          narrow(plan::divide_up(channels, 8) * 8),
          narrow(c.groups),
          c.stride_channel == 1};
}

struct Scratch {
  int32_t* words;
  unsigned* largest;  // [at once]; NULL: 16-bit inputs are not scaled
  uint16_t *hi, *lo;  // [at once * images, height, width, groups * padded]
  float* sums;        // [at once * groups * blocks, width, width]
};

inline Scratch carve(const HessianProblem& p, Workspace& from) {
  Scratch s{};
  s.words = from.take<int32_t>(static_cast<int64_t>(p.plan.words.size()));
  if (p.dtype == SPADE_FLOAT32) s.largest = from.take<unsigned>(p.at_once);
  if (p.packed) {
    const Images m = images_of(p);
    const int64_t count = p.at_once * m.images * m.height * m.width * m.groups * m.padded;
    s.hi = from.take<uint16_t>(count);
    if (p.three_products) s.lo = from.take<uint16_t>(count);
  }
  s.sums =
      from.take<float>(p.at_once * p.conv.groups * p.plan.blocks * p.plan.width * p.plan.width);
  return s;
}

inline size_t workspace_bytes_of(const HessianProblem& p) {
  if (p.empty()) return 0;
  Workspace counted;
  carve(p, counted);
  return counted.bytes();
}

}  // namespace spade::cuda
