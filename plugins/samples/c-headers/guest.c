// A guest without an SDK and without a C library: what the ABI is, and nothing else.
//
// Refuses what is below /blocked, and adds a header to answers. The ABI: https://github.com/proxy-wasm/spec, 0.2.1.

#include <stddef.h>
#include <stdint.h>

#define IMPORT(name) __attribute__((import_module("env"), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

enum { OK = 0 };
enum { CONTINUE = 0, PAUSE = 1 };
enum { REQUEST_HEADERS = 0, RESPONSE_HEADERS = 2 };
enum { NO_GRPC_STATUS = -1 };

IMPORT("proxy_get_header_map_value")
int32_t get_header(int32_t map, const char *name, size_t name_size, char **value, size_t *value_size);
IMPORT("proxy_add_header_map_value")
int32_t add_header(int32_t map, const char *name, size_t name_size, const char *value, size_t value_size);
IMPORT("proxy_send_local_response")
int32_t send_response(int32_t status, const char *details, size_t details_size, const char *body, size_t body_size,
                      const void *headers, size_t headers_size, int32_t grpc_status);

#define TEXT(text) (text), (sizeof(text) - 1)

// What the host gives us lives until the callback ends: an arena that every callback empties is all the memory that
// is needed. A header that does not fit is not given, and its request refused.
static _Alignas(16) unsigned char arena[64 * 1024];
static size_t used;

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

EXPORT("proxy_on_vm_start") int32_t on_vm_start(int32_t context, int32_t size) {
  (void)context;
  (void)size;
  return 1;
}

EXPORT("proxy_on_configure") int32_t on_configure(int32_t context, int32_t size) {
  (void)context;
  (void)size;
  used = 0;
  return 1;
}

static int starts_with(const char *text, size_t size, const char *prefix, size_t prefix_size) {
  if (size < prefix_size) {
    return 0;
  }
  for (size_t at = 0; at < prefix_size; at++) {
    if (text[at] != prefix[at]) {
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
  int32_t status = get_header(REQUEST_HEADERS, TEXT(":path"), &path, &size);
  if (status != OK || path == NULL || starts_with(path, size, TEXT("/blocked"))) {
    send_response(403, NULL, 0, TEXT("blocked\n"), NULL, 0, NO_GRPC_STATUS);
    return PAUSE;
  }
  return CONTINUE;
}

EXPORT("proxy_on_response_headers")
int32_t on_response_headers(int32_t context, int32_t count, int32_t end_of_stream) {
  (void)context;
  (void)count;
  (void)end_of_stream;
  used = 0;
  add_header(RESPONSE_HEADERS, TEXT("x-guest"), TEXT("c"));
  return CONTINUE;
}

EXPORT("proxy_on_done") int32_t on_done(int32_t context) {
  (void)context;
  return 1;
}

EXPORT("proxy_on_log") void on_log(int32_t context) { (void)context; }

EXPORT("proxy_on_delete") void on_delete(int32_t context) { (void)context; }
