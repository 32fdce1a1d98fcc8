// 3x3x3 convolutions from and to 32 channels on Hopper's tensor cores, and their weight gradient.
//
// A block walks along the second axis (h) of a column of 4 x h x 64 voxels (d, h, w). Every input row, with its halo, is copied to shared
// memory once and all 27 taps are computed from there: a convolution that fetches its input for every tap is bound by the L2 cache.
//
// Shared memory holds 16-byte groups of 8 channels as [plane d][group][voxel w]: the layout without swizzle of wgmma, in which the next
// voxel is 16 bytes on, so that a tap along w is an address 16 bytes on. 66 voxels keep the copies of 4 groups free of bank conflicts.
//
// Compiled by NVRTC with KIND = bf16 or f16 and SOURCES = 1 or 2: inputs of 32 channels each, whose results are summed.

typedef unsigned short half_t;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int WIDTH = 64, TILE_D = 4, TAPS = 27;
constexpr int GROUP = (WIDTH + 2) * 16, PLANE = 4 * GROUP;      // bytes of 8 and of 32 channels of a row
constexpr int IN_SLOT = (TILE_D + 2) * PLANE, OUT_SLOT = TILE_D * PLANE;
constexpr int TAP_ROW = 3 * 32 * 64;                            // bytes of the weights of three taps along h
constexpr int RING = 4, X_RING = 3, DY_RING = 5;

#define QUOTE_(x) #x
#define QUOTE(x) QUOTE_(x)
#define TYPE QUOTE(KIND)

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void copy16(u32 to, const void* from, bool exists) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(exists ? 16 : 0) : "memory");
}
__device__ __forceinline__ void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wait_products() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

__device__ __forceinline__ u64 descriptor(u32 address, int leading, int stride) {
    return (u64)((address & 0x3FFFF) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32;
}

__device__ __forceinline__ u32 packed(float low, float high) {
    u32 pair;
    asm("cvt.rn." TYPE "x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

#define F4(a, i) "+f"(a[i]), "+f"(a[i + 1]), "+f"(a[i + 2]), "+f"(a[i + 3])
#define F16(a, i) F4(a, i), F4(a, i + 4), F4(a, i + 8), F4(a, i + 12)

// c (64 x 96) += a (64 x 16, shared) b (16 x 96, shared)
__device__ __forceinline__ void product96(float (&c)[48], u64 a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n96k16.f32." TYPE "." TYPE
                 " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
                 "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47}, %48, %49, 1, 1, 1, 0, 0;"
                 : F16(c, 0), F16(c, 16), F16(c, 32)
                 : "l"(a), "l"(b));
}

// c (64 x 32) += a (64 x 16, registers) b (16 x 32, shared, n innermost)
__device__ __forceinline__ void product32(float* c, const u32* a, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE "." TYPE
                 " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, {%16,%17,%18,%19}, %20, 1, 1, 1, 1;"
                 : F16(c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// This thread's share of the copies of a slot: PLANES planes of VOXELS voxels from (d, w) = (first_d, first_w), row by row along h.
template <int PLANES, int VOXELS, int THREADS>
struct Copies {
    static constexpr int ALL = PLANES * VOXELS * 4, EACH = (ALL + THREADS - 1) / THREADS;
    int from[EACH], to[EACH];  // offset in elements of row 0, -1 for a voxel outside the volume; bytes from the slot's start

    __device__ __forceinline__ Copies(int first_d, int first_w, int D, int H, int W, int pitch) {
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            int i = threadIdx.x + k * THREADS, voxel = (i >> 2) % VOXELS, plane = (i >> 2) / VOXELS;
            int d = first_d + plane, w = first_w + voxel;
            bool inside = d >= 0 && d < D && w >= 0 && w < W;
            from[k] = inside ? (d * H * W + w) * pitch + (i & 3) * 8 : -1;
            to[k] = plane * PLANE + (i & 3) * GROUP + voxel * 16;
        }
    }
    __device__ __forceinline__ void row(u32 slot, const half_t* sample, int h, int H, int row_pitch) const {
        bool inside = h >= 0 && h < H;
#pragma unroll
        for (int k = 0; k < EACH; k++)
            if ((k + 1) * THREADS <= ALL || threadIdx.x + k * THREADS < ALL) {
                bool exists = inside && from[k] >= 0;
                copy16(slot + to[k], sample + (exists ? from[k] + (long)h * row_pitch : 0), exists);
            }
    }
};

// y = sum over the sources of conv(x, weight), zero-padded. x, y: channels innermost, voxels x_pitch and y_pitch elements apart.
// weight: [source][kd][kw][8-channel group of the input][row 2-kh, output channel, as `pack_weight` orders them][8 input channels].
extern "C" __global__ void __launch_bounds__(512, 1)
convolution(const half_t* x0, const half_t* x1, const half_t* weight, half_t* y, int D, int H, int W, int x_pitch, int y_pitch, int span) {
    extern __shared__ __align__(128) unsigned char shared[];
    const u32 weights = shared_address(shared), ring = weights + SOURCES * 9 * TAP_ROW;
    const int tiles_w = (W + WIDTH - 1) / WIDTH, group = threadIdx.x >> 7, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    const int w0 = blockIdx.x % tiles_w * WIDTH, h0 = blockIdx.x / tiles_w * span, d0 = blockIdx.y * TILE_D;
    const int rows = min(span, H - h0), steps = (rows + 2) * SOURCES;
    const long volume = (long)D * H * W;
    x0 += blockIdx.z * volume * x_pitch, x1 += blockIdx.z * volume * x_pitch;

    const Copies<TILE_D + 2, WIDTH + 2, 512> copies(d0 - 1, w0 - 1, D, H, W, x_pitch);
    auto fetch = [&](int step) {  // input row h0 - 1 + step / SOURCES of source step % SOURCES
        if (step < steps)
            copies.row(ring + step % RING * IN_SLOT, step % SOURCES ? x1 : x0, h0 - 1 + step / SOURCES, H, W * x_pitch);
        end_copies();
    };
    for (int i = threadIdx.x; i < SOURCES * 9 * TAP_ROW / 16; i += 512) copy16(weights + i * 16, weight + i * 8, true);
    for (int step = 0; step < RING - 1; step++) fetch(step);

    const int d = d0 + group, w = w0 + warp * 16 + (lane >> 2);
    half_t* out = y + (blockIdx.z * volume + ((long)d * H + h0) * W + w) * y_pitch + (lane & 3) * 8;
    float sum[48] = {};  // of output rows h - 1, h and h + 1, where h is the input row
    u32 done[8] = {};    // the row that is ready: 8 channels of two voxels
    auto store = [&](int row) {
        if (row < 0 || d >= D) return;
        half_t* to = out + (long)row * W * y_pitch;
        if (w < W) *(uint4*)to = make_uint4(done[0], done[1], done[2], done[3]);
        if (w + 8 < W) *(uint4*)(to + 8 * y_pitch) = make_uint4(done[4], done[5], done[6], done[7]);
    };
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        wait_copies<RING - 2>();
        __syncthreads();
        const u32 a = ring + step % RING * IN_SLOT + group * PLANE, b = weights + step % SOURCES * 9 * TAP_ROW;
        begin_products();
#pragma unroll
        for (int kd = 0; kd < 3; kd++)
#pragma unroll
            for (int kw = 0; kw < 3; kw++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    product96(sum, descriptor(a + kd * PLANE + kw * 16 + half * 2 * GROUP, GROUP, 128),
                              descriptor(b + (kd * 3 + kw) * TAP_ROW + half * TAP_ROW / 2, TAP_ROW / 4, 128));
        end_products();
        fetch(step + RING - 1);
        if (step % SOURCES == 0) store(step / SOURCES - 3);
        wait_products();
        if (step % SOURCES == SOURCES - 1) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                done[i] = packed(sum[4 * i], sum[4 * i + 1]);
                done[4 + i] = packed(sum[4 * i + 2], sum[4 * i + 3]);
            }
#pragma unroll
            for (int i = 0; i < 16; i++) sum[i] = sum[16 + i], sum[16 + i] = sum[32 + i], sum[32 + i] = 0;
        }
    }
    store(rows - 1);
}

// parts[block][kd * 3 + kw][kh][input channel][output channel]: this block's share of sum over voxels of x[voxel + tap - 1] dy[voxel].
// Five warpgroups hold two taps (kd, kw) each, all kh of them; the tenth is computed and dropped.
extern "C" __global__ void __launch_bounds__(640, 1)
weight_gradient(const half_t* x, const half_t* dy, float* parts, int D, int H, int W, int x_pitch, int dy_pitch, int span) {
    extern __shared__ __align__(128) unsigned char shared[];
    const u32 x_ring = shared_address(shared), dy_ring = x_ring + X_RING * IN_SLOT;
    const int tiles_w = (W + WIDTH - 1) / WIDTH, group = threadIdx.x >> 7, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    const int w0 = blockIdx.x % tiles_w * WIDTH, h0 = blockIdx.x / tiles_w * span, d0 = blockIdx.y * TILE_D;
    const int rows = min(span, H - h0);
    const long volume = (long)D * H * W;
    x += blockIdx.z * volume * x_pitch, dy += blockIdx.z * volume * dy_pitch;

    const Copies<TILE_D + 2, WIDTH + 2, 640> x_copies(d0 - 1, w0 - 1, D, H, W, x_pitch);
    const Copies<TILE_D, WIDTH, 640> dy_copies(d0, w0, D, H, W, dy_pitch);
    auto fetch_dy = [&](int row) { dy_copies.row(dy_ring + (row + 1) % DY_RING * OUT_SLOT, dy, h0 + row, H, W * dy_pitch); };
    auto fetch_x = [&](int row) { x_copies.row(x_ring + row % X_RING * IN_SLOT, x, h0 + row, H, W * x_pitch); };
    fetch_x(0), fetch_dy(-1), fetch_dy(0), fetch_dy(1), end_copies();
    if (rows > 1) fetch_x(1), fetch_dy(2);
    end_copies();

    const int tap = group * 2 + (warp >> 1), kd = min(tap, 8) / 3, kw = min(tap, 8) % 3;
    const u32 a_offset = kd * PLANE + ((warp & 1) * 2 + ((lane >> 3) & 1)) * GROUP + ((lane & 7) + (lane >> 4) * 8 + kw) * 16;
    float sum[3][16] = {};
    for (int row = 0; row < rows; row++) {
        wait_copies<1>();
        __syncthreads();
        if (row + 2 < rows) fetch_x(row + 2), fetch_dy(row + 3);
        end_copies();
        for (int plane = 0; plane < TILE_D; plane++) {
            const u32 a = x_ring + row % X_RING * IN_SLOT + plane * PLANE + a_offset;
            u32 x_part[4][4];
#pragma unroll
            for (int k = 0; k < 4; k++)
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                             : "=r"(x_part[k][0]), "=r"(x_part[k][1]), "=r"(x_part[k][2]), "=r"(x_part[k][3])
                             : "r"(a + k * 256));
            begin_products();
#pragma unroll
            for (int kh = 0; kh < 3; kh++) {
                const u32 b = dy_ring + (row + 2 - kh) % DY_RING * OUT_SLOT + plane * PLANE;  // dy row `row + 1 - kh`
#pragma unroll
                for (int k = 0; k < 4; k++) product32(sum[kh], x_part[k], descriptor(b + k * 256, 128, GROUP));
            }
            end_products();
            wait_products();
        }
    }
    if (tap > 8) return;
    const long block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
#pragma unroll
    for (int kh = 0; kh < 3; kh++) {
        float* to = parts + (block * TAPS + tap * 3 + kh) * 1024 + ((warp & 1) * 16 + (lane >> 2)) * 32 + (lane & 3) * 2;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            *(float2*)(to + i * 8) = make_float2(sum[kh][4 * i], sum[kh][4 * i + 1]);
            *(float2*)(to + i * 8 + 256) = make_float2(sum[kh][4 * i + 2], sum[kh][4 * i + 3]);
        }
    }
}
