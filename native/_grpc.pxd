"""Layout of the native front: the server, one connection, one call."""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from native.nghttp2 cimport (
    nghttp2_option,
    nghttp2_rcbuf,
    nghttp2_session,
    nghttp2_session_callbacks,
)


cdef struct Field:
    nghttp2_rcbuf* name
    nghttp2_rcbuf* value


@cython.final
cdef class Method:
    cdef readonly str path
    cdef readonly bint unary
    """One request, one reply, handled here; every other kind is ``behavior(call)`` in a task."""
    cdef readonly bint request_streaming
    cdef readonly bint traced
    """Its replies tell a trace id."""
    cdef object behavior
    cdef object deserializer
    cdef object serializer


@cython.final
cdef class Front:
    cdef readonly object loop
    cdef readonly set connections
    cdef readonly int64_t unfinished_bytes
    """Requests being received, whole process."""
    cdef dict methods
    cdef object resolve
    cdef object log
    cdef object end_of_stream
    cdef object abort_error
    cdef object usage_error
    cdef object trace_id_of
    cdef uint64_t random[2]
    cdef int64_t message_bytes_max
    cdef int64_t unfinished_bytes_max
    cdef uint32_t streams_max
    cdef uint32_t metadata_bytes_max
    cdef Py_ssize_t connections_max
    cdef double ping_seconds_min
    cdef double keepalive_seconds
    cdef double keepalive_timeout_seconds
    cdef double age_seconds_max
    cdef double idle_seconds_max
    cdef double request_seconds_max
    cdef nghttp2_session_callbacks* callbacks
    cdef nghttp2_option* option
    cdef bytearray inbox
    cdef object inbox_view
    cdef uint8_t* inbox_data
    cdef uint8_t* outbox
    cdef list dirty
    cdef object vacant
    cdef bint draining
    cdef bint expiry_armed
    cdef double now
    """As of the last tick: enough for limits of seconds."""

    cdef readonly dict limit_hits
    """How often each limit was met, by its name."""

    cdef int hit(self, str limit) except -1
    cdef int arm_expiry(self) except -1
    cdef uint64_t next_random(self) noexcept


cdef class Connection:
    cdef readonly Front front
    cdef readonly int call_count
    cdef object transport
    cdef object secured
    """The TLS of this connection, or None."""
    cdef str peer
    cdef nghttp2_session* session
    cdef Call calls
    """Head of the list of open calls."""
    cdef Call current
    """Whose header block is being read."""
    cdef bint receiving
    cdef bint write_paused
    cdef bint dirty
    cdef bint settled
    """The peer has sent its settings."""
    cdef int timed_count
    cdef uint64_t read_count
    cdef uint64_t read_count_seen
    cdef double made_at
    cdef double read_at
    cdef double idle_since
    cdef double paused_since
    cdef double pinged_at
    cdef double age_limit
    cdef double goaway_at
    cdef bint goaway_final
    cdef bint drain_pinged
    cdef bint pinging
    cdef double peer_pinged_at
    cdef int ping_strikes
    cdef bint sent_since_ping
    cdef int64_t unsent_bytes
    cdef nghttp2_rcbuf* told_value
    cdef str told_text
    """The value a servicer asked for last, and its text: callers send the same token each time."""
    cdef int patience
    """Control frames the peer may send before it is cut off; data sent to it restores them."""

    cdef int flush(self) except -1
    cdef int mark_dirty(self) except -1
    cdef int spend(self) except -1
    cdef int close_calls(self, uint32_t error) except -1
    cdef int ask_for_last(self) except -1
    cdef int finish_goaway(self) except -1
    cdef int pinged(self) except -1
    cdef int keep_alive(self, double now) except -1


@cython.final
cdef class Call:
    cdef Connection connection
    cdef Method method
    cdef object task
    cdef object awaitable
    """What the task will wait for, until it has begun."""
    cdef Call next
    cdef Call previous
    cdef int32_t stream_id
    # What came in.
    cdef Field* fields
    cdef Py_ssize_t field_count
    cdef Py_ssize_t field_capacity
    cdef int64_t metadata_bytes
    cdef nghttp2_rcbuf* path
    cdef nghttp2_rcbuf* accepted
    cdef bytes encoding_name
    cdef int encoding
    cdef bint posted
    cdef bint grpc
    cdef bint timed
    cdef double deadline
    cdef double began
    cdef double finished_at
    cdef char trace[32]
    cdef bint trace_known
    cdef uint8_t prefix[5]
    cdef int prefix_size
    cdef bytes body
    cdef int64_t body_size
    cdef int64_t body_filled
    cdef int64_t counted_bytes
    cdef bytes request
    cdef readonly bint request_compressed
    """Whether the request, or the one read last, came compressed."""
    cdef object requests
    cdef int64_t unconsumed
    cdef object reader
    cdef bint remote_done
    # What goes out.
    cdef object replies
    cdef bytes reply
    cdef bint reply_compressed
    cdef int64_t reply_offset
    cdef bint replying
    cdef int64_t reply_bytes
    cdef object writer
    cdef bint headers_sent
    cdef bint ending
    cdef bint finished
    cdef bint closed
    cdef bint was_cancelled
    cdef object aborted
    cdef int status
    cdef object given_code
    cdef str given_details
    cdef tuple trailing
    cdef tuple initial
    cdef list callbacks
    cdef int compression
    cdef bint compress_next

    cdef int know_trace(self) except -1
    cdef int header(self, nghttp2_rcbuf* name, nghttp2_rcbuf* value) except -1
    cdef int begin(self) except -1
    cdef int refuse_http(self) except -1
    cdef int feed(self, const uint8_t* data, int64_t size) except -1
    cdef int begin_message(self) except -1
    cdef int message_received(self) except -1
    cdef bytes plain(self, bytes message)
    cdef int end_of_request(self) except -1
    cdef int start(self) except -1
    cdef int run(self, object awaitable) except -1
    cdef int run_at_once(self, object coroutine) except -1
    cdef int reply_with(self, object message) except -1
    cdef int push(self, bytes message) except -1
    cdef int send_headers(self) except -1
    cdef int send_trailers(self) except -1
    cdef int submit(self, bint trailers, bint alone) except -1
    cdef int finish(self, int status, str details) except -1
    cdef int fail(self, object error) except -1
    cdef int stop_work(self) except -1
    cdef int stop_timing(self) except -1
    cdef int refuse(self, int status, str details) except -1
    cdef int settled(self, uint32_t error) except -1
    cdef int cut(self, uint32_t error) except -1
    cdef int release_bytes(self) except -1
    cdef int check(self) except -1
    cdef str too_long(self, int64_t size)
    cdef bint accepts(self, int encoding) except -1


@cython.final
cdef class FirstStep:
    cdef object loop
    cdef object task
    cdef int cancel_count


@cython.final
cdef class Begun:
    cdef object coroutine
    cdef object waiting_for
    cdef bint held
