// Attention with 8-bit scores for Hopper (sm_90a): Q K^T in int8, softmax in float32, P V in bf16 with float32 sums.
//
// One CTA makes 192 rows of one head's output. Warpgroup 0 feeds shared memory through the tensor memory accelerator;
// three warpgroups own 64 rows each, so that some multiply while others take exponentials. A warp's chain from scores to
// probabilities is bound by latency, and three chains that take turns at the tensor cores hide most of it (36 ms at
// 33,600 tokens with two, 32 with three, 30 with turns).
// Keys carry one scale per token, queries too; the row maximum is kept before the row's own scale, which is positive.
// Compiled at run time without headers (attention_int8.py), which is why the few types and instructions are spelled out.

typedef signed char int8;
typedef unsigned int uint32;
typedef unsigned long long uint64;
typedef unsigned short bf16;

struct alignas(64) TensorMap { uint64 opaque[16]; };

constexpr int HEAD = 128;           // head dimension
constexpr int ROWS = 64;            // query rows of a warpgroup
constexpr int KEYS = 128;           // keys of a tile
constexpr int STAGES = 3;
constexpr int CONSUMERS = 3;
constexpr int THREADS = 128 * (CONSUMERS + 1);
constexpr int Q_BYTES = CONSUMERS * ROWS * HEAD;
constexpr int K_BYTES = KEYS * HEAD;
constexpr int V_BYTES = KEYS * HEAD * 2;
constexpr int S_BYTES = KEYS * 4;
constexpr int TILE_BYTES = K_BYTES + V_BYTES + S_BYTES;

__device__ __forceinline__ uint32 shared_address(const void* p) { return (uint32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void barrier_init(uint32 bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}
__device__ __forceinline__ void barrier_expect(uint32 bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32 bar) {
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32 bar, int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(bar), "r"(parity) : "memory");
}
__device__ __forceinline__ void load_tile(uint32 to, const TensorMap* map, uint32 bar, int column, int head, int row) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
        ::"r"(to), "l"((uint64)map), "r"(bar), "r"(column), "r"(head), "r"(row) : "memory");
}
__device__ __forceinline__ void load_bytes(uint32 to, const void* from, int bytes, uint32 bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
        ::"r"(to), "l"((uint64)from), "r"(bytes), "r"(bar) : "memory");
}

// Shared-memory matrix descriptor, 128-byte swizzle; offsets in bytes.
__device__ __forceinline__ uint64 descriptor(uint32 address, int leading, int stride) {
    return (uint64)((address & 0x3FFFF) >> 4) | ((uint64)(leading >> 4) << 16) | ((uint64)(stride >> 4) << 32) | (1ull << 62);
}

#define R8(C, a, i) C(a[i]), C(a[i + 1]), C(a[i + 2]), C(a[i + 3]), C(a[i + 4]), C(a[i + 5]), C(a[i + 6]), C(a[i + 7])
#define R64(C, a) R8(C, a, 0), R8(C, a, 8), R8(C, a, 16), R8(C, a, 24), R8(C, a, 32), R8(C, a, 40), R8(C, a, 48), R8(C, a, 56)
#define INT_REGISTER(x) "+r"(x)
#define FLOAT_REGISTER(x) "+f"(x)
#define NAMES_64 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

// s (64 x 128) (+)= q (64 x 32) k^T, int8
__device__ __forceinline__ void multiply_scores(int (&s)[64], uint64 q, uint64 k, int add) {
    asm volatile(
        "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 " NAMES_64 ", %64, %65, add;\n}\n"
        : R64(INT_REGISTER, s) : "l"(q), "l"(k), "r"(add));
}
// o (64 x 128) += p (64 x 16, registers) v (16 x 128, columns contiguous), bf16
__device__ __forceinline__ void multiply_values(float (&o)[64], uint32 p0, uint32 p1, uint32 p2, uint32 p3, uint64 v) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " NAMES_64 ", {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
        : R64(FLOAT_REGISTER, o) : "r"(p0), "r"(p1), "r"(p2), "r"(p3), "l"(v));
}
__device__ __forceinline__ void multiply_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void multiply_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void multiply_finish() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

__device__ __forceinline__ float power2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ uint32 pack(float low, float high) {
    uint32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }

// Warpgroups take turns at the tensor cores, or they fall into step and leave them idle while all take exponentials.
// Named barrier 1, 2, 3: a group's own, which the group before it arrives at.
__device__ __forceinline__ void turn_wait(int group) { asm volatile("bar.sync %0, 256;" ::"r"(group) : "memory"); }
__device__ __forceinline__ void turn_pass(int group) { asm volatile("bar.arrive %0, 256;" ::"r"(group) : "memory"); }

__device__ __forceinline__ void scores(int (&s)[64], uint32 q, uint32 k) {
#pragma unroll
    for (int i = 0; i < HEAD / 32; i++) multiply_scores(s, descriptor(q + 32 * i, 16, 1024), descriptor(k + 32 * i, 16, 1024), i);
}
__device__ __forceinline__ void values_into(float (&o)[64], const uint32 (&p)[32], uint32 v) {
#pragma unroll
    for (int i = 0; i < KEYS / 16; i++)
        multiply_values(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3], descriptor(v + 2048 * i, V_BYTES / 2, 1024));
}
// Integer scores times the keys' scales.
__device__ __forceinline__ void dequantize(float (&x)[64], const int (&s)[64], uint32 scale_at) {
#pragma unroll
    for (int j = 0; j < 16; j++) {
        float left, right;
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(left), "=f"(right) : "r"(scale_at + 32 * j));
        x[4 * j] = (float)s[4 * j] * left;
        x[4 * j + 1] = (float)s[4 * j + 1] * right;
        x[4 * j + 2] = (float)s[4 * j + 2] * left;
        x[4 * j + 3] = (float)s[4 * j + 3] * right;
    }
}
__device__ __forceinline__ void mask_end(float (&x)[64], int valid) {
#pragma unroll
    for (int j = 0; j < 16; j++) {
        if (8 * j >= valid) x[4 * j] = x[4 * j + 2] = -infinity();
        if (8 * j + 1 >= valid) x[4 * j + 1] = x[4 * j + 3] = -infinity();
    }
}
// x becomes exp2(a * (x - max)), its sums are added up. The maximum that is subtracted moves only when some row of the
// warp outgrows it by 2^8: sums in float32 have room for that, and rescaling all outputs at every tile costs more.
__device__ __forceinline__ void exponentials(
    float (&x)[64], float (&o)[64], float a0, float a1, float& max0, float& max1, float& sum0, float& sum1) {
    float top0 = x[0], top1 = x[2];
#pragma unroll
    for (int j = 0; j < 16; j++) {
        top0 = fmaxf(top0, fmaxf(x[4 * j], x[4 * j + 1]));
        top1 = fmaxf(top1, fmaxf(x[4 * j + 2], x[4 * j + 3]));
    }
    const float new0 = fmaxf(max0, quad_max(top0)), new1 = fmaxf(max1, quad_max(top1));
    if (__any_sync(~0u, a0 * (new0 - max0) > 8.f || a1 * (new1 - max1) > 8.f)) {
        const float keep0 = power2(a0 * (max0 - new0)), keep1 = power2(a1 * (max1 - new1));
        max0 = new0;
        max1 = new1;
        sum0 *= keep0;
        sum1 *= keep1;
#pragma unroll
        for (int j = 0; j < 16; j++) {
            o[4 * j] *= keep0;
            o[4 * j + 1] *= keep0;
            o[4 * j + 2] *= keep1;
            o[4 * j + 3] *= keep1;
        }
    }
    const float shift0 = a0 * max0, shift1 = a1 * max1;
    float add0 = 0.f, add1 = 0.f;
#pragma unroll
    for (int j = 0; j < 16; j++) {
        x[4 * j] = power2(a0 * x[4 * j] - shift0);
        x[4 * j + 1] = power2(a0 * x[4 * j + 1] - shift0);
        x[4 * j + 2] = power2(a1 * x[4 * j + 2] - shift1);
        x[4 * j + 3] = power2(a1 * x[4 * j + 3] - shift1);
        sum0 += x[4 * j];
        sum1 += x[4 * j + 2];
        add0 += x[4 * j + 1];
        add1 += x[4 * j + 3];
    }
    sum0 += add0;
    sum1 += add1;
}
__device__ __forceinline__ void pack_all(uint32 (&p)[32], const float (&x)[64]) {
#pragma unroll
    for (int i = 0; i < 32; i++) p[i] = pack(x[2 * i], x[2 * i + 1]);
}

// queries, keys: (tokens, heads, 128) int8; values (tokens, heads, 128) bf16, any token stride; q_scale, k_scale
// (heads, padded tokens) float32, padded to whole tiles; out (tokens, heads, 128) bf16.
// factor: 1 / sqrt(128) * log2(e).
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_int8(
    const __grid_constant__ TensorMap queries, const __grid_constant__ TensorMap keys,
    const __grid_constant__ TensorMap values, const float* __restrict__ q_scale, const float* __restrict__ k_scale,
    bf16* __restrict__ out, int n_queries, int n_keys, int q_padded, int k_padded, float factor) {
    extern __shared__ __align__(1024) char shared[];
    const int group = threadIdx.x / 128, head = blockIdx.y, heads = gridDim.y, first_row = blockIdx.x * CONSUMERS * ROWS;
    const int tiles = (n_keys + KEYS - 1) / KEYS;
    const uint32 base = (shared_address(shared) + 1023) & ~1023u;
    const uint32 q_tile = base, k_tiles = q_tile + Q_BYTES, v_tiles = k_tiles + STAGES * K_BYTES;
    const uint32 s_tiles = v_tiles + STAGES * V_BYTES, bars = s_tiles + STAGES * S_BYTES;
    const uint32 q_full = bars, full = bars + 8, empty = full + 8 * STAGES;

    if (threadIdx.x == 0) {
        barrier_init(q_full, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, CONSUMERS * 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();

    if (group == 0) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == 0) {
            barrier_expect(q_full, Q_BYTES);
            load_tile(q_tile, &queries, q_full, 0, head, first_row);
            for (int tile = 0; tile < tiles; tile++) {
                const int stage = tile % STAGES;
                if (tile >= STAGES) barrier_wait(empty + 8 * stage, (tile / STAGES - 1) & 1);
                const uint32 bar = full + 8 * stage, v_tile = v_tiles + stage * V_BYTES;
                barrier_expect(bar, TILE_BYTES);
                load_tile(k_tiles + stage * K_BYTES, &keys, bar, 0, head, tile * KEYS);
                load_bytes(s_tiles + stage * S_BYTES, k_scale + (long long)head * k_padded + tile * KEYS, S_BYTES, bar);
                load_tile(v_tile, &values, bar, 0, head, tile * KEYS);
                load_tile(v_tile + V_BYTES / 2, &values, bar, HEAD / 2, head, tile * KEYS);
            }
        }
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
    const int lane = threadIdx.x % 32, warp = (threadIdx.x % 128) / 32, column = 2 * (lane % 4);
    const int row = first_row + (group - 1) * ROWS + warp * 16 + lane / 4;
    const float* scales = q_scale + (long long)head * q_padded;
    const float a0 = row < n_queries ? scales[row] * factor : factor;
    const float a1 = row + 8 < n_queries ? scales[row + 8] * factor : factor;
    const uint32 q_own = q_tile + (group - 1) * ROWS * HEAD;
    float o[64], max0 = -infinity(), max1 = -infinity(), sum0 = 0.f, sum1 = 0.f;
#pragma unroll
    for (int i = 0; i < 64; i++) o[i] = 0.f;
    barrier_wait(q_full, 0);

    int s[64];
    float x[64];
    uint32 p[32];
    barrier_wait(full, 0);
    if (group == CONSUMERS && tiles > 1) turn_pass(1);
    multiply_begin();
    scores(s, q_own, k_tiles);
    multiply_commit();
    multiply_finish();
    dequantize(x, s, s_tiles + 4 * column);
    if (tiles == 1) mask_end(x, n_keys - column);
    exponentials(x, o, a0, a1, max0, max1, sum0, sum1);
    pack_all(p, x);
    for (int tile = 1; tile < tiles; tile++) {
        const int stage = tile % STAGES, before = (tile - 1) % STAGES;
        barrier_wait(full + 8 * stage, (tile / STAGES) & 1);
        turn_wait(group);
        multiply_begin();
        values_into(o, p, v_tiles + before * V_BYTES);
        multiply_commit();
        multiply_finish();
        multiply_begin();
        scores(s, q_own, k_tiles + stage * K_BYTES);
        multiply_commit();
        multiply_finish();
        if (group < CONSUMERS || tile < tiles - 1) turn_pass(group % CONSUMERS + 1);
        if (lane == 0) barrier_arrive(empty + 8 * before);
        dequantize(x, s, s_tiles + stage * S_BYTES + 4 * column);
        if (tile == tiles - 1) mask_end(x, n_keys - tile * KEYS - column);
        exponentials(x, o, a0, a1, max0, max1, sum0, sum1);
        pack_all(p, x);
    }
    multiply_begin();
    values_into(o, p, v_tiles + ((tiles - 1) % STAGES) * V_BYTES);
    multiply_commit();
    multiply_finish();

    const float scale0 = 1.f / quad_sum(sum0), scale1 = 1.f / quad_sum(sum1);
    uint32* line0 = (uint32*)(out + ((long long)row * heads + head) * HEAD + column);
    uint32* line1 = (uint32*)(out + ((long long)(row + 8) * heads + head) * HEAD + column);
#pragma unroll
    for (int j = 0; j < 16; j++) {
        if (row < n_queries) line0[4 * j] = pack(o[4 * j] * scale0, o[4 * j + 1] * scale0);
        if (row + 8 < n_queries) line1[4 * j] = pack(o[4 * j + 2] * scale1, o[4 * j + 3] * scale1);
    }
}
