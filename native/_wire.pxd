"""The protobuf wire format, read forwards and written backwards.

A reader knows lengths, strings and numbers below 2**35; whatever else it meets makes it ``bad``,
and the protobuf runtime then says what is wrong, if anything is. A writer fills its buffer from the
end, so the length of a message is known when its prefix is written.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from native._ats_table cimport AtsTable, Block, Cell


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


cdef enum Scope:
    ALL_NODES
    NAMED_NODES
    GROUP_NODES


cdef struct Entry:  # one look-up, as asked, and what the table has of its SKU
    Text entry_id
    Text sku
    Text place  # the node list as it was sent, or the group's id
    Scope scope
    uint64_t hash
    uint32_t shard
    Block* block  # NULL where the table has nothing of the SKU


cdef struct Node:
    Text node_id
    uint32_t place  # in the table, 0 while it has no position there
    uint32_t mark  # of the last list that named it
    bint on


cdef struct Listed:  # a node of an answer; cell is NULL where it has no position
    uint32_t node
    Cell* cell


@cython.final
cdef class AvailabilityReads:
    cdef AtsTable table
    cdef int64_t feed_behind_ms
    cdef dict node_numbers
    cdef list node_ids  # keeps the texts of nodes alive
    cdef object items
    cdef dict groups  # id -> bit map over nodes
    cdef Node* nodes  # by id
    cdef uint32_t node_count
    cdef uint32_t* node_slots  # open addressing over hashes of ids: node + 1, 0 is empty
    cdef uint32_t node_mask
    cdef uint32_t* place_nodes  # by interned id of the table: node + 1, 0 where it is none
    cdef uint32_t place_count
    cdef uint32_t mark
    cdef Entry* entries
    cdef uint32_t entry_capacity
    cdef Listed* listed
    cdef uint32_t listed_capacity
    cdef uint8_t* buffer
    cdef size_t buffer_size
    # Those of the entry at hand.
    cdef Text list_read
    cdef uint32_t* list_nodes
    cdef uint32_t list_capacity
    cdef uint32_t list_count  # nodes, each once
    cdef uint32_t list_named  # as often as they are named
    cdef uint64_t named_count  # of the call so far
    cdef Text group_read
    cdef const uint8_t* group_bits

    cdef int64_t decode(
        self, const uint8_t* data, size_t size, int64_t* max_age_ms, uint32_t* view
    ) except -1
    cdef int make_entries(self, uint32_t count) except -1
    cdef bint decode_entry(self, Text message, Entry* entry) noexcept nogil
    cdef int64_t decode_check(self, Reader* reader, Entry* scope, Text* quantities,
                              int64_t* max_age_ms) except -1
    cdef int find_skus(self, uint32_t count) noexcept
    cdef bint skus_told(self, uint32_t count) except -1
    cdef int64_t fresh_ms(self, uint32_t count, int64_t now_ms, int64_t max_age_ms) noexcept nogil
    cdef bytes written(self, uint8_t* at)
    cdef int follow_places(self) except -1
    cdef int64_t find_node(self, Text node_id) noexcept nogil
    cdef bint read_list(self, Text message) except -1
    cdef bint read_group(self, Text group_id) except -1
    cdef bint in_group(self, uint32_t node) noexcept nogil
    cdef int64_t list_entry(self, Entry* entry) except -1
    cdef int64_t ats_of_entry(self, Entry* entry) noexcept nogil
    cdef uint8_t* room(self, uint8_t* at, size_t size) except NULL
    cdef uint8_t* put_entry(self, uint8_t* at, Entry* entry, uint32_t view) except NULL
