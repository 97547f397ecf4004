// The gated sweep of a batch of graphs, a block of threads for each: see kernels/chain.py, which compiles this for HID,
// WIDTH (of the MLPs' hidden layers), HEADS (MLPs: 2 with virtual edges), KEEP (whether there is a backward pass) and
// FIXED (bytes of shared memory beside messages).
//
// A graph is a chain: almost every node waits for the one before it. So one warp walks from node to node, alone on its
// scheduler, with all weights that it needs in registers: lane r has row r of each matrix, and what other lanes have
// goes through shared memory. No barrier of the block stands in its way. Everything else comes ahead of it, in a ring
// of slots: another warp multiplies the GRU's hidden matrix, which needs no message, and the others gather the messages
// of all senders but the last kLast, which the first warp still has in registers.
//
// Steps are numbered over both sweeps: step t is position t of the forward sweep, or t - count of the reverse one.
// `done` steps have left their messages. Every sum has one order: results are the same in every run.
#ifndef EMULATED  // tests/support/helpers/emulator.hpp runs the same code on a CPU
#define SHARED_ADDRESS(pointer) static_cast<unsigned>(__cvta_generic_to_shared(pointer))

// What another warp has announced, and all that it has written before.
__device__ __forceinline__ int announced(const int* flag) {
  int value;
  asm volatile("ld.acquire.cta.shared.b32 %0, [%1];" : "=r"(value) : "r"(SHARED_ADDRESS(flag)) : "memory");
  return value;
}

__device__ __forceinline__ void announce(int* flag, int value) {
  asm volatile("st.release.cta.shared.b32 [%0], %1;" : : "r"(SHARED_ADDRESS(flag)), "r"(value) : "memory");
}
#endif

constexpr int kLanes = 32;
constexpr int kWarps = 8;
constexpr int kLast = 2;             // senders right before a node, whose messages the walking warp adds itself
constexpr int kRing = 8;             // slots
constexpr int kTogether = 8;         // messages that are gathered after one look at `done`
constexpr int kGroups = 4;           // times kLanes senders, whose closeness is loaded at once
constexpr int kGatherers = 5;        // warps 2, 3, 5, 6, 7: warp 4 would share the scheduler of warp 0
constexpr float kAlmostOne = 0.75f;  // more than the weight of any path that is no edge
constexpr int kColumns = (HID + 3) / 4 * 4;
constexpr int kInner = (WIDTH + 3) / 4 * 4;  // of one MLP
static_assert(HID <= kLanes && HEADS * kInner <= kLanes, "a lane has one row of each matrix");

struct Mlp {
  const float *weight_1, *bias_1, *weight_2, *bias_2;
};

struct Arguments {
  const float* states;  // (nodes, HID)
  float* middle;        // (nodes, HID), written: the states between the two sweeps
  float* final;         // (nodes, HID), written
  float* messages;      // (2, nodes, HEADS, HID), written if KEEP
  float* gates;         // (2, nodes, 5, HID), written if KEEP: received, reset, update, new, the new gate's hidden part
  float* hidden;        // (2, nodes, HEADS, WIDTH), written if KEEP: the MLPs' hidden layers
  Mlp mlps[2];          // of edges, and of virtual edges
  const float *weight_input, *weight_hidden, *bias_input, *bias_hidden;
  const long long* graph_offsets;  // (graphs + 1,)
  const int* band_starts;          // (2 * nodes,): by target, then by source
  const long long* band_offsets;   // (2 * nodes + 1,)
  const unsigned char* closeness;  // at most `cutoff`
  long long nodes;
  int cutoff;
};

// What is known of a node ahead of the walking warp.
struct __align__(16) Slot {
  float4 gates[kLanes];      // W_hh h + b of reset, update (with b_ih) and new; h
  float received[kLanes];    // from all senders but the last
  float weights[kLast];      // of the last senders, nearest first: one over the distance, or 0
  int gathered, multiplied;  // the step that it is for, and one, once it has come
};

struct __align__(HEADS * sizeof(float)) Message {
  float of[HEADS];
};

struct Shared {
  Slot ring[kRing];
  float received[kLanes], state[kLanes], inner[kLanes], before[2][kLanes];
  int done;
};

static_assert(sizeof(Shared) <= FIXED, "kernels/chain.py asks for so many bytes, and for those of messages");

// Behind `Shared`: a message for each lane of each node, and kTogether more, which are loaded and not used. Before the
// first step, the weights, which come from memory by rows and go into lanes by columns.
constexpr int kMatrices = 8, kStride = kLanes + 1;
struct Staged {
  float matrix[kMatrices][kLanes * kStride];
};

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

__device__ __forceinline__ float tanh_of(float x) { return 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * x)); }

// NaN stays NaN.
__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }

// What one block works with.
struct Graph {
  long long begin;  // its first node
  int count;        // of nodes
  int lane;
  Shared* shared;
  Message* messages;  // of a node by its position in the sweep, lane after lane
};

__device__ __forceinline__ long long node_at(const Graph& graph, int sweep, int position) {
  return graph.begin + (sweep == 0 ? position : graph.count - 1 - position);
}

__device__ __forceinline__ void wait_for(const int* flag, int value) {
  while (announced(flag) < value) {
  }
}

// Row `lane` of a matrix that lies in shared memory.
template <int columns>
__device__ __forceinline__ void load_row(float (&row)[columns], const Staged& staged, int matrix, int lane) {
#pragma unroll
  for (int k = 0; k < columns; ++k) {
    row[k] = staged.matrix[matrix][lane * kStride + k];
  }
}

template <int columns>
__device__ __forceinline__ void load_vector(float (&x)[columns], const float* shared) {
#pragma unroll
  for (int k = 0; k < columns; k += 4) {
    const float4 four = *reinterpret_cast<const float4*>(shared + k);
    x[k] = four.x, x[k + 1] = four.y, x[k + 2] = four.z, x[k + 3] = four.w;
  }
}

// initial + the product of a row and x, in four sums: additions wait for the ones before them.
template <int columns>
__device__ __forceinline__ float dot(const float* row, const float* x, float initial) {
  float sums[4] = {initial, 0.0f, 0.0f, 0.0f};
#pragma unroll
  for (int k = 0; k < columns; ++k) {
    sums[k % 4] = fmaf(row[k], x[k], sums[k % 4]);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// All threads: rows of a matrix (rows, columns) to rows from `first` and columns from `left` on.
__device__ void stage(Staged& staged, int matrix, const float* from, int rows, int columns, int first, int left) {
  for (int index = threadIdx.x; index < rows * columns; index += kWarps * kLanes) {
    const int row = index / columns, column = index - row * columns;
    staged.matrix[matrix][(first + row) * kStride + left + column] = from[index];
  }
}

__device__ void stage_weights(Staged& staged, const Arguments& a) {
  float* all = &staged.matrix[0][0];
  for (int index = threadIdx.x; index < kMatrices * kLanes * kStride; index += kWarps * kLanes) {
    all[index] = 0.0f;
  }
  __syncthreads();
  for (int gate = 0; gate < 3; ++gate) {
    stage(staged, gate, a.weight_input + gate * HID * HID, HID, HID, 0, 0);
    stage(staged, 3 + gate, a.weight_hidden + gate * HID * HID, HID, HID, 0, 0);
  }
  for (int head = 0; head < HEADS; ++head) {
    stage(staged, 6, a.mlps[head].weight_1, WIDTH, HID, head * kInner, 0);
    stage(staged, 7, a.mlps[head].weight_2, HID, WIDTH, 0, head * kInner);
  }
  __syncthreads();
}

__device__ __forceinline__ float weight_of(int closeness, int cutoff) {
  return closeness == 0 ? 0.0f : __fdividef(1.0f, static_cast<float>(cutoff + 1 - closeness));
}

// Adds a message along an edge and a virtual one. What has no weight is not looked at: it may not be finite.
__device__ __forceinline__ void add_message(float& direct, float& virtual_, float weight, const Message& message) {
  direct = weight > kAlmostOne ? direct + message.of[0] : direct;
  if (HEADS == 2) {
    virtual_ = weight > 0.0f ? fmaf(weight, message.of[HEADS - 1], virtual_) : virtual_;
  }
}

// Warp 0
// ---------------------------------------------------------------------------------------------------------------

struct ChainWeights {
  float reset[kColumns], update[kColumns], fresh[kColumns], layer_1[kColumns], layer_2[HEADS * kInner];
  float bias_fresh, bias_1, bias_2[HEADS];
};

__device__ __forceinline__ void load_weights(ChainWeights& w, const Staged& staged, const Arguments& a, int lane) {
  load_row(w.reset, staged, 0, lane), load_row(w.update, staged, 1, lane), load_row(w.fresh, staged, 2, lane);
  load_row(w.layer_1, staged, 6, lane), load_row(w.layer_2, staged, 7, lane);
  const bool used = lane < HID;
  const int head = lane / kInner, row = lane % kInner;
  w.bias_fresh = used ? a.bias_input[2 * HID + lane] : 0.0f;
  w.bias_1 = head < HEADS && row < WIDTH ? a.mlps[head < HEADS ? head : 0].bias_1[row] : 0.0f;
#pragma unroll
  for (int of = 0; of < HEADS; ++of) {
    w.bias_2[of] = used ? a.mlps[of].bias_2[lane] : 0.0f;
  }
}

// A slot as this lane reads it.
struct Known {
  int gathered, multiplied;
  float received;
  float weights[kLast];
  float4 gates;
};

// The flags first: where they say that a slot has come, what is read after them is what came.
__device__ __forceinline__ Known look_at(const Slot& slot, int lane) {
  Known known;
  known.gathered = announced(&slot.gathered), known.multiplied = announced(&slot.multiplied);
  known.received = slot.received[lane], known.gates = slot.gates[lane];
#pragma unroll
  for (int i = 0; i < kLast; ++i) {
    known.weights[i] = slot.weights[i];
  }
  return known;
}

__device__ __forceinline__ bool has_come(const Known& known, int step) {
  return known.gathered == step + 1 && known.multiplied == step + 1;
}

__device__ void walk(const Graph& graph, const Arguments& a, const ChainWeights& w) {
  Shared& s = *graph.shared;
  const int lane = graph.lane, steps = 2 * graph.count;
  const bool used = lane < HID;
  Message last[kLast] = {};  // nearest first
  Known known = look_at(s.ring[0], lane);
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    const int sweep = step >= graph.count, position = step - sweep * graph.count;
    while (!has_come(known, step)) {
      known = look_at(s.ring[step % kRing], lane);
    }
    float direct = known.received, virtual_ = 0.0f;
#pragma unroll
    for (int i = kLast - 1; i >= 0; --i) {
      add_message(direct, virtual_, known.weights[i], last[i]);
    }
    const float received = direct + virtual_;
    s.received[lane] = received;
    __syncwarp();
    float x[kLanes];
    load_vector<kColumns>(reinterpret_cast<float (&)[kColumns]>(x), s.received);
    // The reset gate first: the new one waits for it.
    const float reset = sigmoid(dot<kColumns>(w.reset, x, known.gates.x));
    const float fresh = tanh_of(fmaf(reset, known.gates.z, dot<kColumns>(w.fresh, x, w.bias_fresh)));
    const float update = sigmoid(dot<kColumns>(w.update, x, known.gates.y));
    const float state = fmaf(update, known.gates.w - fresh, fresh);
    const float of_hidden = known.gates.z;
    s.state[lane] = state;
    __syncwarp();
    load_vector<kColumns>(reinterpret_cast<float (&)[kColumns]>(x), s.state);
    const float inner = relu(dot<kColumns>(w.layer_1, x, w.bias_1));
    s.inner[lane] = inner;
    __syncwarp();
    // Long before it is needed: what comes from shared memory meanwhile costs nothing.
    known = look_at(s.ring[(step + 1) % kRing], lane);
    load_vector<HEADS * kInner>(reinterpret_cast<float (&)[HEADS * kInner]>(x), s.inner);
#pragma unroll
    for (int i = kLast - 1; i >= 1; --i) {
      last[i] = last[i - 1];
    }
#pragma unroll
    for (int head = 0; head < HEADS; ++head) {
      last[0].of[head] = relu(dot<kInner>(w.layer_2 + head * kInner, x + head * kInner, w.bias_2[head]));
    }
    graph.messages[position * kLanes + lane] = last[0];
    const long long node = node_at(graph, sweep, position);
    if (used) {
      (sweep == 0 ? a.middle : a.final)[node * HID + lane] = state;
    }
    if (KEEP) {
      const long long row = sweep * a.nodes + node;
      if (used) {
        float* gates = a.gates + row * 5 * HID + lane;
        gates[0] = received, gates[HID] = reset, gates[2 * HID] = update, gates[3 * HID] = fresh;
        gates[4 * HID] = of_hidden;
#pragma unroll
        for (int head = 0; head < HEADS; ++head) {
          a.messages[(row * HEADS + head) * HID + lane] = last[0].of[head];
        }
      }
      if (lane / kInner < HEADS && lane % kInner < WIDTH) {
        a.hidden[(row * HEADS + lane / kInner) * WIDTH + lane % kInner] = inner;
      }
    }
    __syncwarp();
    if (lane == 0) {
      announce(&s.done, step + 1);
    }
  }
}

// Warp 1
// ---------------------------------------------------------------------------------------------------------------

// The GRU's hidden half of each node, as soon as there is room.
__device__ void multiply(const Graph& graph, const Arguments& a, const Staged& staged) {
  Shared& s = *graph.shared;
  const int lane = graph.lane, steps = 2 * graph.count;
  float reset[kColumns], update[kColumns], fresh[kColumns];
  load_row(reset, staged, 3, lane), load_row(update, staged, 4, lane), load_row(fresh, staged, 5, lane);
  const bool used = lane < HID;
  const float bias_reset = used ? a.bias_input[lane] + a.bias_hidden[lane] : 0.0f;
  const float bias_update = used ? a.bias_input[HID + lane] + a.bias_hidden[HID + lane] : 0.0f;
  const float bias_fresh = used ? a.bias_hidden[2 * HID + lane] : 0.0f;
  __syncthreads();  // messages take the place of the weights
  float next = used ? a.states[graph.begin * HID + lane] : 0.0f;
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    if (step == graph.count) {  // the states between the sweeps, from the last one on
      wait_for(&s.done, graph.count);
      next = used ? a.middle[node_at(graph, 1, 0) * HID + lane] : 0.0f;
    }
    const float before = next;
    if (step + 1 < steps && step + 1 != graph.count) {
      const int sweep = step + 1 >= graph.count;
      const long long node = node_at(graph, sweep, step + 1 - sweep * graph.count);
      next = used ? (sweep == 0 ? a.states : a.middle)[node * HID + lane] : 0.0f;
    }
    s.before[step % 2][lane] = before;
    __syncwarp();
    float x[kColumns];
    load_vector(x, s.before[step % 2]);
    const float4 gates = {dot<kColumns>(reset, x, bias_reset), dot<kColumns>(update, x, bias_update),
                          dot<kColumns>(fresh, x, bias_fresh), before};
    wait_for(&s.done, step - kRing + 1);
    Slot& slot = s.ring[step % kRing];
    slot.gates[lane] = gates;
    __syncwarp();
    if (lane == 0) {
      announce(&slot.multiplied, step + 1);
    }
  }
}

// The other warps
// ------------------------------------------------------------------------------------------------------

// The senders of a node in the order in which they are updated: sender q is at position first + q of the sweep.
struct Band {
  const unsigned char* closeness;  // of sender 0
  int direction;                   // in which the closeness of the next one lies
  int first, size;
};

__device__ __forceinline__ Band band_of(const Graph& graph, const Arguments& a, int step) {
  const int sweep = step >= graph.count;
  const long long row = sweep * a.nodes + node_at(graph, sweep, step - sweep * graph.count);
  const long long offset = a.band_offsets[row];
  const int size = static_cast<int>(a.band_offsets[row + 1] - offset);
  const int start = static_cast<int>(a.band_starts[row] - graph.begin);
  if (sweep == 0) {
    return {a.closeness + offset, 1, start, size};
  }
  return {a.closeness + offset + size - 1, -1, graph.count - start - size, size};
}

__device__ __forceinline__ int closeness_of(const Band& band, int sender, int end) {
  return sender >= 0 && sender < end ? band.closeness[sender * band.direction] : 0;
}

// Adds the messages of the senders [begin, begin + kLanes) of a band, but those from `end` on.
__device__ __forceinline__ void gather_some(const Graph& graph, const Band& band, int begin, int end, int closeness,
                                            int cutoff, int base, int& done, float& direct, float& virtual_) {
  const float own = weight_of(closeness, cutoff);
#pragma unroll
  for (int part = 0; part < kLanes; part += kTogether) {
    if (begin + part >= end) {
      return;
    }
    const int last = begin + part + kTogether < end ? begin + part + kTogether : end;
    while (done < base + band.first + last) {
      done = announced(&graph.shared->done);
    }
    const Message* place = graph.messages + (band.first + begin + part) * kLanes + graph.lane;
    Message messages[kTogether];
    float weights[kTogether];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      messages[i] = place[i * kLanes];
      weights[i] = __shfl_sync(~0u, own, part + i);
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      add_message(direct, virtual_, weights[i], messages[i]);
    }
  }
}

__device__ void gather(const Graph& graph, const Arguments& a, int gatherer) {
  Shared& s = *graph.shared;
  const int lane = graph.lane, steps = 2 * graph.count;
  int done = 0;
  Band next = gatherer < steps ? band_of(graph, a, gatherer) : Band{};
#pragma unroll 1
  for (int step = gatherer; step < steps; step += kGatherers) {
    const Band band = next;
    const int base = step >= graph.count ? graph.count : 0, position = step - base;
    const int own = min(position - kLast - band.first, band.size);  // senders that are added here
    // The senders kLast before the node and nearer, in the first lanes.
    const int nearest = closeness_of(band, position - 1 - lane - band.first, lane < kLast ? band.size : 0);
    int closeness[kGroups];
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
      closeness[group] = closeness_of(band, group * kLanes + lane, own);
    }
    if (step + kGatherers < steps) {
      next = band_of(graph, a, step + kGatherers);
    }
    float direct = 0.0f, virtual_ = 0.0f;
#pragma unroll 1
    for (int begin = 0; begin < own; begin += kGroups * kLanes) {
      int ahead[kGroups];
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        ahead[group] = closeness_of(band, begin + (kGroups + group) * kLanes + lane, own);
      }
#pragma unroll
      for (int group = 0; group < kGroups; ++group) {
        const int from = begin + group * kLanes;
        gather_some(graph, band, from, own, closeness[group], a.cutoff, base, done, direct, virtual_);
        closeness[group] = ahead[group];
      }
    }
    while (done < step - kRing + 1) {
      done = announced(&s.done);
    }
    Slot& slot = s.ring[step % kRing];
    slot.received[lane] = direct + virtual_;
    if (lane < kLast) {
      slot.weights[lane] = weight_of(nearest, a.cutoff);
    }
    __syncwarp();
    if (lane == 0) {
      announce(&slot.gathered, step + 1);
    }
  }
}

extern "C" __global__ void __launch_bounds__(kWarps* kLanes, 1) chain(const Arguments a) {
  extern __shared__ float4 dynamic[];
  Shared& shared = *reinterpret_cast<Shared*>(dynamic);
  void* rest = dynamic + FIXED / sizeof(float4);
  const Staged& staged = *static_cast<const Staged*>(rest);
  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const long long begin = a.graph_offsets[blockIdx.x];
  const int count = static_cast<int>(a.graph_offsets[blockIdx.x + 1] - begin);
  const Graph graph = {begin, count, lane, &shared, static_cast<Message*>(rest)};
  if (threadIdx.x < kRing) {
    shared.ring[threadIdx.x].gathered = shared.ring[threadIdx.x].multiplied = 0;
  }
  if (threadIdx.x == 0) {
    shared.done = 0;
  }
  stage_weights(*static_cast<Staged*>(rest), a);
  if (warp == 0) {
    ChainWeights weights;
    load_weights(weights, staged, a, lane);
    __syncthreads();  // messages take the place of the weights
    walk(graph, a, weights);
  } else if (warp == 1) {
    multiply(graph, a, staged);
  } else {
    __syncthreads();
    if (warp != 4) {
      gather(graph, a, warp < 4 ? warp - 2 : warp - 3);
    }
  }
}
