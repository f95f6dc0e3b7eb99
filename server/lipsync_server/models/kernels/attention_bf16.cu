// Attention in bf16 for Hopper (sm_90a), with softmax and sums in float32, in the arrangement of FlashAttention-3
// (https://arxiv.org/abs/2407.08608).
//
// One CTA (block of threads) computes 128 rows of one head's output. Warpgroup 0 loads tiles into shared memory through
// the tensor memory accelerator; the two other warpgroups compute 64 rows each. The product for the scores of tile i and
// the product with the values of tile i - 1 start together, and the exponentials of tile i run while the second product
// is still running. Two CTAs of neighbouring row blocks form a cluster: each loads one half of a tile's columns for
// both, so a tile is read from L2 once for 256 rows.

#include "hopper.cuh"

constexpr int KEYS = 176;       // keys of a tile: as many as registers hold scores for
constexpr int STAGES = 2;       // tiles in flight
constexpr int CLUSTER = 2;      // CTAs that share tiles
constexpr int Q_BYTES = CONSUMERS * ROWS * HEAD * 2;
constexpr int TILE_BYTES = KEYS * HEAD * 2;
constexpr int N_S = KEYS / 2;   // registers of a thread's scores
constexpr int N_P = KEYS / 4;   // registers of its probabilities

// s (64 x KEYS) (+)= q (64 x 16) k^T
__device__ __forceinline__ void multiply_scores(float (&s)[N_S], uint64 q, uint64 k, int add) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %90, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n176k16.f32.bf16.bf16 " NAMES_88 ", %88, %89, add, 1, 1, 0, 0;\n}\n"
        : R64(FLOAT_REGISTER, s), R8(FLOAT_REGISTER, s, 64), R8(FLOAT_REGISTER, s, 72), R8(FLOAT_REGISTER, s, 80)
        : "l"(q), "l"(k), "r"(add));
}
// The tiles of queries and keys hold their 128 columns in two halves of 64.
__device__ __forceinline__ void scores(float (&s)[N_S], uint32 q, uint32 k) {
#pragma unroll
    for (int i = 0; i < HEAD / 16; i++) {
        const int half = i / 4, step = 2 * (i % 4);
        multiply_scores(
            s, descriptor(q + half * (Q_BYTES / 2 / 16) + step), descriptor(k + half * (TILE_BYTES / 2 / 16) + step), i);
    }
}
__device__ __forceinline__ void values_into(float (&o)[64], const uint32 (&p)[N_P], uint32 v) {
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        multiply_bf16(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], descriptor(v + 128 * i));
}

// queries, keys, values: (tokens, heads, 128) bf16, any token stride; out: the same, contiguous. The grid's x is even.
// factor: 1 / sqrt(128) * log2(e).
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) attention_bf16(
    const __grid_constant__ TensorMap queries, const __grid_constant__ TensorMap keys,
    const __grid_constant__ TensorMap values, bf16* __restrict__ out, int n_queries, int n_keys, float factor) {
    extern __shared__ __align__(1024) char shared[];
    const int group = warpgroup();
    const int head = blockIdx.y, heads = gridDim.y, first_row = blockIdx.x * CONSUMERS * ROWS;
    const int n_tiles = (n_keys + KEYS - 1) / KEYS;
    const uint32 q_tile = first_tile(shared), k_tiles = q_tile + Q_BYTES, v_tiles = k_tiles + STAGES * TILE_BYTES;
    const uint32 q_full = v_tiles + STAGES * TILE_BYTES, k_full = q_full + 8, v_full = k_full + 8 * STAGES;
    const uint32 k_empty = v_full + 8 * STAGES, v_empty = k_empty + 8 * STAGES;

    if (threadIdx.x == 0) {
        barrier_init(q_full, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(k_full + 8 * i, 1);
            barrier_init(v_full + 8 * i, 1);
            barrier_init(k_empty + 8 * i, CLUSTER * CONSUMERS);
            barrier_init(v_empty + 8 * i, CLUSTER * CONSUMERS);
        }
        barriers_initialised();
    }
    __syncthreads();
    cluster_wait();

    if (group == 0) {
        keep_few_registers();
        if (threadIdx.x == 0) {
            barrier_expect(q_full, Q_BYTES);
            load_tile(q_tile, &queries, q_full, 0, head, first_row);
            load_tile(q_tile + Q_BYTES / 2, &queries, q_full, HEAD / 2, head, first_row);
            const int half = cluster_rank();
            int stage = 0, phase = 1;
            auto load = [&](uint32 tiles, uint32 full, uint32 empty, const TensorMap* map, int i) {
                if (i >= STAGES) barrier_wait(empty + 8 * stage, phase);
                const uint32 bar = full + 8 * stage, tile = tiles + stage * TILE_BYTES;
                barrier_expect(bar, TILE_BYTES);
                load_tile_for_both(tile + half * (TILE_BYTES / 2), map, bar, half * (HEAD / 2), head, i * KEYS);
            };
            for (int i = 0; i < n_tiles; i++) {
                load(k_tiles, k_full, k_empty, &keys, i);
                load(v_tiles, v_full, v_empty, &values, i);
                if (++stage == STAGES) {
                    stage = 0;
                    phase ^= 1;
                }
            }
        }
        __syncwarp();
        cluster_wait();
        return;
    }

    take_many_registers();
    const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32, column = 2 * (lane % 4);
    const int row = first_row + (group - 1) * ROWS + warp * 16 + lane / 4;
    const uint32 q_low = low_part(q_tile + (group - 1) * ROWS * 128, 16), k_low = low_part(k_tiles, 16);
    const uint32 v_low = low_part(v_tiles, TILE_BYTES / 2);
    // A tile may be overwritten when both CTAs have read it: thread 0 and thread 1 of a group signal one CTA each.
    const int peer = threadIdx.x % 128;
    auto release = [&](uint32 bar) {
        if (peer < CLUSTER) barrier_arrive_at(bar, peer);
    };
    float o[64], s[N_S], part[4], sum[4] = {0.f, 0.f, 0.f, 0.f};
    float max0 = -infinity(), max1 = -infinity(), next0 = 1.f, next1 = 1.f;
    uint32 p[N_P];
#pragma unroll
    for (int i = 0; i < 64; i++) o[i] = 0.f;

    const int valid = n_keys - (n_tiles - 1) * KEYS - column;
    // Softmax subtracts a row's maximum so far. The maximum is renewed only when a row of the warp exceeds it by 2^8:
    // float32 has room for that, and scaling all outputs at every tile costs more. next0, next1: the factors by which
    // sums and outputs so far must then be scaled.
    auto move_maxima = [&](bool last) {
        if (last) beyond_end(s, valid, -infinity());
        float top0, top1;
        maxima(s, top0, top1);
        next0 = next1 = 1.f;
        if (__any_sync(~0u, factor * (top0 - max0) > 8.f || factor * (top1 - max1) > 8.f)) {
            top0 = fmaxf(max0, top0);
            top1 = fmaxf(max1, top1);
            next0 = power2(factor * (max0 - top0));
            next1 = power2(factor * (max1 - top1));
            max0 = top0;
            max1 = top1;
        }
    };
    // Turn scores into probabilities (times 2^8 at most), and sum this tile's probabilities separately in `part`.
    auto exponentials = [&]() {
        const float shift0 = factor * max0, shift1 = factor * max1;
#pragma unroll
        for (int j = 0; j < N_S; j++) s[j] = power2(factor * s[j] - (j % 4 < 2 ? shift0 : shift1));
#pragma unroll
        for (int j = 0; j < 4; j++) part[j] = s[j];
#pragma unroll
        for (int j = 4; j < N_S; j++) part[j % 4] += s[j];
    };
    auto add_up = [&]() {
        if (__any_sync(~0u, next0 != 1.f || next1 != 1.f)) {
#pragma unroll
            for (int j = 0; j < 4; j++) sum[j] *= j < 2 ? next0 : next1;
#pragma unroll
            for (int j = 0; j < 64; j++) o[j] *= j % 4 < 2 ? next0 : next1;
        }
#pragma unroll
        for (int j = 0; j < 4; j++) sum[j] += part[j];
#pragma unroll
        for (int j = 0; j < N_P; j++) p[j] = pack_bf16(s[2 * j], s[2 * j + 1]);
    };

    barrier_wait(q_full, 0);
    barrier_wait(k_full, 0);
    multiply_begin();
    scores(s, q_low, k_low);
    multiply_commit();
    multiply_finish<0>();
    release(k_empty);
    move_maxima(n_tiles == 1);
    exponentials();
    add_up();
    int before = 0, stage = 1, phase = 0, phase_before = 0;
    auto step = [&](bool last) {
        barrier_wait(v_full + 8 * before, phase_before);
        multiply_begin();
        scores(s, q_low, k_low + stage * (TILE_BYTES / 16));
        multiply_commit();
        values_into(o, p, v_low + before * (TILE_BYTES / 16));
        multiply_commit();
        multiply_finish<1>();
        release(k_empty + 8 * stage);
        move_maxima(last);
        exponentials();
        const int released = before;
        before = stage;
        phase_before = phase;
        if (!last) {
            if (++stage == STAGES) {
                stage = 0;
                phase ^= 1;
            }
            // The wait is here because the branch keeps the compiler from moving the wait for the values before it.
            barrier_wait(k_full + 8 * stage, phase);
        }
        multiply_finish<0>();
        release(v_empty + 8 * released);
        add_up();
    };
    if (n_tiles > 1) {
        barrier_wait(k_full + 8, 0);
        for (int i = 1; i < n_tiles - 1; i++) step(false);
        step(true);
    }
    barrier_wait(v_full + 8 * before, phase_before);
    multiply_begin();
    values_into(o, p, v_low + before * (TILE_BYTES / 16));
    multiply_commit();
    multiply_finish<0>();

    const float scale0 = 1.f / quad_sum(sum[0] + sum[1]), scale1 = 1.f / quad_sum(sum[2] + sum[3]);
    uint32* line0 = (uint32*)(out + ((long long)row * heads + head) * HEAD + column);
    uint32* line1 = (uint32*)(out + ((long long)(row + 8) * heads + head) * HEAD + column);
#pragma unroll
    for (int j = 0; j < 16; j++) {
        if (row < n_queries) line0[4 * j] = pack_bf16(o[4 * j] * scale0, o[4 * j + 1] * scale0);
        if (row + 8 < n_queries) line1[4 * j] = pack_bf16(o[4 * j + 2] * scale1, o[4 * j + 3] * scale1);
    }
    // A CTA may end only when the other one no longer writes to its shared memory.
    cluster_wait();
}
