// How many rows go through the kernels at once.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace spade::cuda::obc {

// Rows of a chunk of R rows: at most `most`, as many as `limit` bytes hold, at least one, and
// chunks of like sizes. Searched, not divided: arrays are aligned, so bytes_of(n) is less than n
// bytes_of(1), and a workspace of bytes_of(chunk) has to hold that chunk again.
template <class BytesOf>
int64_t chunk_of(int64_t R, int64_t most, size_t limit, BytesOf&& bytes_of) {
  int64_t fit = 1;
  for (int64_t high = std::min(R, most); fit < high;) {
    const int64_t middle = (fit + high + 1) / 2;
    if (bytes_of(middle) <= limit)
      fit = middle;
    else
      high = middle - 1;
  }
  const int64_t chunks = std::max<int64_t>((R + fit - 1) / fit, 1);
  return (R + chunks - 1) / chunks;
}

}  // namespace spade::cuda::obc
