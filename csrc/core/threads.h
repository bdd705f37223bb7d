// Which processes may start threads.
#pragma once

namespace spade {

// Whether this process is a child of fork(). An OpenMP runtime that ran before the fork waits there
// for threads that the child does not have, so that loops run on the calling thread alone.
bool is_forked();

}  // namespace spade
