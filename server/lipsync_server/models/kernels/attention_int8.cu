// Self-attention with both products in int8, for every NVIDIA GPU since Ampere (compute capability 8.0 and newer).
//
// out = softmax(q k^T / sqrt(128)) v, one tile of 128 keys after the other (FlashAttention-2,
// https://arxiv.org/abs/2307.08691), with 8-bit integers on both sides of both products (after SageAttention 2,
// https://arxiv.org/abs/2411.10958, and INT-FlashAttention, https://arxiv.org/abs/2409.16997):
//   scores    q8 k8^T, a scale for each query and for each key;
//   weights   P = round(255 exp2(s - m)), unsigned, m the largest score of this row in THIS tile: a tile far below the
//             row's maximum still uses all 255 steps;
//   values    v8 with a scale for each channel and tile, so that one large value spoils 128 keys and not all of them.
// The integer product of a tile is folded into float32 outputs with exp2(m - row maximum) and the channel's scale.
//
// A block of eight warps computes 128 queries; a warp owns 16 of them. `mma.sync` m16n8k32 multiplies and `cp.async`
// fetches the next tile meanwhile: instructions that all of these GPUs have.
//
// Two warps share a scheduler, the part of a multiprocessor that issues instructions. They multiply in turn (after
// FlashAttention-3, https://arxiv.org/abs/2407.08608): while one multiplies the values of tile g and the keys of tile
// g + 1, the other turns its scores into weights. The first four warps copy all tiles, after their own turn, because
// every instruction within a turn delays both warps. Turns save 3 % on an H200, and copies outside of them 5 % more.
//
// Integers become floats without an instruction: accumulators start at 0x4b400000, the bits of 12582912.f (1.5 * 2^23).
// Floats from 2^23 to 2^24 are one apart, so a sum n of magnitude below 2^22 = 4,194,304 reads as the float 12582912 + n.
// The largest sum is 255 * 127 * 128 = 4,145,280.

typedef unsigned int uint32;
typedef unsigned short bf16;

constexpr int HEAD = 128;      // channels of a head
constexpr int KEYS = 128;      // keys of a tile
constexpr int WARPS = 8;
constexpr int COPIERS = 128;   // threads that copy tiles: the first four warps
// GROUP: eights of keys, or of channels, that are multiplied together. READ_ANEW: whether the loop reads the thread's
// number anew. The kernel needs nearly all 255 registers of a thread, and assemblers divide them differently: of the forms
// that were tried, these spill none (test_kernels_compile.py).
#if __CUDA_ARCH__ == 900
constexpr int GROUP = 4;
constexpr bool READ_ANEW = true;
#else
constexpr int GROUP = 2;
constexpr bool READ_ANEW = false;
#endif
constexpr int ROWS = 16 * WARPS;  // queries of a block
constexpr int THREADS = 32 * WARPS;
constexpr int K_BYTES = KEYS * HEAD, V_BYTES = HEAD * KEYS, K_SCALE_BYTES = 4 * KEYS, V_SCALE_BYTES = 4 * HEAD;
// Shared memory: two stages, and for each stage a barrier `full` and a barrier `done`. Stage g % 2 holds the keys of tile
// g + 1, the values of tile g, and their scales.
constexpr int STAGE_BYTES = K_BYTES + V_BYTES + K_SCALE_BYTES + V_SCALE_BYTES;
constexpr int FULL = 2 * STAGE_BYTES, DONE = FULL + 16;
constexpr float MAGIC = 12582912.f;
constexpr int MAGIC_BITS = 0x4b400000;
// log2(255 / 2^24): weights are computed as multiples of 2^-24, see pack_bytes.
constexpr float SHIFT = 7.99435343686f - 24.f;

__device__ __forceinline__ void copy_16(uint32 to, const void* from, int n_bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(n_bytes) : "memory");
}
__device__ __forceinline__ void copy_16_if(bool wanted, uint32 to, const void* from, int n_bytes) {
    asm volatile(
        "{\n.reg .pred wanted;\nsetp.ne.b32 wanted, %0, 0;\n@wanted cp.async.cg.shared.global [%1], [%2], 16, %3;\n}\n"
        ::"r"((int)wanted), "r"(to), "l"(from), "r"(n_bytes) : "memory");
}
// Barriers in shared memory. Each is passed when its count of arrivals is complete, and then counts anew.
__device__ __forceinline__ void barrier_init(uint32 at, int count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(at), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32 at) {
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared.b64 state, [%0];\n}\n" ::"r"(at) : "memory");
}
// This thread arrives once all of its copies so far have ended.
__device__ __forceinline__ void copies_arrive(uint32 at) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(at) : "memory");
}
// Wait for the end of the n-th round of a barrier; parity: n % 2.
__device__ __forceinline__ void barrier_wait(uint32 at, uint32 parity) {
    asm volatile(
        "{\n.reg .pred passed;\nAGAIN:\nmbarrier.test_wait.parity.shared.b64 passed, [%0], %1;\n@passed bra PASSED;\n"
        "bra AGAIN;\nPASSED:\n}\n"
        ::"r"(at), "r"(parity) : "memory");
}
// Two warps pass the turn with one of the 16 numbered barriers of a block each; barrier 0 is that of __syncthreads.
__device__ __forceinline__ void turn_wait(int id) { asm volatile("bar.sync %0, 64;" ::"r"(id) : "memory"); }
__device__ __forceinline__ void turn_pass(int id) { asm volatile("bar.arrive %0, 64;" ::"r"(id) : "memory"); }
// 16 bytes of a lane.
__device__ __forceinline__ void load_16(uint32 (&b)[4], uint32 at) {
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3]) : "r"(at) : "memory");
}
// d (16 x 8) = a (16 x 32) b (32 x 8) + MAGIC_BITS
__device__ __forceinline__ void multiply_first(int (&d)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(MAGIC_BITS));
}
// d (16 x 8) += a (16 x 32) b (32 x 8)
__device__ __forceinline__ void multiply_more(int (&d)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
// As multiply_first and multiply_more, with weights in [0, 255] on the left side.
__device__ __forceinline__ void weigh_first(int (&d)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(MAGIC_BITS));
}
__device__ __forceinline__ void weigh_more(int (&d)[4], const uint32 (&a)[4], uint32 b0, uint32 b1) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ float power2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ float2 load_pair(uint32 at) {
    float2 pair;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(pair.x), "=f"(pair.y) : "r"(at) : "memory");
    return pair;
}
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ uint32 pack_bf16(float low, float high) {
    uint32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
// Four numbers n 2^-24, n in [0, 255], rounded to the nearest such number, as four bytes n. Half-precision numbers below
// 2^-14 are multiples of 2^-24, and their bits are that multiple.
__device__ __forceinline__ uint32 pack_bytes(float a, float b, float c, float d) {
    uint32 low, high;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(low) : "f"(b), "f"(a));
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(high) : "f"(d), "f"(c));
    return __byte_perm(low, high, 0x6420);
}
__device__ __forceinline__ int sum_bytes(uint32 x, int to) {
    int sum;
    asm("dp4a.u32.u32 %0, %1, %2, %3;" : "=r"(sum) : "r"(x), "r"(0x01010101), "r"(to));
    return sum;
}
// The number of this thread. An address that is computed anew from it occupies no register meanwhile.
__device__ __forceinline__ int thread_number() {
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
    return thread;
}

struct Yes { static constexpr bool value = true; };
struct No { static constexpr bool value = false; };

// queries (n_queries, heads, 128), keys (128 n_tiles, heads, 128) int8; values int8 transposed: (heads, 128,
// 128 n_tiles), the keys of each 64 in the order in which a thread holds its scores (attention_int8.py). Numbers beyond
// the last key have no effect. q_scale (heads, n_queries), k_scale (heads, 128 n_tiles), v_scale (heads,
// n_tiles, 128), v_centre (heads, 128) float32. out (n_queries, heads, 128) bf16. factor: log2(e) / sqrt(128).
extern "C" __global__ void __launch_bounds__(THREADS, 1) attention_int8(
    const signed char* __restrict__ queries, const signed char* __restrict__ keys,
    const signed char* __restrict__ values, const float* __restrict__ q_scale, const float* __restrict__ k_scale,
    const float* __restrict__ v_scale, const float* __restrict__ v_centre, bf16* __restrict__ out, int n_queries,
    int n_keys, int n_tiles, float factor) {
    extern __shared__ __align__(128) char shared[];
    const uint32 base = (uint32)__cvta_generic_to_shared(shared);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, quad = lane / 4, pair = lane % 4;
    const int head = blockIdx.y, heads = gridDim.y, first_row = blockIdx.x * ROWS;
    const int line = heads * HEAD, padded = n_tiles * KEYS;  // distances are below 2^32: 400,000 tokens of 5,120
    if (threadIdx.x == 0) {
        for (int i = 0; i < 16; i += 8) {
            barrier_init(base + FULL + i, COPIERS);
            barrier_init(base + DONE + i, WARPS);
        }
    }
    __syncthreads();

    // Copy the keys of tile g + 1 and the values of tile g, in pieces of 16 bytes; zeros for a tile that does not exist.
    // A lane reads 16 bytes at a time (below), and eight lanes together should read from different banks: in odd rows the
    // two halves of 64 bytes are exchanged.
    auto load_stage = [&](int g) {
        const int piece = thread_number();
        const uint32 stage = (g & 1) * STAGE_BYTES;
        const int k_bytes = g + 1 < n_tiles ? 16 : 0, v_bytes = g >= 0 ? 16 : 0;
        const int k_first = k_bytes ? (g + 1) * KEYS : 0, v_first = v_bytes ? g * KEYS : 0;
        const signed char* k_tile = keys + ((long long)k_first * line + head * HEAD);
        const signed char* v_tile = values + ((long long)head * HEAD * padded + v_first);
        const uint32 k_from = piece / 8 * line + 16 * (piece % 8), v_from = piece / 8 * padded + 16 * (piece % 8);
        const uint32 to = base + stage + (16 * piece ^ (piece / 8 & 1) << 6);
        const uint32 scale_to = base + stage + K_BYTES + V_BYTES + 16 * piece;
#pragma unroll
        for (int i = 0; i < KEYS; i += COPIERS / 8) copy_16(to + i * HEAD, k_tile + (uint32)(i * line) + k_from, k_bytes);
#pragma unroll
        for (int i = 0; i < HEAD; i += COPIERS / 8)
            copy_16(to + K_BYTES + i * KEYS, v_tile + (uint32)(i * padded) + v_from, v_bytes);
        copy_16_if(piece < 32, scale_to, k_scale + ((long long)head * padded + k_first) + 4 * piece, k_bytes);
        copy_16_if(piece >= 32 && piece < 64, scale_to, v_scale + ((long long)head * padded + v_first) + 4 * (piece - 32), v_bytes);
        copies_arrive(base + FULL + (g & 1) * 8);
    };
    if (warp < 4) {
        load_stage(-1);
        load_stage(0);
    }

    // A lane holds channels 16 pair + 0 to 15 of each 64 of its rows, and the same of the keys: the product's sum over
    // channels may have any order.
    const int row = first_row + warp * 16 + quad;
    const bool has0 = row < n_queries, has1 = row + 8 < n_queries;
    uint32 q[4][4];
    {
        const signed char* at = queries + (long long)row * line + head * HEAD + 16 * pair;
        const uint4 none = {0, 0, 0, 0};
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint4 upper = has0 ? *(const uint4*)(at + 64 * i) : none;
            const uint4 lower = has1 ? *(const uint4*)(at + 8 * line + 64 * i) : none;
            q[2 * i][0] = upper.x, q[2 * i][1] = lower.x, q[2 * i][2] = upper.y, q[2 * i][3] = lower.y;
            q[2 * i + 1][0] = upper.z, q[2 * i + 1][1] = lower.z, q[2 * i + 1][2] = upper.w, q[2 * i + 1][3] = lower.w;
        }
    }
    const float a0 = has0 ? q_scale[(long long)head * n_queries + row] * factor : factor;
    const float a1 = has1 ? q_scale[(long long)head * n_queries + row + 8] * factor : factor;

    // This lane's 16 bytes of the first and of the second half of a row of keys, or of a channel of values.
    const uint32 half0 = base + quad * HEAD + ((pair ^ (quad & 1) << 2) << 4);
    const uint32 half1 = half0 ^ 64;
    const uint32 scales = base + K_BYTES + V_BYTES + 8 * pair;
    const int mine = 1 + warp, theirs = 1 + (warp ^ 4);

    float o[16][4], max0 = -1e30f, max1 = -1e30f, sum0 = 0.f, sum1 = 0.f;
#pragma unroll
    for (int i = 0; i < 16; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) o[i][j] = 0.f;
    float x[16][4];  // scores, in units of a0 and a1
    uint32 p[4][4];  // weights
    float b0, b1;    // weight of the tile among the row's tiles

    // A turn: the values of tile g with its weights, then the scores of tile g + 1.
    auto multiply = [&](int g, auto has_values, auto has_scores) {
        constexpr int FIRST = decltype(has_values)::value ? 0 : 16, END = decltype(has_scores)::value ? 32 : 16;
        const uint32 stage = (g & 1) * STAGE_BYTES;
        uint32 b[2][GROUP][2][4];
        auto load_group = [&](int eight) {
            const uint32 at = stage + (eight < 16 ? K_BYTES + eight * 8 * KEYS : (eight - 16) * 8 * HEAD);
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                load_16(b[eight / GROUP % 2][i][0], half0 + at + i * 8 * HEAD);
                load_16(b[eight / GROUP % 2][i][1], half1 + at + i * 8 * HEAD);
            }
        };
        load_group(FIRST);
#pragma unroll
        for (int eight = FIRST; eight < END; eight += GROUP) {
            if (eight + GROUP < END) load_group(eight + GROUP);
            int sums[GROUP][4];
#pragma unroll
            for (int k = 0; k < 4; k++)
#pragma unroll
                for (int i = 0; i < GROUP; i++) {
                    const uint32(&right)[4] = b[eight / GROUP % 2][i][k / 2];
                    const uint32 low = right[k % 2 * 2], high = right[k % 2 * 2 + 1];
                    if (eight < 16) {
                        if (k == 0) weigh_first(sums[i], p[k], low, high);
                        else weigh_more(sums[i], p[k], low, high);
                    } else {
                        if (k == 0) multiply_first(sums[i], q[k], low, high);
                        else multiply_more(sums[i], q[k], low, high);
                    }
                }
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                const float2 scale = load_pair(scales + stage + (eight < 16 ? K_SCALE_BYTES + 32 * (eight + i) : 32 * (eight - 16 + i)));
                const float left = -MAGIC * scale.x, right = -MAGIC * scale.y;
                const float y0 = fmaf(__int_as_float(sums[i][0]), scale.x, left);
                const float y1 = fmaf(__int_as_float(sums[i][1]), scale.y, right);
                const float y2 = fmaf(__int_as_float(sums[i][2]), scale.x, left);
                const float y3 = fmaf(__int_as_float(sums[i][3]), scale.y, right);
                if (eight < 16) {
                    float(&to)[4] = o[eight % 16 + i];
                    to[0] = fmaf(y0, b0, to[0]);
                    to[1] = fmaf(y1, b0, to[1]);
                    to[2] = fmaf(y2, b1, to[2]);
                    to[3] = fmaf(y3, b1, to[3]);
                } else {
                    float(&to)[4] = x[eight % 16 + i];
                    to[0] = y0, to[1] = y1, to[2] = y2, to[3] = y3;
                }
            }
        }
    };
    auto weigh = [&](int tile, auto is_last) {
        if constexpr (decltype(is_last)::value) {
            const int valid = n_keys - tile * KEYS - 2 * pair;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                if (8 * i >= valid) x[i][0] = x[i][2] = -1e30f;
                if (8 * i + 1 >= valid) x[i][1] = x[i][3] = -1e30f;
            }
        }
        float top0 = -1e30f, top1 = -1e30f;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            top0 = fmaxf(top0, fmaxf(x[i][0], x[i][1]));
            top1 = fmaxf(top1, fmaxf(x[i][2], x[i][3]));
        }
        top0 = quad_max(top0) * a0;
        top1 = quad_max(top1) * a1;
        // The row's maximum moves only when a tile exceeds it by 2^8: float32 has room for that.
        if (__any_sync(~0u, top0 > max0 + 8.f || top1 > max1 + 8.f)) {
            const float new0 = fmaxf(max0, top0), new1 = fmaxf(max1, top1);
            const float keep0 = power2(max0 - new0), keep1 = power2(max1 - new1);
            max0 = new0;
            max1 = new1;
            sum0 *= keep0;
            sum1 *= keep1;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                o[i][0] *= keep0;
                o[i][1] *= keep0;
                o[i][2] *= keep1;
                o[i][3] *= keep1;
            }
        }
        b0 = power2(top0 - max0);
        b1 = power2(top1 - max1);
        const float shift0 = SHIFT - top0, shift1 = SHIFT - top1;
        int count0 = 0, count1 = 0;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            x[i][0] = power2(fmaf(x[i][0], a0, shift0));
            x[i][1] = power2(fmaf(x[i][1], a0, shift0));
            x[i][2] = power2(fmaf(x[i][2], a1, shift1));
            x[i][3] = power2(fmaf(x[i][3], a1, shift1));
            if (i % 2) {
                p[i / 4][i % 4 / 2 * 2] = pack_bytes(x[i - 1][0], x[i - 1][1], x[i][0], x[i][1]);
                p[i / 4][i % 4 / 2 * 2 + 1] = pack_bytes(x[i - 1][2], x[i - 1][3], x[i][2], x[i][3]);
                count0 = sum_bytes(p[i / 4][i % 4 / 2 * 2], count0);
                count1 = sum_bytes(p[i / 4][i % 4 / 2 * 2 + 1], count1);
            }
        }
        sum0 = fmaf(b0, (float)count0, sum0);
        sum1 = fmaf(b1, (float)count1, sum1);
    };
    // Stage g is the round (g + 1) / 2 of its barriers.
    auto wait_full = [&](int g) { barrier_wait(base + FULL + (g & 1) * 8, (uint32)(g + 1) >> 1 & 1); };
    auto wait_done = [&](int g) { barrier_wait(base + DONE + (g & 1) * 8, (uint32)(g + 1) >> 1 & 1); };
    auto this_thread = [] { return READ_ANEW ? thread_number() : (int)threadIdx.x; };
    auto arrive_done = [&](int g) {
        __syncwarp();
        if (this_thread() % 32 == 0) barrier_arrive(base + DONE + (g & 1) * 8);
    };

    if (warp >= 4) turn_wait(mine);
    wait_full(-1);
    multiply(-1, No(), Yes());
    arrive_done(-1);
    turn_pass(theirs);
    for (int g = 0; g < n_tiles - 1; g++) {
        weigh(g, No());
        wait_full(g);
        turn_wait(mine);
        multiply(g, Yes(), Yes());
        arrive_done(g);
        turn_pass(theirs);
        if (this_thread() < COPIERS) {
            wait_done(g - 1);  // stage g + 1 is copied to its place
            load_stage(g + 1);
        }
    }
    weigh(n_tiles - 1, Yes());
    wait_full(n_tiles - 1);
    turn_wait(mine);
    multiply(n_tiles - 1, Yes(), No());
    if (this_thread() < COPIERS) turn_pass(theirs);

    const int thread = thread_number();
    const int last_row = first_row + thread / 32 * 16 + thread % 32 / 4, channel = head * HEAD + 2 * (thread % 4);
    const float scale0 = 1.f / quad_sum(sum0), scale1 = 1.f / quad_sum(sum1);
    uint32* line0 = (uint32*)(out + (long long)last_row * line + channel);
    uint32* line1 = line0 + 4 * line;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const float left = v_centre[channel + 8 * i], right = v_centre[channel + 8 * i + 1];
        if (last_row < n_queries) line0[4 * i] = pack_bf16(fmaf(o[i][0], scale0, left), fmaf(o[i][1], scale0, right));
        if (last_row + 8 < n_queries) line1[4 * i] = pack_bf16(fmaf(o[i][2], scale1, left), fmaf(o[i][3], scale1, right));
    }
}
