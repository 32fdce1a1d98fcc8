// 3x3x3 convolutions from and to 32 channels on Hopper's tensor cores, and their weight gradient.
//
// A block walks along the second axis (h) of a column of 4 x h x 64 voxels (d, h, w). Every input row, with its halo, is copied to shared
// memory once and all 27 taps are computed from there: a convolution that fetches its input for every tap is bound by the L2 cache.
//
// Shared memory holds 16-byte groups of 8 channels as [plane d][group][voxel w]: the layout without swizzle of wgmma, in which the next
// voxel is 16 bytes on, so that a tap along w is an address 16 bytes on. 66 voxels keep the copies of 4 groups free of bank conflicts.
// Only dy, in the weight gradient, is [plane d][voxel w][group ^ w / 2 % 4], the 64-byte swizzle: wgmma transposes that one faster.
//
// Compiled by NVRTC with KIND = bf16 or f16 and
// - STEM = 0: one or, with `more` = 1, two inputs of 32 channels, whose results are summed;
// - STEM = 1: an input of 4 channels as pairs of voxels (w - 1, w), w = 0 ... W, so that 8 channels are 16 bytes as well.
//   Two pairs, two voxels apart, hold the taps along w and a fourth whose weight is 0.

typedef unsigned short half_t;
typedef unsigned int u32;
typedef unsigned long long u64;

constexpr int WIDTH = 64, TILE_D = 4, RING = 4, X_RING = 3, DY_RING = 5, DY_ROWS = DY_RING + 2;
constexpr int GROUPS = STEM ? 1 : 4, TAPS_W = STEM ? 1 : 3, HALVES = STEM ? 1 : 2;  // of a voxel; products along w; of 16 channels a product
constexpr int GROUP = (WIDTH + 2) * 16, PLANE = GROUPS * GROUP, DY_ROW = WIDTH * 64;  // bytes of a row of voxels
constexpr int IN_SLOT = (TILE_D + 2) * PLANE, DY_PLANE = DY_ROWS * DY_ROW;
constexpr int PRODUCT = 2 * 3 * 32 * 16, WEIGHTS = 3 * TAPS_W * HALVES * PRODUCT;  // bytes of the weights of a product, of a source
constexpr int BARRIERS = 2 * RING * 8;  // bytes
constexpr int NEXT_GROUP = STEM ? 2 * 16 : GROUP;  // bytes from a product's first 8 channels to its second
constexpr int COMPUTERS = 512, COPIERS = 128, GRADIENT_THREADS = STEM ? 128 : 640, UNITS = STEM ? 3 : 18;

extern __shared__ __align__(1024) unsigned char shared[];

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
template <int PENDING>
__device__ __forceinline__ void wait_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
__device__ __forceinline__ void arrive(u32 barrier) { asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory"); }
__device__ __forceinline__ void wait_barrier(u32 barrier, int parity) {
    asm volatile("{\n.reg .pred p;\nagain_%=:\nmbarrier.try_wait.parity.shared.b64 p, [%0], %1;\n@!p bra again_%=;\n}" ::"r"(barrier), "r"(parity) : "memory");
}
__device__ __forceinline__ void transposed(u32 (&part)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(part[0]), "=r"(part[1]), "=r"(part[2]), "=r"(part[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ u64 descriptor(u32 address, int leading, int stride, u64 swizzle = 0) {
    return (u64)((address & 0x3FFFF) >> 4) | (u64)(leading >> 4) << 16 | (u64)(stride >> 4) << 32 | swizzle << 62;
}

__device__ __forceinline__ u32 packed(float low, float high) {
    u32 pair;
    asm("cvt.rn." TYPE "x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

__device__ __forceinline__ u32 larger(u32 a, u32 b) {
    u32 pair;
    asm("max.NaN." TYPE "x2 %0, %1, %2;" : "=r"(pair) : "r"(a), "r"(b));
    return pair;
}

__device__ __forceinline__ float2 unpacked(u32 pair) {
    float low, high;
    asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32." TYPE " %0, l;\ncvt.f32." TYPE " %1, h;\n}" : "=f"(low), "=f"(high) : "r"(pair));
    return make_float2(low, high);
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

// c (64 x 96) += a (64 x 16, registers) b (16 x 96, shared, n innermost)
__device__ __forceinline__ void product96(float (&c)[48], const u32 (&a)[4], u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n96k16.f32." TYPE "." TYPE
                 " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
                 "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47},"
                 " {%48,%49,%50,%51}, %52, 1, 1, 1, 1;"
                 : F16(c, 0), F16(c, 16), F16(c, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// This thread's share of the copies of a slot: PLANES planes of VOXELS voxels from (d, w) = (first_d, first_w), row by row along h.
template <int PLANES, int VOXELS, int GROUPS, int PITCH, int THREADS, bool SWIZZLE = false>
struct Copies {
    static constexpr int ALL = PLANES * VOXELS * GROUPS, EACH = (ALL + THREADS - 1) / THREADS;
    int from[EACH], to[EACH];  // offset in elements of row 0, -1 for a voxel outside the volume; bytes from the slot's start

    __device__ __forceinline__ Copies(int first_d, int first_w, int D, int H, int W, int pitch) {
#pragma unroll
        for (int k = 0; k < EACH; k++) {
            int i = threadIdx.x % THREADS + k * THREADS, voxel = i / GROUPS % VOXELS, plane = i / GROUPS / VOXELS;
            int d = first_d + plane, w = first_w + voxel;
            bool inside = d >= 0 && d < D && w >= 0 && w < W;
            from[k] = inside ? (d * H * W + w) * pitch + i % GROUPS * 8 : -1;
            to[k] = plane * PITCH + (SWIZZLE ? voxel * 64 + ((i ^ voxel >> 1) & 3) * 16 : i % GROUPS * GROUP + voxel * 16);
        }
    }
    __device__ __forceinline__ void row(u32 slot, const half_t* sample, int h, int H, int row_pitch) const {
        bool inside = h >= 0 && h < H;
#pragma unroll
        for (int k = 0; k < EACH; k++)
            if ((k + 1) * THREADS <= ALL || threadIdx.x % THREADS + k * THREADS < ALL) {
                bool exists = inside && from[k] >= 0;
                copy16(slot + to[k], sample + (exists ? from[k] + (long)h * row_pitch : 0), exists);
            }
    }
};

// y = sum over the sources of conv(x, weight), zero-padded. x, y: channels innermost, voxels x_pitch and y_pitch elements apart.
// With `shift`, one number for each of the 32 channels, y = max(sum + shift, 0): a folded batch norm and a ReLU.
// With SUMS, sums[block][2][channel] are the sums over the block's voxels of y, as it is rounded, and of its square: for a norm behind it.
// With NORM_GRADIENT, y is the gradient of relu(z[sample][0][channel] * before + z[sample][1][channel]) and is masked, so that it is that
// of what the ReLU takes; the sums are of that and of its product with `before`, which lies in memory as y does.
// weight: [source][kd][kw][group of 8 input channels][2 - kh][output channel][8 input channels].
enum Extra { NONE, SUMS, NORM_GRADIENT };
template <Extra EXTRA>
__device__ __forceinline__ void convolve(const half_t* x0, const half_t* x1, const half_t* weight, half_t* y, const float* shift, float* sums,
                                         const half_t* before, const float* z, int D, int H, int W, int x_pitch, int y_pitch, int span,
                                         int more) {
    const u32 weights = shared_address(shared), ring = weights + (1 + more) * WEIGHTS;
    const int tiles_w = (W + WIDTH - 1) / WIDTH, group = threadIdx.x >> 7, lane = threadIdx.x & 31, warp = (threadIdx.x >> 5) & 3;
    const int w0 = blockIdx.x % tiles_w * WIDTH, h0 = blockIdx.x / tiles_w * span, d0 = blockIdx.y * TILE_D;
    const int rows = min(span, H - h0), steps = (rows + 2) << more, in_W = W + STEM;
    const long in_volume = (long)D * H * in_W, volume = (long)D * H * W;
    x0 += blockIdx.z * in_volume * x_pitch, x1 += blockIdx.z * in_volume * x_pitch;

    const Copies<TILE_D + 2, WIDTH + 2, GROUPS, PLANE, COPIERS> copies(d0 - 1, w0 - 1 + STEM, D, H, in_W, x_pitch);
    auto fetch = [&](int step) {  // input row h0 - 1 + (step >> more) of source (step & more)
        if (step < steps)
            copies.row(ring + step % RING * IN_SLOT, (step & more) ? x1 : x0, h0 - 1 + (step >> more), H, in_W * x_pitch);
        end_copies();
    };
    for (int i = threadIdx.x; i < (1 + more) * WEIGHTS / 16; i += COMPUTERS + COPIERS) copy16(weights + i * 16, weight + i * 8, true);
    const u32 full = ring + RING * IN_SLOT, empty = full + RING * 8;
    if (threadIdx.x < RING) {
        asm volatile("mbarrier.init.shared.b64 [%0], 128;" ::"r"(full + threadIdx.x * 8));
        asm volatile("mbarrier.init.shared.b64 [%0], 16;" ::"r"(empty + threadIdx.x * 8));
    }
    float* const of_warps = (float*)(shared + (1 + more) * WEIGHTS + RING * IN_SLOT + BARRIERS);  // sums of 64
    float* const z_shared = of_warps + COMPUTERS / 32 * 64;
    if (EXTRA == NORM_GRADIENT && threadIdx.x < 64) z_shared[threadIdx.x] = z[blockIdx.z * 64 + threadIdx.x];
    end_copies();
    wait_copies<0>();
    __syncthreads();
    if (group == 4) {  // the warpgroup that copies; the four others, a plane of outputs each, wait for a slot and hand it back
        for (int step = 0; step < steps + 2; step++) {
            if (step >= RING && step < steps) wait_barrier(empty + step % RING * 8, (step / RING - 1) & 1);
            fetch(step);
            wait_copies<2>();
            if (step >= 2) arrive(full + (step - 2) % RING * 8);
        }
        return;
    }

    const int d = d0 + group, w = w0 + warp * 16 + (lane >> 2);
    half_t* out = y + (blockIdx.z * volume + ((long)d * H + h0) * W + w) * y_pitch + (lane & 3) * 8;
    float first[8], sum[48];  // where a sum begins; of output rows h - 1, h and h + 1, where h is the input row
#pragma unroll
    for (int i = 0; i < 8; i++) first[i] = EXTRA == NONE && shift ? shift[(lane & 3) * 8 + i] : 0;
#pragma unroll
    for (int i = 0; i < 48; i++) sum[i] = first[i % 16 / 4 * 2 + i % 2];
    u32 done[8] = {};    // the row that is ready: 8 channels of two voxels
    float total[16] = {};  // of this thread's voxels, channel by channel: the two sums
    const u32 least = shift ? 0 : packed(-__int_as_float(0x7f800000), -__int_as_float(0x7f800000));
    auto store = [&](int row) {
        if (row < 0 || d >= D) return;
        half_t* to = out + (long)row * W * y_pitch;
#pragma unroll
        for (int i = 0; i < 8; i += 4) {  // the first voxel, the second
            if (w + 2 * i >= W) continue;
            uint4* place = (uint4*)(to + 2 * i * y_pitch);
            if (EXTRA == NONE) {
                *place = make_uint4(larger(done[i], least), larger(done[i + 1], least), larger(done[i + 2], least), larger(done[i + 3], least));
                continue;
            }
            u32 factors[4] = {done[i], done[i + 1], done[i + 2], done[i + 3]};
            if (EXTRA == NORM_GRADIENT) {
                const uint4 read = *(const uint4*)(before + ((half_t*)place - y));
                factors[0] = read.x, factors[1] = read.y, factors[2] = read.z, factors[3] = read.w;
            }
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const float2 factor = unpacked(factors[k]);
                if (EXTRA == NORM_GRADIENT) {
                    const float* of_pair = z_shared + (lane & 3) * 8 + 2 * k;
                    const float2 scale = *(const float2*)of_pair, offset = *(const float2*)(of_pair + 32);
                    if (factor.x * scale.x + offset.x <= 0) done[i + k] &= 0xFFFF0000;
                    if (factor.y * scale.y + offset.y <= 0) done[i + k] &= 0x0000FFFF;
                }
                const float2 value = unpacked(done[i + k]);
                total[2 * k] += value.x, total[2 * k + 1] += value.y;
                total[8 + 2 * k] += value.x * factor.x, total[9 + 2 * k] += value.y * factor.y;
            }
            *place = make_uint4(done[i], done[i + 1], done[i + 2], done[i + 3]);
        }
    };
#pragma unroll 1
    for (int step = 0; step < steps; step++) {
        wait_barrier(full + step % RING * 8, step / RING & 1);
        const u32 a = ring + step % RING * IN_SLOT + group * PLANE, b = weights + (step & more) * WEIGHTS;
        begin_products();
#pragma unroll
        for (int kd = 0; kd < 3; kd++)
#pragma unroll
            for (int kw = 0; kw < TAPS_W; kw++)
#pragma unroll
                for (int half = 0; half < HALVES; half++)
                    product96(sum, descriptor(a + kd * PLANE + kw * 16 + half * 2 * GROUP, NEXT_GROUP, 128),
                              descriptor(b + ((kd * TAPS_W + kw) * HALVES + half) * PRODUCT, PRODUCT / 2, 128));
        end_products();
        if ((step & more) == 0) store((step >> more) - 3);
        wait_products<0>();
        if (lane == 0) arrive(empty + step % RING * 8);
        if ((step & more) == more) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                done[i] = packed(sum[4 * i], sum[4 * i + 1]);
                done[4 + i] = packed(sum[4 * i + 2], sum[4 * i + 3]);
            }
#pragma unroll
            for (int i = 0; i < 16; i++) sum[i] = sum[16 + i], sum[16 + i] = sum[32 + i], sum[32 + i] = first[i / 4 * 2 + i % 2];
        }
    }
    store(rows - 1);
    if constexpr (EXTRA != NONE) {
#pragma unroll
        for (int i = 0; i < 16; i++) {  // over the 8 voxels of a warp that lie side by side
            for (int other = 4; other < 32; other *= 2) total[i] += __shfl_xor_sync(~0u, total[i], other);
            if (lane < 4) of_warps[(threadIdx.x >> 5) * 64 + i / 8 * 32 + lane * 8 + i % 8] = total[i];
        }
        asm volatile("bar.sync 1, %0;" ::"n"(COMPUTERS) : "memory");
        if (threadIdx.x >= 64) return;
        float all = 0;
        for (int i = 0; i < COMPUTERS / 32; i++) all += of_warps[i * 64 + threadIdx.x];
        sums[((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * 64 + threadIdx.x] = all;
    }
}

extern "C" __global__ void __launch_bounds__(COMPUTERS + COPIERS, 1)
convolution(const half_t* x0, const half_t* x1, const half_t* weight, half_t* y, const float* shift, int D, int H, int W, int x_pitch,
            int y_pitch, int span, int more) {
    convolve<NONE>(x0, x1, weight, y, shift, nullptr, nullptr, nullptr, D, H, W, x_pitch, y_pitch, span, more);
}

extern "C" __global__ void __launch_bounds__(COMPUTERS + COPIERS, 1)
summed_convolution(const half_t* x0, const half_t* x1, const half_t* weight, half_t* y, float* sums, int D, int H, int W, int x_pitch,
                   int y_pitch, int span, int more) {
    convolve<SUMS>(x0, x1, weight, y, nullptr, sums, nullptr, nullptr, D, H, W, x_pitch, y_pitch, span, more);
}

extern "C" __global__ void __launch_bounds__(COMPUTERS + COPIERS, 1)
norm_gradient_convolution(const half_t* x0, const half_t* x1, const half_t* weight, half_t* y, float* sums, const half_t* before, const float* z,
                          int D, int H, int W, int x_pitch, int y_pitch, int span, int more) {
    convolve<NORM_GRADIENT>(x0, x1, weight, y, nullptr, sums, before, z, D, H, W, x_pitch, y_pitch, span, more);
}

// parts[block][unit][kh][16][output channel]: this block's share of sum over voxels of x[voxel + tap - 1] dy[voxel].
// A unit is a warp's 16 rows: taps (kd, kw) and halves of the input channels, or in a stem kd, and (kw, input channel) for its rows.
// Five warpgroups have two units more than there are, a stem's one has one more: these are computed and dropped.
extern "C" __global__ void __launch_bounds__(GRADIENT_THREADS, 1)
weight_gradient(const half_t* x, const half_t* dy, float* parts, int D, int H, int W, int x_pitch, int dy_pitch, int span) {
    const u32 dy_ring = shared_address(shared), x_ring = dy_ring + TILE_D * DY_PLANE;
    const int tiles_w = (W + WIDTH - 1) / WIDTH, lane = threadIdx.x & 31;
    const int w0 = blockIdx.x % tiles_w * WIDTH, h0 = blockIdx.x / tiles_w * span, d0 = blockIdx.y * TILE_D;
    const int rows = min(span, H - h0), in_W = W + STEM;
    x += blockIdx.z * (long)D * H * in_W * x_pitch, dy += blockIdx.z * (long)D * H * W * dy_pitch;

    const Copies<TILE_D + 2, WIDTH + 2, GROUPS, PLANE, GRADIENT_THREADS> x_copies(d0 - 1, w0 - 1 + STEM, D, H, in_W, x_pitch);
    const Copies<TILE_D, WIDTH, 4, DY_PLANE, GRADIENT_THREADS, true> dy_copies(d0, w0, D, H, W, dy_pitch);
    auto fetch_dy = [&](int row) {  // the ring's first two rows again behind its last: any three rows that follow each other are one operand
        for (int slot = (row + 1) % DY_RING; slot < DY_ROWS; slot += DY_RING)
            dy_copies.row(dy_ring + slot * DY_ROW, dy, h0 + row, H, W * dy_pitch);
    };
    auto fetch_x = [&](int row) { x_copies.row(x_ring + row % X_RING * IN_SLOT, x, h0 + row, H, in_W * x_pitch); };
    fetch_x(0), fetch_dy(-1), fetch_dy(0), fetch_dy(1), end_copies();
    if (rows > 1) fetch_x(1), fetch_dy(2);
    end_copies();

    const int unit = threadIdx.x >> 5, tap = min(unit >> 1, 8), second = (lane >> 3) & 1;  // the second 8 rows of the unit
    const u32 offset = ((lane & 7) + (lane >> 4) * 8) * 16 + (STEM ? min(unit, 2) * PLANE + second * NEXT_GROUP
                                                                  : tap / 3 * PLANE + tap % 3 * 16 + ((unit & 1) * 2 + second) * GROUP);
    float sum[48] = {};  // with dy's rows `row - 1`, `row` and `row + 1`: kh = 2, 1, 0
    u32 x_part[2][2][4];
    for (int row = 0; row < rows; row++) {
        wait_copies<1>();
        __syncthreads();
        if (row + 2 < rows) fetch_x(row + 2), fetch_dy(row + 3);
        end_copies();
#pragma unroll 1
        for (int plane = 0; plane < TILE_D; plane++) {
            const u32 a = x_ring + row % X_RING * IN_SLOT + plane * PLANE + offset, b = dy_ring + plane * DY_PLANE + row % DY_RING * DY_ROW;
#pragma unroll
            for (int half = 0; half < 2; half++) {  // 32 voxels; the products of one half run while the other is loaded
#pragma unroll
                for (int k = 0; k < 2; k++) transposed(x_part[half][k], a + (half * 2 + k) * 256);
                begin_products();
#pragma unroll
                for (int k = 0; k < 2; k++) product96(sum, x_part[half][k], descriptor(b + (half * 2 + k) * 1024, DY_ROW, 512, 2));
                end_products();
                wait_products<1>();
            }
        }
        wait_products<0>();
    }
    if (unit >= UNITS) return;
    const long block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
#pragma unroll
    for (int kh = 0; kh < 3; kh++) {
        const float* part = sum + (2 - kh) * 16;
        float* to = parts + ((block * UNITS + unit) * 3 + kh) * 512 + (lane >> 2) * 32 + (lane & 3) * 2;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            *(float2*)(to + i * 8) = make_float2(part[4 * i], part[4 * i + 1]);
            *(float2*)(to + i * 8 + 256) = make_float2(part[4 * i + 2], part[4 * i + 3]);
        }
    }
}
