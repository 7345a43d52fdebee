/* A libcuda.so.1 without a GPU, for tests in subprocesses.
 *
 * What it offers is what the project, cuda-bindings and pycuda call. Device memory is memory of the
 * host, a stream runs its work at once, a capture records it, and a launch does it again. What a
 * real GPU refuses is refused here with the same error: no current context, copies outside of an
 * allocation, allocating or waiting during a capture, capturing a copy of memory that is not pinned.
 *
 * Settings (environment, read once):
 *   FAKE_CUDA_GPUS        how many GPUs                                     1
 *   FAKE_CUDA_SM          compute capability                                87
 *   FAKE_CUDA_NAME        name of the GPUs                                  Fake GPU
 *   FAKE_CUDA_VERSION     as cuDriverGetVersion says it                     13000
 *   FAKE_CUDA_INIT_ERROR  CUresult of cuInit                                0
 *   FAKE_CUDA_INTEGRATED  1 = shares the machine's memory                   0
 *   FAKE_CUDA_MEMORY      bytes of each GPU                                 8 GiB
 *   FAKE_CUDA_KERNELS     a shared object: kernels (tests/fakes/kernels.cpp) of any module
 *   FAKE_CUDA_NO_CAPTURE  begin, end or instantiate: where graphs fail      (nowhere)
 *
 * For tests: fakeEnqueue (work of a fake library), fakeCount (how often, how many are left),
 * fakeBreak (every later wait and launch gives this error, as after a fault on the GPU).
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef uint64_t Pointer; /* CUdeviceptr */
typedef void (*Function)(void *);

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    NO_BINARY_FOR_GPU = 209,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

static const struct {
    Result code;
    const char *name, *text;
} errors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
     "system has unsupported display driver / cuda driver combination"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

/* A piece of recorded work: a function where there is one, otherwise a copy. */
typedef struct {
    Function function;
    void *argument;
    void *to;
    const void *from;
    size_t bytes;
} Node;

typedef struct {
    Node *nodes;
    size_t count;
} Graph; /* graphs and executable graphs alike */

typedef struct {
    Graph *capture; /* NULL = not capturing */
    int invalid;
} Stream;

typedef struct Block {
    char *start;
    size_t bytes;
    struct Block *next;
} Block;

typedef struct {
    int device;
    int uses;
} Context;

enum { MAX_GPUS = 8, MAX_DEPTH = 16 };
static Context primary[MAX_GPUS];
static Block *device_blocks, *host_blocks;
static long allocations, launches, captures, streams, graphs, retained, capturing, modules;
static Result broken;
static int initialised;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread Context *stack[MAX_DEPTH];
static __thread int depth;

static long setting(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text && *text ? atol(text) : otherwise;
}

static int gpu_count(void)
{
    long count = setting("FAKE_CUDA_GPUS", 1);
    return count < 0 ? 0 : count > MAX_GPUS ? MAX_GPUS : (int)count;
}

static int fails_at(const char *place)
{
    const char *text = getenv("FAKE_CUDA_NO_CAPTURE");
    return text && strcmp(text, place) == 0;
}

static Context *current(void)
{
    return depth > 0 ? stack[depth - 1] : NULL;
}

/* A context whose last user released it is dead, also where it is still current. */
static int usable(void)
{
    return current() != NULL && current()->uses > 0;
}

static long left(const Block *block)
{
    long count = 0;
    for (; block; block = block->next) count++;
    return count;
}

static int lies_in(const Block *block, const void *start, size_t bytes)
{
    const char *from = start;
    for (; block; block = block->next)
        if (block->start <= from && from + bytes <= block->start + block->bytes) return 1;
    return 0;
}

static int lies_anywhere(const void *start, size_t bytes)
{
    return lies_in(device_blocks, start, bytes) || lies_in(host_blocks, start, bytes);
}

static void *add_block(Block **list, size_t bytes)
{
    Block *block = malloc(sizeof *block);
    block->start = malloc(bytes);
    block->bytes = bytes;
    memset(block->start, 0xA5, bytes); /* never zero by luck */
    pthread_mutex_lock(&lock);
    block->next = *list;
    *list = block;
    allocations++;
    pthread_mutex_unlock(&lock);
    return block->start;
}

static Result drop_block(Block **list, const void *start)
{
    Result result = INVALID_VALUE;
    pthread_mutex_lock(&lock);
    for (Block **at = list; *at; at = &(*at)->next) {
        if ((*at)->start == start) {
            Block *block = *at;
            *at = block->next;
            free(block->start);
            free(block);
            result = SUCCESS;
            break;
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}

/* -- the driver -- */

Result cuInit(unsigned flags)
{
    (void)flags;
    Result result = (Result)setting("FAKE_CUDA_INIT_ERROR", SUCCESS);
    if (result == SUCCESS && gpu_count() == 0) result = NO_DEVICE;
    initialised = result == SUCCESS;
    return result;
}

Result cuDriverGetVersion(int *version)
{
    *version = (int)setting("FAKE_CUDA_VERSION", 13000);
    return SUCCESS;
}

static const char *error_part(Result code, int text)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) return text ? errors[i].text : errors[i].name;
    return NULL;
}

Result cuGetErrorName(Result code, const char **name)
{
    *name = error_part(code, 0);
    return *name ? SUCCESS : INVALID_VALUE;
}

Result cuGetErrorString(Result code, const char **text)
{
    *text = error_part(code, 1);
    return *text ? SUCCESS : INVALID_VALUE;
}

Result cuDeviceGetCount(int *count)
{
    if (!initialised) return NOT_INITIALIZED;
    *count = gpu_count();
    return SUCCESS;
}

Result cuDeviceGet(int *device, int index)
{
    if (!initialised) return NOT_INITIALIZED;
    if (index < 0 || index >= gpu_count()) return INVALID_DEVICE;
    *device = index;
    return SUCCESS;
}

Result cuDeviceGetName(char *name, int size, int device)
{
    const char *given = getenv("FAKE_CUDA_NAME");
    (void)device;
    snprintf(name, (size_t)size, "%s", given ? given : "Fake GPU");
    return SUCCESS;
}

Result cuDeviceTotalMem_v2(size_t *bytes, int device)
{
    (void)device;
    *bytes = (size_t)setting("FAKE_CUDA_MEMORY", 8L << 30);
    return SUCCESS;
}

Result cuDeviceGetUuid_v2(unsigned char *uuid, int device)
{
    for (int i = 0; i < 16; i++) uuid[i] = (unsigned char)(i + 16 * device);
    return SUCCESS;
}

Result cuDeviceGetUuid(unsigned char *uuid, int device)
{
    return cuDeviceGetUuid_v2(uuid, device);
}

Result cuDeviceGetAttribute(int *value, int attribute, int device)
{
    long sm = setting("FAKE_CUDA_SM", 87);
    (void)device;
    switch (attribute) {
    case 18: *value = (int)setting("FAKE_CUDA_INTEGRATED", 0); return SUCCESS;
    case 75: *value = (int)(sm / 10); return SUCCESS;
    case 76: *value = (int)(sm % 10); return SUCCESS;
    default: *value = 1; return SUCCESS;
    }
}

Result cuDeviceGetPCIBusId(char *text, int size, int device)
{
    snprintf(text, (size_t)size, "0000:%02X:00.0", device + 1);
    return SUCCESS;
}

/* -- contexts -- */

Result cuDevicePrimaryCtxRetain(Context **context, int device)
{
    if (!initialised) return NOT_INITIALIZED;
    if (device < 0 || device >= gpu_count()) return INVALID_DEVICE;
    primary[device].device = device;
    primary[device].uses++;
    retained++;
    *context = &primary[device];
    return SUCCESS;
}

Result cuDevicePrimaryCtxRelease_v2(int device)
{
    if (primary[device].uses == 0) return INVALID_CONTEXT;
    primary[device].uses--;
    retained--;
    return SUCCESS;
}

/* What pycuda's make_context calls: a context of its own, that destroying frees. */
Result cuCtxCreate_v2(Context **context, unsigned flags, int device)
{
    (void)flags;
    if (!initialised) return NOT_INITIALIZED;
    if (depth == MAX_DEPTH) return INVALID_VALUE;
    *context = calloc(1, sizeof **context);
    (*context)->device = device;
    (*context)->uses = 1;
    stack[depth++] = *context;
    return SUCCESS;
}

Result cuCtxDestroy_v2(Context *context)
{
    context->uses = 0; /* kept: it may still lie on a stack */
    if (current() == context) depth--;
    return SUCCESS;
}

Result cuCtxPushCurrent_v2(Context *context)
{
    if (depth == MAX_DEPTH || context == NULL) return INVALID_VALUE;
    stack[depth++] = context;
    return SUCCESS;
}

Result cuCtxPopCurrent_v2(Context **context)
{
    if (depth == 0) return INVALID_CONTEXT;
    depth--;
    if (context) *context = stack[depth];
    return SUCCESS;
}

Result cuCtxSetCurrent(Context *context)
{
    if (context == NULL) {
        if (depth > 0) depth--;
        return SUCCESS;
    }
    if (depth == 0) depth = 1;
    stack[depth - 1] = context;
    return SUCCESS;
}

Result cuCtxGetCurrent(Context **context)
{
    *context = current();
    return SUCCESS;
}

Result cuCtxGetDevice(int *device)
{
    if (!usable()) return INVALID_CONTEXT;
    *device = current()->device;
    return SUCCESS;
}

Result cuCtxSynchronize(void)
{
    return usable() ? broken : INVALID_CONTEXT;
}

/* -- memory -- */

Result cuMemGetInfo_v2(size_t *free_bytes, size_t *total)
{
    if (!usable()) return INVALID_CONTEXT;
    *total = (size_t)setting("FAKE_CUDA_MEMORY", 8L << 30);
    *free_bytes = *total;
    for (Block *block = device_blocks; block; block = block->next) *free_bytes -= block->bytes;
    return SUCCESS;
}

Result cuMemAlloc_v2(Pointer *address, size_t bytes)
{
    size_t available, total;
    if (!usable()) return INVALID_CONTEXT;
    if (capturing) return CAPTURE_UNSUPPORTED;
    if (bytes == 0) return INVALID_VALUE;
    cuMemGetInfo_v2(&available, &total);
    if (bytes > available) return OUT_OF_MEMORY;
    *address = (Pointer)(uintptr_t)add_block(&device_blocks, bytes);
    return SUCCESS;
}

Result cuMemFree_v2(Pointer address)
{
    if (!usable()) return INVALID_CONTEXT;
    return drop_block(&device_blocks, (void *)(uintptr_t)address);
}

Result cuMemHostAlloc(void **address, size_t bytes, unsigned flags)
{
    (void)flags;
    if (!usable()) return INVALID_CONTEXT;
    if (capturing) return CAPTURE_UNSUPPORTED;
    if (bytes == 0) return INVALID_VALUE;
    *address = add_block(&host_blocks, bytes);
    return SUCCESS;
}

Result cuMemFreeHost(void *address)
{
    if (!usable()) return INVALID_CONTEXT;
    return drop_block(&host_blocks, address);
}

static void do_node(const Node *node)
{
    if (node->function) node->function(node->argument);
    else memcpy(node->to, node->from, node->bytes);
}

static Result put(Stream *stream, Node node)
{
    if (stream == NULL) return INVALID_HANDLE; /* the default stream is not for us */
    if (broken) return broken;
    if (stream->capture == NULL) {
        do_node(&node);
        return SUCCESS;
    }
    if (node.function == NULL && !(lies_anywhere(node.to, node.bytes) &&
                                   lies_anywhere(node.from, node.bytes))) {
        stream->invalid = 1;
        return CAPTURE_UNSUPPORTED;
    }
    Graph *graph = stream->capture;
    graph->nodes = realloc(graph->nodes, (graph->count + 1) * sizeof node);
    graph->nodes[graph->count++] = node;
    return SUCCESS;
}

Result cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, Stream *stream)
{
    void *target = (void *)(uintptr_t)to;
    if (!usable()) return INVALID_CONTEXT;
    if (stream == NULL) return INVALID_HANDLE;
    if (!lies_in(device_blocks, target, bytes)) return INVALID_VALUE;
    memset(target, value, bytes);
    return SUCCESS;
}

Result cuMemcpyHtoDAsync_v2(Pointer to, const void *from, size_t bytes, Stream *stream)
{
    void *target = (void *)(uintptr_t)to;
    if (!usable()) return INVALID_CONTEXT;
    if (!lies_in(device_blocks, target, bytes)) return INVALID_VALUE;
    return put(stream, (Node){.to = target, .from = from, .bytes = bytes});
}

Result cuMemcpyDtoHAsync_v2(void *to, Pointer from, size_t bytes, Stream *stream)
{
    const void *source = (const void *)(uintptr_t)from;
    if (!usable()) return INVALID_CONTEXT;
    if (!lies_in(device_blocks, source, bytes)) return INVALID_VALUE;
    return put(stream, (Node){.to = to, .from = source, .bytes = bytes});
}

Result cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, Stream *stream)
{
    const void *source = (const void *)(uintptr_t)from;
    if (!usable()) return INVALID_CONTEXT;
    if (!lies_in(device_blocks, source, bytes)) return INVALID_VALUE;
    return cuMemcpyHtoDAsync_v2(to, source, bytes, stream);
}

/* -- streams and graphs -- */

Result cuStreamCreate(Stream **stream, unsigned flags)
{
    (void)flags;
    if (!usable()) return INVALID_CONTEXT;
    *stream = calloc(1, sizeof **stream);
    streams++;
    allocations++;
    return SUCCESS;
}

Result cuStreamDestroy_v2(Stream *stream)
{
    if (!usable()) return INVALID_CONTEXT;
    streams--;
    free(stream);
    return SUCCESS;
}

Result cuStreamSynchronize(Stream *stream)
{
    if (!usable()) return INVALID_CONTEXT;
    if (stream && stream->capture) {
        stream->invalid = 1;
        return CAPTURE_UNSUPPORTED;
    }
    return broken;
}

Result cuStreamQuery(Stream *stream)
{
    return cuStreamSynchronize(stream);
}

static Graph *new_graph(void)
{
    graphs++;
    return calloc(1, sizeof(Graph));
}

Result cuGraphDestroy(Graph *graph)
{
    graphs--;
    free(graph->nodes);
    free(graph);
    return SUCCESS;
}

Result cuStreamBeginCapture_v2(Stream *stream, int mode)
{
    (void)mode;
    if (!usable()) return INVALID_CONTEXT;
    if (fails_at("begin")) return NOT_SUPPORTED;
    if (stream == NULL || stream->capture) return CAPTURE_UNSUPPORTED;
    stream->capture = new_graph();
    stream->invalid = 0;
    capturing++;
    captures++;
    return SUCCESS;
}

Result cuStreamEndCapture(Stream *stream, Graph **graph)
{
    if (stream == NULL || stream->capture == NULL) return INVALID_VALUE;
    *graph = stream->capture;
    stream->capture = NULL;
    capturing--;
    if (stream->invalid || fails_at("end")) {
        cuGraphDestroy(*graph);
        *graph = NULL;
        return CAPTURE_INVALIDATED;
    }
    return SUCCESS;
}

Result cuStreamIsCapturing(Stream *stream, int *status)
{
    *status = stream && stream->capture ? (stream->invalid ? 2 : 1) : 0;
    return SUCCESS;
}

Result cuGraphInstantiateWithFlags(Graph **program, const Graph *graph, unsigned long long flags)
{
    (void)flags;
    if (!usable()) return INVALID_CONTEXT;
    if (fails_at("instantiate")) return NOT_SUPPORTED;
    *program = new_graph();
    (*program)->count = graph->count;
    (*program)->nodes = malloc((graph->count + 1) * sizeof(Node));
    if (graph->count) memcpy((*program)->nodes, graph->nodes, graph->count * sizeof(Node));
    return SUCCESS;
}

Result cuGraphLaunch(const Graph *program, Stream *stream)
{
    if (!usable()) return INVALID_CONTEXT;
    if (broken) return broken;
    if (stream == NULL) return INVALID_HANDLE;
    launches++;
    for (size_t i = 0; i < program->count; i++) do_node(&program->nodes[i]);
    return SUCCESS;
}

Result cuGraphExecDestroy(Graph *program)
{
    return cuGraphDestroy(program);
}

/* -- kernels -- */

typedef void (*Kernel)(unsigned, unsigned, unsigned, unsigned, const void *);

Result cuModuleLoadData(void **module, const void *image)
{
    const char *kernels = getenv("FAKE_CUDA_KERNELS");
    if (!usable()) return INVALID_CONTEXT;
    if (image == NULL) return INVALID_VALUE;
    if (kernels == NULL) return NO_BINARY_FOR_GPU;
    *module = dlopen(kernels, RTLD_NOW | RTLD_LOCAL);
    if (*module == NULL) return INVALID_VALUE;
    modules++;
    return SUCCESS;
}

Result cuModuleUnload(void *module)
{
    if (!usable()) return INVALID_CONTEXT;
    modules--;
    (void)module; /* stays loaded: a launch that is under way may use it */
    return SUCCESS;
}

Result cuModuleGetFunction(void **function, void *module, const char *name)
{
    *function = dlsym(module, name);
    return *function ? SUCCESS : NOT_FOUND;
}

Result cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                      unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                      Stream *stream, void **parameters, void **extra)
{
    (void)shared;
    (void)extra;
    if (!usable()) return INVALID_CONTEXT;
    if (stream == NULL || function == NULL) return INVALID_HANDLE;
    if (broken) return broken;
    if (!grid_x || !grid_y || grid_z != 1 || block_z != 1) return INVALID_VALUE;
    if (block_x * block_y * block_z > 1024) return INVALID_VALUE;
    if (stream->capture) return CAPTURE_UNSUPPORTED; /* a real one can: nobody asks for it */
    ((Kernel)(uintptr_t)function)(grid_x, grid_y, block_x, block_y, parameters[0]);
    return SUCCESS;
}

/* -- for tests -- */

Result fakeEnqueue(Stream *stream, Function function, void *argument)
{
    if (!usable()) return INVALID_CONTEXT;
    return put(stream, (Node){.function = function, .argument = argument});
}

void fakeBreak(Result result)
{
    broken = result;
}

long fakeCount(const char *what)
{
    if (strcmp(what, "allocations") == 0) return allocations;
    if (strcmp(what, "launches") == 0) return launches;
    if (strcmp(what, "captures") == 0) return captures;
    if (strcmp(what, "contexts") == 0) return retained;
    if (strcmp(what, "depth") == 0) return depth;
    if (strcmp(what, "capturing") == 0) return capturing;
    if (strcmp(what, "modules") == 0) return modules;
    if (strcmp(what, "streams") == 0) return streams;
    if (strcmp(what, "graphs") == 0) return graphs;
    if (strcmp(what, "device") == 0) return left(device_blocks);
    if (strcmp(what, "pinned") == 0) return left(host_blocks);
    return -1;
}

/* -- the table that cuda-bindings looks its functions up in -- */

Result cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags);
Result cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags,
                           int *status);

#define PLAIN(name) {#name, (void *)name}
#define NEWER(name, number) {#name, (void *)name##_v##number}
static const struct {
    const char *name;
    void *function;
} table[] = {
    PLAIN(cuInit), PLAIN(cuDriverGetVersion), PLAIN(cuGetErrorName), PLAIN(cuGetErrorString),
    PLAIN(cuDeviceGetCount), PLAIN(cuDeviceGet), PLAIN(cuDeviceGetName),
    NEWER(cuDeviceTotalMem, 2), NEWER(cuDeviceGetUuid, 2), PLAIN(cuDeviceGetAttribute),
    PLAIN(cuDeviceGetPCIBusId), PLAIN(cuDevicePrimaryCtxRetain),
    NEWER(cuDevicePrimaryCtxRelease, 2), NEWER(cuCtxDestroy, 2), NEWER(cuCtxPushCurrent, 2),
    NEWER(cuCtxPopCurrent, 2), PLAIN(cuCtxSetCurrent), PLAIN(cuCtxGetCurrent),
    PLAIN(cuCtxGetDevice), PLAIN(cuCtxSynchronize), NEWER(cuMemGetInfo, 2),
    NEWER(cuMemAlloc, 2), NEWER(cuMemFree, 2), PLAIN(cuMemHostAlloc), PLAIN(cuMemFreeHost),
    NEWER(cuMemcpyHtoDAsync, 2), NEWER(cuMemcpyDtoHAsync, 2), NEWER(cuMemcpyDtoDAsync, 2),
    PLAIN(cuStreamCreate),
    NEWER(cuStreamDestroy, 2), PLAIN(cuStreamSynchronize), PLAIN(cuStreamQuery),
    NEWER(cuStreamBeginCapture, 2), PLAIN(cuStreamEndCapture), PLAIN(cuStreamIsCapturing),
    PLAIN(cuGraphInstantiateWithFlags), {"cuGraphInstantiate", (void *)cuGraphInstantiateWithFlags},
    PLAIN(cuGraphLaunch), PLAIN(cuGraphExecDestroy), PLAIN(cuGraphDestroy),
    PLAIN(cuGetProcAddress), NEWER(cuGetProcAddress, 2),
};

Result cuGetProcAddress_v2(const char *symbol, void **function, int version, uint64_t flags,
                           int *status)
{
    (void)version;
    (void)flags;
    *function = NULL;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        if (strcmp(table[i].name, symbol) != 0) continue;
        *function = strcmp(symbol, "cuGetProcAddress") == 0 ? (void *)cuGetProcAddress_v2
                                                            : table[i].function;
    }
    if (status) *status = *function ? 0 : 1;
    return SUCCESS;
}

Result cuGetProcAddress(const char *symbol, void **function, int version, uint64_t flags)
{
    return cuGetProcAddress_v2(symbol, function, version, flags, NULL) == SUCCESS && *function
               ? SUCCESS
               : NOT_FOUND;
}
