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
// A block of eight warps computes 128 queries; a warp owns 16 of them. `mma.sync` m16n8k32 multiplies, `ldmatrix` reads
// shared memory, and `cp.async` fetches the next tile meanwhile: instructions that all of these GPUs have.
//
// Integers become floats without an instruction: accumulators start at 0x4b400000, the bits of 12582912.f (1.5 * 2^23).
// Floats from 2^23 to 2^24 are one apart, so a sum n of magnitude below 2^22 = 4,194,304 reads as the float 12582912 + n.
// The largest sum is 255 * 127 * 128 = 4,145,280. The same addition rounds a float to the nearest integer.

typedef unsigned int uint32;
typedef unsigned short bf16;

constexpr int HEAD = 128;      // channels of a head
constexpr int KEYS = 128;      // keys of a tile
constexpr int WARPS = 8;
constexpr int STAGES = 2;      // tiles in shared memory
constexpr int GROUP = 4;       // eights of keys, or of channels, that are multiplied together
constexpr int ROWS = 16 * WARPS;  // queries of a block
constexpr int THREADS = 32 * WARPS;
constexpr int K_BYTES = KEYS * HEAD, V_BYTES = HEAD * KEYS, K_SCALE_BYTES = 4 * KEYS, V_SCALE_BYTES = 4 * HEAD;
constexpr int STAGE_BYTES = K_BYTES + V_BYTES + K_SCALE_BYTES + V_SCALE_BYTES;
constexpr float MAGIC = 12582912.f;
constexpr int MAGIC_BITS = 0x4b400000;
constexpr float LOG2_255 = 7.99435343686f;

__device__ __forceinline__ void copy_16(uint32 to, const void* from, int n_bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(n_bytes) : "memory");
}
__device__ __forceinline__ void copy_16_if(bool wanted, uint32 to, const void* from, int n_bytes) {
    asm volatile(
        "{\n.reg .pred wanted;\nsetp.ne.b32 wanted, %0, 0;\n@wanted cp.async.cg.shared.global [%1], [%2], 16, %3;\n}\n"
        ::"r"((int)wanted), "r"(to), "l"(from), "r"(n_bytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}
// Four 8 x 16-byte matrices; each lane names one row and receives four bytes of row lane / 4 of each matrix.
__device__ __forceinline__ void load_matrices(uint32 (&b)[4], uint32 at) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
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
// Four numbers in [0, 255], rounded to the nearest integer, as four bytes.
__device__ __forceinline__ uint32 pack_bytes(float a, float b, float c, float d) {
    const uint32 low = __byte_perm(__float_as_uint(a + MAGIC), __float_as_uint(b + MAGIC), 0x0040);
    const uint32 high = __byte_perm(__float_as_uint(c + MAGIC), __float_as_uint(d + MAGIC), 0x0040);
    return __byte_perm(low, high, 0x5410);
}
__device__ __forceinline__ int sum_bytes(uint32 x, int to) {
    int sum;
    asm("dp4a.u32.u32 %0, %1, %2, %3;" : "=r"(sum) : "r"(x), "r"(0x01010101), "r"(to));
    return sum;
}

struct Yes { static constexpr bool value = true; };
struct No { static constexpr bool value = false; };

// queries (n_queries, heads, 128), keys (128 n_tiles, heads, 128) int8; values int8 transposed: (heads, 128,
// 128 n_tiles), the keys of each 16 in the order in which a thread holds its scores (attention_int8.py). Numbers beyond
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

    // This thread's share of a tile, in pieces of 16 bytes: four of the keys, four of the values and, in 64 threads, one of
    // the scales. The number of a piece within 128 bytes is mixed with its row's number, so that the eight rows that
    // `ldmatrix` reads together lie in different banks.
    const int piece = threadIdx.x;
    uint32 k_from = (piece / 8) * line + head * HEAD + 16 * (piece % 8);
    uint32 v_from = (head * HEAD + piece / 8) * padded + 16 * (piece % 8);
    uint32 scale_from = head * padded + 4 * (piece % 32);
    const uint32 to = base + (piece / 8) * HEAD + ((piece % 8 ^ piece / 8 & 7) << 4);
    const uint32 scale_to = base + K_BYTES + V_BYTES + 16 * piece;
    int to_load = 0;
    // Copy the next tile into the next stage; after the last tile nothing is copied.
    auto load_tile = [&]() {
        const uint32 stage = to_load % STAGES * STAGE_BYTES;
        const int n_bytes = to_load < n_tiles ? 16 : 0;
#pragma unroll
        for (int i = 0; i < KEYS; i += THREADS / 8) {
            copy_16(to + stage + i * HEAD, keys + k_from + i * line, n_bytes);
            copy_16(to + stage + K_BYTES + i * KEYS, values + v_from + i * padded, n_bytes);
        }
        copy_16_if(piece < 32, scale_to + stage, k_scale + scale_from, n_bytes);
        copy_16_if(piece >= 32 && piece < 64, scale_to + stage, v_scale + scale_from, n_bytes);
        copy_commit();
        if (++to_load < n_tiles) {
            k_from += KEYS * line;
            v_from += KEYS;
            scale_from += KEYS;
        }
    };

#pragma unroll
    for (int i = 0; i < STAGES - 1; i++) load_tile();

    const int row = first_row + warp * 16 + quad;
    const bool has0 = row < n_queries, has1 = row + 8 < n_queries;
    uint32 q[4][4];
    {
        const signed char* at = queries + row * line + head * HEAD + 4 * pair;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            q[i][0] = has0 ? *(const uint32*)(at + 32 * i) : 0;
            q[i][1] = has1 ? *(const uint32*)(at + 8 * line + 32 * i) : 0;
            q[i][2] = has0 ? *(const uint32*)(at + 32 * i + 16) : 0;
            q[i][3] = has1 ? *(const uint32*)(at + 8 * line + 32 * i + 16) : 0;
        }
    }
    const float a0 = has0 ? q_scale[(long long)head * n_queries + row] * factor : factor;
    const float a1 = has1 ? q_scale[(long long)head * n_queries + row + 8] * factor : factor;

    // The shared addresses that this lane passes to ldmatrix: row lane % 8 of matrix lane / 8, with the mixing undone.
    const uint32 matrix = lane / 8, in_matrix = lane % 8;
    const uint32 k_low = base + in_matrix * HEAD + ((matrix ^ in_matrix) << 4);
    const uint32 k_high = base + in_matrix * HEAD + (((4 + matrix) ^ in_matrix) << 4);
    const uint32 k_scales = base + K_BYTES + V_BYTES + 8 * pair;

    float o[16][4], max0 = -1e30f, max1 = -1e30f, sum0 = 0.f, sum1 = 0.f;
#pragma unroll
    for (int i = 0; i < 16; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) o[i][j] = 0.f;

    // Right sides of the products with GROUP x 8 rows of a tile, 128 bytes deep.
    auto load_group = [&](uint32 (&b)[GROUP][2][4], uint32 at) {
#pragma unroll
        for (int i = 0; i < GROUP; i++) {
            load_matrices(b[i][0], k_low + at + i * 8 * HEAD);
            load_matrices(b[i][1], k_high + at + i * 8 * HEAD);
        }
    };
    auto step = [&](int tile, auto is_last) {
        constexpr bool LAST = decltype(is_last)::value;
        copy_wait<STAGES - 2>();
        __syncthreads();
        load_tile();
        const uint32 stage = tile % STAGES * STAGE_BYTES;
        uint32 b[2][GROUP][2][4];
        int s[16][4];
        load_group(b[0], stage);
#pragma unroll
        for (int group = 0; group < 16 / GROUP; group++) {
            if (group + 1 < 16 / GROUP) load_group(b[(group + 1) % 2], stage + (group + 1) * GROUP * 8 * HEAD);
#pragma unroll
            for (int k = 0; k < 4; k++)
#pragma unroll
                for (int i = 0; i < GROUP; i++) {
                    const uint32(&right)[4] = b[group % 2][i][k / 2];
                    if (k == 0) multiply_first(s[group * GROUP + i], q[k], right[0], right[1]);
                    else multiply_more(s[group * GROUP + i], q[k], right[k % 2 * 2], right[k % 2 * 2 + 1]);
                }
        }
        float x[16][4], top0 = -1e30f, top1 = -1e30f;
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const float2 scale = load_pair(k_scales + stage + 32 * i);
            const float left = -MAGIC * scale.x, right = -MAGIC * scale.y;
            x[i][0] = fmaf(__int_as_float(s[i][0]), scale.x, left);
            x[i][1] = fmaf(__int_as_float(s[i][1]), scale.y, right);
            x[i][2] = fmaf(__int_as_float(s[i][2]), scale.x, left);
            x[i][3] = fmaf(__int_as_float(s[i][3]), scale.y, right);
        }
        if constexpr (LAST) {
            const int valid = n_keys - tile * KEYS - 2 * pair;
#pragma unroll
            for (int i = 0; i < 16; i++) {
                if (8 * i >= valid) x[i][0] = x[i][2] = -1e30f;
                if (8 * i + 1 >= valid) x[i][1] = x[i][3] = -1e30f;
            }
        }
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
        load_group(b[0], stage + K_BYTES);
        const float b0 = power2(top0 - max0), b1 = power2(top1 - max1);
        const float shift0 = LOG2_255 - top0, shift1 = LOG2_255 - top1;
        uint32 p[4][4];
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
#pragma unroll
        for (int group = 0; group < 16 / GROUP; group++) {
            int t[GROUP][4];
            if (group + 1 < 16 / GROUP) load_group(b[(group + 1) % 2], stage + K_BYTES + (group + 1) * GROUP * 8 * KEYS);
#pragma unroll
            for (int k = 0; k < 4; k++)
#pragma unroll
                for (int i = 0; i < GROUP; i++) {
                    const uint32(&right)[4] = b[group % 2][i][k / 2];
                    if (k == 0) weigh_first(t[i], p[k], right[0], right[1]);
                    else weigh_more(t[i], p[k], right[k % 2 * 2], right[k % 2 * 2 + 1]);
                }
#pragma unroll
            for (int i = 0; i < GROUP; i++) {
                const float2 scale = load_pair(k_scales + K_SCALE_BYTES + stage + 32 * (group * GROUP + i));
                const float left = -MAGIC * scale.x, right = -MAGIC * scale.y;
                float(&to)[4] = o[group * GROUP + i];
                to[0] = fmaf(fmaf(__int_as_float(t[i][0]), scale.x, left), b0, to[0]);
                to[1] = fmaf(fmaf(__int_as_float(t[i][1]), scale.y, right), b0, to[1]);
                to[2] = fmaf(fmaf(__int_as_float(t[i][2]), scale.x, left), b1, to[2]);
                to[3] = fmaf(fmaf(__int_as_float(t[i][3]), scale.y, right), b1, to[3]);
            }
        }
    };

    for (int tile = 0; tile < n_tiles - 1; tile++) step(tile, No());
    step(n_tiles - 1, Yes());

    // The thread's number is read again, so that no address for the output occupies a register during the loop.
    int thread;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
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
