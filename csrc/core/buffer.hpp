// Memory on a cache line boundary.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>

namespace ghnfast {

enum class Fill { kZeros, kNothing };

template <typename T>
class Buffer {
 public:
  explicit Buffer(std::int64_t count, Fill fill = Fill::kZeros)
      : count_(static_cast<std::size_t>(count)),
        alignment_{count_ * sizeof(T) < kManyBytes ? kAlignment : kLargePage},
        data_(static_cast<T*>(::operator new(count_ * sizeof(T), alignment_))) {
    ask_for_large_pages();
    if (fill == Fill::kZeros) {
      clear();
    }
  }
  ~Buffer() { ::operator delete(data_, alignment_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  void clear() { std::memset(data_, 0, count_ * sizeof(T)); }

 private:
  static constexpr std::size_t kAlignment = 64;
  static constexpr std::size_t kLargePage = 1 << 21, kManyBytes = 1 << 22;

  // What is freed after every call is new to the system at the next: 4 KiB at a time, that takes longer than to fill
  // it.
  void ask_for_large_pages() {
#if defined(MADV_HUGEPAGE)
    if (static_cast<std::size_t>(alignment_) == kLargePage) {
      madvise(data_, count_ * sizeof(T), MADV_HUGEPAGE);  // a wish: where it is not granted, nothing changes
    }
#endif
  }

  std::size_t count_;
  std::align_val_t alignment_;
  T* data_;
};

}  // namespace ghnfast
