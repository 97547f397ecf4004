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

// A slot alone in a call of its decoder; `at` is its place in the order.
DecoderCall call_for(const Slot& slot, std::int64_t at, const Layout& layout) {
  DecoderCall call;
  call.decoder = slot.decoder;
  call.begin = at;
  call.height = slot.height;
  call.width = slot.width;
  call.columns = slot.columns;
  call.rows = slot.rows;
  call.cells = slot.cells;
  call.first = slot.decoder == DecoderKind::kKernel ? layout.hidden_rows : layout.elements;
  return call;
}

// Gives the next slot, which the last call takes too, its place.
void place(const Slot& slot, const BlockSizes& sizes, Layout& layout) {
  auto& call = layout.calls.back();
  ++call.count;
  DecodeTarget target{0, slot.rows, slot.columns, slot.cells, slot.out, slot.in, slot.kind, slot.scale};
  if (slot.decoder == DecoderKind::kKernel) {
    target.first = layout.hidden_rows;
    layout.hidden_rows += slot.cells;
  } else {
    target.first = layout.elements + (slot.decoder == DecoderKind::kVectorBias ? sizes.vector : 0);
    if (slot.decoder == DecoderKind::kClassWeight && !is_within({sizes.classes, slot.columns}, kMostElements)) {
      throw std::invalid_argument("a classification layer has more elements than memory can have");
    }
    layout.elements += block_size(call, sizes);
  }
  if (std::max(layout.hidden_rows, layout.elements) > kMostElements) {
    throw std::invalid_argument("the slots have more elements than memory can have");
  }
  layout.targets.push_back(target);
  layout.nodes.push_back(slot.node);
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
      layout.calls.push_back(call_for(slot, static_cast<std::int64_t>(at), layout));
    }
    place(slot, sizes, layout);
  }
  return layout;
}

}  // namespace ghnfast
