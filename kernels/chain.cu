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
#include "chain_common.cu"

constexpr int kTogether = 8;  // messages that are gathered after one look at `done`

struct Arguments {
  const float* states;  // (nodes, HID)
  float* middle;        // (nodes, HID), written: the states between the two sweeps
  float* final;         // (nodes, HID), written
  float* messages;      // (2, nodes, HEADS, HID), written if KEEP
  float* gates;         // (2, nodes, 5, HID), written if KEEP: received, reset, update, new, the new gate's hidden part
  float* hidden;        // (2, nodes, HEADS, WIDTH), written if KEEP: the MLPs' hidden layers
  Weights weights;
  Bands bands;
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

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

__device__ __forceinline__ float tanh_of(float x) { return 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * x)); }

// NaN stays NaN.
__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }

// What one block works with.
struct Graph : Place {
  Shared* shared;
  Message* messages;  // of a node by its position in the sweep, lane after lane; kTogether more are loaded, not used
};

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
  w.bias_fresh = used ? a.weights.bias_input[2 * HID + lane] : 0.0f;
  w.bias_1 = head < HEADS && row < WIDTH ? a.weights.mlps[head < HEADS ? head : 0].bias_1[row] : 0.0f;
#pragma unroll
  for (int of = 0; of < HEADS; ++of) {
    w.bias_2[of] = used ? a.weights.mlps[of].bias_2[lane] : 0.0f;
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
      const long long row = sweep * a.bands.nodes + node;
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
  const float bias_reset = used ? a.weights.bias_input[lane] + a.weights.bias_hidden[lane] : 0.0f;
  const float bias_update = used ? a.weights.bias_input[HID + lane] + a.weights.bias_hidden[HID + lane] : 0.0f;
  const float bias_fresh = used ? a.weights.bias_hidden[2 * HID + lane] : 0.0f;
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
  Band next = gatherer < steps ? band_of(graph, a.bands, gatherer) : Band{};
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
      next = band_of(graph, a.bands, step + kGatherers);
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
        gather_some(graph, band, from, own, closeness[group], a.bands.cutoff, base, done, direct, virtual_);
        closeness[group] = ahead[group];
      }
    }
    while (done < step - kRing + 1) {
      done = announced(&s.done);
    }
    Slot& slot = s.ring[step % kRing];
    slot.received[lane] = direct + virtual_;
    if (lane < kLast) {
      slot.weights[lane] = weight_of(nearest, a.bands.cutoff);
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
  const long long begin = a.bands.graph_offsets[blockIdx.x];
  const int count = static_cast<int>(a.bands.graph_offsets[blockIdx.x + 1] - begin);
  const Graph graph = {{begin, count, lane}, &shared, static_cast<Message*>(rest)};
  if (threadIdx.x < kRing) {
    shared.ring[threadIdx.x].gathered = shared.ring[threadIdx.x].multiplied = 0;
  }
  if (threadIdx.x == 0) {
    shared.done = 0;
  }
  stage_weights(*static_cast<Staged*>(rest), a.weights);
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
