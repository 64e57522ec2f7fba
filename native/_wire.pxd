"""Memory layout of the reads of availability."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from native._ats_table cimport AtsTable, Block
from native.wire_format cimport Reader, Text


cdef enum Scope:
    ALL_NODES
    NAMED_NODES
    GROUP_NODES


cdef struct Entry:  # one look-up, as asked, and what the table has of its SKU
    Text entry_id
    Text sku
    Text place  # the node list as it was sent, or the group's id
    Scope scope
    bint segmented  # for a sale to a segment
    uint64_t hash
    uint32_t shard
    Block* block  # NULL where the table has nothing of the SKU


cdef struct Node:
    Text node_id
    uint32_t place  # in the table, 0 while it has no position there
    uint32_t mark  # of the last list that named it
    bint on


cdef struct Listed:  # a node of an answer, and which of the SKU's cells it is; -1 without a position
    uint32_t node
    int64_t index


@cython.final
cdef class AvailabilityReads:
    cdef AtsTable table
    cdef int64_t feed_behind_ms
    cdef dict node_numbers
    cdef list node_ids  # keeps the texts of nodes alive
    cdef object items
    cdef set protected  # SKUs of which anything is kept for a segment; the table's owner fills it
    cdef dict groups  # id -> bit map over nodes
    cdef Node* nodes  # by id
    cdef uint32_t node_count
    cdef uint32_t* node_slots  # open addressing over hashes of ids: node + 1, 0 is empty
    cdef uint32_t node_mask
    cdef uint32_t* place_nodes  # by interned id of the table: node + 1, 0 where it is none
    cdef uint32_t* place_marks  # by interned id: of the last list that named it and found it on
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
    cdef int find_skus(self, uint32_t count, uint32_t cells_ahead) noexcept
    cdef bint skus_told(self, uint32_t count) except -1
    cdef int64_t fresh_ms(self, uint32_t count, int64_t now_ms, int64_t max_age_ms) noexcept nogil
    cdef bytes written(self, uint8_t* at)
    cdef int follow_places(self) except -1
    cdef int64_t find_node(self, Text node_id) noexcept nogil
    cdef bint read_list(self, Text message) except -1
    cdef bint read_group(self, Text group_id) except -1
    cdef bint in_group(self, uint32_t node) noexcept nogil
    cdef int64_t list_entry(self, Entry* entry) except -1
    cdef int64_t ats_of_entry(self, Entry* entry, int64_t enough) noexcept nogil
    cdef uint8_t* room(self, uint8_t* at, size_t size) except NULL
    cdef uint8_t* put_entry(self, uint8_t* at, Entry* entry, uint32_t view) except NULL
