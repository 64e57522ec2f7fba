"""Memory layout of the codec of carts."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t

from native.wire_format cimport Text


cdef struct Cart:  # a request as it was sent, CreateReservation's or PromiseCart's
    Text reservation_id
    Text owner_id
    Text address
    Text pickup_node_id
    Text segment
    Text create_time
    Text ttl
    Text order_reference
    Text methods
    Text consistency
    uint32_t method
    uint32_t durability
    uint32_t policy
    uint32_t options_max
    uint32_t shipments_max
    uint32_t seen  # a bit for each field


@cython.final
cdef class Writer:
    cdef uint8_t* buffer
    cdef size_t size
    cdef uint8_t* at

    cdef int begin(self) noexcept
    cdef size_t written(self) noexcept
    cdef int room(self, size_t size) except -1
    cdef int text(self, uint8_t tag, object value) except -1
    cdef int number(self, uint8_t tag, int64_t value) except -1
    cdef int told(self, uint8_t tag, int64_t value) except -1
    cdef int head(self, uint8_t tag, size_t before) except -1
    cdef int time(self, uint8_t tag, int64_t time_ms) except -1
    cdef int date(self, uint8_t tag, int64_t date) except -1
    cdef bytes message(self)
