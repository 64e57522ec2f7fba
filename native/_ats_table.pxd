"""Layout of the ATS table in memory: per shard, an open-addressed index and an arena of blocks.

A block is one SKU: Block, then the SKU's size in a byte and the SKU in UTF-8, padded to 8 bytes, then
``capacity`` cells of which ``count`` are used, ascending by place, then as many counters. A cell is
what a read for no segment needs, so that it reads few lines of memory; the figures behind it follow
apart. The index maps the SKU's hash to the block's word offset.

A SKU is looked for in the shard of its own hash. Those that a shard key put elsewhere have a trace
there: a hint, in one open-addressed table for all shards, that another shard may have them.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

cdef enum:
    BLOCK_WORDS = 2
    PLACE_WORDS = 3  # a cell and its counters
    BUCKET = 0x40000000  # in a place: of a bucket; so stock here now comes first
    DATED = 0x80000000  # in a bucket's place: beside it, its arrival where counters would be
    PLACE_ID = 0x3FFFFFFF


cdef struct Cell:
    uint32_t place  # interned node and bucket, with the flags above
    uint32_t ats


cdef struct Counters:  # no greater than COUNTER_KEPT_MAX; of a DATED place the two halves of its time
    uint32_t on_hand
    uint32_t committed
    uint32_t held
    uint32_t safety_stock


cdef struct Block:
    uint64_t hash
    uint32_t capacity
    uint32_t count


cdef struct Slot:
    uint32_t tag  # low half of the hash: most other SKUs are told apart without their block
    uint32_t offset  # of the block, in words of 8 bytes; 0 is an empty slot


cdef struct ShardMap:
    Slot* slots
    uint64_t* words
    uint32_t slot_mask  # slot count - 1; slot counts are powers of two
    uint32_t sku_count
    uint64_t cell_count
    uint64_t words_used
    uint64_t words_capacity
    uint64_t words_dead  # left behind by blocks that moved


cdef struct Trace:
    uint32_t tag  # high half of the hash, whose low bits also choose the slot
    uint32_t shard  # + 1; 0 is an empty slot


cdef struct Clock:
    int64_t epoch
    int64_t sequence
    int64_t time_ms


cdef struct Bytes:
    const uint8_t* data  # NULL for a NULL of the order store
    int64_t size


cdef struct Parsed:  # one checked image; key points into a str that the caller holds
    const char* key
    uint64_t hash
    uint32_t key_size
    Cell cell
    Counters counters
    int64_t arrival_ms


# Reading: nothing here allocates or touches a Python object.

cdef inline Block* block_at(ShardMap* map, uint32_t slot) noexcept nogil:
    return <Block*>(map.words + map.slots[slot].offset)


cdef inline uint64_t key_words(uint32_t key_size) noexcept nogil:
    return (<uint64_t>key_size + 8) // 8


cdef inline uint8_t* key_of(Block* block) noexcept nogil:
    """Its size; the key itself follows."""
    return <uint8_t*>(<uint64_t*>block + BLOCK_WORDS)


cdef inline Cell* cells_of(Block* block) noexcept nogil:
    return <Cell*>(<uint64_t*>block + BLOCK_WORDS + key_words(key_of(block)[0]))


cdef inline Counters* counters_of(Block* block) noexcept nogil:
    return <Counters*>(cells_of(block) + block.capacity)


cdef inline uint64_t block_words(uint32_t key_size, uint64_t capacity) noexcept nogil:
    return BLOCK_WORDS + key_words(key_size) + capacity * PLACE_WORDS


cdef inline bint is_of(Block* block, uint64_t hash, const char* key, uint32_t key_size) noexcept nogil:
    return (
        block.hash == hash
        and key_of(block)[0] == key_size
        and memcmp(key_of(block) + 1, key, key_size) == 0
    )


cdef inline uint32_t find_slot(
    ShardMap* map, uint64_t hash, const char* key, uint32_t key_size
) noexcept nogil:
    """Slot of the SKU, or the empty slot where it would go. The map has at least one empty slot."""
    # The shard is the hash's remainder, so its low bits are alike here: the high half spreads.
    cdef uint32_t slot = <uint32_t>(hash >> 32) & map.slot_mask
    while map.slots[slot].offset != 0:
        if map.slots[slot].tag == <uint32_t>hash and is_of(block_at(map, slot), hash, key, key_size):
            return slot
        slot = (slot + 1) & map.slot_mask
    return slot


cdef inline Block* find_block(
    ShardMap* map, uint64_t hash, const char* key, uint32_t key_size
) noexcept nogil:
    if map.sku_count == 0:
        return NULL
    cdef uint32_t slot = find_slot(map, hash, key, key_size)
    return NULL if map.slots[slot].offset == 0 else block_at(map, slot)


cdef inline uint32_t find_cell(Block* block, uint32_t place) noexcept nogil:
    """Index of the first cell not before ``place``."""
    # Halves by arithmetic: which half it is would be guessed wrong every other time.
    cdef Cell* cells = cells_of(block)
    cdef uint32_t low = 0
    cdef uint32_t count = block.count
    cdef uint32_t half
    while count > 1:
        half = count // 2
        low += half * (cells[low + half - 1].place < place)
        count -= half
    return low + (count == 1 and cells[low].place < place)


cdef class AtsTable:
    cdef uint32_t shard_count
    cdef object make_row
    cdef dict place_ids  # node id, or node id and bucket, -> place
    cdef list places  # interned id -> node id and bucket
    cdef ShardMap* live
    cdef ShardMap* staged
    cdef Clock* clocks
    cdef Trace* traces  # NULL until a shard key was seen; never forgotten, not even by a load
    cdef uint32_t trace_count
    cdef uint32_t trace_mask  # slot count - 1; slot counts are powers of two
    cdef Parsed* parsed
    cdef uint64_t parsed_capacity
    cdef uint32_t* marks  # per interned id, the last call that named it
    cdef uint32_t* named  # ids the present call named, each once
    cdef uint32_t marks_capacity  # of marks and named
    cdef uint32_t mark

    cdef int64_t parse(self, list images) except -1
    cdef int reserve_parsed(self, uint64_t count) except -1
    cdef int parse_one(self, object image, Parsed* parsed) except -1
    cdef int parse_copied(self, Bytes* fields, Parsed* parsed) except -1
    cdef uint32_t intern(self, str node_id, str bucket) except 0
    cdef Block* find(self, str sku, uint32_t* shard) except? NULL
    cdef Block* find_bytes(
        self, const char* key, Py_ssize_t size, uint32_t* shard
    ) noexcept nogil
    cdef Block* find_hashed(
        self, uint64_t hash, const char* key, Py_ssize_t size, uint32_t* shard
    ) noexcept nogil
    cdef Block* find_traced(
        self, uint64_t hash, const char* key, uint32_t key_size, uint32_t* shard
    ) noexcept nogil
    cdef int leave_trace(self, uint64_t hash, uint32_t shard) except -1
    cdef int grow_traces(self) except -1
    cdef int64_t name_nodes(self, list node_ids) except -1
    cdef int reserve_marks(self) except -1
    cdef int check_shard(self, int64_t shard) except -1
    cdef int write(self, uint32_t shard, ShardMap* map, int64_t count) except -1
