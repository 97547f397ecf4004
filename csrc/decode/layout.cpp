#include "decode/layout.hpp"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>
#include <tuple>

namespace ghnfast {
namespace {

bool is_vector(DecoderKind decoder) {
  return decoder == DecoderKind::kVectorWeight || decoder == DecoderKind::kVectorBias;
}

auto sorted_by(const Slot& slot) {
  return std::make_tuple(slot.decoder, slot.height, slot.width, slot.columns, slot.rows, slot.cells);
}

bool share_a_call(const Slot& a, const Slot& b) {
  if (is_vector(a.decoder)) {
    return is_vector(b.decoder);  // one vector has both halves
  }
  if (a.decoder != b.decoder) {
    return false;
  }
  switch (a.decoder) {
    case DecoderKind::kKernel:
      return a.height == b.height && a.width == b.width;
    case DecoderKind::kClassWeight:
      return a.columns == b.columns;
    case DecoderKind::kClassBias:
      return true;
    default:
      return sorted_by(a) == sorted_by(b);
  }
}

// How many elements a call gives for each of its slots.
std::int64_t block_size(const DecoderCall& call, const BlockSizes& sizes) {
  switch (call.decoder) {
    case DecoderKind::kKernel:
      return 0;
    case DecoderKind::kClassWeight:
      return sizes.classes * call.columns;
    case DecoderKind::kClassBias:
      return sizes.classes;
    case DecoderKind::kWhole:
      return call.rows * call.columns * call.cells;
    default:
      return 2 * sizes.vector;
  }
}

}  // namespace

Layout lay_out(const std::vector<Slot>& slots, const BlockSizes& sizes) {
  if (!is_within({sizes.vector}, kMostElements) || !is_within({sizes.classes}, kMostElements)) {
    throw std::invalid_argument("there are " + std::to_string(sizes.vector) + " elements of vectors and " +
                                std::to_string(sizes.classes) + " classes; positive numbers are accepted");
  }
  Layout layout;
  layout.order.resize(slots.size());
  std::iota(layout.order.begin(), layout.order.end(), 0);
  std::stable_sort(layout.order.begin(), layout.order.end(),
                   [&](std::int64_t a, std::int64_t b) { return sorted_by(slots[a]) < sorted_by(slots[b]); });
  for (std::size_t at = 0; at < slots.size(); ++at) {
    const auto& slot = slots[layout.order[at]];
    if (at == 0 || !share_a_call(slots[layout.order[at - 1]], slot)) {
      DecoderCall call{slot.decoder,
                       static_cast<std::int64_t>(at),
                       0,
                       slot.height,
                       slot.width,
                       slot.columns,
                       slot.rows,
                       slot.cells,
                       0};
      call.first = slot.decoder == DecoderKind::kKernel ? layout.hidden_rows : layout.elements;
      layout.calls.push_back(call);
    }
    auto& call = layout.calls.back();
    ++call.count;
    if (slot.decoder == DecoderKind::kKernel) {
      layout.first.push_back(layout.hidden_rows);
      layout.hidden_rows += slot.cells;
    } else {
      layout.first.push_back(layout.elements + (slot.decoder == DecoderKind::kVectorBias ? sizes.vector : 0));
      if (slot.decoder == DecoderKind::kClassWeight && !is_within({sizes.classes, slot.columns}, kMostElements)) {
        throw std::invalid_argument("a classification layer has more elements than memory can have");
      }
      layout.elements += block_size(call, sizes);
    }
    if (std::max(layout.hidden_rows, layout.elements) > kMostElements) {
      throw std::invalid_argument("the slots have more elements than memory can have");
    }
  }
  return layout;
}

}  // namespace ghnfast
