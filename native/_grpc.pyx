"""The HTTP/2 sessions and calls of the native front, on libnghttp2.

Specification: grpc.aio, under tests/contract; HTTP/2 itself is the library's. No twin in domain,
which knows no wire. One file, because front, connection and call hold each other.

One event loop, one thread. Frames are read from a buffer that all connections share; a request that
is complete is answered from within the frame's callback, and everything submitted in one turn
leaves in one write. A call is its own servicer context; a task is made only for an awaitable.
Limits: messages up to 2**31 - 1 bytes, 64 metadata entries each way out.
Cost: see native/README.md.
"""

import asyncio
import os
import random
import zlib
from collections import deque, namedtuple

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy

from native._grpc_text cimport (
    base64_encoded,
    metadata_value,
    percent_encoded,
    timeout_seconds,
)
from native.nghttp2 cimport *

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(str text, Py_ssize_t* size) except NULL
    str PyUnicode_DecodeASCII(const char* text, Py_ssize_t size, const char* errors)
    void* PyObject_Malloc(size_t size)
    void* PyObject_Calloc(size_t count, size_t size)
    void* PyObject_Realloc(void* block, size_t size)
    void PyObject_Free(void* block)
    object PyContext_CopyCurrent()
    int PyContext_Enter(object context) except -1
    int PyContext_Exit(object context) except -1

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now)
    int CLOCK_MONOTONIC

# Literals: Cython cannot compute in an enum of a build that checks overflows.
cdef enum:
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13

    IDENTITY = 0
    DEFLATE = 1
    GZIP = 2
    UNKNOWN_ENCODING = 3

    PREFIX_BYTES = 5
    INBOX_BYTES = 65536
    # Read and answered before others have their turn.
    OUTBOX_BYTES = 131072
    # Frames are at most 16 KiB and a head, for we never ask for longer ones.
    FRAME_BYTES_MAX = 16393
    WRITE_BUFFER_BYTES = 262144
    STREAM_WINDOW_BYTES = 262144
    CONNECTION_WINDOW_BYTES = 1048576
    WRITER_BYTES = 65536
    # A streaming servicer waits above this.
    UNSENT_BYTES_MAX = 67108864
    METADATA_COUNT_MAX = 64
    METADATA_BYTES_MAX = 32768
    # Callers begin to refuse at 8 KiB, the library cannot send 64 KiB.
    DETAILS_CHARACTERS_MAX = 2000
    PATIENCE = 1000
    PATIENCE_SECOND = 100
    PING_STRIKES_MAX = 2

cdef double HANDSHAKE_SECONDS = 10.0
cdef double GOAWAY_SECONDS = 10.0
"""A caller has this long to answer the ping of a drain; what it begins to send later is lost. A
second was too short for one whose machine was busy."""
cdef double EXPIRY_SECONDS = 0.01
"""Deadlines are looked at this often, while any is open."""

cdef char* DIGITS = "0123456789abcdef"
cdef const char* DRAIN_PING = "draining"
cdef const char* TOO_MANY_PINGS = "too_many_pings"

cdef object current_task = asyncio.current_task
cdef object enter_task = asyncio.tasks._enter_task
cdef object leave_task = asyncio.tasks._leave_task

Metadatum = namedtuple("Metadatum", ("key", "value"))


# The library takes and gives back some twenty small blocks a call, and Python's allocator is quicker
# with those than the C library's. All of it happens under the interpreter's lock.

cdef void* taken(size_t size, void* _) noexcept:
    return PyObject_Malloc(size)


cdef void* taken_clear(size_t count, size_t size, void* _) noexcept:
    return PyObject_Calloc(count, size)


cdef void* taken_larger(void* block, size_t size, void* _) noexcept:
    return PyObject_Realloc(block, size)


cdef void given_back(void* block, void* _) noexcept:
    PyObject_Free(block)


cdef nghttp2_mem memory
memory.mem_user_data = NULL
memory.malloc = taken
memory.calloc = taken_clear
memory.realloc = taken_larger
memory.free = given_back


cdef inline double monotonic() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <double>now.tv_sec + <double>now.tv_nsec * 1e-9


cdef inline bint equals(nghttp2_vec text, const char* other, size_t size) noexcept nogil:
    return text.len == size and memcmp(text.base, other, size) == 0


cdef inline nghttp2_nv fixed(const char* name, size_t n, const char* value, size_t v) noexcept:
    """A header of constants, which the library need not copy."""
    cdef nghttp2_nv field
    field.name, field.namelen = <uint8_t*>name, n
    field.value, field.valuelen = <uint8_t*>value, v
    field.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE
    return field


cdef int number_of(object code) except -1:
    """0..16 of an int or of a ``grpc.StatusCode``; UNKNOWN for what is neither."""
    cdef object value = code if isinstance(code, int) else code.value[0]
    return value if 0 <= value <= 16 else UNKNOWN


cdef int text_of(object value, const char** data, Py_ssize_t* size) except -1:
    if isinstance(value, str):
        data[0] = PyUnicode_AsUTF8AndSize(value, size)
    elif isinstance(value, bytes):
        data[0] = PyBytes_AS_STRING(value)
        size[0] = PyBytes_GET_SIZE(value)
    else:
        raise TypeError(f"metadata must be str or bytes, not {type(value).__name__}")
    return 0


cdef tuple checked_metadata(object metadata):
    """Metadata that may be sent; ValueError or TypeError otherwise."""
    cdef tuple entries = tuple(metadata) if metadata is not None else ()
    cdef const char* data
    cdef Py_ssize_t size, i, total = 0
    if len(entries) > METADATA_COUNT_MAX:
        raise ValueError(f"metadata has more than {METADATA_COUNT_MAX} entries")
    for key, value in entries:
        text_of(key, &data, &size)
        if size == 0:
            raise ValueError("a metadata key is empty")
        total += size + 32 + len(value)
        if total > METADATA_BYTES_MAX:
            raise ValueError(f"metadata has more than {METADATA_BYTES_MAX} bytes")
        for i in range(size):
            if not (c"a" <= data[i] <= c"z" or c"0" <= data[i] <= c"9" or data[i] in b"-_."):
                raise ValueError(f"metadata key {key!r} is not of a-z 0-9 - _ .")
        if size >= 4 and memcmp(data + size - 4, b"-bin", 4) == 0:
            if not isinstance(value, bytes):
                raise TypeError(f"the value of {key!r} must be bytes")
            continue
        text_of(value, &data, &size)
        for i in range(size):
            if data[i] < 0x20 or data[i] > 0x7E:
                raise ValueError(f"the value of {key!r} is not printable ASCII")
    return entries


cdef size_t add_metadata(nghttp2_nv* nv, size_t count, tuple metadata, list kept) except? 0:
    """Append checked metadata; ``kept`` owns what is encoded here."""
    cdef const char* data
    cdef Py_ssize_t size
    for key, value in metadata:
        text_of(key, &data, &size)
        nv[count].name, nv[count].namelen = <uint8_t*>data, size
        if size >= 4 and memcmp(data + size - 4, b"-bin", 4) == 0:
            value = base64_encoded(value)
            kept.append(value)
        text_of(value, &data, &size)
        nv[count].value, nv[count].valuelen = <uint8_t*>data, size
        # A trace id or a status never comes again, and would push out what does.
        nv[count].flags = NGHTTP2_NV_FLAG_NO_INDEX
        count += 1
    return count


cdef bytes inflated(int encoding, bytes data, int64_t size_max):
    """At most ``size_max + 1`` bytes, whatever they claim to be; None when malformed."""
    cdef object inflater = zlib.decompressobj(31 if encoding == GZIP else 15)
    try:
        plain = inflater.decompress(data, size_max + 1)
    except zlib.error:
        return None
    return plain if inflater.eof or len(plain) > size_max else None


cdef bytes deflated(int encoding, bytes data):
    cdef object deflater = zlib.compressobj(wbits=31 if encoding == GZIP else 15)
    return deflater.compress(data) + deflater.flush()


# What the library calls. An exception of ours ends the connection, never the process.

cdef int on_begin_headers(
    nghttp2_session* session, const nghttp2_frame* frame, void* user_data
) noexcept:
    cdef Connection connection = <Connection>user_data
    cdef Call call
    connection.current = None
    if frame.hd.type != NGHTTP2_HEADERS or frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0
    try:
        call = Call.__new__(Call)
        call.connection = connection
        call.stream_id = frame.hd.stream_id
        call.began = connection.front.now
        if nghttp2_session_set_stream_user_data(session, frame.hd.stream_id, <void*>call) != 0:
            return NGHTTP2_ERR_CALLBACK_FAILURE
        Py_INCREF(call)
        call.next = connection.calls
        if call.next is not None:
            call.next.previous = call
        connection.calls = call
        connection.call_count += 1
        connection.current = call
    except BaseException as error:
        connection.front.log(error, connection.peer)
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef int on_header(
    nghttp2_session* session,
    const nghttp2_frame* frame,
    nghttp2_rcbuf* name,
    nghttp2_rcbuf* value,
    uint8_t flags,
    void* user_data,
) noexcept:
    cdef Connection connection = <Connection>user_data
    if connection.current is None:
        return 0
    try:
        connection.current.header(name, value)
    except BaseException as error:
        connection.front.log(error, connection.peer)
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef int on_data_chunk(
    nghttp2_session* session,
    uint8_t flags,
    int32_t stream_id,
    const uint8_t* data,
    size_t size,
    void* user_data,
) noexcept:
    cdef Connection connection = <Connection>user_data
    cdef void* found = nghttp2_session_get_stream_user_data(session, stream_id)
    cdef Call call
    nghttp2_session_consume_connection(session, size)
    if found == NULL:
        nghttp2_session_consume_stream(session, stream_id, size)
        return 0
    call = <Call>found
    try:
        call.feed(data, <int64_t>size)
    except BaseException as error:
        connection.front.log(error, connection.peer)
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef int on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user_data) noexcept:
    cdef Connection connection = <Connection>user_data
    cdef void* found
    cdef Call call
    cdef bint ended = frame.hd.flags & NGHTTP2_FLAG_END_STREAM
    try:
        if frame.hd.type == NGHTTP2_HEADERS:
            call = connection.current
            connection.current = None
            if call is not None:
                call.begin()
        if frame.hd.type == NGHTTP2_HEADERS or frame.hd.type == NGHTTP2_DATA:
            if ended:
                found = nghttp2_session_get_stream_user_data(session, frame.hd.stream_id)
                if found != NULL:
                    call = <Call>found
                    call.end_of_request()
            elif frame.hd.length == 0:
                connection.spend()
        elif frame.hd.type == NGHTTP2_PING:
            if frame.hd.flags & NGHTTP2_FLAG_ACK:
                if memcmp(frame.ping.opaque_data, DRAIN_PING, 8) == 0:
                    connection.finish_goaway()
            else:
                connection.pinged()
        elif frame.hd.type == NGHTTP2_SETTINGS:
            connection.settled = True
            if not frame.hd.flags & NGHTTP2_FLAG_ACK:
                connection.spend()
        elif frame.hd.type == NGHTTP2_RST_STREAM or frame.hd.type == NGHTTP2_PRIORITY:
            connection.spend()
    except BaseException as error:
        connection.front.log(error, connection.peer)
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef int on_invalid_frame(
    nghttp2_session* session, const nghttp2_frame* frame, int error, void* user_data
) noexcept:
    (<Connection>user_data).spend()
    return 0


cdef int on_frame_sent(
    nghttp2_session* session, const nghttp2_frame* frame, void* user_data
) noexcept:
    # Answered before the request had ended: the caller need not send the rest.
    if (
        frame.hd.type == NGHTTP2_HEADERS
        and frame.hd.flags & NGHTTP2_FLAG_END_STREAM
        and nghttp2_session_get_stream_remote_close(session, frame.hd.stream_id) == 0
    ):
        nghttp2_submit_rst_stream(
            session, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR
        )
    return 0


cdef int on_stream_close(
    nghttp2_session* session, int32_t stream_id, uint32_t error_code, void* user_data
) noexcept:
    cdef Connection connection = <Connection>user_data
    cdef void* found = nghttp2_session_get_stream_user_data(session, stream_id)
    cdef Call call
    if found == NULL:
        return 0
    call = <Call>found
    nghttp2_session_set_stream_user_data(session, stream_id, NULL)
    if connection.current is call:
        connection.current = None
    try:
        call.settled(error_code)
    except BaseException as error:
        connection.front.log(error, connection.peer)
        return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0


cdef ssize_t read_reply(
    nghttp2_session* session,
    int32_t stream_id,
    uint8_t* target,
    size_t room,
    uint32_t* flags,
    nghttp2_data_source* source,
    void* user_data,
) noexcept:
    """Fill a DATA frame from the call's replies; the trailers come after the last."""
    cdef Call call = <Call>source.ptr
    cdef Connection connection = <Connection>user_data
    cdef size_t filled = 0
    cdef int64_t size, part
    cdef uint8_t prefix[5]
    try:
        while call.reply is not None or call.replies:
            if call.reply is None:
                call.reply, call.reply_compressed = call.replies.popleft()
            size = PyBytes_GET_SIZE(call.reply)
            if call.reply_offset < PREFIX_BYTES:
                prefix[0] = call.reply_compressed
                prefix[1] = (size >> 24) & 255
                prefix[2] = (size >> 16) & 255
                prefix[3] = (size >> 8) & 255
                prefix[4] = size & 255
                # A window may be smaller than the prefix; a frame of nothing would be asked for again
                # and again.
                part = min(<int64_t>(room - filled), PREFIX_BYTES - call.reply_offset)
                memcpy(target + filled, prefix + call.reply_offset, part)
                filled += part
                call.reply_offset += part
                if call.reply_offset < PREFIX_BYTES:
                    break
            part = min(<int64_t>(room - filled), size + PREFIX_BYTES - call.reply_offset)
            memcpy(
                target + filled,
                PyBytes_AS_STRING(call.reply) + call.reply_offset - PREFIX_BYTES,
                part,
            )
            filled += part
            call.reply_offset += part
            if call.reply_offset < size + PREFIX_BYTES:
                break
            call.reply = None
            call.reply_offset = 0
            call.reply_bytes -= size
            connection.unsent_bytes -= size
        if call.reply_bytes < WRITER_BYTES and call.writer is not None:
            if not call.writer.done():
                call.writer.set_result(None)
            call.writer = None
        if call.reply is None and not call.replies:
            if call.ending:
                flags[0] = NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
                call.send_trailers()
            elif filled == 0:
                return NGHTTP2_ERR_DEFERRED
    except BaseException as error:
        connection.front.log(error, connection.peer)
        return NGHTTP2_ERR_CALLBACK_FAILURE
    connection.sent_since_ping = True
    connection.patience = min(connection.patience + 1, <int>PATIENCE)
    return <ssize_t>filled


cdef class Method:
    """What one path runs.

    ``unary``: ``behavior(request, call)`` returns the reply or an awaitable of it; a reply that is
    returned leaves in the same write. Otherwise ``behavior(call)`` returns an awaitable that reads
    and writes for itself; it is awaited in a task.
    """

    def __init__(
        self, str path not None, behavior not None, *, unary, request_streaming=False,
        traced=False, deserializer=None, serializer=None,
    ):
        self.path = path
        self.traced = traced
        self.behavior = behavior
        self.unary = unary
        self.request_streaming = request_streaming
        self.deserializer = deserializer
        self.serializer = serializer


cdef class Front:
    """What all connections of one server share: methods, limits, buffers."""

    def __cinit__(self):
        cdef nghttp2_session_callbacks* callbacks = NULL
        if nghttp2_session_callbacks_new(&callbacks) != 0:
            raise MemoryError
        self.callbacks = callbacks
        nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers)
        nghttp2_session_callbacks_set_on_header_callback2(callbacks, on_header)
        nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data_chunk)
        nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame)
        nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame)
        nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent)
        nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close)
        if nghttp2_option_new(&self.option) != 0:
            raise MemoryError
        nghttp2_option_set_no_auto_window_update(self.option, 1)
        nghttp2_option_set_no_closed_streams(self.option, 1)
        # Ours counts what a caller resets against what it lets end.
        lift_reset_limit(self.option)
        # HTTP/2 forbids them, gRPC does not, and callers send them.
        take_spaces_around_values(self.option)
        self.outbox = <uint8_t*>malloc(OUTBOX_BYTES)
        if self.outbox == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.callbacks != NULL:
            nghttp2_session_callbacks_del(self.callbacks)
        if self.option != NULL:
            nghttp2_option_del(self.option)
        free(self.outbox)

    def __init__(
        self,
        *,
        loop,
        dict methods not None,
        resolve,
        log,
        end_of_stream,
        abort_error,
        usage_error,
        trace_id_of,
        message_bytes_max,
        unfinished_bytes_max,
        streams_max,
        metadata_bytes_max,
        connections_max,
        ping_seconds_min,
        keepalive_seconds,
        keepalive_timeout_seconds,
        age_seconds_max,
        idle_seconds_max,
        request_seconds_max,
    ):
        self.loop = loop
        self.methods = methods
        self.resolve = resolve
        self.log = log
        self.end_of_stream = end_of_stream
        self.abort_error = abort_error
        self.usage_error = usage_error
        self.trace_id_of = trace_id_of
        memcpy(self.random, PyBytes_AS_STRING(os.urandom(16)), 16)
        self.message_bytes_max = message_bytes_max
        self.unfinished_bytes_max = unfinished_bytes_max
        self.streams_max = streams_max
        self.metadata_bytes_max = metadata_bytes_max
        self.connections_max = connections_max
        self.ping_seconds_min = ping_seconds_min
        self.keepalive_seconds = keepalive_seconds
        self.keepalive_timeout_seconds = keepalive_timeout_seconds
        self.age_seconds_max = age_seconds_max
        self.idle_seconds_max = idle_seconds_max
        self.request_seconds_max = request_seconds_max
        self.connections = set()
        self.limit_hits = {}
        self.dirty = []
        self.inbox = bytearray(INBOX_BYTES)
        self.inbox_view = memoryview(self.inbox)
        self.inbox_data = <uint8_t*>PyByteArray_AS_STRING(self.inbox)
        self.now = monotonic()

    def connection(self):
        """The protocol of a new connection."""
        return ServerConnection(self)

    cdef int hit(self, str limit) except -1:
        self.limit_hits[limit] = self.limit_hits.get(limit, 0) + 1
        return 0

    def drain(self):
        """Drain every connection, also those that are still being made."""
        self.draining = True
        for connection in list(self.connections):
            (<Connection>connection).drain()

    def vacated(self):
        """A future that is done when there is no connection."""
        if self.vacant is None or self.vacant.done():
            self.vacant = self.loop.create_future()
        if not self.connections:
            self.vacant.set_result(None)
        return self.vacant

    def tick(self):
        """Hold the limits that are counted in seconds; call it about once a second."""
        self.now = monotonic()
        for connection in list(self.connections):
            (<Connection>connection).keep_alive(self.now)

    def flush_dirty(self):
        """Write what was submitted outside of reading; once a turn for all."""
        cdef Connection connection
        cdef list dirty = self.dirty
        self.dirty = []
        for connection in dirty:
            connection.dirty = False
            connection.flush()

    def expire(self):
        """End the calls whose deadline has passed; comes again while any call has one."""
        cdef double now = monotonic()
        cdef Connection connection
        cdef Call call
        cdef bint timed = False
        self.expiry_armed = False
        for item in self.connections:
            connection = item
            if connection.timed_count == 0:
                continue
            call = connection.calls
            while call is not None:
                if call.timed and call.deadline <= now:
                    call.refuse(DEADLINE_EXCEEDED, "Deadline Exceeded")
                call = call.next
            timed = timed or connection.timed_count > 0
        if timed:
            self.arm_expiry()

    @cython.overflowcheck(False)
    cdef uint64_t next_random(self) noexcept:
        """xorshift128+: spread evenly, and no secret."""
        cdef uint64_t a = self.random[0]
        cdef uint64_t b = self.random[1]
        self.random[0] = b
        a ^= a << 23
        self.random[1] = a ^ b ^ (a >> 18) ^ (b >> 5)
        return self.random[1] ^ b

    cdef int arm_expiry(self) except -1:
        if not self.expiry_armed:
            self.expiry_armed = True
            self.loop.call_later(EXPIRY_SECONDS, self.expire)
        return 0


cdef class Connection:
    """One connection: an asyncio protocol over a session of the library."""

    def __init__(self, Front front not None):
        self.front = front
        self.peer = "unknown"
        self.patience = PATIENCE

    def __dealloc__(self):
        if self.session != NULL:
            nghttp2_session_del(self.session)
        if self.told_value != NULL:
            nghttp2_rcbuf_decref(self.told_value)

    def connection_made(self, transport):
        cdef Front front = self.front
        cdef nghttp2_settings_entry settings[3]
        self.transport = transport
        secured = transport.get_extra_info("ssl_object")
        if len(front.connections) >= front.connections_max:
            front.hit("CONNECTIONS")
            transport.abort()
            return
        if secured is not None and secured.selected_alpn_protocol() != "h2":
            transport.abort()
            return
        self.secured = secured
        self.peer = peer_of(transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        if nghttp2_session_server_new3(
            &self.session, front.callbacks, <void*>self, front.option, &memory
        ) != 0:
            raise MemoryError
        settings[0].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
        settings[0].value = front.streams_max
        settings[1].settings_id = NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE
        settings[1].value = STREAM_WINDOW_BYTES
        settings[2].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        settings[2].value = front.metadata_bytes_max
        nghttp2_submit_settings(self.session, NGHTTP2_FLAG_NONE, settings, 3)
        nghttp2_session_set_local_window_size(
            self.session, NGHTTP2_FLAG_NONE, 0, CONNECTION_WINDOW_BYTES
        )
        self.made_at = self.read_at = self.idle_since = monotonic()
        # Ten per cent either way, so that connections made together do not end together.
        self.age_limit = front.age_seconds_max * (0.9 + 0.2 * random.random())
        front.connections.add(self)
        if front.draining:
            # It was taken in, or shook hands, while the drain began.
            return self.drain()
        self.flush()

    def get_buffer(self, size_hint):
        return self.front.inbox_view

    def buffer_updated(self, Py_ssize_t size):
        cdef ssize_t read
        if self.session == NULL:
            return
        self.read_count += 1
        self.receiving = True
        read = nghttp2_session_mem_recv(self.session, self.front.inbox_data, size)
        self.receiving = False
        if read < 0:
            if read != NGHTTP2_ERR_BAD_CLIENT_MAGIC:
                nghttp2_session_terminate_session(self.session, NGHTTP2_INTERNAL_ERROR)
                self.flush()
            if self.transport is not None:
                self.transport.close()
            return
        if self.timed_count > 0:
            self.front.arm_expiry()
        self.flush()
        if size == INBOX_BYTES and self.transport is not None and not self.transport.is_closing():
            # More is waiting; others have their turn first.
            self.transport.pause_reading()
            self.front.loop.call_soon(self.resume_reading)

    def resume_reading(self):
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self):
        return False

    def pause_writing(self):
        self.write_paused = True
        self.paused_since = monotonic()

    def resume_writing(self):
        self.write_paused = False
        self.flush()

    def connection_lost(self, error):
        cdef Front front = self.front
        front.connections.discard(self)
        if not front.connections and front.vacant is not None and not front.vacant.done():
            front.vacant.set_result(None)
        self.transport = None
        self.close_calls(NGHTTP2_CANCEL)
        if self.session != NULL:
            nghttp2_session_del(self.session)
            self.session = NULL

    def drain(self):
        """Tell the peer to make no new calls; the connection ends with the last one open."""
        if self.session == NULL or self.goaway_at > 0:
            return
        self.goaway_at = monotonic()
        nghttp2_submit_shutdown_notice(self.session)
        self.flush()
        self.ask_for_last()

    def cut(self):
        """End it now: open calls are cancelled at both ends."""
        cdef Call call = self.calls
        if self.session == NULL or self.transport is None:
            return
        while call is not None:
            call.cut(NGHTTP2_CANCEL)
            call = call.next
        nghttp2_submit_goaway(
            self.session, NGHTTP2_FLAG_NONE,
            nghttp2_session_get_last_proc_stream_id(self.session), NGHTTP2_NO_ERROR, NULL, 0,
        )
        self.flush()
        if self.transport is not None:
            if self.write_paused:
                self.transport.abort()
            else:
                self.transport.close()

    cdef int flush(self) except -1:
        """Write everything the library has, as far as the peer reads; close when it is done."""
        cdef const uint8_t* data = NULL
        cdef ssize_t size
        cdef size_t used = 0
        cdef uint8_t* outbox = self.front.outbox
        if self.receiving or self.session == NULL or self.transport is None:
            return 0
        while not self.write_paused:
            size = nghttp2_session_mem_send(self.session, &data)
            if size <= 0:
                break
            if used + size > OUTBOX_BYTES:
                self.transport.write(PyBytes_FromStringAndSize(<char*>outbox, used))
                used = 0
            if size > OUTBOX_BYTES:
                self.transport.write(PyBytes_FromStringAndSize(<char*>data, size))
                continue
            memcpy(outbox + used, data, size)
            used += size
        else:
            size = 0
        if used > 0:
            self.transport.write(PyBytes_FromStringAndSize(<char*>outbox, used))
        if size < 0 or (
            not nghttp2_session_want_read(self.session)
            and not nghttp2_session_want_write(self.session)
        ):
            self.transport.close()
        return 0

    cdef int mark_dirty(self) except -1:
        if self.receiving or self.dirty:
            return 0
        self.dirty = True
        if not self.front.dirty:
            self.front.loop.call_soon(self.front.flush_dirty)
        self.front.dirty.append(self)
        return 0

    cdef int spend(self) except -1:
        """Count a frame that costs us and carries nothing; too many of them end it."""
        self.patience -= 1
        if self.patience == 0:
            self.front.hit("EMPTY_FRAMES")
            nghttp2_session_terminate_session(self.session, NGHTTP2_ENHANCE_YOUR_CALM)
        return 0

    cdef int pinged(self) except -1:
        """A peer that pings a silent connection too often is told so and cut off."""
        cdef double now = monotonic()
        self.spend()
        if self.sent_since_ping:
            self.ping_strikes = 0
        elif self.peer_pinged_at > 0 and now < self.peer_pinged_at + self.front.ping_seconds_min:
            self.ping_strikes += 1
        self.sent_since_ping = False
        self.peer_pinged_at = now
        if self.ping_strikes > PING_STRIKES_MAX:
            self.ping_strikes = 0
            self.front.hit("PINGS")
            nghttp2_submit_goaway(
                self.session, NGHTTP2_FLAG_NONE,
                nghttp2_session_get_last_proc_stream_id(self.session),
                NGHTTP2_ENHANCE_YOUR_CALM, <const uint8_t*>TOO_MANY_PINGS, 14,
            )
            self.front.loop.call_soon(self.cut)
        return 0

    cdef int ask_for_last(self) except -1:
        """Ping when the notice is out: submitted together the library sends the ping first, and a
        caller may answer it and begin a call before it reads the notice."""
        if self.drain_pinged or self.write_paused or self.session == NULL:
            return 0
        self.drain_pinged = True
        nghttp2_submit_ping(self.session, NGHTTP2_FLAG_NONE, <const uint8_t*>DRAIN_PING)
        return self.flush()

    cdef int finish_goaway(self) except -1:
        """The last stream is known once the peer has answered a ping sent after the notice."""
        if self.goaway_at == 0 or self.goaway_final or self.session == NULL:
            return 0
        self.goaway_final = True
        nghttp2_submit_goaway(
            self.session, NGHTTP2_FLAG_NONE,
            nghttp2_session_get_last_proc_stream_id(self.session), NGHTTP2_NO_ERROR, NULL, 0,
        )
        return self.mark_dirty()

    cdef int close_calls(self, uint32_t error) except -1:
        cdef Call call
        self.current = None
        while self.calls is not None:
            call = self.calls
            if self.session != NULL:
                nghttp2_session_set_stream_user_data(self.session, call.stream_id, NULL)
            call.settled(error)
        return 0

    cdef int keep_alive(self, double now) except -1:
        cdef Front front = self.front
        cdef Call call = self.calls
        if self.session == NULL or self.transport is None:
            return 0
        self.patience = min(self.patience + PATIENCE_SECOND, <int>PATIENCE)
        if not self.settled and now - self.made_at > HANDSHAKE_SECONDS:
            front.hit("HANDSHAKE_SECONDS")
            self.transport.abort()
            return 0
        if self.write_paused and now - self.paused_since > front.keepalive_timeout_seconds:
            front.hit("REPLY_SECONDS")
            self.transport.abort()
            return 0
        if self.read_count != self.read_count_seen:
            self.read_count_seen = self.read_count
            self.read_at = now
            self.pinging = False
        elif self.pinging:
            if now - self.pinged_at > front.keepalive_timeout_seconds:
                self.transport.abort()
                return 0
        elif now - self.read_at >= front.keepalive_seconds:
            self.pinging = True
            self.pinged_at = now
            nghttp2_submit_ping(self.session, NGHTTP2_FLAG_NONE, NULL)
        while call is not None:
            if call.finished:
                # The caller does not take its reply.
                if now - call.finished_at > front.request_seconds_max:
                    front.hit("REPLY_SECONDS")
                    call.cut(NGHTTP2_CANCEL)
            elif (
                not call.remote_done
                and now - call.began > front.request_seconds_max
                and (call.method is None or not call.method.request_streaming)
            ):
                front.hit("REQUEST_SECONDS")
                call.refuse(DEADLINE_EXCEEDED, "the request took too long to arrive")
            call = call.next
        if self.goaway_at > 0:
            self.ask_for_last()
            if now - self.goaway_at > GOAWAY_SECONDS:
                self.finish_goaway()
        elif (front.age_seconds_max > 0 and now - self.made_at > self.age_limit) or (
            front.idle_seconds_max > 0
            and self.call_count == 0
            and now - self.idle_since > front.idle_seconds_max
        ):
            self.drain()
        return self.flush()


class ServerConnection(Connection, asyncio.BufferedProtocol):
    """asyncio tells by the class that ``get_buffer`` is meant."""

    __slots__ = ()


cdef str peer_of(object transport):
    """The caller's address as gRPC writes it."""
    cdef object address = transport.get_extra_info("peername")
    if isinstance(address, tuple):
        if len(address) == 2:
            return f"ipv4:{address[0]}:{address[1]}"
        return f"ipv6:[{address[0]}]:{address[1]}"
    return "unix:" + (address if isinstance(address, str) else "")


cdef dict identity_of(object certificate):
    """A caller's verified certificate, if it showed one, as gRPC tells it."""
    cdef dict found = {"transport_security_type": [b"ssl"]}
    if not certificate:
        return found
    names = [value.encode() for part in certificate["subject"] for key, value in part
             if key == "commonName"]
    if names:
        found["x509_common_name"] = names
    others = [value.encode() for _, value in certificate.get("subjectAltName", ())]
    if others:
        found["x509_subject_alternative_name"] = others
    return found


@cython.freelist(256)
cdef class Call:
    """One call, and what its servicer sees of it: fulfills ``grpc.aio.ServicerContext``."""

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.field_count):
            nghttp2_rcbuf_decref(self.fields[i].name)
            nghttp2_rcbuf_decref(self.fields[i].value)
        free(self.fields)
        if self.path != NULL:
            nghttp2_rcbuf_decref(self.path)
        if self.accepted != NULL:
            nghttp2_rcbuf_decref(self.accepted)

    # What servicers use.

    def invocation_metadata(self):
        cdef Py_ssize_t i
        cdef list found = []
        for i in range(self.field_count):
            name = bytes_of(self.fields[i].name)
            value = metadata_value(name, bytes_of(self.fields[i].value))
            if value is not None:
                found.append(Metadatum(name.decode("ascii"), value))
        return tuple(found)

    def metadata(self, str key not None):
        """The first value of ``key``, or None; cheaper than all of them."""
        cdef Connection connection = self.connection
        cdef nghttp2_rcbuf* found
        cdef Py_ssize_t size, i
        cdef const char* name = PyUnicode_AsUTF8AndSize(key, &size)
        for i in range(self.field_count):
            if equals(nghttp2_rcbuf_get_buf(self.fields[i].name), name, size):
                found = self.fields[i].value
                # The same buffer, out of the header table, is the same text.
                if found == connection.told_value:
                    return connection.told_text
                value = metadata_value(PyBytes_FromStringAndSize(name, size), bytes_of(found))
                if isinstance(value, str):
                    if connection.told_value != NULL:
                        nghttp2_rcbuf_decref(connection.told_value)
                    nghttp2_rcbuf_incref(found)
                    connection.told_value, connection.told_text = found, value
                return value
        return None

    def trace_id(self):
        """Of the caller's ``traceparent``, or new: 32 hexadecimal digits."""
        self.know_trace()
        return PyUnicode_DecodeASCII(self.trace, 32, NULL)

    cdef int know_trace(self) except -1:
        cdef Front front = self.connection.front
        cdef uint64_t part
        cdef Py_ssize_t size, i
        cdef str found
        if self.trace_known:
            return 0
        self.trace_known = True
        header = self.metadata("traceparent") if self.field_count > 0 else None
        if header is not None:
            found = front.trace_id_of(header)
            memcpy(self.trace, PyUnicode_AsUTF8AndSize(found, &size), 32)
            return 0
        for i in range(32):
            if i % 16 == 0:
                part = front.next_random() | 1  # all zeros is no trace id
            self.trace[i] = DIGITS[part & 15]
            part >>= 4
        return 0

    def time_remaining(self):
        return max(self.deadline - monotonic(), 0.0) if self.deadline > 0 else None

    def peer(self):
        return self.connection.peer

    def peer_identities(self):
        key = self.peer_identity_key()
        return self.auth_context()[key] if key is not None else None

    def peer_identity_key(self):
        found = self.auth_context()
        for key in ("x509_subject_alternative_name", "x509_common_name"):
            if key in found:
                return key
        return None

    def auth_context(self):
        """What TLS knows of the caller, named as gRPC names it."""
        secured = self.connection.secured
        return identity_of(secured.getpeercert()) if secured is not None else {}

    def set_code(self, code):
        self.status = number_of(code)
        self.given_code = code

    def code(self):
        return self.given_code

    def set_details(self, str details):
        self.given_details = details

    def details(self):
        return self.given_details or ""

    def set_trailing_metadata(self, trailing_metadata):
        self.trailing = checked_metadata(trailing_metadata)

    def trailing_metadata(self):
        return self.trailing if self.trailing is not None else ()

    def set_compression(self, compression):
        if self.headers_sent:
            raise RuntimeError("compression must be set before the initial metadata is sent")
        cdef int wanted = int(compression)
        # Taken back where the caller cannot read it; it would be told and not done otherwise.
        self.compression = wanted if wanted in (DEFLATE, GZIP) and self.accepts(wanted) else 0
        self.compress_next = True

    def disable_next_message_compression(self):
        self.compress_next = False

    def add_done_callback(self, callback):
        """Call ``callback(context)`` when the call has ended, or soon if it has."""
        if self.closed:
            self.connection.front.loop.call_soon(callback, self)
            return
        if self.callbacks is None:
            self.callbacks = []
        self.callbacks.append(callback)

    def done(self):
        return self.finished or self.closed

    def cancelled(self):
        return self.was_cancelled or self.status == CANCELLED

    async def abort(self, code, str details="", trailing_metadata=()):
        if self.aborted is not None:
            raise self.connection.front.usage_error("Abort already called!")
        self.aborted = self.connection.front.abort_error("Locally aborted.")
        if trailing_metadata or self.trailing is None:
            self.trailing = checked_metadata(trailing_metadata)
        self.given_code = code
        self.status = number_of(code) or UNKNOWN
        self.finish(self.status, details or self.given_details or "")
        raise self.aborted

    async def abort_with_status(self, status):
        await self.abort(status.code, status.details, status.trailing_metadata)

    async def send_initial_metadata(self, metadata):
        self.check()
        if self.headers_sent:
            raise self.connection.front.usage_error("Send initial metadata failed: already sent")
        self.initial = checked_metadata(metadata)
        self.send_headers()

    async def read(self):
        """The next request, or ``grpc.aio.EOF``."""
        cdef bytes message
        cdef bint compressed
        self.check()
        while not self.requests:
            if self.remote_done or self.closed:
                return self.connection.front.end_of_stream
            self.reader = self.connection.front.loop.create_future()
            await self.reader
            self.check()
        compressed, message = self.requests.popleft()
        self.request_compressed = compressed
        if self.unconsumed > 0 and not self.requests and not self.closed:
            nghttp2_session_consume_stream(
                self.connection.session, self.stream_id, self.unconsumed
            )
            self.unconsumed = 0
            self.connection.mark_dirty()
        if compressed:
            message = self.plain(message)
            self.check()
        if self.method.deserializer is not None:
            return self.method.deserializer(message)
        return message

    async def write(self, message):
        """Send a reply; waits while the caller takes too few of them."""
        cdef bytes encoded
        self.check()
        encoded = self.method.serializer(message) if self.method.serializer else message
        if PyBytes_GET_SIZE(encoded) > self.connection.front.message_bytes_max:
            await self.abort(RESOURCE_EXHAUSTED, self.too_long(PyBytes_GET_SIZE(encoded)))
        self.push(encoded)
        if self.reply_bytes >= WRITER_BYTES:
            if self.writer is None:
                self.writer = self.connection.front.loop.create_future()
            await self.writer

    def message(self):
        """The one request of a call that sends one, for those that are not unary."""
        cdef bytes request
        request, self.request = self.request, None
        return self.method.deserializer(request) if self.method.deserializer else request

    def answer(self, message):
        """Send the one reply of a call that has one, and end it."""
        self.check()
        self.reply_with(message)

    def end(self):
        """End the call with the code and details set."""
        self.check()
        self.finish(self.status, self.given_details or "")

    # Coming in.

    cdef int header(self, nghttp2_rcbuf* name_buffer, nghttp2_rcbuf* value_buffer) except -1:
        cdef nghttp2_vec name = nghttp2_rcbuf_get_buf(name_buffer)
        cdef nghttp2_vec value = nghttp2_rcbuf_get_buf(value_buffer)
        cdef Field* grown
        # As HPACK counts it. What is over the limit is decoded, for others need the table, and
        # dropped.
        self.metadata_bytes += name.len + value.len + 32
        if self.metadata_bytes > self.connection.front.metadata_bytes_max:
            return 0
        if name.base[0] == c":":
            if equals(name, b":path", 5):
                nghttp2_rcbuf_incref(value_buffer)
                self.path = value_buffer
            elif equals(name, b":method", 7):
                self.posted = equals(value, b"POST", 4)
            return 0
        if equals(name, b"content-type", 12):
            self.grpc = (
                value.len >= 16
                and memcmp(value.base, b"application/grpc", 16) == 0
                and (value.len == 16 or value.base[16] == c"+" or value.base[16] == c";")
            )
            return 0
        if equals(name, b"grpc-timeout", 12):
            self.deadline = timeout_seconds(value.base, value.len)
            if self.deadline >= 0:
                self.deadline += monotonic()
                self.timed = True
                self.connection.timed_count += 1
            return 0
        if equals(name, b"te", 2):
            return 0
        if equals(name, b"grpc-encoding", 13):
            if equals(value, b"gzip", 4):
                self.encoding = GZIP
            elif equals(value, b"deflate", 7):
                self.encoding = DEFLATE
            elif not equals(value, b"identity", 8):
                self.encoding = UNKNOWN_ENCODING
                self.encoding_name = bytes_of(value_buffer)
            return 0
        if equals(name, b"grpc-accept-encoding", 20):
            if self.accepted == NULL:
                nghttp2_rcbuf_incref(value_buffer)
                self.accepted = value_buffer
            return 0
        if self.field_count == self.field_capacity:
            self.field_capacity = self.field_capacity * 2 if self.field_capacity else 4
            grown = <Field*>realloc(self.fields, self.field_capacity * sizeof(Field))
            if grown == NULL:
                raise MemoryError
            self.fields = grown
        nghttp2_rcbuf_incref(name_buffer)
        nghttp2_rcbuf_incref(value_buffer)
        self.fields[self.field_count].name = name_buffer
        self.fields[self.field_count].value = value_buffer
        self.field_count += 1
        return 0

    cdef int begin(self) except -1:
        """The header block is complete: refuse the call or find its method."""
        cdef Front front = self.connection.front
        cdef nghttp2_vec path
        cdef bytes key
        if self.metadata_bytes > front.metadata_bytes_max:
            front.hit("METADATA_BYTES")
            return self.finish(
                RESOURCE_EXHAUSTED,
                f"metadata of {self.metadata_bytes} bytes; at most {front.metadata_bytes_max}",
            )
        if not self.posted or not self.grpc:
            return self.refuse_http()
        key = bytes_of(self.path)
        self.method = front.methods.get(key)
        if self.method is None:
            self.method = front.resolve(key.decode("latin-1"), self)
            if self.method is None:
                return self.finish(UNIMPLEMENTED, "Method not found!")
        if self.encoding == UNKNOWN_ENCODING:
            return self.finish(
                UNIMPLEMENTED,
                f"grpc-encoding {self.encoding_name.decode('latin-1')!r} is not of "
                "identity, deflate, gzip",
            )
        if self.timed and self.deadline <= monotonic():
            return self.finish(DEADLINE_EXCEEDED, "Deadline Exceeded")
        if self.method.request_streaming:
            self.requests = deque()
            self.start()
        return 0

    cdef int refuse_http(self) except -1:
        """Whoever sent this does not speak gRPC; answer in HTTP."""
        cdef nghttp2_nv nv[1]
        self.stop_timing()
        self.finished = True
        self.finished_at = self.connection.front.now
        if self.posted:
            nv[0] = fixed(b":status", 7, b"415", 3)
        else:
            nv[0] = fixed(b":status", 7, b"405", 3)
        nghttp2_submit_response(self.connection.session, self.stream_id, nv, 1, NULL)
        return self.connection.mark_dirty()

    cdef int feed(self, const uint8_t* data, int64_t size) except -1:
        """Bytes of the request: five of prefix, then the message, then perhaps another."""
        cdef int64_t part
        if self.requests is not None and self.requests:
            # The servicer is behind; its window closes until it has read.
            self.unconsumed += size
        else:
            nghttp2_session_consume_stream(self.connection.session, self.stream_id, size)
        while size > 0 and not self.finished:
            if self.body is None:
                part = min(size, PREFIX_BYTES - self.prefix_size)
                memcpy(self.prefix + self.prefix_size, data, part)
                self.prefix_size += part
                data += part
                size -= part
                if self.prefix_size < PREFIX_BYTES:
                    return 0
                self.begin_message()
                if self.finished:
                    return 0
            part = min(size, self.body_size - self.body_filled)
            memcpy(PyBytes_AS_STRING(self.body) + self.body_filled, data, part)
            self.body_filled += part
            data += part
            size -= part
            if self.body_filled == self.body_size:
                self.message_received()
        return 0

    cdef int begin_message(self) except -1:
        cdef Front front = self.connection.front
        self.body_size = (
            (<int64_t>self.prefix[1] << 24) | (<int64_t>self.prefix[2] << 16)
            | (<int64_t>self.prefix[3] << 8) | self.prefix[4]
        )
        if self.prefix[0] > 1:
            return self.refuse(INTERNAL, f"a message begins with the flag {self.prefix[0]}")
        if self.prefix[0] == 1 and self.encoding == IDENTITY:
            return self.refuse(INTERNAL, "a compressed message, but no grpc-encoding")
        if self.body_size > front.message_bytes_max:
            front.hit("MESSAGE_BYTES")
            return self.refuse(RESOURCE_EXHAUSTED, self.too_long(self.body_size))
        if front.unfinished_bytes + self.body_size > front.unfinished_bytes_max:
            front.hit("UNFINISHED_BYTES")
            return self.refuse(RESOURCE_EXHAUSTED, "too many requests are being received")
        self.counted_bytes = self.body_size
        front.unfinished_bytes += self.body_size
        self.body = PyBytes_FromStringAndSize(NULL, self.body_size)
        self.body_filled = 0
        return 0

    cdef int message_received(self) except -1:
        cdef bytes message = self.body
        self.body = None
        self.prefix_size = 0
        self.release_bytes()
        if self.requests is not None:
            # Inflated when it is read: what waits here has gone through the window.
            self.requests.append((self.prefix[0] == 1, message))
            if self.reader is not None and not self.reader.done():
                self.reader.set_result(None)
        elif self.request is None:
            self.request_compressed = self.prefix[0] == 1
            self.request = self.plain(message) if self.request_compressed else message
        else:
            self.refuse(INTERNAL, "more than one message in a call that takes one")
        return 0

    cdef bytes plain(self, bytes message):
        """A message inflated; None when that ended the call."""
        cdef int64_t size_max = self.connection.front.message_bytes_max
        cdef bytes found = inflated(self.encoding, message, size_max)
        if found is None:
            self.refuse(INTERNAL, "a message could not be decompressed")
        elif PyBytes_GET_SIZE(found) > size_max:
            self.connection.front.hit("MESSAGE_BYTES")
            self.refuse(RESOURCE_EXHAUSTED, self.too_long(PyBytes_GET_SIZE(found)))
            found = None
        return found

    cdef int end_of_request(self) except -1:
        self.remote_done = True
        if self.finished:
            return 0
        if self.prefix_size > 0:
            return self.refuse(INTERNAL, "the request ends inside a message")
        if self.requests is None:
            if self.request is None:
                return self.refuse(INTERNAL, "no message in a call that takes one")
            return self.start()
        if self.reader is not None and not self.reader.done():
            self.reader.set_result(None)
        return 0

    # The work.

    cdef int start(self) except -1:
        cdef Method method = self.method
        cdef object request, result
        if not method.unary:
            return self.run(method.behavior(self))
        request, self.request = self.request, None
        try:
            if method.deserializer is not None:
                request = method.deserializer(request)
            result = method.behavior(request, self)
            if type(result) is not bytes and hasattr(result, "__await__"):
                self.awaitable = result
                return self.run_at_once(self.replied())
            return self.reply_with(result)
        except Exception as error:
            return self.fail(error)

    async def replied(self):
        """A unary call whose behavior must be awaited."""
        cdef object awaitable
        awaitable, self.awaitable = self.awaitable, None
        try:
            self.reply_with(await awaitable)
        except asyncio.CancelledError:
            self.finish(CANCELLED, "")
        except Exception as error:
            self.fail(error)

    cdef int run_at_once(self, object coroutine) except -1:
        """Take the first step here; what then waits goes on in a task.

        Most reads never wait, so they cost no task and their reply leaves in the same write.
        """
        cdef object loop = self.connection.front.loop
        cdef object context, waiting_for
        cdef FirstStep step
        if current_task(loop) is not None:
            return self.run(coroutine)
        step = FirstStep.__new__(FirstStep)
        step.loop = loop
        context = PyContext_CopyCurrent()
        PyContext_Enter(context)
        enter_task(loop, step)
        try:
            waiting_for = coroutine.send(None)
        except StopIteration:
            return 0
        finally:
            leave_task(loop, step)
            PyContext_Exit(context)
        step.task = asyncio.Task(begun(coroutine, waiting_for), loop=loop, context=context)
        if step.cancel_count > 0:
            step.task.cancel()
        if self.closed:
            step.task.cancel()
        else:
            self.task = step.task
        return 0

    cdef int run(self, object awaitable) except -1:
        self.task = self.connection.front.loop.create_task(awaitable)
        return 0

    cdef int stop_work(self) except -1:
        if self.task is not None:
            self.task.cancel()
        if hasattr(self.awaitable, "close"):
            # Its task has not begun and never will; a coroutine must not be left so.
            self.awaitable.close()
        self.awaitable = None
        return 0

    def failed(self, error):
        """End the call by what its behavior raised."""
        if isinstance(error, asyncio.CancelledError):
            self.finish(CANCELLED, "")
        else:
            self.fail(error)

    cdef int fail(self, object error) except -1:
        cdef Front front = self.connection.front
        if self.aborted is not None and error is self.aborted:
            return 0
        if self.finished and isinstance(error, front.usage_error):
            return 0
        front.log(error, self.method.path)
        return self.finish(
            self.status if self.status != OK else UNKNOWN, f"Unexpected {type(error)}: {error}"
        )

    cdef int stop_timing(self) except -1:
        if self.timed:
            self.timed = False
            self.connection.timed_count -= 1
        return 0

    # Going out.

    cdef int reply_with(self, object message) except -1:
        """The last reply, with the status that was set; only OK has one."""
        cdef bytes encoded
        if self.closed or self.finished:
            return 0
        if self.aborted is not None:
            return 0
        if self.status != OK:
            return self.finish(self.status, self.given_details or "")
        encoded = self.method.serializer(message) if self.method.serializer else message
        if encoded is None:
            raise TypeError("a reply must be bytes, not None")
        if PyBytes_GET_SIZE(encoded) > self.connection.front.message_bytes_max:
            return self.finish(RESOURCE_EXHAUSTED, self.too_long(PyBytes_GET_SIZE(encoded)))
        if self.connection.unsent_bytes > UNSENT_BYTES_MAX:
            self.connection.front.hit("UNREAD_BYTES")
            return self.finish(RESOURCE_EXHAUSTED, "the caller does not read its replies")
        self.ending = True
        self.finished = True
        self.finished_at = self.connection.front.now
        self.stop_timing()
        return self.push(encoded)

    cdef int push(self, bytes message) except -1:
        """Queue one reply."""
        cdef bint compressed = False
        if self.closed:
            return 0
        if self.compression != IDENTITY:
            compressed, self.compress_next = self.compress_next, True
            if compressed:
                message = deflated(self.compression, message)
        if self.replies is None:
            self.replies = deque() if not self.ending else ()
        if self.reply is None and not self.replies:
            self.reply, self.reply_compressed = message, compressed
        else:
            self.replies.append((message, compressed))
        self.reply_bytes += PyBytes_GET_SIZE(message)
        self.connection.unsent_bytes += PyBytes_GET_SIZE(message)
        if not self.headers_sent:
            return self.send_headers()
        nghttp2_session_resume_data(self.connection.session, self.stream_id)
        return self.connection.mark_dirty()

    cdef int send_headers(self) except -1:
        self.headers_sent = True
        self.submit(False, False)
        return self.connection.mark_dirty()

    cdef int send_trailers(self) except -1:
        return self.submit(True, False)

    cdef int submit(self, bint trailers, bint alone) except -1:
        """Headers, trailers, or both in one block when no message goes between them."""
        cdef nghttp2_nv nv[9 + 2 * METADATA_COUNT_MAX]
        cdef nghttp2_data_provider provider
        cdef size_t count = 0
        cdef list kept = []
        cdef bytes text
        cdef int result
        if alone or not trailers:
            nv[0] = fixed(b":status", 7, b"200", 3)
            nv[1] = fixed(b"content-type", 12, b"application/grpc", 16)
            nv[2] = fixed(b"grpc-accept-encoding", 20, b"identity, deflate, gzip", 23)
            count = 3
            if self.compression == GZIP:
                nv[count] = fixed(b"grpc-encoding", 13, b"gzip", 4)
                count += 1
            elif self.compression == DEFLATE:
                nv[count] = fixed(b"grpc-encoding", 13, b"deflate", 7)
                count += 1
            if self.initial is not None:
                count = add_metadata(nv, count, self.initial, kept)
        if trailers:
            if self.status == OK:
                nv[count] = fixed(b"grpc-status", 11, b"0", 1)
            else:
                text = str(self.status).encode()
                kept.append(text)
                nv[count] = fixed(b"grpc-status", 11, PyBytes_AS_STRING(text), len(text))
                nv[count].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME
            count += 1
            if self.given_details and self.status != OK:
                text = percent_encoded(self.given_details)
                kept.append(text)
                nv[count] = fixed(b"grpc-message", 12, PyBytes_AS_STRING(text), len(text))
                nv[count].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX
                count += 1
            if self.trailing is not None:
                count = add_metadata(nv, count, self.trailing, kept)
            if self.method is not None and self.method.traced:
                self.know_trace()
                nv[count] = fixed(b"trace-id", 8, self.trace, 32)
                # It never comes again, and would push out what does.
                nv[count].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX
                count += 1
        if alone:
            result = nghttp2_submit_response(
                self.connection.session, self.stream_id, nv, count, NULL
            )
        elif trailers:
            result = nghttp2_submit_trailer(self.connection.session, self.stream_id, nv, count)
        else:
            provider.source.ptr = <void*>self
            provider.read_callback = read_reply
            result = nghttp2_submit_response(
                self.connection.session, self.stream_id, nv, count, &provider
            )
        if result != 0:
            raise RuntimeError(f"libnghttp2 refused a header block ({result})")
        self.connection.sent_since_ping = True
        return 0

    cdef int finish(self, int status, str details) except -1:
        """End the call with a status and no further message; once."""
        if self.closed or self.finished:
            return 0
        self.finished = True
        self.finished_at = self.connection.front.now
        self.stop_timing()
        self.release_bytes()
        self.body = None
        self.status = status
        self.given_details = details[:DETAILS_CHARACTERS_MAX]
        if self.headers_sent:
            self.ending = True
            nghttp2_session_resume_data(self.connection.session, self.stream_id)
        else:
            self.headers_sent = True
            self.submit(True, True)
        return self.connection.mark_dirty()

    cdef int refuse(self, int status, str details) except -1:
        """End the call whatever its behavior is doing."""
        if not self.finished:
            self.finish(status, details)
            self.stop_work()
        return 0

    cdef int settled(self, uint32_t error) except -1:
        """The stream is gone: leave the connection, stop what is still at work."""
        cdef Connection connection = self.connection
        self.closed = True
        self.stop_timing()
        self.release_bytes()
        if not self.finished:
            self.was_cancelled = True
            self.status = CANCELLED
        connection.unsent_bytes -= self.reply_bytes
        self.reply_bytes = 0
        self.reply = None
        self.replies = None
        self.body = None
        if self.task is not None:
            # One that has its status is let end: its epilogue may be in the middle of a turn.
            if not self.finished:
                self.stop_work()
            elif self.writer is not None and not self.writer.done():
                self.writer.set_result(None)
            self.task = None
        if self.reader is not None and not self.reader.done():
            self.reader.set_result(None)
        if self.previous is not None:
            self.previous.next = self.next
        else:
            connection.calls = self.next
        if self.next is not None:
            self.next.previous = self.previous
        self.next = self.previous = None
        connection.call_count -= 1
        if connection.call_count == 0:
            connection.idle_since = connection.front.now
        if self.callbacks is not None:
            for callback in self.callbacks:
                connection.front.loop.call_soon(callback, self)
            self.callbacks = None
        Py_DECREF(self)
        return 0

    cdef int cut(self, uint32_t error) except -1:
        if not self.finished:
            self.stop_work()
        nghttp2_submit_rst_stream(
            self.connection.session, NGHTTP2_FLAG_NONE, self.stream_id, error
        )
        return self.connection.mark_dirty()

    cdef int release_bytes(self) except -1:
        self.connection.front.unfinished_bytes -= self.counted_bytes
        self.counted_bytes = 0
        return 0

    cdef int check(self) except -1:
        """A behavior that swallowed its abort, or goes on after the end, is stopped here."""
        if self.aborted is not None:
            raise self.aborted
        if self.finished:
            raise self.connection.front.usage_error("RPC already finished.")
        return 0

    cdef str too_long(self, int64_t size):
        return (
            f"message of {size} bytes; at most {self.connection.front.message_bytes_max}"
        )

    cdef bint accepts(self, int encoding) except -1:
        cdef object text = bytes_of(self.accepted).decode("latin-1") if self.accepted != NULL else ""
        return ("gzip" if encoding == GZIP else "deflate") in text.replace(" ", "").split(",")


@cython.final
@cython.freelist(64)
cdef class FirstStep:
    """What ``asyncio.current_task`` returns until a behavior first waits; then its task's stand-in.

    asyncio.timeout and TaskGroup ask the current task for no more than this.
    """

    def cancel(self, msg=None):
        if self.task is not None:
            return self.task.cancel(msg)
        self.cancel_count += 1
        return True

    def cancelling(self):
        return self.task.cancelling() if self.task is not None else self.cancel_count

    def uncancel(self):
        if self.task is not None:
            return self.task.uncancel()
        self.cancel_count = max(self.cancel_count - 1, 0)
        return self.cancel_count

    def done(self):
        return self.task is not None and self.task.done()

    def cancelled(self):
        return self.task is not None and self.task.cancelled()

    def get_loop(self):
        return self.loop

    def get_name(self):
        return self.task.get_name() if self.task is not None else "first step of a call"


cdef Begun begun(object coroutine, object waiting_for):
    cdef Begun rest = Begun.__new__(Begun)
    rest.coroutine = coroutine
    rest.waiting_for = waiting_for
    rest.held = True
    return rest


@cython.final
cdef class Begun:
    """A coroutine that has been begun elsewhere, for the task that ends it."""

    def send(self, value):
        cdef object waiting_for
        if self.held:
            self.held = False
            waiting_for, self.waiting_for = self.waiting_for, None
            return waiting_for
        return self.coroutine.send(value)

    def throw(self, kind, value=None, traceback=None):
        if self.held:
            # Cancelled before the task could begin to wait.
            self.held = False
            if hasattr(self.waiting_for, "cancel"):
                self.waiting_for.cancel()
            self.waiting_for = None
        return self.coroutine.throw(kind if value is None else value)

    def close(self):
        self.coroutine.close()

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)


cdef bytes bytes_of(nghttp2_rcbuf* buffer):
    cdef nghttp2_vec text = nghttp2_rcbuf_get_buf(buffer)
    return PyBytes_FromStringAndSize(<char*>text.base, text.len)
