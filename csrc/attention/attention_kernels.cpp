#include "attention/attention_kernels.hpp"

#include "core/isa.hpp"
#include "core/simd.hpp"

namespace ghnfast {
namespace GHNFAST_ISA {
namespace {

// Rows of a block, and vectors of a panel: their products fill the registers.
#if defined(__AVX512F__)
constexpr int kRows = 4;
#else
constexpr int kRows = 2;
#endif
constexpr int kVectors = 4;
constexpr int kPanels = 16;

inline float logarithm(float x) { return ::logf(x); }
inline double logarithm(double x) { return ::log(x); }

template <typename T>
constexpr T kLn2 = T(0.693147180559945309417);
template <typename T>
constexpr T kInfinity = static_cast<T>(__builtin_inf());

inline std::int64_t blocks_of(std::int64_t nodes, std::int64_t size) { return (nodes + size - 1) / size; }

// Calls function(node, head, where its vectors' first lane lies) for every lane; vectors are `step` apart.
template <typename T, typename Function>
inline void for_each_lane(const VectorLayout& layout, std::int64_t nodes, Function function) {
  const int held = layout.group.held, side = kLanes<T> / held;
  const std::int64_t per_vector = layout.spread ? side : 1, step = layout.at_once * kLanes<T>;
  const auto blocks = blocks_of(nodes, layout.at_once * per_vector);
  for (std::int64_t vector = 0; vector < blocks * layout.at_once; ++vector) {
    const auto start = vector / layout.at_once * layout.width * step + vector % layout.at_once * kLanes<T>;
    for (int g = 0; g < side; ++g) {
      for (int a = 0; a < held; ++a) {
        function(layout.spread ? vector * side + g : vector, a, start + g * held + a, g);
      }
    }
  }
}

template <typename T>
void pack(const VectorLayout& layout, const T* from, std::int64_t stride, std::int64_t nodes, T factor, T* to) {
  const std::int64_t step = layout.at_once * kLanes<T>;
  for_each_lane<T>(layout, nodes, [&](std::int64_t node, int head, std::int64_t at, int) {
    T* lane = to + at;
    const T* source = from + node * stride + head * layout.width;
    const bool there = node < nodes && head < layout.group.count;
    for (int k = 0; k < layout.width; ++k) {
      lane[k * step] = there ? factor * source[k] : T(0);
    }
  });
}

template <typename T>
void unpack(const VectorLayout& layout, const T* from, std::int64_t nodes, T factor, T* to, std::int64_t stride) {
  const std::int64_t step = layout.at_once * kLanes<T>;
  for_each_lane<T>(layout, nodes, [&](std::int64_t node, int head, std::int64_t at, int g) {
    if (node < nodes && head < layout.group.count) {
      T* row = to + node * stride + head * layout.width;
      const bool adds = !layout.spread && g > 0;
      for (int k = 0; k < layout.width; ++k) {
        row[k] = factor * from[at + k * step] + (adds ? row[k] : T(0));
      }
    }
  });
}

// products[r][c] = sum over k of rows[k][r] * nodes[k][c].
template <typename T>
inline void multiply(const T* rows, const T* nodes, int width, Vector<T> (&products)[kRows][kVectors]) {
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kVectors; ++c) {
      products[r][c] = Vector<T>{};
    }
  }
  for (int k = 0; k < width; ++k, rows += kRows * kLanes<T>, nodes += kVectors * kLanes<T>) {
    Vector<T> columns[kVectors];
    for (int c = 0; c < kVectors; ++c) {
      columns[c] = load(nodes + c * kLanes<T>);
    }
    for (int r = 0; r < kRows; ++r) {
      const auto row = load(rows + r * kLanes<T>);
      for (int c = 0; c < kVectors; ++c) {
        products[r][c] += row * columns[c];
      }
    }
  }
}

// The pairs of a block of rows with a panel of nodes.
template <typename T, int held>
struct Pairs {
  static constexpr int kSide = kLanes<T> / held;  // nodes in a vector
  static constexpr int kNodes = kVectors * kSide;

  Pairs(const PackedGraph<T>& graph, const AttentionRows<T>& rows, std::int64_t block, std::int64_t panel) {
    const auto node = panel * kNodes, left = graph.nodes - node;
    there = static_cast<int>(left < kNodes ? left : kNodes);
    kinds = graph.kinds;
    for (int r = 0; r < kRows; ++r) {
      const auto row = block * kRows + r;
      codes[r] = graph.codes + (rows.first + (row < rows.count ? row : rows.count - 1)) * graph.nodes + node;
    }
  }

  int code(int row, int node) const { return node < there ? codes[row][node] : kinds; }

  // to (kRows, kVectors, lanes) = the table's rows, where a vector is more than two of them.
  void expand(const T* table, T* to) const {
    if constexpr (kSide > 2) {
      for (int r = 0; r < kRows; ++r) {
        for (int node = 0; node < kNodes; ++node, to += held) {
          const T* from = table + code(r, node) * held;
          for (int a = 0; a < held; ++a) {
            to[a] = from[a];
          }
        }
      }
    }
  }

  // The bias of a vector, of which `expanded` has those that are more than two rows.
  Vector<T> bias(const T* table, const T* expanded, int r, int c) const {
    if constexpr (kSide > 2) {
      return load(expanded + (r * kVectors + c) * kLanes<T>);
    } else if constexpr (kSide == 2) {
      return joined(table + code(r, 2 * c) * held, table + code(r, 2 * c + 1) * held);
    } else {
      return load(table + code(r, c) * held);
    }
  }

  // Adds from (kRows, kVectors, lanes) to the rows of tables (kRows, kinds + 1, held).
  void collect(const T* __restrict from, T* __restrict tables, int rows) const {
    for (int r = 0; r < rows; ++r, tables += (kinds + 1) * held) {
      for (int node = 0; node < there; ++node) {
        T* to = tables + codes[r][node] * held;
        for (int a = 0; a < held; ++a) {
          to[a] += from[(r * kNodes + node) * held + a];
        }
      }
    }
  }

  int there, kinds;
  const std::uint8_t* codes[kRows];
};

// Forward
// --------------------------------------------------------------------------------------------------------------

// logits (panels, kRows, kVectors, lanes) of a block of rows, and the largest ones of each lane.
template <typename T, int held>
inline void find_logits(const PackedGraph<T>& graph, const AttentionRun<T>& run, std::int64_t block, std::int64_t first,
                        std::int64_t last, T* most) {
  const std::int64_t width = graph.width;
  const T* rows = run.rows.queries + block * width * kRows * kLanes<T>;
  T* logits = run.logits;
  Vector<T> largest[kRows];
  for (int r = 0; r < kRows; ++r) {
    largest[r] = load(most + r * kLanes<T>);
  }
  for (auto panel = first; panel < last; ++panel, logits += kRows * kVectors * kLanes<T>) {
    const Pairs<T, held> pairs(graph, run.rows, block, panel);
    pairs.expand(graph.table, logits);
    Vector<T> products[kRows][kVectors];
    multiply<T>(rows, graph.keys + panel * width * kVectors * kLanes<T>, graph.width, products);
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kVectors; ++c) {
        const auto logit = products[r][c] + pairs.bias(graph.table, logits, r, c);
        save(logits + (r * kVectors + c) * kLanes<T>, logit);
        largest[r] = maximum(largest[r], logit);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    save(most + r * kLanes<T>, largest[r]);
  }
}

// What logits are compared with: their largest, or 0 where all are minus infinity.
template <typename T>
inline Vector<T> level_of(Vector<T> most) {
  return most == -kInfinity<T> ? Vector<T>{} : most;
}

// sums (width, kRows, lanes) += weights (kRows, kVectors, lanes) times nodes (width, kVectors, lanes).
template <typename T>
inline void add_weighted(const Vector<T> (&weights)[kRows][kVectors], const T* nodes, int width, T* sums) {
  for (int k = 0; k < width; ++k, nodes += kVectors * kLanes<T>, sums += kRows * kLanes<T>) {
    Vector<T> columns[kVectors];
    for (int c = 0; c < kVectors; ++c) {
      columns[c] = load(nodes + c * kLanes<T>);
    }
    for (int r = 0; r < kRows; ++r) {
      auto sum = load(sums + r * kLanes<T>);
      for (int c = 0; c < kVectors; ++c) {
        sum += weights[r][c] * columns[c];
      }
      save(sums + r * kLanes<T>, sum);
    }
  }
}

// A block of rows and the panels [first, last): an online softmax (Milakov and Gimelshein, 2018) in every lane.
template <typename T, int held>
inline void attend(const PackedGraph<T>& graph, const AttentionRun<T>& run, std::int64_t block, std::int64_t first,
                   std::int64_t last) {
  constexpr int kBlock = kRows * kLanes<T>;
  const std::int64_t width = graph.width;
  T *most = run.most + block * kBlock, *totals = run.totals + block * kBlock, *sums = run.sums + block * width * kBlock;
  Vector<T> before[kRows], level[kRows], total[kRows];
  for (int r = 0; r < kRows; ++r) {
    before[r] = load(most + r * kLanes<T>);
  }
  find_logits<T, held>(graph, run, block, first, last, most);
  for (int r = 0; r < kRows; ++r) {
    level[r] = level_of<T>(load(most + r * kLanes<T>));
    const auto factor = power_of_two(before[r] - level[r]);
    total[r] = load(totals + r * kLanes<T>) * factor;
    for (int k = 0; k < graph.width; ++k) {
      T* sum = sums + k * kBlock + r * kLanes<T>;
      save(sum, load(sum) * factor);
    }
  }
  const T* logits = run.logits;
  for (auto panel = first; panel < last; ++panel) {
    Vector<T> weights[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
      for (int c = 0; c < kVectors; ++c, logits += kLanes<T>) {
        weights[r][c] = power_of_two(load(logits) - level[r]);
        total[r] += weights[r][c];
      }
    }
    add_weighted<T>(weights, graph.values + panel * width * kVectors * kLanes<T>, graph.width, sums);
  }
  for (int r = 0; r < kRows; ++r) {
    save(totals + r * kLanes<T>, total[r]);
  }
}

// Rows again and again over so few nodes that these stay in the cache.
template <typename T, int held>
void forward(const PackedGraph<T>& graph, const AttentionRun<T>& run) {
  constexpr int kBlock = kRows * kLanes<T>;
  const auto blocks = blocks_of(run.rows.count, kRows), panels = blocks_of(graph.nodes, Pairs<T, held>::kNodes);
  for (std::int64_t i = 0; i < blocks * kBlock; i += kLanes<T>) {
    save(run.most + i, all(-kInfinity<T>));
    save(run.totals + i, Vector<T>{});
  }
  for (std::int64_t i = 0; i < blocks * kBlock * graph.width; i += kLanes<T>) {
    save(run.sums + i, Vector<T>{});
  }
  for (std::int64_t first = 0; first < panels; first += kPanels) {
    const auto last = first + kPanels < panels ? first + kPanels : panels;
    for (std::int64_t block = 0; block < blocks; ++block) {
      attend<T, held>(graph, run, block, first, last);
    }
  }
}

// What each lane's sum counts for in that of its head, and the logarithms of the sums of exponentials by head.
template <typename T>
inline Vector<T> shares_of_lanes(const HeadGroup& group, const T* most, const T* totals, T* log_sums) {
  T level[kLanes<T>], total[kLanes<T>];
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    const int head = lane % group.held;
    level[head] = lane < group.held || most[lane] > level[head] ? most[lane] : level[head];
  }
  for (int lane = group.held; lane < kLanes<T>; ++lane) {
    level[lane] = level[lane % group.held];
  }
  const auto shares = power_of_two(load(most) - load(level));
  save(total, load(totals) * shares);
  for (int lane = group.held; lane < kLanes<T>; ++lane) {
    total[lane % group.held] += total[lane];
  }
  for (int lane = group.held; lane < kLanes<T>; ++lane) {
    total[lane] = total[lane % group.held];
  }
  if (log_sums != nullptr) {
    for (int head = 0; head < group.count; ++head) {
      log_sums[head] = level[head] * kLn2<T> + logarithm(total[head]);
    }
  }
  return shares / load(total);
}

template <typename T>
void finish(const PackedGraph<T>& graph, const AttentionRun<T>& run, T* result, std::int64_t stride, T* log_sums,
            std::int64_t heads) {
  const auto& group = graph.group;
  result += group.first * graph.width;
  for (std::int64_t row = 0; row < run.rows.count; ++row, result += stride) {
    const auto at = row * kLanes<T>;
    T* own = log_sums == nullptr ? nullptr : log_sums + row * heads + group.first;
    const auto shares = shares_of_lanes(group, run.most + at, run.totals + at, own);
    T* sums = run.sums + (row / kRows * graph.width * kRows + row % kRows) * kLanes<T>;
    for (int k = 0; k < graph.width; ++k, sums += kRows * kLanes<T>) {
      T lanes[kLanes<T>];
      save(lanes, load(sums) * shares);
      for (int lane = group.held; lane < kLanes<T>; ++lane) {
        lanes[lane % group.held] += lanes[lane];
      }
      for (int head = 0; head < group.count; ++head) {
        result[head * graph.width + k] = lanes[head];
      }
    }
  }
}

// Backward
// -------------------------------------------------------------------------------------------------------------

// sums (width, kVectors, lanes) += rows (width, kRows, lanes) times weights.
template <typename T>
inline void add_to_nodes(const Vector<T> (&weights)[kRows][kVectors], const T* rows, int width, T* sums) {
  for (int k = 0; k < width; ++k, rows += kRows * kLanes<T>, sums += kVectors * kLanes<T>) {
    Vector<T> factors[kRows];
    for (int r = 0; r < kRows; ++r) {
      factors[r] = load(rows + r * kLanes<T>);
    }
    for (int c = 0; c < kVectors; ++c) {
      auto sum = load(sums + c * kLanes<T>);
      for (int r = 0; r < kRows; ++r) {
        sum += weights[r][c] * factors[r];
      }
      save(sums + c * kLanes<T>, sum);
    }
  }
}

// dV_j += p_ij dO_i;  ds_ij = p_ij (dO_i . V_j - delta_i);  dK_j += ds_ij q_i;  dQ_i += ds_ij K_j.
template <typename T, int held>
inline void attend_backward(const PackedGraph<T>& graph, const AttentionGradRun<T>& run, std::int64_t block,
                            std::int64_t panel) {
  constexpr int kBlock = kRows * kLanes<T>, kPanel = kVectors * kLanes<T>;
  const std::int64_t width = graph.width;
  const auto row = block * width * kBlock, node = panel * width * kPanel;
  const Pairs<T, held> pairs(graph, run.rows, block, panel);
  const auto left = run.rows.count - block * kRows;
  const int rows = static_cast<int>(left < kRows ? left : kRows);
  T scratch[kRows * kPanel];
  pairs.expand(graph.table, scratch);
  Vector<T> weights[kRows][kVectors];
  multiply<T>(run.rows.queries + row, graph.keys + node, graph.width, weights);
  for (int r = 0; r < kRows; ++r) {
    const auto log_sum = load(run.log_sums + block * kBlock + r * kLanes<T>);
    for (int c = 0; c < kVectors; ++c) {
      const auto logit = weights[r][c] + pairs.bias(graph.table, scratch, r, c);
      weights[r][c] = r < rows ? power_of_two(logit - log_sum) : Vector<T>{};
    }
  }
  add_to_nodes<T>(weights, run.grads + row, graph.width, run.grad_values + node);
  Vector<T> grads[kRows][kVectors];
  multiply<T>(run.grads + row, graph.values + node, graph.width, grads);
  for (int r = 0; r < kRows; ++r) {
    const auto delta = load(run.deltas + block * kBlock + r * kLanes<T>);
    for (int c = 0; c < kVectors; ++c) {
      grads[r][c] = r < rows ? weights[r][c] * (grads[r][c] - delta) : Vector<T>{};
      save(scratch + r * kPanel + c * kLanes<T>, grads[r][c]);
    }
  }
  pairs.collect(scratch, run.grad_table, rows);
  add_to_nodes<T>(grads, run.rows.queries + row, graph.width, run.grad_keys + node);
  add_weighted<T>(grads, graph.keys + node, graph.width, run.grad_queries + row);
}

template <typename T, int held>
void backward(const PackedGraph<T>& graph, const AttentionGradRun<T>& run) {
  const auto blocks = blocks_of(run.rows.count, kRows), panels = blocks_of(graph.nodes, Pairs<T, held>::kNodes);
  for (std::int64_t first = 0; first < panels; first += kPanels) {
    const auto last = first + kPanels < panels ? first + kPanels : panels;
    for (std::int64_t block = 0; block < blocks; ++block) {
      for (auto panel = first; panel < last; ++panel) {
        attend_backward<T, held>(graph, run, block, panel);
      }
    }
  }
}

// The kernels for so many lanes a node, as a constant.
template <typename T, int held>
void choose_forward(const PackedGraph<T>& graph, const AttentionRun<T>& run) {
  if constexpr (held > 1) {
    if (graph.group.held < held) {
      return choose_forward<T, held / 2>(graph, run);
    }
  }
  forward<T, held>(graph, run);
}

template <typename T, int held>
void choose_backward(const PackedGraph<T>& graph, const AttentionGradRun<T>& run) {
  if constexpr (held > 1) {
    if (graph.group.held < held) {
      return choose_backward<T, held / 2>(graph, run);
    }
  }
  backward<T, held>(graph, run);
}

template <typename T>
constexpr AttentionKernels<T> kKernels = {kLanes<T>,
                                          kRows,
                                          kVectors,
                                          kPanels,
                                          &pack<T>,
                                          &unpack<T>,
                                          &choose_forward<T, kLanes<T>>,
                                          &finish<T>,
                                          &choose_backward<T, kLanes<T>>};

}  // namespace

AttentionKernels<float> attention_kernels_float() { return kKernels<float>; }
AttentionKernels<double> attention_kernels_double() { return kKernels<double>; }

}  // namespace GHNFAST_ISA
}  // namespace ghnfast
