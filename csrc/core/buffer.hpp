// Memory on a cache line boundary.
#pragma once

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
        data_(static_cast<T*>(::operator new(count_ * sizeof(T), std::align_val_t{kAlignment}))) {
    if (fill == Fill::kZeros) {
      clear();
    }
  }
  ~Buffer() { ::operator delete(data_, std::align_val_t{kAlignment}); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() { return data_; }
  const T* data() const { return data_; }
  void clear() { std::memset(data_, 0, count_ * sizeof(T)); }

 private:
  static constexpr std::size_t kAlignment = 64;
  std::size_t count_;
  T* data_;
};

}  // namespace ghnfast
