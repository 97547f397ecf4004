// A parallel loop on the threads that torch computes with.
#pragma once

#include <cstdint>
#include <functional>

namespace ghnfast {

// With more, OpenMP might end the process where the system has no more.
constexpr std::int64_t kMostThreads = 1024;

// Calls body(item) once for every item in [0, items), on up to `threads` threads, and `kMostThreads`; returns when all
// are done. Rethrows the first exception that a body threw; the items after it may be left out.
void parallel_for(std::int64_t items, int threads, const std::function<void(std::int64_t)>& body);

// Calls `work`, whose loops share one set of threads, `threads` of them: many short loops, one after the other, would
// each wait for threads to come. Rethrows what it throws. A loop within a loop's body is this thread's alone.
void with_team(int threads, const std::function<void()>& work);

// So many multiplications are worth other threads: that they wake, or only that they look, where there is a team.
std::int64_t worth_threads();

}  // namespace ghnfast
