// CUDA C++ on a CPU: what kernels/chain*.cu use of it, for one block of THREADS threads after another.
//
// A thread is a fiber, which runs until it waits for others or announces something; who runs next is drawn. From time
// to time a warp rests, until nobody else can go on: others come ahead of it as far as they can. So lanes of a warp,
// and warps, come in any order, and what is not ordered by a barrier or by what a thread announces shows. Where nobody
// can go on, the block is deadlocked, and so says `emulate`.
//
// What is hidden: memory is one for all at once, so an announcement that orders nothing (no release, no acquire) works
// here, and shared memory is larger than a launch asks for.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#define EMULATED
#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __align__(bytes) alignas(bytes)
#define __launch_bounds__(...)

struct float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline float __fdividef(float x, float y) { return x / y; }
inline float __expf(float x) { return std::exp(x); }
inline int min(int a, int b) { return a < b ? a : b; }

namespace emulated {

constexpr int kThreads = THREADS, kWarp = 32;
constexpr int kLooks = 3;     // at a flag, until something is announced
constexpr int kChances = 10;  // to look again, where nobody can go on: flags may have been set long before
constexpr int kRest = 2000;   // turns at most, until another warp rests, or none
constexpr std::size_t kStack = 1 << 16, kShared = 1 << 20;

struct Barrier {
  int arrived = 0, members = 0;
  std::uint64_t passed = 0;  // times that all have arrived
};

// How often a flag has been looked at since an announcement.
struct Look {
  const int* flag;
  std::uint64_t announcement;
  int times;
};

// Where a fiber goes on: first at its beginning, then by jumps, which make no system calls.
struct Fiber {
  ucontext_t context;
  jmp_buf place;
  bool begun = false;
  std::unique_ptr<char[]> stack{new char[kStack]};
  bool ended = false;
  int exchanges = 0;
  Barrier* waits = nullptr;  // until it has been passed more often than `seen`
  std::uint64_t seen = 0;
  std::vector<Look> looked;
  const int* watches = nullptr;  // a flag that is about to be looked at
};

inline jmp_buf scheduler;
inline std::vector<Fiber> fibers;
inline int current = 0;
inline Barrier block, warps[kThreads / kWarp];
inline float exchanged[2][kThreads];
inline std::uint64_t announcements = 0, random = 1;

inline std::uint64_t draw() {
  random ^= random << 13, random ^= random >> 7, random ^= random << 17;
  return random;
}

inline void yield() {
  if (_setjmp(fibers[current].place) == 0) {
    _longjmp(scheduler, 1);
  }
}

inline void resume(int chosen) {
  current = chosen;
  if (_setjmp(scheduler) == 0) {
    auto& fiber = fibers[chosen];
    if (fiber.begun) {
      _longjmp(fiber.place, 1);
    }
    fiber.begun = true;
    setcontext(&fiber.context);
  }
}

inline void pass_if_full(Barrier& barrier) {
  if (barrier.members > 0 && barrier.arrived == barrier.members) {
    barrier.arrived = 0;
    ++barrier.passed;
  }
}

inline void arrive(Barrier& barrier) {
  auto& own = fibers[current];
  own.waits = &barrier, own.seen = barrier.passed;
  ++barrier.arrived;
  pass_if_full(barrier);
  yield();
  own.waits = nullptr;
}

inline Look& look_at_flag(Fiber& fiber, const int* flag) {
  for (auto& look : fiber.looked) {
    if (look.flag == flag) {
      if (look.announcement != announcements) {
        look = {flag, announcements, 0};
      }
      return look;
    }
  }
  fiber.looked.push_back({flag, announcements, 0});
  return fiber.looked.back();
}

inline bool can_run(Fiber& fiber) {
  if (fiber.ended || (fiber.waits != nullptr && fiber.waits->passed == fiber.seen)) {
    return false;
  }
  return fiber.watches == nullptr || look_at_flag(fiber, fiber.watches).times < kLooks;
}

struct Index {
  struct Coordinate {
    operator int() const { return current; }
  } x;
};

}  // namespace emulated

inline emulated::Index threadIdx;
struct {
  int x;
} inline blockIdx;
float4 dynamic[emulated::kShared / sizeof(float4)];  // shared memory

inline void __syncthreads() { emulated::arrive(emulated::block); }
inline void __syncwarp() { emulated::arrive(emulated::warps[emulated::current / emulated::kWarp]); }

inline float __shfl_sync(unsigned, float value, int lane) {
  auto& own = emulated::fibers[emulated::current];
  auto& values = emulated::exchanged[own.exchanges++ % 2];  // in turn: one barrier is enough
  values[emulated::current] = value;
  __syncwarp();
  return values[emulated::current / emulated::kWarp * emulated::kWarp + lane];
}

inline unsigned __ballot_sync(unsigned, bool value) {
  unsigned found = 0;
  for (int lane = 0; lane < emulated::kWarp; ++lane) {
    found |= (__shfl_sync(~0u, value ? 1.0f : 0.0f, lane) != 0.0f ? 1u : 0u) << lane;
  }
  return found;
}

inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }

// A flag is as it was until the next announcement of anything: whoever looks again and again waits for that.
inline int announced(const int* flag) {
  auto& own = emulated::fibers[emulated::current];
  own.watches = flag;
  emulated::yield();
  own.watches = nullptr;
  ++emulated::look_at_flag(own, flag).times;
  return *flag;
}

inline void announce(int* flag, int value) {
  emulated::yield();
  *flag = value;
  ++emulated::announcements;
  emulated::yield();  // what is written after it comes too late
}

namespace emulated {

template <typename Arguments>
struct Launch {
  inline static const Arguments* arguments;
  inline static void (*kernel)(Arguments);

  static void body() {
    kernel(*arguments);
    fibers[current].ended = true;
    for (auto* barrier : {&block, &warps[current / kWarp]}) {  // nobody waits for a thread that has ended
      --barrier->members;
      pass_if_full(*barrier);
    }
    yield();
  }

  static void begin() {
    fibers = std::vector<Fiber>(kThreads);
    block = {0, kThreads, 0};
    std::fill(std::begin(warps), std::end(warps), Barrier{0, kWarp, 0});
    const float none = std::nanf("");
    std::fill(std::begin(dynamic), std::end(dynamic), float4{none, none, none, none});
    for (auto& fiber : fibers) {
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = fiber.stack.get(), fiber.context.uc_stack.ss_size = kStack;
      makecontext(&fiber.context, body, 0);
    }
  }
};

// A thread that can run, and is not of the warp that rests if there is another one; or -1.
inline int next_thread(int resting) {
  const int first = static_cast<int>(draw() % kThreads);
  int rested = -1;
  for (int i = 0; i < kThreads; ++i) {
    const int thread = (first + i) % kThreads;
    if (!can_run(fibers[thread])) {
      continue;
    }
    if (thread / kWarp != resting) {
      return thread;
    }
    rested = thread;
  }
  return rested;
}

// Lets threads run until all have ended; false where nobody can.
inline bool finish() {
  int resting = -1, turns = 0, chances = 0;
  std::uint64_t granted = 0;
  for (int left = kThreads; left > 0;) {
    if (turns-- == 0) {
      resting = static_cast<int>(draw() % (2 * kThreads / kWarp)), turns = static_cast<int>(draw() % kRest);
    }
    const int chosen = next_thread(resting);
    if (chosen < 0) {
      chances = granted == announcements ? chances + 1 : 0;
      if (chances == kChances) {
        return false;
      }
      granted = ++announcements;
      continue;
    }
    resume(chosen);
    left -= fibers[chosen].ended;
  }
  return true;
}

// Runs a kernel for so many blocks, in an order of threads that the seed names; false where one of them is deadlocked.
template <typename Arguments>
bool launch(void (*kernel)(Arguments), const Arguments& arguments, int blocks, std::uint64_t seed) {
  random = 2 * seed + 1;
  Launch<Arguments>::arguments = &arguments, Launch<Arguments>::kernel = kernel;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    Launch<Arguments>::begin();
    if (!finish()) {
      return false;
    }
  }
  return true;
}

}  // namespace emulated
