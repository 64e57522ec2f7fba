"""gRPC's text encodings, for the HTTP/2 session that needs them."""

from libc.stdint cimport uint8_t

cdef double timeout_seconds(const uint8_t* text, size_t size) noexcept nogil
cdef bytes percent_encoded(str text)
cdef bytes base64_encoded(bytes value)
cdef object metadata_value(bytes name, bytes value)
