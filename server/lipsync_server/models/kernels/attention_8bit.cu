// Attention with 8-bit scores for Hopper (sm_90a): Q K^T in int8, softmax in float32, and P V in bf16 or, with
// VALUES_8BIT, in fp8 (e4m3). Tensor cores keep about 14 bits of a running fp8 sum, too few for 33,600 keys, so each
// tile's fp8 product is added to the outputs in float32 registers.
//
// One CTA (block of threads) computes 128 rows of one head's output. Warpgroup 0 loads tiles into shared memory through
// the tensor memory accelerator; the two other warpgroups compute 64 rows each. The product for the scores of tile i and
// the product with the values of tile i - 1 start together, and a warpgroup's exponentials run beside the other's
// products. Queries have one scale for each token and keys one for each tile of 128, so the row maximum of a tile is
// found on integers. In fp8, eight rows of ones beside the values give the row sums as part of the product.
// With `chosen`, a row block attends only to the listed tiles (sparse attention). Without, two CTAs of neighbouring row
// blocks form a cluster (CLUSTER is 2): each loads one half of a tile for both.

#include "hopper.cuh"

constexpr int KEYS = 128;           // keys of a tile
constexpr int STAGES = 4;           // tiles in flight
constexpr int Q_BYTES = CONSUMERS * ROWS * HEAD;
constexpr int K_BYTES = KEYS * HEAD;
constexpr int V_LOADED = KEYS * HEAD * (VALUES_8BIT ? 1 : 2);
constexpr int V_BYTES = V_LOADED + (VALUES_8BIT ? 1024 : 0);  // eight rows of ones follow
constexpr int N_P = VALUES_8BIT ? 16 : 32;                    // registers of a thread's probabilities
constexpr int N_PRODUCT = VALUES_8BIT ? 68 : 1;               // registers of one tile's P V, and of its row sums
// Probabilities in fp8 use the range up to 2^8, of 448 at most.
constexpr float SHIFT = VALUES_8BIT ? 8.f : 0.f;

// s (64 x 128) (+)= q (64 x 32) k^T, int8
__device__ __forceinline__ void multiply_scores(int (&s)[64], uint64 q, uint64 k, int add) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 " NAMES_64 ", %64, %65, add;\n}\n"
        : R64(INT_REGISTER, s) : "l"(q), "l"(k), "r"(add));
}
// t (64 x 136) (+)= p (64 x 32, registers) v (32 x 136, rows contiguous), fp8
__device__ __forceinline__ void multiply_fp8(float (&t)[68], uint32 p0, uint32 p1, uint32 p2, uint32 p3, uint64 v, int add) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %73, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n136k32.f32.e4m3.e4m3 " NAMES_68 ", {%68, %69, %70, %71}, %72, add, 1, 1;\n}\n"
        : R64(FLOAT_REGISTER, t), "+f"(t[64]), "+f"(t[65]), "+f"(t[66]), "+f"(t[67])
        : "r"(p0), "r"(p1), "r"(p2), "r"(p3), "l"(v), "r"(add));
}
__device__ __forceinline__ uint32 pack_fp8(float a, float b, float c, float d) {
    uint32 all;
    asm("{\n.reg .b16 low, high;\n"
        "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
        "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
        "mov.b32 %0, {low, high};\n}\n" : "=r"(all) : "f"(a), "f"(b), "f"(c), "f"(d));
    return all;
}
__device__ __forceinline__ void scores(int (&s)[64], uint32 q, uint32 k) {
#pragma unroll
    for (int i = 0; i < HEAD / 32; i++) multiply_scores(s, descriptor(q + 2 * i), descriptor(k + 2 * i), i);
}
// Add probabilities times values to the outputs o (bf16), or store the tile's product (fp8), which `fold` adds later.
__device__ __forceinline__ void values_into(float (&o)[64], float (&product)[N_PRODUCT], const uint32 (&p)[N_P], uint32 v) {
#if VALUES_8BIT
#pragma unroll
    for (int i = 0; i < KEYS / 32; i++)
        multiply_fp8(product, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], descriptor(v + 2 * i), i);
#else
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        multiply_bf16(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], descriptor(v + 128 * i));
#endif
}
// Pack probabilities as the left side of the value product. A thread's accumulators of the scores are already in the
// order that the product needs. In fp8 the order of the keys within each 32 differs, and the values are stored in that
// order (fused.values_fp8).
__device__ __forceinline__ void pack_all(uint32 (&p)[N_P], const float (&x)[64]) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
#if VALUES_8BIT
        p[2 * i] = pack_fp8(x[8 * i], x[8 * i + 1], x[8 * i + 4], x[8 * i + 5]);
        p[2 * i + 1] = pack_fp8(x[8 * i + 2], x[8 * i + 3], x[8 * i + 6], x[8 * i + 7]);
#else
#pragma unroll
        for (int j = 0; j < 4; j++) p[4 * i + j] = pack_bf16(x[8 * i + 2 * j], x[8 * i + 2 * j + 1]);
#endif
    }
}

// Load a part of a tile for all CTAs of the cluster.
__device__ __forceinline__ void load_shared_tile(
    uint32 to, const TensorMap* map, uint32 bar, int column, int head, int row) {
    if (CLUSTER == 2)
        load_tile_for_both(to, map, bar, column, head, row);
    else
        load_tile(to, map, bar, column, head, row);
}

// queries, keys: (tokens, heads, 128) int8; values: (tokens, heads, 128) bf16, any token stride, or transposed in fp8,
// (heads, 128, padded tokens), with a scale and a centre for each (head, channel). q_scale (heads, n_queries); k_scale
// (heads, tiles); chosen (heads, row blocks, n_tiles) ascending, or null for all tiles. out (tokens, heads, 128) bf16.
// factor: 1 / sqrt(128) * log2(e).
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) attention_8bit(
    const __grid_constant__ TensorMap queries, const __grid_constant__ TensorMap keys,
    const __grid_constant__ TensorMap values, const float* __restrict__ q_scale, const float* __restrict__ k_scale,
    const float* __restrict__ v_scale, const float* __restrict__ v_centre, const int* __restrict__ chosen,
    bf16* __restrict__ out, int n_queries, int n_keys, int n_tiles, float factor) {
    extern __shared__ __align__(1024) char shared[];
    const int group = warpgroup();
    const int head = blockIdx.y, heads = gridDim.y, first_row = blockIdx.x * CONSUMERS * ROWS;
    const int all_tiles = (n_keys + KEYS - 1) / KEYS;
    const uint32 q_tile = first_tile(shared), k_tiles = q_tile + Q_BYTES, v_tiles = k_tiles + STAGES * K_BYTES;
    const uint32 bars = v_tiles + STAGES * V_BYTES, q_full = bars, full = bars + 8, empty = full + 8 * STAGES;
    const uint32 scale_of = empty + 8 * STAGES;
    const int* list = chosen ? chosen + ((long long)head * gridDim.x + blockIdx.x) * n_tiles : nullptr;
    const int last_tile = list ? list[n_tiles - 1] : n_tiles - 1;

    if (threadIdx.x == 0) {
        barrier_init(q_full, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, CLUSTER * CONSUMERS);
        }
        barriers_initialised();
    }
#if VALUES_8BIT
    for (int i = threadIdx.x; i < STAGES * 256; i += THREADS)
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(v_tiles + i / 256 * V_BYTES + V_LOADED + i % 256 * 4), "r"(0x38383838));
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
    for (int i = threadIdx.x; i < n_tiles; i += THREADS)
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(scale_of + 4 * i), "f"(k_scale[head * all_tiles + (list ? list[i] : i)]));
    __syncthreads();
    cluster_wait();

    if (group == 0) {
        keep_few_registers();
        if (threadIdx.x == 0) {
            barrier_expect(q_full, Q_BYTES);
            load_tile(q_tile, &queries, q_full, 0, head, first_row);
            const int half = cluster_rank();
            int stage = 0, phase = 1;
            for (int i = 0; i < n_tiles; i++) {
                if (i >= STAGES) barrier_wait(empty + 8 * stage, phase);
                const uint32 bar = full + 8 * stage, v_tile = v_tiles + stage * V_BYTES;
                const int first_key = (list ? list[i] : i) * KEYS;
                barrier_expect(bar, K_BYTES + V_LOADED);
                const int rows = half * (KEYS / CLUSTER);
                load_shared_tile(k_tiles + stage * K_BYTES + rows * HEAD, &keys, bar, 0, head, first_key + rows);
#if VALUES_8BIT
                // fp8 values are transposed: a row is a channel. A head has as many channels as a tile has keys.
                load_shared_tile(v_tile + rows * HEAD, &values, bar, first_key, head, rows);
#elif CLUSTER == 2
                load_shared_tile(v_tile + half * (V_LOADED / 2), &values, bar, half * (HEAD / 2), head, first_key);
#else
                load_shared_tile(v_tile, &values, bar, 0, head, first_key);
                load_shared_tile(v_tile + V_LOADED / 2, &values, bar, HEAD / 2, head, first_key);
#endif
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
    const float* scales = q_scale + (long long)head * n_queries;
    const float a0 = row < n_queries ? scales[row] * factor : factor;
    const float a1 = row + 8 < n_queries ? scales[row + 8] * factor : factor;
    const uint32 q_low = low_part(q_tile + (group - 1) * ROWS * HEAD, 16), k_low = low_part(k_tiles, 16);
    const uint32 v_low = low_part(v_tiles, VALUES_8BIT ? 16 : V_LOADED / 2);
    // A tile may be overwritten when all CTAs of the cluster have read it: the first CLUSTER threads of a group signal
    // one CTA each. This is not in hopper.cuh, because the compiler's code is then 640 bytes longer in the fp8 form.
    const int peer = threadIdx.x % 128;
    auto release = [&](uint32 bar) {
        if (peer < CLUSTER) barrier_arrive_at(bar, peer);
    };
    float o[64], product[N_PRODUCT], x[64], sum[4] = {0.f, 0.f, 0.f, 0.f};
    float max0 = -infinity(), max1 = -infinity(), keep0 = 1.f, keep1 = 1.f, next0 = 1.f, next1 = 1.f;
    int s[64];
    uint32 p[N_P];
#pragma unroll
    for (int i = 0; i < 64; i++) o[i] = 0.f;

    float b0, b1, shift0, shift1;
    const int valid = n_keys - last_tile * KEYS - column;
    // Softmax subtracts a row's maximum so far. This renews the maxima; next0, next1: the factors by which sums and
    // outputs so far must then be scaled. With bf16 values a maximum is renewed only when a row of the warp exceeds it by
    // 2^8: float32 has room for that, and scaling all outputs at every tile costs more.
    auto move_maxima = [&](int i, bool last) {
        if (last) beyond_end(s, valid, -(1 << 30));
        float scale;
        int top0, top1;
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(scale) : "r"(scale_of + 4 * i));
        maxima(s, top0, top1);
        b0 = a0 * scale;
        b1 = a1 * scale;
        const float new0 = fmaxf(max0, scale * (float)top0), new1 = fmaxf(max1, scale * (float)top1);
        next0 = next1 = 1.f;
        if (VALUES_8BIT || __any_sync(~0u, a0 * (new0 - max0) > 8.f || a1 * (new1 - max1) > 8.f)) {
            next0 = power2(a0 * (max0 - new0));
            next1 = power2(a1 * (max1 - new1));
            max0 = new0;
            max1 = new1;
        }
        shift0 = a0 * max0 - SHIFT;
        shift1 = a1 * max1 - SHIFT;
    };
    auto exponentials = [&](bool last) {
#pragma unroll
        for (int j = 0; j < 16; j++) {
            x[4 * j] = b0 * (float)s[4 * j] - shift0;
            x[4 * j + 1] = b0 * (float)s[4 * j + 1] - shift0;
            x[4 * j + 2] = b1 * (float)s[4 * j + 2] - shift1;
            x[4 * j + 3] = b1 * (float)s[4 * j + 3] - shift1;
        }
        if (last) beyond_end(x, valid, -infinity());
#pragma unroll
        for (int j = 0; j < 64; j++) x[j] = power2(x[j]);
#if !VALUES_8BIT
#pragma unroll
        for (int j = 0; j < 64; j++) sum[j % 4] += x[j];
#endif
    };
    // bf16 values: scale outputs and sums to the new maxima. With fp8 values `fold` does this while it adds the product.
    auto scale_outputs = [&]() {
#if !VALUES_8BIT
        if (!__any_sync(~0u, next0 != 1.f || next1 != 1.f)) return;
        sum[0] *= next0;
        sum[1] *= next0;
        sum[2] *= next1;
        sum[3] *= next1;
#pragma unroll
        for (int j = 0; j < 64; j++) o[j] *= j % 4 < 2 ? next0 : next1;
#endif
    };
    auto fold = [&]() {
#if VALUES_8BIT
#pragma unroll
        for (int j = 0; j < 64; j++) o[j] = o[j] * (j % 4 < 2 ? keep0 : keep1) + product[j];
        sum[0] = sum[0] * keep0 + product[64];
        sum[2] = sum[2] * keep1 + product[66];
#endif
    };

    barrier_wait(q_full, 0);
    barrier_wait(full, 0);
    multiply_begin();
    scores(s, q_low, k_low);
    multiply_commit();
    multiply_finish<0>();
    move_maxima(0, n_tiles == 1);
    exponentials(n_tiles == 1);
    pack_all(p, x);
    keep0 = next0;
    keep1 = next1;
    int before = 0, stage = 1, phase = 0;
    auto step = [&](int i, bool last) {
        multiply_begin();
        scores(s, q_low, k_low + stage * (K_BYTES / 16));
        multiply_commit();
        values_into(o, product, p, v_low + before * (V_BYTES / 16));
        multiply_commit();
        multiply_finish<1>();
        move_maxima(i, last);
        const int released = before;
        before = stage;
        if (!last) {
            if (++stage == STAGES) {
                stage = 0;
                phase ^= 1;
            }
            // The wait is here because the branch keeps the compiler from moving the wait for the values before it.
            barrier_wait(full + 8 * stage, phase);
        }
        multiply_finish<0>();
        release(empty + 8 * released);
        scale_outputs();
        exponentials(last);
        fold();
        pack_all(p, x);
        keep0 = next0;
        keep1 = next1;
    };
    if (n_tiles > 1) {
        barrier_wait(full + 8, 0);
        for (int i = 1; i < n_tiles - 1; i++) step(i, false);
        step(n_tiles - 1, true);
    }
    multiply_begin();
    values_into(o, product, p, v_low + before * (V_BYTES / 16));
    multiply_commit();
    multiply_finish<0>();
    fold();

    const float scale0 = 1.f / (VALUES_8BIT ? sum[0] : quad_sum(sum[0] + sum[1]));
    const float scale1 = 1.f / (VALUES_8BIT ? sum[2] : quad_sum(sum[2] + sum[3]));
    uint32* line0 = (uint32*)(out + ((long long)row * heads + head) * HEAD + column);
    uint32* line1 = (uint32*)(out + ((long long)(row + 8) * heads + head) * HEAD + column);
#pragma unroll
    for (int j = 0; j < 16; j++) {
        float left = 1.f, right = 1.f, left_centre = 0.f, right_centre = 0.f;
#if VALUES_8BIT
        const int channel = head * HEAD + column + 8 * j;
        left = v_scale[channel];
        right = v_scale[channel + 1];
        left_centre = v_centre[channel];
        right_centre = v_centre[channel + 1];
#endif
        const float a = o[4 * j] * scale0 * left + left_centre, b = o[4 * j + 1] * scale0 * right + right_centre;
        const float c = o[4 * j + 2] * scale1 * left + left_centre, d = o[4 * j + 3] * scale1 * right + right_centre;
        if (row < n_queries) line0[4 * j] = pack_bf16(a, b);
        if (row + 8 < n_queries) line1[4 * j] = pack_bf16(c, d);
    }
    // A CTA may end only when the other one no longer writes to its shared memory.
    cluster_wait();
}
