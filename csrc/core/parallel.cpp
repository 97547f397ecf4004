#include "core/parallel.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

#include <algorithm>
#include <atomic>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace ghnfast {
namespace {

// Work that any number of threads take items from.
struct Loop {
  Loop(std::int64_t count, const std::function<void(std::int64_t)>& function) : items(count), body(function) {}

  void take_items() {
    while (!failed.load(std::memory_order_relaxed)) {
      const auto item = next.fetch_add(1, std::memory_order_relaxed);
      if (item >= items) {
        return;
      }
      try {
        body(item);
      } catch (...) {
        if (!failed.exchange(true)) {
          error = std::current_exception();
        }
      }
    }
  }

  std::int64_t items;
  const std::function<void(std::int64_t)>& body;
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
};

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

// The entry of the OpenMP runtime that is loaded in this process, which is torch's, or null. Threads of our own would
// compete with torch's, which keep spinning for milliseconds after each of its operations.
GompParallel openmp_entry() {
#if (defined(__unix__) || defined(__APPLE__)) && !defined(GHNFAST_NO_OPENMP)
  static const auto entry = reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  return entry;
#else
  return nullptr;
#endif
}

void run_on_new_threads(Loop& loop, int threads) {
  std::vector<std::thread> others;
  others.reserve(threads);
  try {
    for (int index = 1; index < threads; ++index) {
      others.emplace_back([&loop] { loop.take_items(); });
    }
  } catch (const std::system_error&) {
    // No more threads are to be had: those that there are do the work.
  }
  loop.take_items();
  for (auto& thread : others) {
    thread.join();
  }
}

}  // namespace

void parallel_for(std::int64_t items, int threads, const std::function<void(std::int64_t)>& body) {
  threads = static_cast<int>(std::min<std::int64_t>({threads, items, kMostThreads}));
  if (threads <= 1) {
    for (std::int64_t item = 0; item < items; ++item) {
      body(item);
    }
    return;
  }
  Loop loop(items, body);
  if (const auto entry = openmp_entry()) {
    entry([](void* data) { static_cast<Loop*>(data)->take_items(); }, &loop, static_cast<unsigned>(threads), 0);
  } else {
    run_on_new_threads(loop, threads);
  }
  if (loop.error) {
    std::rethrow_exception(loop.error);
  }
}

}  // namespace ghnfast
