// The numbers of a weight as they lie in memory.
#pragma once

#include <cstdint>

namespace ghnfast {

// What they are: of the type that is computed with, or of half precision, which are converted where they are read.
enum class Stored { kSame, kFloat16, kBFloat16 };

template <typename T>
struct Numbers {
  const void* data = nullptr;
  Stored stored = Stored::kSame;
};

// The same from some element on.
template <typename T>
Numbers<T> from(const Numbers<T>& numbers, std::int64_t index) {
  const std::int64_t size = numbers.stored == Stored::kSame ? sizeof(T) : 2;
  return {static_cast<const char*>(numbers.data) + index * size, numbers.stored};
}

}  // namespace ghnfast
