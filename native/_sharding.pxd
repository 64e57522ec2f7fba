"""The hash, inlined into every twin that needs it."""

cimport cython
from libc.stdint cimport uint64_t


# Multiplication modulo 2**64 is the definition of this hash, so overflow is no error here.
@cython.overflowcheck(False)
cdef inline uint64_t hash_bytes(const char* data, Py_ssize_t size) noexcept nogil:
    cdef uint64_t value = 0xCBF29CE484222325ULL
    cdef Py_ssize_t i
    for i in range(size):
        value = (value ^ <unsigned char>data[i]) * <uint64_t>0x100000001B3ULL
    value ^= value >> 33
    value *= <uint64_t>0xFF51AFD7ED558CCDULL
    value ^= value >> 33
    value *= <uint64_t>0xC4CEB9FE1A85EC53ULL
    return value ^ (value >> 33)
