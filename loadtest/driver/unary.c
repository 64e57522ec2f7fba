/* A unary gRPC driver over libnghttp2: one thread, N connections x M streams, bodies encoded
 * beforehand, open or closed loop. Fast enough that the server is the limit (README.md).
 *
 * A session is a run of entries sent one after the other; the next is sent when the reply before
 * it was OK and its field 1, where that is an outcome, is 1. In the open loop sessions begin at
 * intended times that never wait for the server, and latency counts from the intended time.
 *
 * usage: unary HOST PORT BODIES key=value...
 *   connections=1 streams=1 seconds=5 warmup=0 rate=0 arrivals=poisson seed=1 once=0
 *   deadline_ms=10000 ack_log=PATH
 * Prints {"progress":...} each second and the result as its last line. Format of BODIES: the
 * writer is loadtest/bodies.py.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PATHS_MAX = 16, CONNECTIONS_MAX = 1024, BUCKETS = 4096, SECONDS_MAX = 7200 };
enum { OUTCOMES = 256, REASONS_MAX = 64, HEAD_BYTES = 32 };
/* gRPC codes are 0..16; ours come after them. */
enum { CODE_BROKEN = 17, CODE_UNANSWERED = 18, CODES = 19 };
#define OUT_BYTES (1 << 18)
#define WINDOW_BYTES (1 << 30)
#define RECONNECT_NS 50000000ull
#define DRAIN_NS 10000000000ull
#define SYNC_NS 20000000

typedef struct { uint8_t path, continues; uint16_t tag_size; uint32_t body_size;
                 const uint8_t *tag, *body; } Entry;
typedef struct { uint64_t bucket[BUCKETS], count, max; } Histogram;

typedef struct Connection Connection;
typedef struct Call {
    Connection *connection;
    struct Call *next_free;
    uint32_t entry, sent_bytes, head_size;
    uint64_t intended_ns, sent_ns;
    int32_t stream;
    int code, counted;
    uint8_t head[HEAD_BYTES];
    char reason[48];
} Call;
struct Connection {
    int fd, connecting, in_flight;
    uint64_t retry_ns;
    nghttp2_session *session;
    Call *calls, *free;
    uint8_t out[OUT_BYTES];
    size_t out_from, out_to;
};

static struct {
    const char *host; int port;
    int connections, streams, once, poisson;
    double seconds, warmup, rate;
    uint64_t seed; char deadline[24]; char authorization[300]; const char *ack_log;
} options = {.connections = 1, .streams = 1, .seconds = 5, .poisson = 1, .seed = 1,
             .deadline = "10000m"};

static char *paths[PATHS_MAX]; static uint32_t path_count;
static Entry *entries; static uint32_t entry_count;
static uint32_t *sessions, session_count, next_session;
static Connection *connections;
static int next_connection;
static uint64_t start_ns, measure_ns, end_ns;
static Histogram latency[PATHS_MAX], service[PATHS_MAX], accepted[PATHS_MAX], lateness, waiting;
static uint64_t outcomes[PATHS_MAX][CODES][OUTCOMES], done_by_second[SECONDS_MAX];
static uint64_t errors_by_second[SECONDS_MAX];
static struct { char name[48]; uint64_t count; } reasons[REASONS_MAX];
static uint64_t done_count, error_count, all_done_count, reply_bytes, in_flight_max;
static uint64_t *due_ns; static uint32_t due_from, due_to, due_capacity;
static int in_flight_total, exhausted;
static FILE *ack_file; static pthread_mutex_t ack_lock = PTHREAD_MUTEX_INITIALIZER;
static volatile int ack_stop;

static void die(const char *what) { perror(what); exit(2); }

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

/* Microseconds; 128 buckets an octave, so within 0.8 %. loadtest/recorder.py has the twin. */
static void observe(Histogram *histogram, uint64_t ns) {
    uint64_t us = ns / 1000, index = us;
    if (us >= 256) {
        int shift = 64 - __builtin_clzll(us) - 8;
        index = (uint64_t)shift * 128 + (us >> shift);
    }
    histogram->bucket[index < BUCKETS ? index : BUCKETS - 1]++;
    histogram->count++;
    if (us > histogram->max) histogram->max = us;
}

static double uniform(void) {
    options.seed ^= options.seed << 13; options.seed ^= options.seed >> 7;
    options.seed ^= options.seed << 17;
    return ((options.seed >> 11) + 1) * (1.0 / 9007199254740993.0);
}

/* ---- bodies ---- */

static void load(const char *file) {
    int fd = open(file, O_RDONLY);
    struct stat stat;
    if (fd < 0 || fstat(fd, &stat)) die(file);
    uint8_t *at = malloc((size_t)stat.st_size), *end = at + stat.st_size;
    for (uint8_t *to = at; to < end;) {
        ssize_t n = read(fd, to, (size_t)(end - to));
        if (n <= 0) die(file);
        to += n;
    }
    close(fd);
    if (stat.st_size < 12 || memcmp(at, "PLB1", 4)) { fprintf(stderr, "not a body file\n"); exit(2); }
    memcpy(&path_count, at + 4, 4);
    memcpy(&entry_count, at + 8, 4);
    at += 12;
    if (path_count > PATHS_MAX || !entry_count) { fprintf(stderr, "bad body file\n"); exit(2); }
    for (uint32_t i = 0; i < path_count; i++) {
        uint16_t size;
        memcpy(&size, at, 2);
        paths[i] = strndup((char *)at + 2, size);
        at += 2 + size;
    }
    entries = calloc(entry_count, sizeof *entries);
    sessions = calloc(entry_count, sizeof *sessions);
    for (uint32_t i = 0; i < entry_count; i++) {
        Entry *entry = &entries[i];
        entry->path = at[0]; entry->continues = at[1];
        memcpy(&entry->tag_size, at + 2, 2);
        memcpy(&entry->body_size, at + 4, 4);
        entry->tag = at + 8; entry->body = entry->tag + entry->tag_size;
        at += 8 + entry->tag_size + entry->body_size;
        if (at > end) { fprintf(stderr, "body file is cut off\n"); exit(2); }
        if (!entry->continues) sessions[session_count++] = i;
    }
}

/* ---- acknowledgements ---- */

static void *sync_acks(void *unused) {
    (void)unused;
    while (!ack_stop) {
        struct timespec pause = {0, SYNC_NS};
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&ack_lock);
        fflush(ack_file);
        pthread_mutex_unlock(&ack_lock);
        fdatasync(fileno(ack_file));
    }
    return NULL;
}

static void acknowledge(const Call *call, int outcome) {
    const Entry *entry = &entries[call->entry];
    if (!ack_file || !entry->tag_size) return;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    const char *method = strrchr(paths[entry->path], '/') + 1;
    pthread_mutex_lock(&ack_lock);
    fprintf(ack_file, "{\"time_ms\":%lld,\"method\":\"%s\",\"code\":%d,\"outcome\":%d,%.*s}\n",
            (long long)t.tv_sec * 1000 + t.tv_nsec / 1000000, method, call->code, outcome,
            entry->tag_size, (const char *)entry->tag);
    pthread_mutex_unlock(&ack_lock);
}

/* ---- one call ---- */

static void send_call(Call *call, uint64_t intended);

static int outcome_of(const Call *call) {
    if (call->head_size < 7 || call->head[5] != 0x08) return 0;
    return call->head[6] < 128 ? call->head[6] : 255;
}

static void count_reason(const char *name) {
    for (int i = 0; i < REASONS_MAX; i++) {
        if (!reasons[i].count) snprintf(reasons[i].name, sizeof reasons[i].name, "%s", name);
        if (!strcmp(reasons[i].name, name)) { reasons[i].count++; return; }
    }
}

static void release(Call *call) {
    Connection *connection = call->connection;
    call->stream = 0;
    call->next_free = connection->free;
    connection->free = call;
    connection->in_flight--;
    in_flight_total--;
}

static int continues(const Call *call, int outcome) {
    uint32_t next = call->entry + 1;
    return call->code == 0 && outcome <= 1 && next < entry_count && entries[next].continues;
}

static int take_session(void) {
    if (next_session >= session_count) {
        if (options.once) { exhausted = 1; return -1; }
        next_session = 0;
    }
    return (int)sessions[next_session++];
}

/* A slot whose connection takes no more requests (``usable`` 0) goes back to the free ones. */
static void finish(Call *call, int usable) {
    uint64_t now = now_ns();
    int path = entries[call->entry].path, outcome = outcome_of(call);
    acknowledge(call, outcome);
    all_done_count++;
    if (call->counted) {
        outcomes[path][call->code][outcome]++;
        observe(&latency[path], now - call->intended_ns);
        observe(&service[path], now - call->sent_ns);
        done_count++;
        uint64_t second = (now - measure_ns) / 1000000000ull;
        int timely = now >= measure_ns && second < SECONDS_MAX;
        if (timely) done_by_second[second]++;
        if (!call->code) observe(&accepted[path], now - call->intended_ns);
        if (call->code) {
            if (timely) errors_by_second[second]++;
            error_count++;
            if (!call->reason[0]) snprintf(call->reason, sizeof call->reason, "CODE_%d", call->code);
            count_reason(call->reason);
        }
    }
    if (continues(call, outcome) && usable && now < end_ns + DRAIN_NS) {
        call->entry++;
        send_call(call, now);
        return;
    }
    /* Closed loop: the slot takes its next session at once. */
    if (options.rate <= 0 && now < end_ns && usable) {
        int session = take_session();
        if (session >= 0) {
            call->entry = (uint32_t)session;
            send_call(call, now);
            return;
        }
    }
    release(call);
}

static ssize_t read_body(nghttp2_session *session, int32_t stream, uint8_t *to, size_t size,
                         uint32_t *flags, nghttp2_data_source *source, void *user) {
    (void)session; (void)stream; (void)user;
    Call *call = source->ptr;
    const Entry *entry = &entries[call->entry];
    size_t left = entry->body_size - call->sent_bytes;
    size_t n = left < size ? left : size;
    memcpy(to, entry->body + call->sent_bytes, n);
    call->sent_bytes += (uint32_t)n;
    if (call->sent_bytes == entry->body_size) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return (ssize_t)n;
}

#define HEADER(NAME, VALUE) {(uint8_t *)(NAME), (uint8_t *)(VALUE), strlen(NAME), strlen(VALUE), \
                             NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE}

static void send_call(Call *call, uint64_t intended) {
    call->intended_ns = intended;
    call->sent_ns = now_ns();
    call->sent_bytes = call->head_size = 0;
    call->code = 2;
    call->reason[0] = 0;
    call->counted = intended >= measure_ns && intended < end_ns;
    nghttp2_nv headers[] = {
        HEADER(":method", "POST"), HEADER(":scheme", "http"),
        HEADER(":path", paths[entries[call->entry].path]), HEADER(":authority", "loadtest"),
        HEADER("content-type", "application/grpc"), HEADER("te", "trailers"),
        HEADER("grpc-timeout", options.deadline),
        HEADER("authorization", options.authorization),  /* last: left out without a token */
    };
    size_t header_count = sizeof headers / sizeof *headers - !options.authorization[0];
    nghttp2_data_provider provider = {.source.ptr = call, .read_callback = read_body};
    call->stream = nghttp2_submit_request(call->connection->session, NULL, headers,
                                          header_count, &provider, call);
    if (call->stream < 0) { call->code = CODE_BROKEN; finish(call, 0); }
}

/* ---- replies ---- */

static int decode64(const uint8_t *in, size_t size, uint8_t *out, int capacity) {
    uint32_t bits = 0; int have = 0, n = 0;
    for (size_t i = 0; i < size && n < capacity; i++) {
        int c = in[i], v = c >= 'A' && c <= 'Z' ? c - 'A' : c >= 'a' && c <= 'z' ? c - 71
            : c >= '0' && c <= '9' ? c + 4 : c == '+' ? 62 : c == '/' ? 63 : -1;
        if (v < 0) continue;
        bits = bits << 6 | (uint32_t)v;
        if ((have += 6) >= 8) out[n++] = (uint8_t)(bits >> (have -= 8));
    }
    return n;
}

/* google.rpc.Status holds an Any of google.rpc.ErrorInfo, whose field 1 is the reason. */
static void find_reason(Call *call, const uint8_t *value, size_t size) {
    static const char type[] = "type.googleapis.com/google.rpc.ErrorInfo";
    uint8_t status[2048];
    int n = decode64(value, size, status, sizeof status);
    uint8_t *at = memmem(status, (size_t)n, type, sizeof type - 1);
    if (!at) return;
    at += sizeof type - 1;
    int left = n - (int)(at - status), skip = left > 1 && at[1] >= 128 ? 3 : 2;
    if (left < skip + 2 || at[0] != 0x12 || at[skip] != 0x0a) return;
    int length = at[skip + 1];
    if (length < (int)sizeof call->reason && length <= left - skip - 2) {
        memcpy(call->reason, at + skip + 2, (size_t)length);
        call->reason[length] = 0;
    }
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name,
                     size_t name_size, const uint8_t *value, size_t size, uint8_t flags,
                     void *user) {
    (void)flags; (void)user;
    Call *call = nghttp2_session_get_stream_user_data(session, frame->hd.stream_id);
    if (!call) return 0;
    if (name_size == 11 && !memcmp(name, "grpc-status", 11)) {
        int code = 0;
        for (size_t i = 0; i < size; i++) code = code * 10 + value[i] - '0';
        call->code = code >= 0 && code <= 16 ? code : 2;
    } else if (name_size == 23 && !memcmp(name, "grpc-status-details-bin", 23)) {
        find_reason(call, value, size);
    }
    return 0;
}

static int on_data(nghttp2_session *session, uint8_t flags, int32_t stream, const uint8_t *data,
                   size_t size, void *user) {
    (void)flags; (void)user;
    Call *call = nghttp2_session_get_stream_user_data(session, stream);
    reply_bytes += size;
    if (!call) return 0;
    size_t room = HEAD_BYTES - call->head_size, n = size < room ? size : room;
    memcpy(call->head + call->head_size, data, n);
    call->head_size += (uint32_t)n;
    return 0;
}

static int on_close(nghttp2_session *session, int32_t stream, uint32_t error, void *user) {
    (void)user;
    Call *call = nghttp2_session_get_stream_user_data(session, stream);
    if (!call) return 0;
    if (error) call->code = CODE_BROKEN;
    finish(call, error == 0);
    return 0;
}

/* ---- connections ---- */

static void open_connection(Connection *connection) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    if (inet_pton(AF_INET, options.host, &address.sin_addr) != 1) {
        fprintf(stderr, "HOST must be an IPv4 address\n");
        exit(2);
    }
    int one = 1;
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(connection->fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)
        die("connect");
    connection->connecting = 1;
    nghttp2_session_callbacks *callbacks;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_client_new(&connection->session, callbacks, connection);
    nghttp2_session_callbacks_del(callbacks);
    nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, WINDOW_BYTES}, {NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
    nghttp2_submit_settings(connection->session, 0, settings, 2);
    nghttp2_session_set_local_window_size(connection->session, 0, 0, WINDOW_BYTES);
    connection->out_from = connection->out_to = 0;
}

/* Calls in flight on a broken connection may have happened: their outcome is unknown. */
static void close_connection(Connection *connection) {
    nghttp2_session *session = connection->session;
    close(connection->fd);
    connection->fd = -1;
    connection->session = NULL;
    connection->retry_ns = now_ns() + RECONNECT_NS;
    for (int i = 0; i < options.streams; i++) {
        Call *call = &connection->calls[i];
        if (call->stream > 0) { call->code = CODE_BROKEN; finish(call, 0); }
    }
    nghttp2_session_del(session);
}

static int flush(Connection *connection) {
    for (;;) {
        if (connection->out_from == connection->out_to) {
            connection->out_from = connection->out_to = 0;
            for (;;) {
                const uint8_t *data;
                ssize_t n = nghttp2_session_mem_send(connection->session, &data);
                if (n < 0) return -1;
                if (n == 0) break;
                memcpy(connection->out + connection->out_to, data, (size_t)n);
                connection->out_to += (size_t)n;
                if (connection->out_to > OUT_BYTES / 2) break;
            }
            if (!connection->out_to) return 0;
        }
        ssize_t n = write(connection->fd, connection->out + connection->out_from,
                          connection->out_to - connection->out_from);
        if (n < 0) return errno == EAGAIN ? 0 : -1;
        connection->out_from += (size_t)n;
    }
}

static int drain_input(Connection *connection) {
    static uint8_t in[1 << 18];
    ssize_t n = read(connection->fd, in, sizeof in);
    if (n == 0) return -1;
    if (n < 0) return errno == EAGAIN ? 0 : -1;
    return nghttp2_session_mem_recv(connection->session, in, (size_t)n) < 0 ? -1 : 0;
}

static Call *free_call(void) {
    for (int i = 0; i < options.connections; i++) {
        Connection *connection = &connections[next_connection];
        next_connection = (next_connection + 1) % options.connections;
        if (connection->session && !connection->connecting && connection->free) {
            Call *call = connection->free;
            connection->free = call->next_free;
            connection->in_flight++;
            if ((uint64_t)++in_flight_total > in_flight_max) in_flight_max = (uint64_t)in_flight_total;
            return call;
        }
    }
    return NULL;
}

/* ---- the loop ---- */

static void begin_due(void) {
    while (due_from < due_to) {
        Call *call = free_call();
        if (!call) return;
        int session = take_session();
        if (session < 0) { release(call); due_from = due_to = 0; return; }
        uint64_t intended = due_ns[due_from++ % due_capacity];
        call->entry = (uint32_t)session;
        if (intended >= measure_ns) observe(&waiting, now_ns() - intended);
        send_call(call, intended);
    }
}

static uint64_t schedule(uint64_t next_ns, uint64_t now) {
    while (next_ns <= now && next_ns < end_ns && !exhausted) {
        if (due_to - due_from == due_capacity) {
            fprintf(stderr, "more than %u sessions wait: the server is overloaded\n", due_capacity);
            end_ns = now;
            break;
        }
        if (next_ns >= measure_ns) observe(&lateness, now - next_ns);
        due_ns[due_to++ % due_capacity] = next_ns;
        double gap = 1e9 / options.rate;
        next_ns += (uint64_t)(options.poisson ? -log(uniform()) * gap : gap);
    }
    return next_ns;
}

static void fill_closed(void) {
    Call *call;
    while (!exhausted && (call = free_call())) {
        int session = take_session();
        if (session < 0) { release(call); return; }
        call->entry = (uint32_t)session;
        send_call(call, now_ns());
    }
}

static void progress(uint64_t now) {
    printf("{\"progress\":%.1f,\"done\":%llu,\"errors\":%llu,\"in_flight\":%d,\"waiting\":%u}\n",
           (double)(now - start_ns) / 1e9, (unsigned long long)all_done_count,
           (unsigned long long)error_count, in_flight_total, due_to - due_from);
    fflush(stdout);
}

static void wait_for_io(struct pollfd *polled, uint64_t wake_ns) {
    for (int i = 0; i < options.connections; i++) {
        Connection *connection = &connections[i];
        polled[i].fd = connection->session ? connection->fd : -1;
        polled[i].events = POLLIN;
        if (connection->connecting || connection->out_to > connection->out_from)
            polled[i].events |= POLLOUT;
    }
    uint64_t now = now_ns(), left = wake_ns > now ? wake_ns - now : 0;
    struct timespec timeout = {(time_t)(left / 1000000000ull), (long)(left % 1000000000ull)};
    ppoll(polled, (nfds_t)options.connections, &timeout, NULL);
}

static void serve_io(struct pollfd *polled) {
    for (int i = 0; i < options.connections; i++) {
        Connection *connection = &connections[i];
        if (!connection->session) {
            if (now_ns() >= connection->retry_ns) open_connection(connection);
            continue;
        }
        int broken = 0;
        if (polled[i].fd == connection->fd && polled[i].revents) {
            if (connection->connecting) {
                int error = 0; socklen_t size = sizeof error;
                getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &size);
                broken = error != 0;
                connection->connecting = 0;
            } else if (polled[i].revents & (POLLIN | POLLERR | POLLHUP)) {
                broken = drain_input(connection);
            }
        }
        if (broken) close_connection(connection);
    }
}

static void run(void) {
    struct pollfd *polled = calloc((size_t)options.connections, sizeof *polled);
    start_ns = now_ns();
    measure_ns = start_ns + (uint64_t)(options.warmup * 1e9);
    end_ns = measure_ns + (uint64_t)(options.seconds * 1e9);
    uint64_t next_ns = start_ns + 20000000, tell_ns = start_ns + 1000000000ull;
    for (;;) {
        uint64_t now = now_ns();
        if (now >= tell_ns) { progress(now); tell_ns += 1000000000ull; }
        if (options.rate > 0) {
            next_ns = schedule(next_ns, now);
            begin_due();
        } else if (now < end_ns) {
            fill_closed();
        }
        for (int i = 0; i < options.connections; i++) {
            Connection *connection = &connections[i];
            if (connection->session && !connection->connecting && flush(connection))
                close_connection(connection);
        }
        if ((now >= end_ns || exhausted) && !in_flight_total && due_from == due_to) break;
        if (now >= end_ns + DRAIN_NS) break;
        uint64_t wake = tell_ns;
        if (options.rate > 0 && next_ns < end_ns && next_ns < wake) wake = next_ns;
        if (now < end_ns && end_ns < wake) wake = end_ns;
        for (int i = 0; i < options.connections; i++)
            if (!connections[i].session && connections[i].retry_ns < wake)
                wake = connections[i].retry_ns;
        wait_for_io(polled, wake);
        serve_io(polled);
    }
    uint64_t ended = now_ns();
    if (exhausted && ended < end_ns) end_ns = ended;
}

/* ---- the result ---- */

static void print_histogram(const char *name, const Histogram *histogram) {
    printf("\"%s\":{\"count\":%llu,\"max_us\":%llu,\"buckets\":[", name,
           (unsigned long long)histogram->count, (unsigned long long)histogram->max);
    const char *comma = "";
    for (int i = 0; i < BUCKETS; i++)
        if (histogram->bucket[i]) {
            printf("%s[%d,%llu]", comma, i, (unsigned long long)histogram->bucket[i]);
            comma = ",";
        }
    printf("]}");
}

static void print_outcomes(int path) {
    const char *comma = "";
    printf("\"outcomes\":[");
    for (int code = 0; code < CODES; code++)
        for (int outcome = 0; outcome < OUTCOMES; outcome++)
            if (outcomes[path][code][outcome]) {
                printf("%s[%d,%d,%llu]", comma, code, outcome,
                       (unsigned long long)outcomes[path][code][outcome]);
                comma = ",";
            }
    printf("],");
}

static void print_by_second(const char *name, const uint64_t *counts) {
    printf("\"%s\":[", name);
    for (int i = 0; i < SECONDS_MAX && i < (int)ceil((double)(end_ns - measure_ns) / 1e9); i++)
        printf("%s%llu", i ? "," : "", (unsigned long long)counts[i]);
    printf("]");
}

static void print_result(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                 (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"seconds\":%.6f,\"wall_seconds\":%.6f,\"cpu_seconds\":%.6f,\"done\":%llu,"
           "\"all_done\":%llu,\"errors\":%llu,\"reply_bytes\":%llu,\"in_flight_max\":%llu,"
           "\"exhausted\":%s,\"unstarted\":%u,\"methods\":{",
           (double)(end_ns - measure_ns) / 1e9, (double)(now_ns() - start_ns) / 1e9, cpu,
           (unsigned long long)done_count, (unsigned long long)all_done_count,
           (unsigned long long)error_count, (unsigned long long)reply_bytes,
           (unsigned long long)in_flight_max, exhausted ? "true" : "false", due_to - due_from);
    for (uint32_t i = 0; i < path_count; i++) {
        printf("%s\"%s\":{", i ? "," : "", paths[i]);
        print_outcomes((int)i);
        print_histogram("latency", &latency[i]);
        printf(",");
        print_histogram("service", &service[i]);
        printf(",");
        print_histogram("accepted", &accepted[i]);
        printf("}");
    }
    printf("},");
    print_histogram("lateness", &lateness);
    printf(",");
    print_histogram("waiting", &waiting);
    printf(",\"reasons\":{");
    for (int i = 0; i < REASONS_MAX && reasons[i].count; i++)
        printf("%s\"%s\":%llu", i ? "," : "", reasons[i].name, (unsigned long long)reasons[i].count);
    printf("},");
    print_by_second("done_by_second", done_by_second);
    printf(",");
    print_by_second("errors_by_second", errors_by_second);
    printf("}\n");
}

static void set_option(const char *argument) {
    const char *equals = strchr(argument, '=');
    if (!equals) { fprintf(stderr, "not key=value: %s\n", argument); exit(2); }
    const char *value = equals + 1;
    size_t size = (size_t)(equals - argument);
    if (!strncmp(argument, "connections", size)) options.connections = atoi(value);
    else if (!strncmp(argument, "streams", size)) options.streams = atoi(value);
    else if (!strncmp(argument, "seconds", size)) options.seconds = atof(value);
    else if (!strncmp(argument, "warmup", size)) options.warmup = atof(value);
    else if (!strncmp(argument, "rate", size)) options.rate = atof(value);
    else if (!strncmp(argument, "arrivals", size)) options.poisson = !strcmp(value, "poisson");
    else if (!strncmp(argument, "seed", size)) options.seed = strtoull(value, NULL, 10) * 2 + 1;
    else if (!strncmp(argument, "once", size)) options.once = atoi(value);
    else if (!strncmp(argument, "ack_log", size)) options.ack_log = value;
    else if (!strncmp(argument, "deadline_ms", size))
        snprintf(options.deadline, sizeof options.deadline, "%um", (unsigned)atoi(value));
    else { fprintf(stderr, "no such option: %s\n", argument); exit(2); }
}

int main(int count, char **arguments) {
    if (count < 4) { fprintf(stderr, "usage: unary HOST PORT BODIES key=value...\n"); return 2; }
    const char *token = getenv("PROMISE_TOKEN");
    if (token && *token)
        snprintf(options.authorization, sizeof options.authorization, "Bearer %s", token);
    options.host = arguments[1];
    options.port = atoi(arguments[2]);
    for (int i = 4; i < count; i++) set_option(arguments[i]);
    if (options.connections < 1 || options.connections > CONNECTIONS_MAX || options.streams < 1 ||
        options.streams > 10000 || options.seconds <= 0 || options.seconds > SECONDS_MAX) {
        fprintf(stderr, "option out of range\n");
        return 2;
    }
    load(arguments[3]);
    for (int i = 0; i < 8; i++) uniform();
    due_capacity = 1u << 20;
    due_ns = malloc(sizeof *due_ns * due_capacity);
    pthread_t syncer;
    if (options.ack_log) {
        if (!(ack_file = fopen(options.ack_log, "a"))) die(options.ack_log);
        pthread_create(&syncer, NULL, sync_acks, NULL);
    }
    connections = calloc((size_t)options.connections, sizeof *connections);
    for (int i = 0; i < options.connections; i++) {
        Connection *connection = &connections[i];
        connection->calls = calloc((size_t)options.streams, sizeof *connection->calls);
        for (int j = options.streams - 1; j >= 0; j--) {
            connection->calls[j].connection = connection;
            connection->calls[j].next_free = connection->free;
            connection->free = &connection->calls[j];
        }
        open_connection(connection);
    }
    run();
    for (int i = 0; i < options.connections; i++) {
        for (int j = 0; j < options.streams; j++) {
            Call *call = &connections[i].calls[j];
            int waits = 1;
            for (Call *free = connections[i].free; free; free = free->next_free)
                if (free == call) waits = 0;
            if (!waits) continue;
            call->code = CODE_UNANSWERED;
            acknowledge(call, 0);
            outcomes[entries[call->entry].path][CODE_UNANSWERED][0]++;
            error_count++;
            count_reason("UNANSWERED");
        }
    }
    if (ack_file) {
        ack_stop = 1;
        pthread_join(syncer, NULL);
        fflush(ack_file);
        fdatasync(fileno(ack_file));
    }
    print_result();
    return 0;
}
