"""Twin of promise_svc.domain.ats_table.AtsTable.

Limits: those of the specification, and 32 GiB and 2**31 SKUs a shard, 2**30 pairs of node and bucket.
Interned nodes and buckets are never forgotten, not even by a load; nor is the shard a shard key
put a SKU into (11 to 22 bytes each), which is only a hint and no harm when it is out of date.
The GIL is held throughout: a look-up is shorter than giving it up would be. The inner functions
are nogil all the same, so that a batch may release it.
Cost: README.md.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from native._sharding cimport hash_bytes

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(str key, Py_ssize_t* size) except NULL
    str PyUnicode_DecodeUTF8(const char* text, Py_ssize_t size, const char* errors)
    long long PyLong_AsLongLongAndOverflow(object value, int* overflow) except? -1

cdef enum:
    ID_LENGTH_MAX = 64
    SHARD_COUNT_MAX = 4096
    SLOT_COUNT_MIN = 8
    WORDS_MIN = 64
    TRACE_COUNT_MIN = 64
    ARRIVAL_FIELD = 11  # of a StockPosition
    ARRIVED = -1

    # Of promise_svc.domain.copied_positions.
    HEADER_SIZE = 19
    FIELD_COUNT = 11
    SKU_FIELD = 2
    ON_HAND_FIELD = 5
    SHARES_FIELD = 10

cdef int64_t QUANTITY_MAX = 2**31 - 1
cdef int64_t COUNTER_MAX = 2**53
cdef int64_t COUNTER_KEPT_MAX = 2**32 - 1
cdef uint64_t WORDS_MAX = 2**32 - 1
cdef uint32_t PLACES_MAX = PLACE_ID

assert sizeof(Block) == BLOCK_WORDS * 8
assert sizeof(Cell) + sizeof(Counters) == PLACE_WORDS * 8


# Reading: as the .pxd, nothing here allocates or touches a Python object.

cdef inline int64_t ats_at(Block* block, uint32_t place) noexcept nogil:
    cdef uint32_t index = find_cell(block, place)
    if index < block.count and cells_of(block)[index].place == place:
        return cells_of(block)[index].ats
    return 0


cdef inline int64_t ats_of_all(Block* block) noexcept nogil:
    cdef Cell* cells = cells_of(block)
    cdef int64_t total = 0
    cdef uint32_t i
    for i in range(block.count):
        if cells[i].place >= BUCKET:
            break
        total += cells[i].ats
    return total


cdef inline int64_t ats_of_named(
    Block* block, uint32_t* named, uint32_t count, uint32_t* marks, uint32_t mark
) noexcept nogil:
    """Sum over ``count`` named nodes: search for few, scan for many, so never their product."""
    cdef Cell* cells = cells_of(block)
    cdef int64_t total = 0
    cdef uint32_t i
    if <uint64_t>count * 8 < block.count or count == 1:
        for i in range(count):
            total += ats_at(block, named[i])
        return total
    for i in range(block.count):
        if cells[i].place >= BUCKET:
            break
        if marks[cells[i].place] == mark:
            total += cells[i].ats
    return total


# Writing.

cdef int map_open(ShardMap* map) except -1:
    """Make an all-zero map writable; an open one is left as it is."""
    if map.slots == NULL:
        map.slots = <Slot*>calloc(SLOT_COUNT_MIN, sizeof(Slot))
        if map.slots == NULL:
            raise MemoryError
        map.slot_mask = SLOT_COUNT_MIN - 1
    if map.words == NULL:
        map.words = <uint64_t*>malloc(WORDS_MIN * 8)
        if map.words == NULL:
            raise MemoryError
        map.words_capacity = WORDS_MIN
        map.words_used = 1  # offset 0 means an empty slot
    return 0


cdef void map_close(ShardMap* map) noexcept:
    free(map.slots)
    free(map.words)
    memset(map, 0, sizeof(ShardMap))


cdef int grow_slots(ShardMap* map) except -1:
    cdef uint32_t mask = map.slot_mask * 2 + 1
    cdef Slot* slots = <Slot*>calloc(<size_t>mask + 1, sizeof(Slot))
    if slots == NULL:
        raise MemoryError
    cdef uint32_t i
    cdef uint32_t slot
    for i in range(map.slot_mask + 1):
        if map.slots[i].offset != 0:
            slot = <uint32_t>(block_at(map, i).hash >> 32) & mask
            while slots[slot].offset != 0:
                slot = (slot + 1) & mask
            slots[slot] = map.slots[i]
    free(map.slots)
    map.slots = slots
    map.slot_mask = mask
    return 0


cdef void copy_block(Block* target, Block* source, uint32_t capacity) noexcept:
    """``capacity`` is at least the source's count; target and source do not overlap."""
    cdef uint64_t head = BLOCK_WORDS + key_words(key_of(source)[0])
    memcpy(target, source, head * 8 + source.count * sizeof(Cell))
    target.capacity = capacity
    memcpy(counters_of(target), counters_of(source), source.count * sizeof(Counters))


cdef int compact(ShardMap* map, uint64_t spare) except -1:
    """Copy the blocks into an arena without dead words and with ``spare`` free ones."""
    cdef uint64_t size = 1 + spare
    cdef Block* block
    cdef uint32_t i
    for i in range(map.slot_mask + 1):
        if map.slots[i].offset != 0:
            block = block_at(map, i)
            size += block_words(key_of(block)[0], block.count)
    cdef uint64_t* words = <uint64_t*>malloc(size * 8)
    if words == NULL:
        raise MemoryError
    cdef uint64_t used = 1
    cdef uint64_t moved
    for i in range(map.slot_mask + 1):
        if map.slots[i].offset != 0:
            block = block_at(map, i)
            moved = block_words(key_of(block)[0], block.count)
            copy_block(<Block*>(words + used), block, block.count)
            map.slots[i].offset = <uint32_t>used
            used += moved
    free(map.words)
    map.words = words
    map.words_used = used
    map.words_capacity = size
    map.words_dead = 0
    return 0


cdef int reserve_words(ShardMap* map, uint64_t count) except -1:
    """Make room for ``count`` words at the arena's end. Blocks may move; slots do not."""
    if map.words_used + count <= map.words_capacity:
        return 0
    if map.words_dead * 4 > map.words_used:
        return compact(map, count + (map.words_used - map.words_dead) // 4)
    cdef uint64_t capacity = map.words_used + count + map.words_used // 4
    if map.words_used + count > WORDS_MAX:
        raise MemoryError("a shard of the ATS table is larger than 32 GiB")
    cdef uint64_t* words = <uint64_t*>realloc(map.words, capacity * 8)
    if words == NULL:
        raise MemoryError
    map.words = words
    map.words_capacity = capacity
    return 0


cdef int trim(ShardMap* map) except -1:
    """Give back what the arena has beyond its blocks."""
    if map.words_dead * 8 > map.words_used:
        return compact(map, 0)
    cdef uint64_t* words = <uint64_t*>realloc(map.words, map.words_used * 8)
    if words != NULL:
        map.words = words
        map.words_capacity = map.words_used
    return 0


cdef int add_block(ShardMap* map, uint32_t slot, Parsed* parsed, uint32_t more) except -1:
    cdef uint64_t size = block_words(parsed.key_size, more)
    reserve_words(map, size)
    cdef Block* block = <Block*>(map.words + map.words_used)
    block.hash = parsed.hash
    block.capacity = more
    block.count = 0
    key_of(block)[0] = <uint8_t>parsed.key_size
    memcpy(key_of(block) + 1, parsed.key, parsed.key_size)
    map.slots[slot].tag = <uint32_t>parsed.hash
    map.slots[slot].offset = <uint32_t>map.words_used
    map.words_used += size
    map.sku_count += 1
    return 0


cdef int grow_block(ShardMap* map, uint32_t slot, uint32_t more) except -1:
    """Room for ``more`` cells. A block that grows on and on does so by half, at the arena's end."""
    cdef Block* block = block_at(map, slot)
    cdef uint32_t key_size = key_of(block)[0]
    cdef uint32_t capacity = max(block.count + more, block.capacity + block.capacity // 2)
    cdef uint64_t size = block_words(key_size, capacity)
    reserve_words(map, size)
    block = block_at(map, slot)
    copy_block(<Block*>(map.words + map.words_used), block, capacity)
    map.words_dead += block_words(key_size, block.capacity)
    map.slots[slot].offset = <uint32_t>map.words_used
    map.words_used += size
    return 0


cdef inline int64_t arrival_at(Block* block, uint32_t place) noexcept nogil:
    """When a bucket arrives: of one that was never told, 0."""
    cdef uint32_t index
    cdef int64_t arrival_ms = 0
    if place & BUCKET:
        index = find_cell(block, place | DATED)
        if index < block.count and cells_of(block)[index].place == place | DATED:
            memcpy(&arrival_ms, &counters_of(block)[index], sizeof(arrival_ms))
    return arrival_ms


cdef int put_arrival(ShardMap* map, Parsed* parsed) except -1:
    """A second cell, for the few positions that are on their way: the others pay nothing."""
    cdef Parsed dated = parsed[0]
    dated.cell.place |= DATED
    dated.cell.ats = 0
    memset(&dated.counters, 0, sizeof(Counters))
    memcpy(&dated.counters, &parsed.arrival_ms, sizeof(parsed.arrival_ms))
    cdef uint64_t count = map.cell_count
    put(map, &dated, 1)
    map.cell_count = count
    return 0


cdef int put(ShardMap* map, Parsed* parsed, uint32_t more) except -1:
    """Write one cell, of ``more`` that are to come of its SKU."""
    # At most three quarters of the slots are taken, so that a miss ends soon.
    if (<uint64_t>map.sku_count + 1) * 4 > (<uint64_t>map.slot_mask + 1) * 3:
        grow_slots(map)
    cdef uint32_t slot = find_slot(map, parsed.hash, parsed.key, parsed.key_size)
    if map.slots[slot].offset == 0:
        add_block(map, slot, parsed, more)
    cdef Block* block = block_at(map, slot)
    cdef uint32_t index = find_cell(block, parsed.cell.place)
    cdef size_t behind = block.count - index
    if index == block.count or cells_of(block)[index].place != parsed.cell.place:
        if block.count == block.capacity:
            grow_block(map, slot, more)
            block = block_at(map, slot)
        memmove(&cells_of(block)[index + 1], &cells_of(block)[index], behind * sizeof(Cell))
        memmove(
            &counters_of(block)[index + 1], &counters_of(block)[index], behind * sizeof(Counters)
        )
        block.count += 1
        map.cell_count += 1
    cells_of(block)[index] = parsed.cell
    counters_of(block)[index] = parsed.counters
    return 0


cdef int64_t read_number(str name, object value) except? -1:
    cdef int overflow = 0
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    cdef int64_t number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow != 0:
        raise ValueError(f"{name} {value} is outside 0..{COUNTER_MAX}")
    return number


cdef int check_number(
    str name, int64_t number, int64_t maximum, int64_t minimum=0
) except -1:
    if not minimum <= number <= maximum:
        raise ValueError(f"{name} {number} is outside {minimum}..{maximum}")
    return 0


cdef int name_cell(
    Parsed* parsed, const uint8_t* key, int64_t size, uint32_t place
) except -1:
    if not 1 <= size <= ID_LENGTH_MAX:
        raise ValueError(f"sku {key[:size]!r} is not 1..{ID_LENGTH_MAX} bytes long")
    parsed.key = <const char*>key
    parsed.key_size = <uint32_t>size
    parsed.hash = hash_bytes(parsed.key, size)
    parsed.cell.place = place
    return 0


cdef int fill_cell(
    Parsed* parsed, int64_t on_hand, int64_t committed, int64_t held, int64_t safety_stock
) except -1:
    check_number("on_hand", on_hand, QUANTITY_MAX)
    check_number("committed", committed, COUNTER_MAX)
    check_number("held", held, COUNTER_MAX)
    check_number("safety_stock", safety_stock, COUNTER_MAX)
    parsed.cell.ats = <uint32_t>max(<int64_t>0, on_hand - committed - held - safety_stock)
    parsed.counters.on_hand = <uint32_t>on_hand
    parsed.counters.committed = <uint32_t>min(committed, COUNTER_KEPT_MAX)
    parsed.counters.held = <uint32_t>min(held, COUNTER_KEPT_MAX)
    parsed.counters.safety_stock = <uint32_t>min(safety_stock, COUNTER_KEPT_MAX)
    parsed.arrival_ms = 0
    return 0


cdef int date_cell(Parsed* parsed, int64_t arrival_ms) except -1:
    check_number("arrival_ms", arrival_ms, COUNTER_MAX, ARRIVED)
    parsed.arrival_ms = arrival_ms
    return 0


# Rows as the order store copies them: promise_svc.domain.copied_positions.

cdef inline uint64_t big_endian(const uint8_t* at, uint32_t size) noexcept nogil:
    cdef uint64_t number = 0
    cdef uint32_t i
    for i in range(size):
        number = number << 8 | at[i]
    return number


cdef const uint8_t* split_fields(
    const uint8_t* at, const uint8_t* end, Bytes* fields
) noexcept nogil:
    """What follows the row; NULL where it is cut short."""
    cdef uint32_t i
    cdef int32_t size
    for i in range(<uint32_t>FIELD_COUNT):
        if end - at < 4:
            return NULL
        size = <int32_t>big_endian(at, 4)
        at += 4
        fields[i].data = NULL
        fields[i].size = 0
        if size >= 0:
            if size > end - at:
                return NULL
            fields[i].data = at
            fields[i].size = size
            at += size
    return at


cdef inline int64_t number_of(Bytes field) except? -1:
    if field.size != 8:
        raise ValueError("a copied number is not 8 bytes long")
    return <int64_t>big_endian(field.data, 8)


cdef inline str text_of(Bytes field):
    return PyUnicode_DecodeUTF8(<const char*>field.data, field.size, NULL)


cdef tuple row_of(Bytes* fields):
    cdef Bytes shares = fields[SHARES_FIELD]
    cdef Bytes unversioned = shares
    if shares.size > 0:
        unversioned.data, unversioned.size = shares.data + 1, shares.size - 1
    return (
        text_of(fields[SKU_FIELD]),
        text_of(fields[SKU_FIELD + 1]),
        text_of(fields[SKU_FIELD + 2]),
        number_of(fields[ON_HAND_FIELD]),
        number_of(fields[ON_HAND_FIELD + 1]),
        number_of(fields[ON_HAND_FIELD + 2]),
        number_of(fields[ON_HAND_FIELD + 3]),
        number_of(fields[ON_HAND_FIELD + 4]),
        text_of(unversioned),
    )


cdef uint64_t map_size(ShardMap* map) noexcept:
    if map.slots == NULL:
        return 0
    return map.words_capacity * 8 + (<uint64_t>map.slot_mask + 1) * sizeof(Slot)


cdef Clock read_clock(object epoch, object sequence, object time_ms) except *:
    cdef Clock clock
    clock.epoch = read_number("epoch", epoch)
    clock.sequence = read_number("sequence", sequence)
    clock.time_ms = read_number("time_ms", time_ms)
    check_number("epoch", clock.epoch, COUNTER_MAX)
    check_number("sequence", clock.sequence, COUNTER_MAX)
    check_number("time_ms", clock.time_ms, COUNTER_MAX)
    return clock


@cython.final
cdef class AtsTable:
    """In-memory index of all positions; see AtsTableCore."""

    def __cinit__(self, int64_t shard_count, make_row):
        if not 1 <= shard_count <= SHARD_COUNT_MAX:
            raise ValueError(f"shard_count {shard_count} is outside 1..{SHARD_COUNT_MAX}")
        self.shard_count = <uint32_t>shard_count
        self.make_row = make_row
        self.place_ids = {}
        self.places = [("", "")]  # 0 is no place
        self.live = <ShardMap*>calloc(shard_count, sizeof(ShardMap))
        self.staged = <ShardMap*>calloc(shard_count, sizeof(ShardMap))
        self.clocks = <Clock*>calloc(shard_count, sizeof(Clock))
        if self.live == NULL or self.staged == NULL or self.clocks == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.shard_count):
            if self.live != NULL:
                map_close(&self.live[i])
            if self.staged != NULL:
                map_close(&self.staged[i])
        free(self.live)
        free(self.staged)
        free(self.clocks)
        free(self.traces)
        free(self.parsed)
        free(self.marks)
        free(self.named)

    def load(self, int64_t shard, epoch, sequence, time_ms, images):
        self.check_shard(shard)
        cdef int64_t count = self.parse(list(images))
        cdef Clock clock = read_clock(epoch, sequence, time_ms)
        cdef ShardMap* staged = &self.staged[shard]
        self.write(<uint32_t>shard, staged, count)
        trim(staged)
        map_close(&self.live[shard])
        self.live[shard] = staged[0]
        memset(staged, 0, sizeof(ShardMap))
        self.clocks[shard] = clock

    def stage(self, int64_t shard, images):
        self.check_shard(shard)
        cdef int64_t count = self.parse(list(images))
        self.write(<uint32_t>shard, &self.staged[shard], count)

    def stage_copied(self, int64_t shard, bytes rows not None, int64_t offset, int64_t limit):
        self.check_shard(shard)
        cdef const uint8_t* begin = <const uint8_t*>PyBytes_AS_STRING(rows)
        cdef const uint8_t* end = begin + PyBytes_GET_SIZE(rows)
        cdef const uint8_t* at
        cdef Bytes fields[FIELD_COUNT]
        cdef list shares = []
        cdef int64_t count = 0, row
        offset = offset or HEADER_SIZE
        for row in range(limit):
            if not 0 <= offset <= end - begin - 2:
                raise ValueError("copied rows end too early")
            at = begin + offset
            if at[0] & 0x80:
                offset = 0
                break
            if (at[0] << 8 | at[1]) != FIELD_COUNT:
                raise ValueError(f"a copied row has {at[0] << 8 | at[1]} fields, not {FIELD_COUNT}")
            at = split_fields(at + 2, end, fields)
            if at == NULL:
                raise ValueError("copied rows end too early")
            offset = at - begin
            if fields[SKU_FIELD].data == NULL:
                continue
            if fields[SHARES_FIELD].size != 3:  # a version and no share: []
                shares.append(row_of(fields))
                continue
            self.reserve_parsed(<uint64_t>count + 1)
            self.parse_copied(fields, &self.parsed[count])
            count += 1
        self.write(<uint32_t>shard, &self.staged[shard], count)
        return offset, shares

    def unstage(self, int64_t shard):
        self.check_shard(shard)
        map_close(&self.staged[shard])

    def apply(self, int64_t shard, epoch, sequence, time_ms, images):
        self.check_shard(shard)
        cdef int64_t count = self.parse(list(images))
        cdef Clock clock = read_clock(epoch, sequence, time_ms)
        cdef Clock past = self.clocks[shard]
        if clock.epoch < past.epoch or (
            clock.epoch == past.epoch and clock.sequence < past.sequence
        ):
            raise ValueError(
                f"shard {shard} stands at {(past.epoch, past.sequence)}, after {(epoch, sequence)}"
            )
        self.write(<uint32_t>shard, &self.live[shard], count)
        clock.time_ms = max(clock.time_ms, past.time_ms)
        self.clocks[shard] = clock

    def clock(self, int64_t shard):
        self.check_shard(shard)
        cdef Clock clock = self.clocks[shard]
        return clock.epoch, clock.sequence, clock.time_ms

    def shard(self, str sku not None):
        cdef uint32_t shard
        return None if self.find(sku, &shard) == NULL else shard

    def as_of(self, str sku not None):
        cdef uint32_t shard
        self.find(sku, &shard)
        cdef Clock clock = self.clocks[shard]
        return clock.epoch, clock.sequence, clock.time_ms

    def rows(self, str sku not None):
        cdef uint32_t shard
        cdef Block* block = self.find(sku, &shard)
        if block == NULL:
            return None
        # make_row is a caller's code and might write here: the cells are copied out first.
        cdef list values = []
        cdef uint32_t i, place
        cdef Counters* counters = counters_of(block)
        for i in range(block.count):
            place = cells_of(block)[i].place
            if place & DATED:
                break
            values.append((
                *<tuple>self.places[<Py_ssize_t>(place & PLACE_ID)],
                counters[i].on_hand,
                counters[i].committed,
                counters[i].held,
                counters[i].safety_stock,
                arrival_at(block, place),
            ))
        cdef object make_row = self.make_row
        return [make_row(row) for row in values]

    def ats(self, str sku not None, node_ids=None):
        # Named first: listing them may run a caller's code, and a block is valid until a write.
        cdef int64_t count = -1 if node_ids is None else self.name_nodes(list(node_ids))
        cdef uint32_t shard
        cdef Block* block = self.find(sku, &shard)
        if block == NULL:
            return 0
        if node_ids is None:
            return ats_of_all(block)
        return ats_of_named(block, self.named, <uint32_t>count, self.marks, self.mark)

    def sku_count(self):
        cdef uint64_t total = 0
        cdef uint32_t i
        for i in range(self.shard_count):
            total += self.live[i].sku_count
        return total

    def cell_count(self):
        cdef uint64_t total = 0
        cdef uint32_t i
        for i in range(self.shard_count):
            total += self.live[i].cell_count
        return total

    def memory_size(self):
        cdef uint64_t total = 0
        cdef uint32_t i
        if self.traces != NULL:
            total += (<uint64_t>self.trace_mask + 1) * sizeof(Trace)
        for i in range(self.shard_count):
            total += map_size(&self.live[i]) + map_size(&self.staged[i])
        return total

    cdef int check_shard(self, int64_t shard) except -1:
        if not 0 <= shard < self.shard_count:
            raise ValueError(f"shard {shard} is outside 0..{self.shard_count - 1}")
        return 0

    cdef Block* find(self, str sku, uint32_t* shard) except? NULL:
        if sku is None:
            raise TypeError("sku must be a str, not None")
        cdef Py_ssize_t size
        cdef const char* key = PyUnicode_AsUTF8AndSize(sku, &size)
        return self.find_bytes(key, size, shard)

    cdef Block* find_bytes(
        self, const char* key, Py_ssize_t size, uint32_t* shard
    ) noexcept nogil:
        return self.find_hashed(hash_bytes(key, size), key, size, shard)

    cdef Block* find_hashed(
        self, uint64_t hash, const char* key, Py_ssize_t size, uint32_t* shard
    ) noexcept nogil:
        """The SKU's block and shard; NULL and the shard of its own hash when it has none."""
        shard[0] = <uint32_t>(hash % self.shard_count)
        if size > ID_LENGTH_MAX:
            return NULL
        cdef Block* block = find_block(&self.live[shard[0]], hash, key, <uint32_t>size)
        if block == NULL and self.trace_count != 0:
            block = self.find_traced(hash, key, <uint32_t>size, shard)
        return block

    cdef Block* find_traced(
        self, uint64_t hash, const char* key, uint32_t key_size, uint32_t* shard
    ) noexcept nogil:
        """The block in the lowest shard that a trace leads to; ``shard`` stays when none does."""
        cdef uint32_t tag = <uint32_t>(hash >> 32)
        cdef uint32_t slot = tag & self.trace_mask
        cdef uint32_t lowest = self.shard_count
        cdef Block* found = NULL
        cdef Block* block
        while self.traces[slot].shard != 0:
            if self.traces[slot].tag == tag and self.traces[slot].shard <= lowest:
                block = find_block(&self.live[self.traces[slot].shard - 1], hash, key, key_size)
                if block != NULL:
                    found = block
                    lowest = self.traces[slot].shard - 1
            slot = (slot + 1) & self.trace_mask
        if found != NULL:
            shard[0] = lowest
        return found

    cdef int leave_trace(self, uint64_t hash, uint32_t shard) except -1:
        # At most three quarters of the slots are taken, so that a miss ends soon.
        if self.traces == NULL or (
            (<uint64_t>self.trace_count + 1) * 4 > (<uint64_t>self.trace_mask + 1) * 3
        ):
            self.grow_traces()
        cdef uint32_t tag = <uint32_t>(hash >> 32)
        cdef uint32_t slot = tag & self.trace_mask
        while self.traces[slot].shard != 0:
            if self.traces[slot].tag == tag and self.traces[slot].shard == shard + 1:
                return 0
            slot = (slot + 1) & self.trace_mask
        self.traces[slot].tag = tag
        self.traces[slot].shard = shard + 1
        self.trace_count += 1
        return 0

    cdef int grow_traces(self) except -1:
        cdef uint32_t mask = TRACE_COUNT_MIN - 1
        if self.traces != NULL:
            mask = self.trace_mask * 2 + 1
        cdef Trace* traces = <Trace*>calloc(<size_t>mask + 1, sizeof(Trace))
        if traces == NULL:
            raise MemoryError
        cdef uint32_t i
        cdef uint32_t slot
        if self.traces != NULL:
            for i in range(self.trace_mask + 1):
                if self.traces[i].shard != 0:
                    slot = self.traces[i].tag & mask
                    while traces[slot].shard != 0:
                        slot = (slot + 1) & mask
                    traces[slot] = self.traces[i]
        free(self.traces)
        self.traces = traces
        self.trace_mask = mask
        return 0

    cdef int64_t name_nodes(self, list node_ids) except -1:
        """Mark and list the known ones among these nodes, each once; returns how many."""
        self.reserve_marks()
        if self.mark == 0xFFFFFFFF:
            memset(self.marks, 0, self.marks_capacity * sizeof(uint32_t))
            self.mark = 0
        self.mark += 1
        cdef uint32_t count = 0
        cdef uint32_t place
        cdef object known
        cdef str node_id
        for node_id in node_ids:
            known = self.place_ids.get(node_id)
            if known is None:
                continue
            place = known
            if self.marks[place] != self.mark:
                self.marks[place] = self.mark
                self.named[count] = place
                count += 1
        return count

    cdef int reserve_marks(self) except -1:
        cdef size_t needed = len(self.places)
        cdef size_t capacity = needed + needed // 4 + 16
        cdef uint32_t* grown
        if needed <= self.marks_capacity:
            return 0
        grown = <uint32_t*>realloc(self.named, capacity * sizeof(uint32_t))
        if grown == NULL:
            raise MemoryError
        self.named = grown
        grown = <uint32_t*>realloc(self.marks, capacity * sizeof(uint32_t))
        if grown == NULL:
            raise MemoryError
        self.marks = grown
        memset(
            self.marks + self.marks_capacity,
            0,
            (capacity - self.marks_capacity) * sizeof(uint32_t),
        )
        self.marks_capacity = <uint32_t>capacity
        return 0

    cdef uint32_t intern(self, str node_id, str bucket) except 0:
        cdef object key = (node_id, bucket) if bucket else node_id
        cdef object known = self.place_ids.get(key)
        if known is not None:
            return known
        cdef Py_ssize_t size
        PyUnicode_AsUTF8AndSize(node_id, &size)
        if not 1 <= size <= ID_LENGTH_MAX:
            raise ValueError(f"node_id {node_id!r} is not 1..{ID_LENGTH_MAX} bytes long")
        PyUnicode_AsUTF8AndSize(bucket, &size)
        if size > ID_LENGTH_MAX:
            raise ValueError(f"bucket {bucket!r} is not 0..{ID_LENGTH_MAX} bytes long")
        cdef Py_ssize_t place = len(self.places)
        if place > PLACES_MAX:
            raise MemoryError("the ATS table knows too many nodes and buckets")
        self.places.append((node_id, bucket))
        self.place_ids[key] = place | BUCKET if bucket else place
        return <uint32_t>self.place_ids[key]

    cdef int64_t parse(self, list images) except -1:
        """Check all images into ``parsed``; their strings must live until they are written."""
        cdef uint64_t count = len(images)
        self.reserve_parsed(count)
        cdef uint64_t i = 0
        for image in images:
            self.parse_one(image, &self.parsed[i])
            i += 1
        return <int64_t>count

    cdef int reserve_parsed(self, uint64_t count) except -1:
        cdef Parsed* grown
        if count > self.parsed_capacity:
            count += count // 4
            grown = <Parsed*>realloc(self.parsed, count * sizeof(Parsed))
            if grown == NULL:
                raise MemoryError
            self.parsed = grown
            self.parsed_capacity = count
        return 0

    cdef int parse_one(self, object image, Parsed* parsed) except -1:
        cdef str sku
        cdef str node_id
        cdef str bucket
        cdef Py_ssize_t size
        # Named tuples are welcome, so no <tuple?>, which wants the exact type.
        if not isinstance(image, tuple):
            raise TypeError(f"an image must be a tuple, not {type(image).__name__}")
        sku, node_id, bucket, counters = <tuple>image
        if sku is None or node_id is None or bucket is None:
            raise TypeError("sku, node_id and bucket must be str, not None")
        cdef const char* key = PyUnicode_AsUTF8AndSize(sku, &size)
        name_cell(parsed, <const uint8_t*>key, size, self.intern(node_id, bucket))
        if not isinstance(counters, tuple):
            raise TypeError(f"counters must be a tuple, not {type(counters).__name__}")
        cdef tuple values = <tuple>counters
        if len(values) < 4:
            raise ValueError(f"counters are {len(values)}, not at least 4")
        fill_cell(
            parsed,
            read_number("on_hand", values[0]),
            read_number("committed", values[1]),
            read_number("held", values[2]),
            read_number("safety_stock", values[3]),
        )
        if len(values) > ARRIVAL_FIELD and parsed.cell.place & BUCKET:
            date_cell(parsed, read_number("arrival_ms", values[ARRIVAL_FIELD]))
        return 0

    cdef int parse_copied(self, Bytes* fields, Parsed* parsed) except -1:
        cdef str node_id = text_of(fields[SKU_FIELD + 1])
        cdef str bucket = text_of(fields[SKU_FIELD + 2])
        cdef uint32_t place = self.intern(node_id, bucket)
        name_cell(parsed, fields[SKU_FIELD].data, fields[SKU_FIELD].size, place)
        fill_cell(
            parsed,
            number_of(fields[ON_HAND_FIELD]),
            number_of(fields[ON_HAND_FIELD + 1]),
            number_of(fields[ON_HAND_FIELD + 2]),
            number_of(fields[ON_HAND_FIELD + 3]),
        )
        if place & BUCKET:
            date_cell(parsed, number_of(fields[ON_HAND_FIELD + 4]))
        return 0

    cdef int write(self, uint32_t shard, ShardMap* map, int64_t count) except -1:
        map_open(map)
        cdef int64_t i, end = 0
        cdef uint64_t hash = 0
        cdef uint32_t more = 0
        for i in range(count):
            # Images of one SKU come together as a rule: one trace, and room for all of them at once.
            if i == end:
                hash = self.parsed[i].hash
                more = 0
                while end < count and self.parsed[end].hash == hash:
                    more += 2 if self.parsed[end].cell.place & BUCKET else 1
                    end += 1
                if hash % self.shard_count != shard:
                    self.leave_trace(hash, shard)
            put(map, &self.parsed[i], more)
            more -= 1
            if self.parsed[i].cell.place & BUCKET:
                put_arrival(map, &self.parsed[i])
                more -= 1
        return 0
