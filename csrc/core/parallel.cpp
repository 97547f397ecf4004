#include "core/parallel.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__SSE2__)
#include <immintrin.h>
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

// Calls a function on this thread and on others, up to so many together.
void run_on_threads(int threads, const std::function<void()>& function) {
  if (const auto entry = openmp_entry()) {
    entry([](void* data) { (*static_cast<const std::function<void()>*>(data))(); },
          const_cast<std::function<void()>*>(&function), static_cast<unsigned>(threads), 0);
    return;
  }
  std::vector<std::thread> others;
  others.reserve(threads);
  try {
    for (int index = 1; index < threads; ++index) {
      others.emplace_back(function);
    }
  } catch (const std::system_error&) {
    // No more threads are to be had: those that there are do the work.
  }
  function();
  for (auto& thread : others) {
    thread.join();
  }
}

// The cores that this process may run on.
int own_cores() {
#if defined(__linux__)
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof(cores), &cores) == 0) {
    return CPU_COUNT(&cores);
  }
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

// Waits for a moment, awake; after many of them, or soon where there are more threads than cores, others may go first.
class Patience {
 public:
  explicit Patience(int awake) : awake_(awake) {}

  static int awake(int threads) {
    // Some microseconds, or about one millisecond: who yields waits for several.
    return threads > own_cores() ? 100 : 50000;
  }

  void wait() {
    if (++waited_ > awake_) {
      std::this_thread::yield();
      return;
    }
#if defined(__SSE2__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

 private:
  int awake_;
  int waited_ = 0;
};

// Threads that help one, the leader, with a loop at a time. The leader waits for those that have taken items and not
// for those that have not come: on a machine with other work to do it goes on alone.
class Team {
 public:
  explicit Team(int threads) : awake_(Patience::awake(threads)) {}

  void lead(Loop& loop) {
    loop_.store(&loop);
    rounds_.fetch_add(1);
    loop.take_items();
    loop_.store(nullptr);
    // Who comes now sees that there is nothing to do; who came before has been counted.
    for (Patience patience(awake_); helping_.load() != 0;) {
      patience.wait();
    }
  }

  void help() {
    std::int64_t known = 0;
    for (Patience patience(awake_); !over_.load();) {
      const auto round = rounds_.load();
      if (round == known) {
        patience.wait();
        continue;
      }
      known = round;
      patience = Patience(awake_);
      helping_.fetch_add(1);
      if (auto* const loop = loop_.load()) {
        loop->take_items();
      }
      helping_.fetch_sub(1);
    }
  }

  void dismiss() { over_.store(true); }

 private:
  std::atomic<Loop*> loop_{nullptr};
  std::atomic<std::int64_t> rounds_{0};
  std::atomic<int> helping_{0};
  std::atomic<bool> over_{false};
  const int awake_;
};

// The team that this thread leads, outside of its loops.
thread_local Team* own_team = nullptr;

// This thread leads a team, or none, for as long as there is such an object.
class Leading {
 public:
  explicit Leading(Team* team) : before_(own_team) { own_team = team; }
  ~Leading() { own_team = before_; }
  Leading(const Leading&) = delete;
  Leading& operator=(const Leading&) = delete;

 private:
  Team* const before_;
};

constexpr std::int64_t kWorthWaking = 1 << 19;
constexpr std::int64_t kWorthLooking = 1 << 15;

}  // namespace

std::int64_t worth_threads() { return own_team == nullptr ? kWorthWaking : kWorthLooking; }

void parallel_for(std::int64_t items, int threads, const std::function<void(std::int64_t)>& body) {
  threads = static_cast<int>(std::min<std::int64_t>({threads, items, kMostThreads}));
  if (threads <= 1) {
    for (std::int64_t item = 0; item < items; ++item) {
      body(item);
    }
    return;
  }
  Loop loop(items, body);
  if (auto* const team = own_team) {
    const Leading nobody(nullptr);
    team->lead(loop);
  } else {
    run_on_threads(threads, [&] { loop.take_items(); });
  }
  if (loop.error) {
    std::rethrow_exception(loop.error);
  }
}

void with_team(int threads, const std::function<void()>& work) {
  if (threads <= 1 || own_team != nullptr) {
    return work();
  }
  threads = static_cast<int>(std::min<std::int64_t>(threads, kMostThreads));
  Team team(threads);
  std::exception_ptr error;
  const auto leader = std::this_thread::get_id();
  run_on_threads(threads, [&] {
    if (std::this_thread::get_id() != leader) {
      return team.help();
    }
    const Leading leading(&team);
    try {
      work();
    } catch (...) {
      error = std::current_exception();
    }
    team.dismiss();
  });
  if (error) {
    std::rethrow_exception(error);
  }
}

}  // namespace ghnfast
