// The instructions of Hopper (sm_90a) that both attention kernels use and that C++ has no name for. The kernels are
// compiled at run time without CUDA's own headers (nvrtc.py), so this header defines the few types too.
//
// Terms. A CTA is one block of threads; a warp has 32 threads, a warpgroup four warps. A cluster is two CTAs that can
// write to each other's shared memory. A tile is a part of queries, keys or values in shared memory. `wgmma` multiplies
// tiles for a whole warpgroup. An `mbarrier` lets threads wait for bytes or for other threads; its parity changes with
// each use.

typedef unsigned int uint32;
typedef unsigned long long uint64;
typedef unsigned short bf16;

struct alignas(64) TensorMap { uint64 opaque[16]; };

// The division of work in both kernels: warpgroup 0 loads tiles, the others multiply them.
constexpr int HEAD = 128;           // head dimension
constexpr int ROWS = 64;            // query rows of a warpgroup
constexpr int CONSUMERS = 2;        // warpgroups that multiply
constexpr int THREADS = 128 * (CONSUMERS + 1);

// The number of this thread's warpgroup. The shuffle shows the compiler that all threads of a warp have the same number.
__device__ __forceinline__ int warpgroup() { return __shfl_sync(~0u, (int)threadIdx.x / 128, 0); }
// The warpgroup that loads gives registers up, and the warpgroups that multiply get them.
__device__ __forceinline__ void keep_few_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 24;"); }
__device__ __forceinline__ void take_many_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 240;"); }

__device__ __forceinline__ uint32 shared_address(const void* p) { return (uint32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void barrier_init(uint32 bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}
__device__ __forceinline__ void barrier_expect(uint32 bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
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

// Load a tile into both CTAs of a cluster. In each CTA the barrier at this address counts the bytes.
__device__ __forceinline__ void load_tile_for_both(
    uint32 to, const TensorMap* map, uint32 bar, int column, int head, int row) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
        " [%0], [%1, {%3, %4, %5}], [%2], %6;"
        ::"r"(to), "l"((uint64)map), "r"(bar), "r"(column), "r"(head), "r"(row), "h"((unsigned short)3) : "memory");
}
__device__ __forceinline__ int cluster_rank() {
    uint32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}
// Wait until all threads of the cluster have reached this call.
__device__ __forceinline__ void cluster_wait() {
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// Make the initialised barriers visible to the other CTA and to the tensor memory accelerator.
__device__ __forceinline__ void barriers_initialised() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Arrive at the barrier that CTA number `rank` of the cluster has at this address.
__device__ __forceinline__ void barrier_arrive_at(uint32 bar, int rank) {
    asm volatile(
        "{\n.reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(bar), "r"(rank) : "memory");
}

// The address of the first tile in shared memory: a multiple of 1024 bytes, from which the swizzle (the order in which
// 16-byte pieces are mixed over the banks) counts.
__device__ __forceinline__ uint32 first_tile(const void* shared) { return (shared_address(shared) + 1023) & ~1023u; }

#define R8(C, a, i) C(a[i]), C(a[i + 1]), C(a[i + 2]), C(a[i + 3]), C(a[i + 4]), C(a[i + 5]), C(a[i + 6]), C(a[i + 7])
#define R64(C, a) R8(C, a, 0), R8(C, a, 8), R8(C, a, 16), R8(C, a, 24), R8(C, a, 32), R8(C, a, 40), R8(C, a, 48), R8(C, a, 56)
#define INT_REGISTER(x) "+r"(x)
#define FLOAT_REGISTER(x) "+f"(x)
#define NAMES_64 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
#define NAMES_88 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87}"
#define NAMES_68 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
    "%64, %65, %66, %67}"

// Shared-memory matrix descriptor with 128-byte swizzle and 1024 bytes from one group of eight rows to the next.
// low: address and leading offset, both in units of 16 bytes. In a cluster the upper bits of an address name the CTA;
// `low_part` removes them.
__device__ __forceinline__ uint64 descriptor(uint32 low) {
    uint64 whole;
    asm("mov.b64 %0, {%1, %2};" : "=l"(whole) : "r"(low), "r"((1024 >> 4) | (1u << 30)));
    return whole;
}
__device__ __forceinline__ uint32 low_part(uint32 address, int leading) {
    return (address & 0x3ffff) >> 4 | (uint32)(leading >> 4 << 16);
}

// o (64 x 128) += p (64 x 16, registers) v (16 x 128, columns contiguous), bf16
__device__ __forceinline__ void multiply_bf16(float (&o)[64], uint32 p0, uint32 p1, uint32 p2, uint32 p3, uint64 v) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " NAMES_64 ", {%64, %65, %66, %67}, %68, 1, 1, 1, 1;\n"
        : R64(FLOAT_REGISTER, o) : "r"(p0), "r"(p1), "r"(p2), "r"(p3), "l"(v));
}
__device__ __forceinline__ void multiply_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void multiply_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Wait until at most LEFT of the committed groups are still running.
template <int LEFT> __device__ __forceinline__ void multiply_finish() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

__device__ __forceinline__ float power2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
__device__ __forceinline__ uint32 pack_bf16(float low, float high) {
    uint32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
__device__ __forceinline__ int larger(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ float larger(float a, float b) { return fmaxf(a, b); }
__device__ __forceinline__ int quad_max(int x) {
    x = larger(x, __shfl_xor_sync(~0u, x, 1));
    return larger(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_max(float x) {
    x = larger(x, __shfl_xor_sync(~0u, x, 1));
    return larger(x, __shfl_xor_sync(~0u, x, 2));
}
// The largest score of each of a thread's two rows. The thread holds N scores, and its quad (four threads) whole rows.
template <typename Number, int N>
__device__ __forceinline__ void maxima(const Number (&s)[N], Number& top0, Number& top1) {
    Number a = larger(s[0], s[1]), b = larger(s[2], s[3]), c = larger(s[4], s[5]), d = larger(s[6], s[7]);
#pragma unroll
    for (int j = 2; j < N / 4; j += 2) {
        a = larger(a, larger(s[4 * j], s[4 * j + 1]));
        b = larger(b, larger(s[4 * j + 2], s[4 * j + 3]));
        c = larger(c, larger(s[4 * j + 4], s[4 * j + 5]));
        d = larger(d, larger(s[4 * j + 6], s[4 * j + 7]));
    }
    top0 = quad_max(larger(a, c));
    top1 = quad_max(larger(b, d));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ float infinity() { return __int_as_float(0x7f800000); }
// Set the scores of keys beyond the last one to `least`, in the last tile. valid: number of keys from this thread's
// first one on.
template <typename Number, int N> __device__ __forceinline__ void beyond_end(Number (&x)[N], int valid, Number least) {
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
        if (8 * j >= valid) x[4 * j] = x[4 * j + 2] = least;
        if (8 * j + 1 >= valid) x[4 * j + 1] = x[4 * j + 3] = least;
    }
}
