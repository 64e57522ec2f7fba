"""The protobuf wire format, read forwards and written backwards; and what our messages share.

A reader knows lengths, strings and numbers below 2**35; whatever else it meets makes it ``bad``,
and the protobuf runtime then says what is wrong, if anything is. A writer fills its buffer from the
end, so the length of a message is known when its prefix is written.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    ID_LENGTH_MAX = 64
    AGE_SECONDS_MAX = 3600


cdef struct Text:
    const uint8_t* data
    uint32_t size


cdef struct Reader:
    const uint8_t* at
    const uint8_t* end
    bint bad


cdef inline Reader reader_of(const uint8_t* data, size_t size) noexcept nogil:
    cdef Reader reader
    reader.at = data
    reader.end = data + size
    reader.bad = False
    return reader


cdef inline uint64_t read_number(Reader* reader) noexcept nogil:
    """A varint of up to five bytes; 0 and ``bad`` for a longer one, or one cut off."""
    cdef uint64_t value = 0
    cdef uint32_t shift = 0
    cdef uint8_t byte
    while reader.at < reader.end and shift < 35:
        byte = reader.at[0]
        reader.at += 1
        value |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
    reader.bad = True
    return 0


cdef inline Text read_text(Reader* reader) noexcept nogil:
    cdef Text text
    cdef uint64_t size = read_number(reader)
    if size > <uint64_t>(reader.end - reader.at):
        reader.bad = True
        size = 0
    text.data = reader.at
    text.size = <uint32_t>size
    reader.at += size
    return text


cdef inline uint32_t number_size(uint64_t value) noexcept nogil:
    cdef uint32_t size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline uint8_t* put_number(uint8_t* at, uint64_t value) noexcept nogil:
    cdef uint8_t* end = at
    at -= number_size(value)
    cdef uint8_t* next = at
    while value >= 0x80:
        next[0] = <uint8_t>(value & 0x7F) | 0x80
        value >>= 7
        next += 1
    next[0] = <uint8_t>value
    return at


cdef inline uint8_t* put_tag(uint8_t* at, uint8_t tag) noexcept nogil:
    at -= 1
    at[0] = tag
    return at


cdef inline uint8_t* put_field(uint8_t* at, uint8_t tag, int64_t value) noexcept nogil:
    """A number of 0 or more; 0 is left out."""
    return at if value == 0 else put_tag(put_number(at, <uint64_t>value), tag)


cdef inline uint8_t* put_text(
    uint8_t* at, uint8_t tag, const uint8_t* data, uint32_t size
) noexcept nogil:
    """A string; an empty one is left out."""
    if size == 0:
        return at
    at -= size
    memcpy(at, data, size)
    return put_tag(put_number(at, size), tag)


cdef inline uint8_t* put_head(uint8_t* at, uint8_t tag, uint8_t* end) noexcept nogil:
    """Tag and length of the message that was written between here and ``end``."""
    return put_tag(put_number(at, <uint64_t>(end - at)), tag)


cdef inline uint8_t* put_time(uint8_t* at, uint8_t tag, int64_t time_ms) noexcept nogil:
    """A Timestamp or a Duration of 0 or more milliseconds."""
    cdef uint8_t* end = at
    at = put_field(at, 0x10, time_ms % 1000 * 1000000)
    at = put_field(at, 0x08, time_ms // 1000)
    return put_head(at, tag, end)


cdef inline bint is_id_character(uint8_t c) noexcept nogil:
    """A letter, a digit or one of ``._:/-``."""
    if c < 64:
        return <uint64_t>0x07FFE00000000000 >> c & 1
    return c < 128 and <uint64_t>0x07FFFFFE87FFFFFE >> (c - 64) & 1


cdef inline bint is_id(Text text) noexcept nogil:
    cdef uint32_t i
    if text.size == 0 or text.size > ID_LENGTH_MAX:
        return False
    for i in range(text.size):
        if not is_id_character(text.data[i]):
            return False
    # It begins with a letter or a digit.
    return text.data[0] > c"/" and text.data[0] != c":" and text.data[0] != c"_"


cdef inline bint read_span(Text message, uint64_t* seconds, uint64_t* nanos) noexcept nogil:
    """Whether it is a Timestamp or a Duration of 0 or more."""
    cdef Reader reader = reader_of(message.data, message.size)
    cdef uint64_t tag
    cdef uint32_t seen = 0
    seconds[0] = nanos[0] = 0
    while reader.at < reader.end:
        tag = read_number(&reader)
        if tag == 0x08 and not seen & 1:
            seen |= 1
            seconds[0] = read_number(&reader)
        elif tag == 0x10 and not seen & 2:
            seen |= 2
            nanos[0] = read_number(&reader)
        else:
            return False
    return not reader.bad and nanos[0] <= 999999999


cdef inline int64_t read_age_ms(Text duration) noexcept nogil:
    """A bound of 0 to 1 hour in ms; -1 for anything else."""
    cdef uint64_t seconds, nanos
    if not read_span(duration, &seconds, &nanos) or seconds > AGE_SECONDS_MAX:
        return -1
    if seconds == AGE_SECONDS_MAX and nanos > 0:
        return -1
    return <int64_t>(seconds * 1000 + nanos // 1000000)


cdef inline bint read_consistency(Text message, int64_t* max_age_ms) noexcept nogil:
    """Whether the table may answer, and how old that answer may be; -1 is no bound."""
    cdef Reader reader = reader_of(message.data, message.size)
    cdef uint64_t tag
    if reader.at == reader.end:
        return True
    tag = read_number(&reader)
    if tag == 0x0A:
        max_age_ms[0] = read_age_ms(read_text(&reader))
        if max_age_ms[0] < 0:
            return False
    elif tag != 0x10 or read_number(&reader) != 0:
        return False
    return not reader.bad and reader.at == reader.end
