"""QueryAvailability and CheckAvailability from bytes to bytes: decode, look up, encode.

Specification: the protobuf runtime with rpc/convert and application/availability. There is no twin
in domain, which knows no wire. Only what is plain is answered: a request without a wrong or unknown
field, each singular field once, whose nodes and groups are known and whose shards are fresh enough. For all
else the answer is None and the specification's turn has come.
Limits: the contract's; node ids of the network are ASCII.
Cost: see native/README.md.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from native._ats_table cimport (
    BUCKET, AtsTable, Block, Cell, Counters, ShardMap, block_at, cells_of, counters_of, find_cell,
    is_of,
)
from native._sharding cimport hash_bytes
from native.wire_format cimport (
    Reader, Text, is_id, put_field, put_head, put_number, put_text, put_time, read_consistency,
    read_number, read_text, reader_of,
)

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(str text, Py_ssize_t* size) except NULL
    str PyUnicode_DecodeASCII(const char* text, Py_ssize_t size, const char* errors)

cdef extern from *:
    void __builtin_prefetch(const void* address) noexcept nogil

cdef enum:
    ENTRIES_MAX = 1000
    CHECKS_MAX = 10000
    QUANTITY_MAX = 2147483647
    SCOPE_NODES_MAX = 2000
    LISTED_NODES_MAX = 50000

    TOTAL = 1
    BREAKDOWN = 3

    OUTCOME_OK = 1
    UNKNOWN_SKU = 10
    STATUS_ON = 1
    STATUS_OFF = 2

    # Of 64 bytes: most of a SKU with ten positions; more were no faster.
    PREFETCHED_LINES = 2
    FOUND_TOGETHER = 128
    CELLS_AHEAD = 64

    # Most bytes of an entry without its nodes, and of one node, with some to spare.
    ENTRY_BYTES_MAX = 320
    NODE_BYTES_MAX = 192

cdef inline bint same(Text a, Text b) noexcept nogil:
    return a.size == b.size and memcmp(a.data, b.data, a.size) == 0


cdef int by_node(const void* a, const void* b) noexcept nogil:
    cdef uint32_t one = (<Listed*>a).node
    cdef uint32_t other = (<Listed*>b).node
    return (one > other) - (one < other)


cdef void* grown(void* memory, size_t count, size_t size) except NULL:
    cdef void* larger = realloc(memory, count * size)
    if larger == NULL:
        raise MemoryError
    return larger


@cython.final
cdef class AvailabilityReads:
    """Answers plain reads of availability from a table of this process."""

    def __cinit__(self):
        self.buffer_size = 4096
        self.buffer = <uint8_t*>malloc(self.buffer_size)
        if self.buffer == NULL:
            raise MemoryError

    def __init__(self, AtsTable table not None, *, int64_t feed_behind_ms, set protected not None):
        """``protected`` are the SKUs of which anything is kept for a segment, as of any call: for
        all others a sale to a segment is a sale like any."""
        self.table = table
        self.protected = protected
        self.feed_behind_ms = feed_behind_ms
        self.follow({}, {}, ())

    def __dealloc__(self):
        free(self.nodes)
        free(self.node_slots)
        free(self.place_nodes)
        free(self.place_marks)
        free(self.entries)
        free(self.listed)
        free(self.list_nodes)
        free(self.buffer)

    def follow(self, nodes not None, groups not None, items not None):
        """From now on answer for this network: whether each node is on, the nodes of each group,
        the SKUs that are known though the table may have nothing of them."""
        cdef list node_ids = sorted(nodes)
        cdef uint32_t count = len(node_ids), i, slot
        cdef Py_ssize_t size
        cdef Node* made = <Node*>calloc(count + 1, sizeof(Node))
        cdef uint32_t mask = 7
        while mask < count * 2:
            mask = mask * 2 + 1
        cdef uint32_t* slots = <uint32_t*>calloc(<size_t>mask + 1, sizeof(uint32_t))
        if made == NULL or slots == NULL:
            free(made)
            free(slots)
            raise MemoryError
        for i in range(count):
            made[i].node_id.data = <uint8_t*>PyUnicode_AsUTF8AndSize(node_ids[i], &size)
            made[i].node_id.size = <uint32_t>size
            made[i].on = nodes[node_ids[i]]
            slot = <uint32_t>hash_bytes(<char*>made[i].node_id.data, size) & mask
            while slots[slot] != 0:
                slot = (slot + 1) & mask
            slots[slot] = i + 1
        free(self.nodes)
        free(self.node_slots)
        self.nodes, self.node_count, self.node_ids = made, count, node_ids
        self.node_slots, self.node_mask = slots, mask
        self.node_numbers = {node_id: number for number, node_id in enumerate(node_ids)}
        self.groups = {
            group_id.encode(): bit_map([self.node_numbers.get(node_id) for node_id in members], count)
            for group_id, members in groups.items()
        }
        self.items = items
        self.mark = 0
        self.place_count = 0
        self.list_read.data = self.group_read.data = NULL

    def query(self, bytes body not None, int64_t now_ms):
        """The reply to a QueryAvailabilityRequest, or None where the specification must answer."""
        cdef int64_t max_age_ms = -1, as_of_ms, i
        cdef uint32_t view = TOTAL
        self.list_read.data = self.group_read.data = NULL
        self.named_count = 0
        self.follow_places()
        cdef int64_t count = self.decode(
            <uint8_t*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body), &max_age_ms, &view
        )
        if count == 0:
            return None
        self.find_skus(<uint32_t>count, CELLS_AHEAD)
        for i in range(count):
            # A scope is looked at only beside figures, and what is wrong in it must be told.
            if self.entries[i].block == NULL and self.entries[i].scope != ALL_NODES:
                return None
        if not self.skus_told(<uint32_t>count):
            return None
        as_of_ms = self.fresh_ms(<uint32_t>count, now_ms, max_age_ms)
        if as_of_ms == 0:
            return None
        cdef uint8_t* at = self.room(NULL, ENTRY_BYTES_MAX)
        at = put_freshness(at, 0x12, as_of_ms, now_ms)
        for i in range(count - 1, -1, -1):
            at = self.put_entry(at, &self.entries[i], view)
            if at == self.buffer:
                return None
        return self.written(at)

    def check(self, bytes body not None, int64_t now_ms):
        """The reply to a CheckAvailabilityRequest, or None where the specification must answer."""
        cdef int64_t max_age_ms = -1, as_of_ms, count, i
        cdef uint64_t wanted
        cdef Entry scope
        cdef Text quantities
        cdef Reader reader = reader_of(
            <uint8_t*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body)
        )
        cdef uint8_t* at
        cdef uint8_t* end
        memset(&scope, 0, sizeof(Entry))
        memset(&quantities, 0, sizeof(Text))
        self.list_read.data = self.group_read.data = NULL
        self.follow_places()
        count = self.decode_check(&reader, &scope, &quantities, &max_age_ms)
        if count == 0:
            return None
        # Among many nodes the first ones have enough as a rule.
        self.find_skus(<uint32_t>count, CELLS_AHEAD if scope.scope == NAMED_NODES and self.list_count == 1 else 1)
        for i in range(count):
            self.entries[i].segmented = scope.segmented
        if not self.skus_told(<uint32_t>count):
            return None
        as_of_ms = self.fresh_ms(<uint32_t>count, now_ms, max_age_ms)
        if as_of_ms == 0:
            return None
        at = self.room(NULL, ENTRY_BYTES_MAX + <size_t>count * 4)
        at = end = put_freshness(at, 0x22, as_of_ms, now_ms)
        for i in range(count - 1, -1, -1):
            if self.entries[i].block == NULL:
                at = put_number(at, <uint64_t>i)
        if at != end:
            at = put_head(at, 0x1A, end)
        end = at
        at -= count
        # Without quantities the body stands in for them, and nothing is read of it.
        if quantities.data != NULL:
            reader = reader_of(quantities.data, quantities.size)
        for i in range(count):
            wanted = read_number(&reader) if quantities.data != NULL else 1
            if wanted < 1 or wanted > QUANTITY_MAX:
                return None
            self.entries[i].scope = scope.scope
            at[i] = (
                self.entries[i].block != NULL
                and self.ats_of_entry(&self.entries[i], <int64_t>wanted) >= <int64_t>wanted
            )
        if reader.bad or reader.at != reader.end:
            return None
        return self.written(put_field(put_head(at, 0x12, end), 0x08, OUTCOME_OK))

    cdef bytes written(self, uint8_t* at):
        return PyBytes_FromStringAndSize(<char*>at, self.buffer + self.buffer_size - at)

    cdef bint skus_told(self, uint32_t count) except -1:
        """Whether what the table has nothing of is no item either: of an item the shard must be
        asked that its shard key names. And whether nothing of what a segment asks for is kept for
        any: shares are not in the cells."""
        cdef uint32_t i
        cdef Text sku
        for i in range(count):
            if self.entries[i].block == NULL:
                sku = self.entries[i].sku
                if PyUnicode_DecodeASCII(<char*>sku.data, sku.size, NULL) in self.items:
                    return False
            elif self.entries[i].segmented and self.protected:
                sku = self.entries[i].sku
                if PyUnicode_DecodeASCII(<char*>sku.data, sku.size, NULL) in self.protected:
                    return False
        return True

    cdef int64_t fresh_ms(self, uint32_t count, int64_t now_ms, int64_t max_age_ms) noexcept nogil:
        """Up to when the oldest shard was followed; 0 where that is never, behind, or older than
        the caller takes."""
        cdef int64_t as_of_ms = INT64_MAX
        cdef uint32_t i
        for i in range(count):
            as_of_ms = min(as_of_ms, self.table.clocks[self.entries[i].shard].time_ms)
        if now_ms - as_of_ms > self.feed_behind_ms:
            return 0
        return 0 if max_age_ms >= 0 and now_ms - as_of_ms > max_age_ms else as_of_ms

    cdef int make_entries(self, uint32_t count) except -1:
        if count > self.entry_capacity:
            self.entries = <Entry*>grown(self.entries, count * 2, sizeof(Entry))
            self.entry_capacity = count * 2
        return 0

    cdef int64_t decode_check(
        self, Reader* reader, Entry* scope, Text* quantities, int64_t* max_age_ms
    ) except -1:
        """SKUs found, all well; 0 for a request that is not plain."""
        cdef uint32_t count = 0, seen = 0, bit
        cdef uint64_t tag
        cdef Text text
        while reader.at < reader.end:
            tag = read_number(reader)
            if tag & 7 != 2 or tag > 0x32 or tag < 0x0A:
                return 0
            text = read_text(reader)
            if tag == 0x0A:
                if count == CHECKS_MAX or not is_id(text):
                    return 0
                self.make_entries(count + 1)
                self.entries[count].sku = text
                count += 1
                continue
            bit = 3 if tag == 0x22 else <uint32_t>(tag >> 3)
            if seen >> bit & 1:
                return 0
            seen |= <uint32_t>1 << bit
            if tag == 0x12:
                quantities[0] = text
            elif tag == 0x1A:
                scope.scope, scope.place = NAMED_NODES, text
            elif tag == 0x22:
                scope.scope, scope.place = GROUP_NODES, text
            elif tag == 0x2A:
                if text.size > 0 and not is_id(text):
                    return 0
                scope.segmented = text.size > 0
            elif not read_consistency(text, max_age_ms):
                return 0
        if reader.bad or (quantities.data != NULL and quantities.size == 0):
            return 0
        if scope.scope == NAMED_NODES and not self.read_list(scope.place):
            return 0
        if scope.scope == GROUP_NODES and not self.read_group(scope.place):
            return 0
        return count

    cdef int find_skus(self, uint32_t count, uint32_t cells_ahead) noexcept:
        """Look all SKUs up, some at a time. Each step asks the memory for what the next one reads,
        so that the misses of a search overlap; the last one for so many cells of each."""
        cdef AtsTable table = self.table
        cdef ShardMap* map
        cdef Entry* entry
        cdef uint32_t first, last, i, slot, line
        cdef uint8_t* at
        cdef uint8_t* end
        for first in range(0, count, FOUND_TOGETHER):
            last = min(first + FOUND_TOGETHER, count)
            for i in range(first, last):
                entry = &self.entries[i]
                entry.hash = hash_bytes(<char*>entry.sku.data, entry.sku.size)
                entry.shard = <uint32_t>(entry.hash % table.shard_count)
                map = &table.live[entry.shard]
                if map.slots != NULL:
                    __builtin_prefetch(&map.slots[<uint32_t>(entry.hash >> 32) & map.slot_mask])
            for i in range(first, last):
                entry = &self.entries[i]
                map = &table.live[entry.shard]
                entry.block = NULL
                if map.slots == NULL:
                    continue
                slot = <uint32_t>(entry.hash >> 32) & map.slot_mask
                while map.slots[slot].offset != 0 and map.slots[slot].tag != <uint32_t>entry.hash:
                    slot = (slot + 1) & map.slot_mask
                if map.slots[slot].offset != 0:
                    entry.block = block_at(map, slot)
                    for line in range(<uint32_t>PREFETCHED_LINES):
                        __builtin_prefetch(<uint64_t*>entry.block + 8 * line)
            for i in range(first, last):
                entry = &self.entries[i]
                if entry.block == NULL or not is_of(
                    entry.block, entry.hash, <char*>entry.sku.data, entry.sku.size
                ):
                    entry.block = table.find_hashed(
                        entry.hash, <char*>entry.sku.data, entry.sku.size, &entry.shard
                    )
                if entry.block != NULL:
                    end = <uint8_t*>(cells_of(entry.block) + min(entry.block.count, cells_ahead))
                    # From where a line begins, or the last one would be left out.
                    at = <uint8_t*>(<uintptr_t>entry.block & ~<uintptr_t>63)
                    at += 64 * PREFETCHED_LINES
                    while at < end:
                        __builtin_prefetch(at)
                        at += 64
        return 0

    cdef int64_t decode(
        self, const uint8_t* data, size_t size, int64_t* max_age_ms, uint32_t* view
    ) except -1:
        """Entries found, all well; 0 for a request that is not plain."""
        cdef Reader reader = reader_of(data, size)
        cdef uint32_t count = 0, seen = 0
        cdef uint64_t tag
        cdef Text text
        while reader.at < reader.end:
            tag = read_number(&reader)
            if tag == 0x0A:
                text = read_text(&reader)
                if count == ENTRIES_MAX or reader.bad:
                    return 0
                self.make_entries(count + 1)
                if not self.decode_entry(text, &self.entries[count]):
                    return 0
                count += 1
            elif tag == 0x12 and not seen & 1:
                seen |= 1
                text = read_text(&reader)
                if reader.bad or not read_consistency(text, max_age_ms):
                    return 0
            elif tag == 0x18 and not seen & 2:
                seen |= 2
                tag = read_number(&reader)
                if tag > BREAKDOWN:
                    return 0
                view[0] = <uint32_t>max(tag, <uint64_t>TOTAL)
            else:
                return 0
        return 0 if reader.bad else count

    cdef bint decode_entry(self, Text message, Entry* entry) noexcept nogil:
        """One look-up; False when it is not plain."""
        cdef Reader reader = reader_of(message.data, message.size)
        cdef uint32_t seen = 0, bit
        cdef uint64_t tag
        cdef Text text
        memset(entry, 0, sizeof(Entry))
        while reader.at < reader.end:
            tag = read_number(&reader)
            if tag & 7 != 2 or tag > 0x2A or tag < 0x0A:
                return False
            # `nodes` and `node_group_id` are one choice.
            bit = 3 if tag == 0x22 else <uint32_t>(tag >> 3)
            if seen >> bit & 1:
                return False
            seen |= <uint32_t>1 << bit
            text = read_text(&reader)
            if tag == 0x0A:
                entry.entry_id = text
            elif tag == 0x12:
                entry.sku = text
            elif tag == 0x2A:
                if text.size > 0 and not is_id(text):
                    return False
                entry.segmented = text.size > 0
            else:
                entry.place = text
                entry.scope = NAMED_NODES if tag == 0x1A else GROUP_NODES
        if reader.bad or not is_id(entry.sku):
            return False
        return entry.entry_id.size == 0 or is_id(entry.entry_id)

    cdef int follow_places(self) except -1:
        """Learn which nodes the table's new ids are."""
        cdef list places = self.table.places
        cdef uint32_t count = <uint32_t>len(places), place
        if count == self.place_count:
            return 0
        self.place_nodes = <uint32_t*>grown(self.place_nodes, count, sizeof(uint32_t))
        self.place_marks = <uint32_t*>grown(self.place_marks, count, sizeof(uint32_t))
        for place in range(self.place_count, count):
            node_id, bucket = places[place]
            number = None if bucket else self.node_numbers.get(node_id)
            self.place_nodes[place] = self.place_marks[place] = 0
            if number is not None:
                self.place_nodes[place] = <uint32_t>number + 1
                self.nodes[<uint32_t>number].place = place
        self.place_count = count
        return 0

    cdef int64_t find_node(self, Text node_id) noexcept nogil:
        cdef uint32_t slot = (
            <uint32_t>hash_bytes(<char*>node_id.data, node_id.size) & self.node_mask
        )
        while self.node_slots[slot] != 0:
            if same(self.nodes[self.node_slots[slot] - 1].node_id, node_id):
                return self.node_slots[slot] - 1
            slot = (slot + 1) & self.node_mask
        return -1

    cdef bint read_list(self, Text message) except -1:
        """Number the nodes of a list, each once, and mark them; False when one is not known."""
        cdef Reader reader
        cdef uint32_t count = 0, named = 0
        cdef int64_t node
        # Lists of one call are alike as a rule.
        if self.list_read.data != NULL and same(self.list_read, message):
            return True
        if self.mark == 0xFFFFFFFF:
            for count in range(self.node_count):
                self.nodes[count].mark = 0
            memset(self.place_marks, 0, self.place_count * sizeof(uint32_t))
            self.mark = count = 0
        self.mark += 1
        self.list_read.data = NULL
        reader = reader_of(message.data, message.size)
        while reader.at < reader.end:
            if read_number(&reader) != 0x0A or named == SCOPE_NODES_MAX:
                return False
            node = self.find_node(read_text(&reader))
            if node < 0 or reader.bad:
                return False
            named += 1
            if self.nodes[node].mark == self.mark:
                continue
            self.nodes[node].mark = self.mark
            if self.nodes[node].on:
                self.place_marks[self.nodes[node].place] = self.mark
            if count == self.list_capacity:
                self.list_nodes = <uint32_t*>grown(
                    self.list_nodes, count * 2 + 16, sizeof(uint32_t)
                )
                self.list_capacity = count * 2 + 16
            self.list_nodes[count] = <uint32_t>node
            count += 1
        if named == 0 or reader.bad:
            return False
        self.list_read, self.list_count, self.list_named = message, count, named
        return True

    cdef bint read_group(self, Text group_id) except -1:
        """Take the group's bit map; False when it is not known."""
        if self.group_read.data != NULL and same(self.group_read, group_id):
            return True
        found = self.groups.get(PyBytes_FromStringAndSize(<char*>group_id.data, group_id.size))
        if found is None:
            return False
        self.group_bits = <uint8_t*>PyBytes_AS_STRING(found)
        self.group_read = group_id
        return True

    cdef bint in_group(self, uint32_t node) noexcept nogil:
        return self.group_bits[node >> 3] >> (node & 7) & 1

    cdef int64_t list_entry(self, Entry* entry) except -1:
        """The nodes to list, in their order, into ``listed``; returns how many."""
        cdef Cell* cells = cells_of(entry.block)
        cdef uint32_t count = 0, i, node
        cdef uint32_t most = max(entry.block.count, self.list_count)
        if most > self.listed_capacity:
            self.listed = <Listed*>grown(self.listed, most, sizeof(Listed))
            self.listed_capacity = most
        if entry.scope == NAMED_NODES:
            for i in range(self.list_count):
                node = self.list_nodes[i]
                self.listed[i].node = node
                self.listed[i].index = index_at(entry.block, self.nodes[node].place)
            return self.list_count
        for i in range(entry.block.count):
            if cells[i].place >= BUCKET:
                break
            node = self.place_nodes[cells[i].place]
            if node == 0 or (entry.scope == GROUP_NODES and not self.in_group(node - 1)):
                continue
            self.listed[count].node = node - 1
            self.listed[count].index = i
            count += 1
        qsort(self.listed, count, sizeof(Listed), by_node)
        return count

    cdef int64_t ats_of_entry(self, Entry* entry, int64_t enough) noexcept nogil:
        """Summed over the nodes of the scope that are on, until it is ``enough``."""
        cdef Cell* cells = cells_of(entry.block)
        cdef int64_t total = 0, index
        cdef uint32_t i, node
        # Search for few, scan for many, so never their product.
        if entry.scope == NAMED_NODES and <uint64_t>self.list_count * 8 < entry.block.count:
            for i in range(self.list_count):
                node = self.list_nodes[i]
                index = index_at(entry.block, self.nodes[node].place)
                if index >= 0 and self.nodes[node].on:
                    total += cells[index].ats
            return total
        for i in range(entry.block.count):
            if cells[i].place >= BUCKET or total >= enough:
                break
            if entry.scope == NAMED_NODES:
                if self.place_marks[cells[i].place] == self.mark:
                    total += cells[i].ats
                continue
            node = self.place_nodes[cells[i].place]
            if node == 0 or not self.nodes[node - 1].on:
                continue
            if entry.scope == GROUP_NODES and not self.in_group(node - 1):
                continue
            total += cells[i].ats
        return total

    cdef uint8_t* room(self, uint8_t* at, size_t size) except NULL:
        """Where to go on writing, with ``size`` bytes free before it; NULL begins anew."""
        cdef size_t written, larger
        cdef uint8_t* moved
        if at == NULL:
            at = self.buffer + self.buffer_size
        if <size_t>(at - self.buffer) > size:
            return at
        written = self.buffer + self.buffer_size - at
        larger = (written + size) * 2 + 4096
        moved = <uint8_t*>malloc(larger)
        if moved == NULL:
            raise MemoryError
        memcpy(moved + larger - written, at, written)
        free(self.buffer)
        self.buffer, self.buffer_size = moved, larger
        return moved + larger - written

    cdef uint8_t* put_entry(self, uint8_t* at, Entry* entry, uint32_t view) except NULL:
        """One answer; ``buffer`` itself when a node or group is not known."""
        cdef uint8_t* end
        cdef uint8_t* part
        cdef int64_t count = 0, i
        if entry.block == NULL:
            at = end = self.room(at, ENTRY_BYTES_MAX)
            return put_head(put_names(put_field(at, 0x18, UNKNOWN_SKU), entry), 0x0A, end)
        if entry.scope == NAMED_NODES:
            if not self.read_list(entry.place):
                return self.buffer
            self.named_count += self.list_named
            if view != TOTAL and self.named_count > LISTED_NODES_MAX:
                return self.buffer
        if entry.scope == GROUP_NODES and not self.read_group(entry.place):
            return self.buffer
        if view != TOTAL:
            count = self.list_entry(entry)
        at = self.room(at, ENTRY_BYTES_MAX + <size_t>count * NODE_BYTES_MAX)
        end = at
        at = put_time(at, 0x22, self.table.clocks[entry.shard].time_ms)
        at = put_field(at, 0x18, self.table.clocks[entry.shard].sequence)
        at = put_field(at, 0x10, self.table.clocks[entry.shard].epoch)
        at = put_head(put_field(at, 0x08, entry.shard), 0x32, end)
        for i in range(count - 1, -1, -1):
            part = at
            at = put_node(
                at, &self.nodes[self.listed[i].node], entry.block, self.listed[i].index, view
            )
            at = put_head(at, 0x2A, part)
        at = put_field(at, 0x20, self.ats_of_entry(entry, INT64_MAX))
        return put_head(put_names(put_field(at, 0x18, OUTCOME_OK), entry), 0x0A, end)


cdef inline uint8_t* put_names(uint8_t* at, Entry* entry) noexcept nogil:
    at = put_text(at, 0x12, entry.sku.data, entry.sku.size)
    return put_text(at, 0x0A, entry.entry_id.data, entry.entry_id.size)


cdef inline uint8_t* put_freshness(
    uint8_t* at, uint8_t tag, int64_t as_of_ms, int64_t now_ms
) noexcept nogil:
    cdef uint8_t* end = at
    at = put_time(at, 0x12, max(<int64_t>0, now_ms - as_of_ms))
    return put_head(put_time(at, 0x0A, as_of_ms), tag, end)


cdef inline int64_t index_at(Block* block, uint32_t place) noexcept nogil:
    """Which cell is the node's stock here now, or -1."""
    cdef uint32_t index
    if place == 0:
        return -1
    index = find_cell(block, place)
    return index if index < block.count and cells_of(block)[index].place == place else -1


cdef uint8_t* put_node(
    uint8_t* at, Node* node, Block* block, int64_t index, uint32_t view
) noexcept nogil:
    cdef uint8_t* end = at
    cdef Counters counters
    cdef uint64_t wanted
    if view == BREAKDOWN:
        at = put_field(at, 0x30, STATUS_ON if node.on else STATUS_OFF)
        if index >= 0:
            counters = counters_of(block)[index]
            wanted = <uint64_t>counters.committed + counters.held + counters.safety_stock
            if wanted > counters.on_hand:
                at = put_field(at, 0x28, wanted - counters.on_hand)
            at = put_field(at, 0x20, counters.safety_stock)
            at = put_field(at, 0x18, counters.committed)
            at = put_field(at, 0x10, counters.held)
            at = put_field(at, 0x08, counters.on_hand)
        at = put_head(at, 0x1A, end)
    if index >= 0 and node.on:
        at = put_field(at, 0x10, cells_of(block)[index].ats)
    return put_text(at, 0x0A, node.node_id.data, node.node_id.size)


cdef bytes bit_map(list numbers, uint32_t count):
    """A bit for each of ``count`` nodes; None among the numbers stands for a node not known."""
    cdef bytearray bits = bytearray((count + 7) // 8 + 1)
    for number in numbers:
        if number is not None:
            bits[number >> 3] |= 1 << (number & 7)
    return bytes(bits)
