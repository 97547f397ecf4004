#include "attention/attention.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "attention/attention_kernels.hpp"
#include "core/buffer.hpp"
#include "core/parallel.hpp"

namespace ghnfast {
namespace {

// Rows that one thread takes at once. They share what they load of keys and values.
constexpr std::int64_t kRowsPerItem = 32;
// Less, of one group of heads, is not worth a thread.
constexpr std::int64_t kPairsPerShare = 4096;
constexpr double kLog2e = 1.44269504088896340736;

AttentionKernels<float> kernels_for(float) { return GHNFAST_DISPATCH(attention_kernels_float()); }
AttentionKernels<double> kernels_for(double) { return GHNFAST_DISPATCH(attention_kernels_double()); }

// All heads in groups that fill vectors; the last ones in the least power of two that holds them.
std::vector<HeadGroup> groups_of(int heads, int lanes) {
  std::vector<HeadGroup> groups;
  for (int first = 0; first < heads; first += lanes) {
    HeadGroup group{first, std::min(heads - first, lanes), 1};
    while (group.held < group.count) {
      group.held *= 2;
    }
    groups.push_back(group);
  }
  return groups;
}

template <typename T>
struct Sizes {
  Sizes(const AttentionKernels<T>& kernels, const HeadGroup& group, int width)
      : rows{group, width, kernels.rows, false},
        numbers{group, 1, kernels.rows, false},
        nodes{group, width, kernels.vectors, true},
        lanes(kernels.lanes),
        logits(static_cast<std::int64_t>(kernels.panels) * kernels.rows * kernels.vectors * kernels.lanes) {}

  // The elements of so many nodes in a layout.
  std::int64_t of(const VectorLayout& layout, std::int64_t count) const {
    const std::int64_t unit = layout.at_once * (layout.spread ? lanes / layout.group.held : 1);
    return (count + unit - 1) / unit * layout.at_once * layout.width * lanes;
  }

  VectorLayout rows, numbers, nodes;  // rows of vectors, rows of one number a head, keys and values
  int lanes;
  std::int64_t logits;
};

// What is computed with, of all graphs.
template <typename T>
struct Work {
  Work(const Relations& of, const AttentionInputs<T>& in)
      : relations(of), inputs(in), kernels(kernels_for(T{})), groups(groups_of(in.heads, kernels.lanes)) {}

  std::int64_t row_stride() const { return std::int64_t{3} * inputs.heads * inputs.width; }
  std::int64_t result_stride() const { return std::int64_t{inputs.heads} * inputs.width; }
  std::int64_t jobs() const { return relations.graphs * static_cast<std::int64_t>(groups.size()); }
  std::int64_t first_node(std::int64_t job) const { return relations.graph_offsets[graph_of(job)]; }
  std::int64_t nodes(std::int64_t job) const { return relations.graph_offsets[graph_of(job) + 1] - first_node(job); }
  std::int64_t graph_of(std::int64_t job) const { return job / static_cast<std::int64_t>(groups.size()); }
  const HeadGroup& group_of(std::int64_t job) const { return groups[job % groups.size()]; }
  Sizes<T> sizes_of(std::int64_t job) const { return {kernels, group_of(job), inputs.width}; }
  T scale() const { return static_cast<T>(1 / std::sqrt(static_cast<double>(inputs.width))); }
  T query_scale() const { return static_cast<T>(kLog2e / std::sqrt(static_cast<double>(inputs.width))); }

  // Where queries (0), keys (1) or values (2) of a job lie, from one of its nodes on.
  std::int64_t part(std::int64_t job, std::int64_t node, int which) const {
    return (first_node(job) + node) * row_stride() + which * result_stride() +
           std::int64_t{group_of(job).first} * inputs.width;
  }

  const Relations& relations;
  const AttentionInputs<T>& inputs;
  const AttentionKernels<T> kernels;
  const std::vector<HeadGroup> groups;
};

// A PackedGraph and the memory that it points to.
template <typename T>
class Packed {
 public:
  Packed(const Work<T>& work, std::int64_t job)
      : size_(work.sizes_of(job).of(work.sizes_of(job).nodes, work.nodes(job))),
        table_size_((work.inputs.kinds + 1) * work.group_of(job).held),
        memory_(2 * size_ + table_size_, Fill::kNothing) {
    graph.nodes = work.nodes(job);
    graph.width = work.inputs.width;
    graph.group = work.group_of(job);
    graph.kinds = work.inputs.kinds;
    graph.keys = memory_.data();
    graph.values = memory_.data() + size_;
    graph.table = memory_.data() + 2 * size_;
    graph.codes = work.relations.codes + work.relations.pair_offsets[work.graph_of(job)];
  }

  static constexpr int kParts = 2;

  // Keys and the table, or values.
  void fill(const Work<T>& work, std::int64_t job, int part) {
    work.kernels.pack(work.sizes_of(job).nodes, work.inputs.qkv + work.part(job, 0, 1 + part), work.row_stride(),
                      work.nodes(job), T(1), memory_.data() + part * size_);
    if (part == 0) {
      fill_table(work.inputs, memory_.data() + 2 * size_);
    }
  }

  PackedGraph<T> graph;

 private:
  void fill_table(const AttentionInputs<T>& inputs, T* table) const {
    const auto& group = graph.group;
    for (int kind = 0; kind <= inputs.kinds; ++kind) {
      for (int a = 0; a < group.held; ++a) {
        const auto at = static_cast<std::int64_t>(kind) * inputs.heads + group.first + a;
        table[kind * group.held + a] = kind == inputs.kinds ? -std::numeric_limits<T>::infinity()
                                       : a < group.count    ? inputs.table[at] * static_cast<T>(kLog2e)
                                                            : T(0);
      }
    }
  }

  std::int64_t size_, table_size_;
  Buffer<T> memory_;
};

// Multiplications for an element that is moved.
constexpr std::int64_t kPerMoved = 16;

template <typename T>
std::vector<std::unique_ptr<Packed<T>>> pack_graphs(const Work<T>& work, int threads) {
  std::vector<std::unique_ptr<Packed<T>>> packed;
  for (std::int64_t job = 0; job < work.jobs(); ++job) {
    packed.push_back(std::make_unique<Packed<T>>(work, job));
  }
  const auto nodes = work.relations.graph_offsets[work.relations.graphs];
  parallel_for(work.jobs() * Packed<T>::kParts, kPerMoved * nodes * work.row_stride() < worth_threads() ? 1 : threads,
               [&](std::int64_t item) {
                 const auto job = item / Packed<T>::kParts;
                 packed[job]->fill(work, job, static_cast<int>(item % Packed<T>::kParts));
               });
  return packed;
}

// Rows of a graph, of one group of heads.
struct Part {
  std::int64_t job = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;
};

template <typename T>
void attend(const Work<T>& work, const Packed<T>& packed, const Part& part, T* result, T* log_sums) {
  const auto sizes = work.sizes_of(part.job);
  const auto matrix = sizes.of(sizes.rows, part.count), numbers = sizes.of(sizes.numbers, part.count);
  Buffer<T> memory(2 * matrix + 2 * numbers + sizes.logits, Fill::kNothing);
  T* queries = memory.data();
  work.kernels.pack(sizes.rows, work.inputs.qkv + work.part(part.job, part.first, 0), work.row_stride(), part.count,
                    work.query_scale(), queries);
  AttentionRun<T> run;
  run.rows = {part.first, part.count, queries};
  run.sums = queries + matrix;
  run.most = run.sums + matrix;
  run.totals = run.most + numbers;
  run.logits = run.totals + numbers;
  work.kernels.forward(packed.graph, run);
  const auto node = work.first_node(part.job) + part.first;
  work.kernels.finish(packed.graph, run, result + node * work.result_stride(), work.result_stride(),
                      log_sums == nullptr ? nullptr : log_sums + node * work.inputs.heads, work.inputs.heads);
}

// Backward: every thread has a share of all rows, and adds up the gradients of what they have in common by itself.
// ---------------------------------------------------------------------------------------------------------------------

// All rows in at most `threads` shares of about equal cost; the same ones every time.
template <typename T>
std::vector<std::vector<Part>> shares_of(const Work<T>& work, int threads) {
  const std::int64_t unit = work.kernels.rows;
  std::int64_t total = 0;
  for (std::int64_t job = 0; job < work.jobs(); ++job) {
    total += work.nodes(job) * work.nodes(job);
  }
  const auto count = std::max<std::int64_t>(1, std::min<std::int64_t>(threads, total / kPairsPerShare));
  std::vector<std::vector<Part>> shares(count);
  std::int64_t share = 0, spent = 0;
  for (std::int64_t job = 0; job < work.jobs(); ++job) {
    const auto nodes = work.nodes(job);
    for (std::int64_t first = 0; first < nodes;) {
      const auto target = total * (share + 1) / count;
      if (spent >= target && share + 1 < count) {
        ++share;
        continue;
      }
      const auto wanted = share + 1 == count ? nodes : (target - spent + nodes - 1) / nodes;
      const auto rows = std::min((wanted + unit - 1) / unit * unit, nodes - first);
      shares[share].push_back({job, first, rows});
      spent += rows * nodes;
      first += rows;
    }
  }
  return shares;
}

// The gradients of keys and values, from some rows of a graph.
template <typename T>
struct NodeGradients {
  explicit NodeGradients(std::int64_t size) : keys(size), values(size) {}
  Buffer<T> keys, values;
};

template <typename T>
class Backward {
 public:
  Backward(const Work<T>& work, const T* result, const T* log_sums, const T* grad_result, T* grad_qkv)
      : work_(work), result_(result), log_sums_(log_sums), grad_result_(grad_result), grad_qkv_(grad_qkv) {}

  void run(const std::vector<std::vector<Part>>& shares, T* grad_table, int threads) {
    const auto packed = pack_graphs(work_, threads);
    const auto count = static_cast<std::int64_t>(shares.size());
    std::vector<std::vector<std::unique_ptr<NodeGradients<T>>>> gradients(count);
    std::vector<std::vector<std::unique_ptr<Buffer<T>>>> tables(count);
    parallel_for(count, threads, [&](std::int64_t share) {
      tables[share].resize(work_.groups.size());
      for (const auto& part : shares[share]) {
        auto& table = tables[share][part.job % work_.groups.size()];
        if (table == nullptr) {
          table = std::make_unique<Buffer<T>>(table_size(work_.group_of(part.job)));
        }
        gradients[share].push_back(attend(*packed[part.job], part, table->data()));
      }
    });
    std::vector<std::vector<NodeGradients<T>*>> divided(work_.jobs());
    for (std::int64_t share = 0; share < count; ++share) {
      for (std::size_t index = 0; index < shares[share].size(); ++index) {
        if (gradients[share][index] != nullptr) {
          divided[shares[share][index].job].push_back(gradients[share][index].get());
        }
      }
    }
    parallel_for(work_.jobs(), threads, [&](std::int64_t job) { add_up(job, divided[job]); });
    for (const auto& of_share : tables) {
      for (std::size_t group = 0; group < of_share.size(); ++group) {
        if (of_share[group] != nullptr) {
          add_table(work_.groups[group], of_share[group]->data(), grad_table);
        }
      }
    }
  }

 private:
  std::int64_t table_size(const HeadGroup& group) const {
    return static_cast<std::int64_t>(work_.kernels.rows) * (work_.inputs.kinds + 1) * group.held;
  }

  // The products of result and gradient, (rows, heads of the group).
  void find_deltas(const Part& part, T* deltas) const {
    const auto& group = work_.group_of(part.job);
    const std::int64_t width = work_.inputs.width;
    for (std::int64_t row = 0; row < part.count; ++row) {
      const auto at = (work_.first_node(part.job) + part.first + row) * work_.result_stride() + group.first * width;
      for (int head = 0; head < group.count; ++head) {
        T sum = 0;
        for (std::int64_t k = head * width; k < (head + 1) * width; ++k) {
          sum += result_[at + k] * grad_result_[at + k];
        }
        deltas[row * group.count + head] = sum;
      }
    }
  }

  // Writes the gradients of queries; those of keys and values, too, where these are all rows of the graph, and returns
  // them else.
  std::unique_ptr<NodeGradients<T>> attend(const Packed<T>& packed, const Part& part, T* grad_table) const {
    const auto& group = work_.group_of(part.job);
    const auto& kernels = work_.kernels;
    const auto sizes = work_.sizes_of(part.job);
    const auto matrix = sizes.of(sizes.rows, part.count), numbers = sizes.of(sizes.numbers, part.count);
    auto nodes = std::make_unique<NodeGradients<T>>(sizes.of(sizes.nodes, packed.graph.nodes));
    Buffer<T> grad_queries(matrix);
    Buffer<T> memory(2 * matrix + 2 * numbers + part.count * group.count, Fill::kNothing);
    T *queries = memory.data(), *grads = queries + matrix, *log_sums = grads + matrix, *deltas = log_sums + numbers;
    T* flat = deltas + numbers;
    const auto node = work_.first_node(part.job) + part.first;
    kernels.pack(sizes.rows, work_.inputs.qkv + work_.part(part.job, part.first, 0), work_.row_stride(), part.count,
                 work_.query_scale(), queries);
    kernels.pack(sizes.rows,
                 grad_result_ + node * work_.result_stride() + std::int64_t{group.first} * work_.inputs.width,
                 work_.result_stride(), part.count, T(1), grads);
    kernels.pack(sizes.numbers, log_sums_ + node * work_.inputs.heads + group.first, work_.inputs.heads, part.count,
                 static_cast<T>(kLog2e), log_sums);
    find_deltas(part, flat);
    kernels.pack(sizes.numbers, flat, group.count, part.count, T(1), deltas);
    AttentionGradRun<T> run;
    run.rows = {part.first, part.count, queries};
    run.grads = grads;
    run.log_sums = log_sums;
    run.deltas = deltas;
    run.grad_queries = grad_queries.data();
    run.grad_keys = nodes->keys.data();
    run.grad_values = nodes->values.data();
    run.grad_table = grad_table;
    kernels.backward(packed.graph, run);
    kernels.unpack(sizes.rows, grad_queries.data(), part.count, work_.scale(),
                   grad_qkv_ + work_.part(part.job, part.first, 0), work_.row_stride());
    if (part.count < packed.graph.nodes) {
      return nodes;
    }
    unpack(part.job, *nodes);
    return nullptr;
  }

  void unpack(std::int64_t job, const NodeGradients<T>& nodes) const {
    const auto layout = work_.sizes_of(job).nodes;
    const T ln2 = static_cast<T>(1 / kLog2e);  // queries were scaled for logits in units of it
    work_.kernels.unpack(layout, nodes.keys.data(), work_.nodes(job), ln2, grad_qkv_ + work_.part(job, 0, 1),
                         work_.row_stride());
    work_.kernels.unpack(layout, nodes.values.data(), work_.nodes(job), T(1), grad_qkv_ + work_.part(job, 0, 2),
                         work_.row_stride());
  }

  // The gradients of keys and values of a graph whose rows were in several shares.
  void add_up(std::int64_t job, const std::vector<NodeGradients<T>*>& parts) const {
    if (parts.empty()) {
      return;
    }
    const auto sizes = work_.sizes_of(job);
    const auto size = sizes.of(sizes.nodes, work_.nodes(job));
    for (std::size_t part = 1; part < parts.size(); ++part) {
      for (std::int64_t i = 0; i < size; ++i) {
        parts[0]->keys.data()[i] += parts[part]->keys.data()[i];
        parts[0]->values.data()[i] += parts[part]->values.data()[i];
      }
    }
    unpack(job, *parts[0]);
  }

  void add_table(const HeadGroup& group, const T* from, T* grad_table) const {
    const std::int64_t kinds = work_.inputs.kinds;
    for (int row = 0; row < work_.kernels.rows; ++row, from += (kinds + 1) * group.held) {
      for (std::int64_t kind = 0; kind < kinds; ++kind) {
        for (int head = 0; head < group.count; ++head) {
          grad_table[kind * work_.inputs.heads + group.first + head] += from[kind * group.held + head];
        }
      }
    }
  }

  const Work<T>& work_;
  const T *result_, *log_sums_, *grad_result_;
  T* grad_qkv_;
};

}  // namespace

template <typename T>
void attention(const Relations& relations, const AttentionInputs<T>& inputs, T* result, T* log_sums, int threads) {
  const Work<T> work(relations, inputs);
  std::vector<Part> parts;
  for (std::int64_t job = 0; job < work.jobs(); ++job) {
    for (std::int64_t first = 0; first < work.nodes(job); first += kRowsPerItem) {
      parts.push_back({job, first, std::min(kRowsPerItem, work.nodes(job) - first)});
    }
  }
  with_team(parts.size() > 1 ? threads : 1, [&] {
    const auto packed = pack_graphs(work, threads);
    parallel_for(static_cast<std::int64_t>(parts.size()), threads,
                 [&](std::int64_t index) { attend(work, *packed[parts[index].job], parts[index], result, log_sums); });
  });
}

template <typename T>
void attention_backward(const Relations& relations, const AttentionInputs<T>& inputs, const T* result,
                        const T* log_sums, const T* grad_result, T* grad_qkv, T* grad_table, int threads) {
  const Work<T> work(relations, inputs);
  std::fill_n(grad_table, static_cast<std::int64_t>(inputs.kinds) * inputs.heads, T(0));
  const auto shares = shares_of(work, threads);
  with_team(shares.size() > 1 ? threads : 1,
            [&] { Backward<T>(work, result, log_sums, grad_result, grad_qkv).run(shares, grad_table, threads); });
}

template void attention(const Relations&, const AttentionInputs<float>&, float*, float*, int);
template void attention(const Relations&, const AttentionInputs<double>&, double*, double*, int);
template void attention_backward(const Relations&, const AttentionInputs<float>&, const float*, const float*,
                                 const float*, float*, float*, int);
template void attention_backward(const Relations&, const AttentionInputs<double>&, const double*, const double*,
                                 const double*, double*, double*, int);

}  // namespace ghnfast
