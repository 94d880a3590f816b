// A guest that does every harm it can: for measurements and tests of what neighbours notice of it.
//
// The last segment of the path says which harm; any other path is let through. None of it may reach beyond the request.

#include <stddef.h>
#include <stdint.h>

#define IMPORT(name) __attribute__((import_module("env"), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

enum { CONTINUE = 0 };
enum { REQUEST_HEADERS = 0 };
enum { PAGES = 16 };

IMPORT("proxy_get_header_map_value")
int32_t get_header(int32_t map, const char *name, size_t name_size, char **value, size_t *value_size);
IMPORT("proxy_add_header_map_value")
int32_t add_header(int32_t map, const char *name, size_t name_size, const char *value, size_t value_size);
IMPORT("proxy_get_log_level") int32_t get_log_level(int32_t *level);
IMPORT("proxy_http_call")
int32_t http_call(const char *cluster, size_t cluster_size, const void *headers, size_t headers_size, const char *body,
                  size_t body_size, const void *trailers, size_t trailers_size, int32_t timeout, int32_t *id);

#define TEXT(text) (text), (sizeof(text) - 1)

static _Alignas(16) unsigned char arena[64 * 1024];
static size_t used;
static volatile uint32_t sink;

EXPORT("malloc") void *allocate(size_t size) {
  size_t rounded = (size + 15) & ~(size_t)15;
  if (rounded < size || rounded > sizeof(arena) - used) {
    return NULL;
  }
  void *place = arena + used;
  used += rounded;
  return place;
}

EXPORT("proxy_abi_version_0_2_1") void abi_version(void) {}

EXPORT("proxy_on_context_create") void on_context_create(int32_t context, int32_t parent) {
  (void)context;
  (void)parent;
}

// The processor until the host takes it away.
static void loop(void) {
  for (;;) {
    sink++;
  }
}

// All memory, each page touched, and then what there is not.
static void hoard(void) {
  for (;;) {
    size_t before = __builtin_wasm_memory_grow(0, PAGES);
    if (before == SIZE_MAX) {
      __builtin_trap();
    }
    for (size_t page = 0; page < PAGES; page++) {
      *(volatile unsigned char *)((before + page) << 16) = 1;
    }
  }
}

// The stack. Not a loop in disguise: what is on the stack is used afterwards.
static uint32_t recurse(uint32_t depth) {
  volatile uint32_t frame[64];
  frame[depth % 64] = depth;
  if (depth == UINT32_MAX) {
    return 0;
  }
  return recurse(depth + 1) + frame[depth % 64];
}

// Calls into the host without end.
static void flood(void) {
  for (;;) {
    int32_t level;
    get_log_level(&level);
  }
}

// A header map beyond all bounds.
static void swell(void) {
  for (;;) {
    add_header(REQUEST_HEADERS, TEXT("x-large"), (const char *)arena, 32 * 1024);
  }
}

// Calls to whoever is there, without end and without waiting.
static void storm(void) {
  for (;;) {
    int32_t id;
    http_call(TEXT("back-end"), NULL, 0, NULL, 0, NULL, 0, 1000, &id);
  }
}

static int ends_with(const char *text, size_t size, const char *end, size_t end_size) {
  if (size < end_size) {
    return 0;
  }
  for (size_t at = 0; at < end_size; at++) {
    if (text[size - end_size + at] != end[at]) {
      return 0;
    }
  }
  return 1;
}

EXPORT("proxy_on_request_headers")
int32_t on_request_headers(int32_t context, int32_t count, int32_t end_of_stream) {
  (void)context;
  (void)count;
  (void)end_of_stream;
  used = 0;
  char *path = NULL;
  size_t size = 0;
  if (get_header(REQUEST_HEADERS, TEXT(":path"), &path, &size) != 0 || path == NULL) {
    return CONTINUE;
  }
  if (ends_with(path, size, TEXT("/loop"))) {
    loop();
  } else if (ends_with(path, size, TEXT("/trap"))) {
    __builtin_trap();
  } else if (ends_with(path, size, TEXT("/hoard"))) {
    hoard();
  } else if (ends_with(path, size, TEXT("/recurse"))) {
    sink = recurse(0);
  } else if (ends_with(path, size, TEXT("/flood"))) {
    flood();
  } else if (ends_with(path, size, TEXT("/swell"))) {
    swell();
  } else if (ends_with(path, size, TEXT("/storm"))) {
    storm();
  }
  return CONTINUE;
}
