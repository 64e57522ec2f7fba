"""Plans for a cart straight from the ATS table: twin of promise_svc.domain.frontier, with Offers and
Search behind it, over the candidates that promise_svc.domain.cart makes; those it offers are told as
promise_svc.domain.telling tells them.

Plan for plan, tie for tie and step for step of work the specification's. What is not plain is left to
it, by None: more SKUs than DEMANDS_MAX, no plan within the split limit or the work, costs beyond
2**62.
Limits: ids, quantities, weights and costs as the contract has them; one thread at a time.
Cost: README.md.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from libc.math cimport asin, cos, rint, sin, sqrt
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from native._ats_table cimport BUCKET, PLACE_ID, AtsTable, Block, Cell, cells_of

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(str text, Py_ssize_t* size) except NULL

cdef enum:
    STOCKS_COMPARED_MAX = 64  # as the specification's
    DEMANDS_COMPARED_MAX = 12
    OFFERS_PER_STEP = 32
    COVERING_SLOTS = 256
    STOCKS_COUNTED_MAX = 4096  # kinds that are looked up without a hash
    QUANTITY_MAX = 2147483647

cdef uint32_t NONE = 0xFFFFFFFF
cdef double EARTH_RADIUS_M = 6371008.8
cdef double RADIANS = 3.14159265358979323846 / 180.0
cdef double HALF_TURN = 3.14159265358979323846 / 2
cdef double COST_MAX = 2.0 ** 62
cdef double SLACK_METERS = 2.0  # rounding to meters, and of the distance on the unit sphere
cdef int64_t NANOS_PER_MICRO = 1000


@cython.final
cdef class Arena:
    def __dealloc__(self):
        self.reset()
        free(self.block)

    cdef void reset(self) noexcept:
        """Give everything back; what was beyond the block will fit into it."""
        cdef void** chunk
        while self.extra != NULL:
            chunk = self.extra
            self.extra = <void**>chunk[0]
            free(chunk)
        if self.extra_size:
            free(self.block)
            self.size += self.extra_size
            self.extra_size = 0
            self.block = <char*>malloc(self.size)
            if self.block == NULL:
                self.size = 0
        self.used = 0

    cdef void* take(self, size_t size) except NULL:
        """Memory that stands until ``reset``, not cleared."""
        size = (size + 15) & ~<size_t>15
        if self.used + size <= self.size:
            self.used += size
            return self.block + self.used - size
        cdef void** chunk = <void**>malloc(size + 16)
        if chunk == NULL:
            raise MemoryError
        chunk[0] = self.extra
        self.extra = chunk
        self.extra_size += size
        return <char*>chunk + 16


@cython.final
cdef class Nodes:
    """The nodes of one network by number, which is the order of their ids; for each its place and
    the origin it is like."""

    def __init__(self, node_ids, places, origins):
        cdef uint32_t i
        cdef double phi, longitude
        self.node_ids = node_ids
        if self.node_ids != sorted(set(self.node_ids)):
            raise ValueError("node_ids must rise")
        self.count = len(self.node_ids)
        if not len(places) == len(origins) == self.count:
            raise ValueError("node_ids, places and origins must be as many")
        self.seen = <Seen*>calloc(self.count + 1, sizeof(Seen))
        self.codes = <uint32_t*>calloc(self.count + 1, sizeof(uint32_t))
        self.longitudes = <double*>calloc(6 * self.count + 1, sizeof(double))
        if not (self.seen and self.codes and self.longitudes):
            raise MemoryError
        self.phis = self.longitudes + self.count
        self.phi_cosines = self.phis + self.count
        self.points = self.phi_cosines + self.count
        for i in range(self.count):
            latitude, longitude = places[i]
            phi = latitude * RADIANS
            self.seen[i].origin = origins[i]
            self.longitudes[i] = longitude
            self.phis[i] = phi
            self.phi_cosines[i] = cos(phi)
            point_at(phi, longitude, &self.points[3 * i])

    def __dealloc__(self):
        free(self.seen)
        free(self.codes)
        free(self.longitudes)


cdef inline void point_at(double phi, double longitude, double* point) noexcept:
    point[0] = cos(phi) * cos(longitude * RADIANS)
    point[1] = cos(phi) * sin(longitude * RADIANS)
    point[2] = sin(phi)


@cython.final
cdef class Options:
    """Sets of options for one destination, and for each origin the number of its set, -1 where it
    does not serve, and what a shipment says of each of its options, in their order."""

    def __init__(self, sets, set_of_origin, services):
        cdef uint32_t i
        cdef uint32_t first = 0
        cdef uint32_t service_count = 0
        self.set_count = len(sets)
        self.origin_count = len(set_of_origin)
        self.set_of_origin = <int32_t*>calloc(self.origin_count + 1, sizeof(int32_t))
        self.firsts = <uint32_t*>calloc(self.set_count + 1, sizeof(uint32_t))
        self.options = <Option*>calloc(sum(map(len, sets)) + 1, sizeof(Option))
        self.services = [list(some) for some in services]
        self.service_firsts = <uint32_t*>calloc(self.origin_count + 1, sizeof(uint32_t))
        self.ship_days = <int64_t*>calloc(sum(map(len, services)) + 1, sizeof(int64_t))
        if not (self.set_of_origin and self.firsts and self.options):
            raise MemoryError
        if not (self.service_firsts and self.ship_days):
            raise MemoryError
        if len(self.services) != self.origin_count:
            raise ValueError("origins must have a set and services each")
        for i in range(self.set_count):
            self.firsts[i] = first
            self.read_set(sets[i], first)
            first += <uint32_t>len(sets[i])
        self.firsts[self.set_count] = first
        for i in range(self.origin_count):
            self.set_of_origin[i] = set_of_origin[i]
            if not -1 <= self.set_of_origin[i] < <int64_t>self.set_count:
                raise ValueError(f"there is no set {set_of_origin[i]}")
            if self.set_of_origin[i] >= 0:
                if len(self.services[i]) != len(sets[self.set_of_origin[i]]):
                    raise ValueError("an origin has a service an option")
            self.service_firsts[i] = service_count
            for service in self.services[i]:
                self.ship_days[service_count] = service[2].toordinal()
                service_count += 1

    def __dealloc__(self):
        free(self.service_firsts)
        free(self.ship_days)
        free(self.set_of_origin)
        free(self.firsts)
        free(self.options)

    cdef int read_set(self, object options, uint32_t first) except -1:
        cdef Option* option
        ranks = {name: rank for rank, name in enumerate(sorted(name for name, _, _, _ in options))}
        by_cost = sorted(
            (base_micros, kilogram_micros, day, name, number)
            for number, (name, day, base_micros, kilogram_micros) in enumerate(options)
        )
        for index, (base_micros, kilogram_micros, day, name, number) in enumerate(by_cost):
            option = &self.options[first + <uint32_t>index]
            option.day = day
            option.base_nanos = <int64_t>base_micros * NANOS_PER_MICRO
            option.kilogram_micros = kilogram_micros
            option.name_rank = ranks[name]
            option.number = number
            self.kilogram_micros_max = max(self.kilogram_micros_max, option.kilogram_micros)
            self.base_nanos_max = max(self.base_nanos_max, option.base_nanos)
        return 0


@cython.final
cdef class CartSearch:
    """Finds plans for one cart after the other, over one table."""

    def __init__(self, table):
        self.table = table
        self.arena = Arena()

    def __dealloc__(self):
        free(self.numbers)

    def plans(
        self,
        nodes,
        options,
        lines,
        weights,
        *,
        place,
        other_origins,
        priorities,
        priority_max,
        max_shipments,
        max_options,
        work_max,
        make_shipment,
        make_line,
    ):
        """The shipments of each plan offered, best first; whether they are exact; how few shipments
        any plan has. None where it is the specification's turn; no plans where stock does not fill
        all lines.

        ``lines`` are (id, SKU, quantity), ``weights`` grams a unit of each SKU, in order; ``place``
        is the destination's. A node in ``other_origins`` is like that origin now instead of its own,
        or left out (-1). ``priorities`` are a byte a node for each SKU, or nothing: of nodes beyond
        ``priority_max`` the SKU is not taken. ``make_shipment`` and ``make_line`` get the values of a Shipment and a
        ShipmentLine.
        """
        self.arena.reset()
        self.follow(nodes)
        self.options = options
        if not 1 <= max_shipments <= SHIPMENTS_MAX or max_options < 1:
            return None
        self.max_shipments = max_shipments
        self.work = work_max
        self.located = place is not None
        if self.located:
            latitude, self.longitude = place
            self.phi = latitude * RADIANS
            self.phi_cosine = cos(self.phi)
            point_at(self.phi, self.longitude, self.point)
        self.lines = list(lines)
        if not self.read_demands(weights):
            return None
        self.nodes.call += 1
        if self.nodes.call == 0:
            raise OverflowError("calls beyond counting")
        cdef uint32_t node
        for number, other in other_origins.items():
            node = number
            if node < self.nodes.count:
                self.seen[node].told_in = self.nodes.call
                self.seen[node].other_origin = other
        self.priorities = priorities
        self.priority_max = priority_max
        if len(priorities) not in (0, self.demand_count):
            raise ValueError("priorities must be as many as SKUs")
        for asked in priorities:
            if len(asked) != self.nodes.count:
                raise ValueError("priorities must be as many as nodes")
        if not self.read_stock():
            return [], True, 0
        self.find_kinds()
        if not self.enough():
            return [], True, 0
        self.choose_nearest()
        self.make_offers()
        if self.day_count == 0:
            return None
        cdef Plan* best = self.best_of_all()
        if best.count == 0:
            return None
        self.read_lines()
        if max_options == 1:
            offered = [self.told_plan(best, make_shipment, make_line)]
        else:
            offered = self.told(self.frontier(max_options), make_shipment, make_line)
        return offered, self.work > 0, self.shipment_count_bound

    cdef int follow(self, Nodes nodes) except -1:
        """Know the number of the node of each place the table has."""
        cdef uint32_t* grown
        self.nodes = nodes
        self.seen = nodes.seen
        if self.node_ids is not nodes.node_ids:
            self.node_ids = nodes.node_ids
            self.place_count = 0
            self.number_of = {node_id: number for number, node_id in enumerate(nodes.node_ids)}
        cdef list places = self.table.places
        cdef uint32_t count = <uint32_t>len(places)
        cdef uint32_t place
        if self.place_count == count:
            return 0
        if self.place_capacity < count:
            grown = <uint32_t*>realloc(self.numbers, 2 * <size_t>count * sizeof(uint32_t))
            if grown == NULL:
                raise MemoryError
            self.numbers = grown
            self.place_capacity = 2 * count
        for place in range(self.place_count, count):
            node_id, bucket = places[place]
            self.numbers[place] = NONE if bucket else self.number_of.get(node_id, NONE)
        self.place_count = count
        return 0

    cdef int read_demands(self, dict weights) except -1:
        """Whether the cart is one for this search."""
        cdef uint32_t d
        cdef int64_t quantities[DEMANDS_MAX]
        cdef int64_t units = 0
        cdef int64_t stocks = 1
        if not 1 <= len(weights) <= DEMANDS_MAX:
            return 0
        self.skus = list(weights)
        self.demand_count = <uint32_t>len(self.skus)
        memset(quantities, 0, sizeof(quantities))
        numbers = {sku: d for d, sku in enumerate(self.skus)}
        self.line_demands = <uint32_t*>self.arena.take((len(self.lines) + 1) * sizeof(uint32_t))
        for i, (_, sku, quantity) in enumerate(self.lines):
            d = numbers[sku]
            quantities[d] += <int64_t>quantity
            self.line_demands[<uint32_t>i] = d
        self.weight_grams = 0
        self.stock_count = 1
        for d in range(self.demand_count):
            if not 1 <= quantities[d] <= QUANTITY_MAX:
                return 0
            self.wanted[d] = <int32_t>quantities[d]
            self.weights[d] = weights[self.skus[d]]
            self.weight_grams += quantities[d] * self.weights[d]
            units += quantities[d]
            self.strides[d] = <uint32_t>min(stocks, <int64_t>STOCKS_COUNTED_MAX + 1)
            stocks = min(stocks * (quantities[d] + 1), <int64_t>STOCKS_COUNTED_MAX + 1)
        stocks *= self.options.set_count
        self.stock_count = 0
        if stocks <= STOCKS_COUNTED_MAX:
            self.stock_count = <uint32_t>(stocks // max(<uint32_t>1, self.options.set_count))
        for rank, sku in enumerate(sorted(self.skus)):
            d = numbers[sku]
            self.sku_ranks[d] = rank
        # No plan has more shipments than units.
        self.most = <uint32_t>min(<int64_t>self.max_shipments, units)
        return (
            <double>self.options.kilogram_micros_max * <double>self.weight_grams
            + SHIPMENTS_MAX * <double>self.options.base_nanos_max
        ) < COST_MAX

    cdef int read_lines(self) except -1:
        """The lines of each demand, in order."""
        cdef uint32_t d, i
        cdef uint32_t place = 0
        cdef uint32_t count = <uint32_t>len(self.lines)
        cdef uint32_t* numbers = <uint32_t*>self.arena.take(3 * count * sizeof(uint32_t))
        self.lines_by_demand = numbers
        self.line_quantities = <int32_t*>(numbers + count)
        self.line_missing = <int32_t*>(numbers + 2 * count)
        for d in range(self.demand_count):
            self.line_firsts[d] = place
            for i in range(count):
                if self.line_demands[i] == d:
                    self.lines_by_demand[place] = i
                    place += 1
        self.line_firsts[self.demand_count] = place
        for i in range(count):
            _, _, quantity = self.lines[self.lines_by_demand[i]]
            self.line_quantities[i] = quantity
        return 0

    cdef int read_stock(self) except -1:
        """The nodes that have any of what is wanted; 0 where a SKU was never anywhere."""
        cdef uint32_t d, shard
        cdef size_t cell_count = 0
        cdef Py_ssize_t size
        cdef const char* key
        cdef Block* blocks[DEMANDS_MAX]
        for d in range(self.demand_count):
            key = PyUnicode_AsUTF8AndSize(self.skus[d], &size)
            blocks[d] = self.table.find_bytes(key, size, &shard)
            if blocks[d] == NULL:
                return 0
            cell_count += blocks[d].count
        cell_count = min(cell_count, <size_t>self.nodes.count)
        self.candidates = <Candidate*>self.arena.take((cell_count + 1) * sizeof(Candidate))
        self.candidate_count = 0
        if self.stock_count:
            self.count_stock(blocks, cell_count)
        else:
            self.list_stock(blocks, cell_count)
        return 1

    cdef int count_stock(self, Block** blocks, size_t node_count) except -1:
        """Where few different stocks are possible each is a number, added up by node."""
        cdef uint32_t d, i, node
        cdef int32_t origin, units
        cdef Cell* cells
        cdef uint32_t none = NONE
        cdef uint32_t count = 0
        cdef uint32_t* numbers = self.numbers
        cdef uint32_t* codes = self.nodes.codes
        cdef uint32_t* met = <uint32_t*>self.arena.take((node_count + 1) * sizeof(uint32_t))
        cdef const unsigned char* priorities = NULL
        for d in range(self.demand_count):
            cells = cells_of(blocks[d])
            if self.priorities:
                priorities = <const unsigned char*>PyBytes_AS_STRING(self.priorities[d])
            for i in range(blocks[d].count):
                if cells[i].place >= BUCKET:
                    break
                node = numbers[cells[i].place]
                if node == none or (priorities != NULL and priorities[node] > self.priority_max):
                    continue
                units = <int32_t>min(<int64_t>cells[i].ats, <int64_t>self.wanted[d])
                # Without a branch: which nodes have what is anyone's guess.
                met[count] = node
                count += <uint32_t>((codes[node] == 0) & (units != 0))
                codes[node] += self.strides[d] * <uint32_t>units
        for i in range(count):
            node = met[i]
            origin = self.origin_of(&self.seen[node])
            if origin >= 0 and self.options.set_of_origin[origin] >= 0:
                self.add_candidate(node, origin).kind = codes[node]
            codes[node] = 0
        return 0

    cdef int list_stock(self, Block** blocks, size_t node_count) except -1:
        """Where many are, they are listed."""
        cdef uint32_t D = self.demand_count
        cdef uint32_t d, i, node
        cdef int32_t origin
        cdef Cell* cells
        cdef Seen* seen
        cdef uint32_t call = self.nodes.call
        cdef uint32_t none = NONE
        cdef const unsigned char* priorities = NULL
        self.stocks = <int32_t*>self.arena.take((node_count + 1) * D * sizeof(int32_t))
        for d in range(D):
            cells = cells_of(blocks[d])
            if self.priorities:
                priorities = <const unsigned char*>PyBytes_AS_STRING(self.priorities[d])
            for i in range(blocks[d].count):
                if cells[i].place >= BUCKET:
                    break
                node = self.numbers[cells[i].place]
                if cells[i].ats == 0 or node == none:
                    continue
                if priorities != NULL and priorities[node] > self.priority_max:
                    continue
                seen = &self.seen[node]
                if seen.met_in != call:
                    seen.met_in = call
                    seen.slot = none
                    origin = self.origin_of(seen)
                    if origin >= 0 and self.options.set_of_origin[origin] >= 0:
                        seen.slot = self.candidate_count
                        memset(&self.stocks[seen.slot * D], 0, D * sizeof(int32_t))
                        self.add_candidate(node, origin)
                if seen.slot != none:
                    self.stocks[seen.slot * D + d] = <int32_t>min(
                        <int64_t>cells[i].ats, <int64_t>self.wanted[d]
                    )
        return 0

    cdef Candidate* add_candidate(self, uint32_t node, int32_t origin) noexcept:
        cdef Candidate* candidate = &self.candidates[self.candidate_count]
        candidate.node = node
        candidate.group = <uint32_t>self.options.set_of_origin[origin]
        candidate.key = 0
        self.candidate_count += 1
        return candidate

    cdef int32_t origin_of(self, Seen* seen) noexcept:
        """The origin that a node is like: here a candidate is left out, or serves in other ways."""
        cdef int32_t origin = <int32_t>seen.origin
        if seen.told_in == self.nodes.call:
            origin = seen.other_origin
        return origin if origin < <int64_t>self.options.origin_count else -1

    cdef int find_kinds(self) except -1:
        """Group candidates by equal options, and those by equal stock."""
        cdef uint32_t D = self.demand_count
        cdef uint32_t slot_count = 16
        cdef uint32_t i, d, slot, mask, number
        cdef int32_t* stock
        cdef Group* group
        cdef Candidate* candidate
        cdef uint32_t none = NONE
        cdef uint32_t* group_of_set = <uint32_t*>self.arena.take(
            (self.options.set_count + 1) * sizeof(uint32_t)
        )
        memset(group_of_set, 0xFF, (self.options.set_count + 1) * sizeof(uint32_t))
        self.groups = <Group*>self.arena.take((self.options.set_count + 1) * sizeof(Group))
        self.kinds = <Kind*>self.arena.take((self.candidate_count + 1) * sizeof(Kind))
        self.group_count = 0
        self.kind_count = 0
        if self.stock_count:
            slot_count = self.stock_count * self.options.set_count
        else:
            while slot_count < 2 * self.candidate_count:
                slot_count *= 2
        mask = slot_count - 1
        cdef uint32_t* slots = <uint32_t*>self.arena.take(slot_count * sizeof(uint32_t))
        memset(slots, 0xFF, slot_count * sizeof(uint32_t))
        if self.stock_count:
            self.stocks = <int32_t*>self.arena.take(
                (min(slot_count, self.candidate_count) + 1) * D * sizeof(int32_t)
            )
        for i in range(self.candidate_count):
            candidate = &self.candidates[i]
            number = group_of_set[candidate.group]
            if number == none:
                number = group_of_set[candidate.group] = self.group_count
                group = &self.groups[number]
                memset(group, 0, sizeof(Group))
                group.set = candidate.group
                group.first_kind = none
                self.group_count += 1
            if self.stock_count:
                stock = &self.stocks[self.kind_count * D]
                slot = number * self.stock_count + candidate.kind
                if slots[slot] == none:
                    for d in range(D):
                        stock[d] = <int32_t>(
                            candidate.kind // self.strides[d] % (<uint32_t>self.wanted[d] + 1)
                        )
            else:
                stock = &self.stocks[i * D]
                slot = hash_stock(number, stock, D) & mask
                while slots[slot] != none:
                    if self.kinds[slots[slot]].group == number and equal(
                        self.kinds[slots[slot]].stock, stock, D
                    ):
                        break
                    slot = (slot + 1) & mask
            if slots[slot] == none:
                slots[slot] = self.new_kind(number, stock)
            candidate.group = number
            candidate.kind = slots[slot]
            self.kinds[candidate.kind].count += 1
        for i in range(self.kind_count):
            group = &self.groups[self.kinds[i].group]
            group.node_count += self.kinds[i].count
            for d in range(D):
                if self.kinds[i].stock[d]:
                    group.supply_counts[d] += self.kinds[i].count
        return 0

    cdef bint enough(self) noexcept:
        """Whether all that is wanted is there; more at one node than is wanted counts as that."""
        cdef uint32_t d, i
        cdef int64_t total
        for d in range(self.demand_count):
            total = 0
            for i in range(self.kind_count):
                total += <int64_t>self.kinds[i].stock[d] * self.kinds[i].count
            if total < self.wanted[d]:
                return False
        return True

    cdef uint32_t new_kind(self, uint32_t group, int32_t* stock) noexcept:
        cdef Kind* kind = &self.kinds[self.kind_count]
        memset(kind, 0, sizeof(Kind))
        kind.group = group
        kind.stock = stock
        kind.next = self.groups[group].first_kind
        self.groups[group].first_kind = self.kind_count
        self.groups[group].kind_count += 1
        self.kind_count += 1
        return self.kind_count - 1

    cdef int choose_nearest(self) except -1:
        """Of each kind the nodes that a plan may need; of groups of many kinds all."""
        cdef uint32_t i
        cdef Candidate* candidate
        cdef Kind* kind
        cdef Near near
        for i in range(self.kind_count):
            kind = &self.kinds[i]
            if self.compared(&self.groups[kind.group]):
                kind.nearest = <Near*>self.arena.take(self.most * sizeof(Near))
                kind.keys = <double*>self.arena.take(self.most * sizeof(double))
                kind.key_max = 5.0
        if self.located:
            for i in range(self.candidate_count):
                candidate = &self.candidates[i]
                kind = &self.kinds[candidate.kind]
                if kind.nearest != NULL and kind.count > self.most:
                    candidate.key = chord_squared(
                        self.point, &self.nodes.points[3 * candidate.node]
                    )
                    put_key(kind, candidate.key, self.most)
        for i in range(self.kind_count):
            kind = &self.kinds[i]
            if kind.key_count == self.most:
                kind.key_max = widened(kind.keys[self.most - 1])
        for i in range(self.candidate_count):
            candidate = &self.candidates[i]
            kind = &self.kinds[candidate.kind]
            if candidate.key > kind.key_max or kind.nearest == NULL:
                continue
            near.node = candidate.node
            near.distance = self.meters(candidate.node)
            put_near(kind, near, self.most)
        for i in range(self.group_count):
            if self.compared(&self.groups[i]):
                self.take_members(&self.groups[i], i)
            else:
                self.take_all_members(&self.groups[i], i)
        return 0

    cdef bint compared(self, Group* group) noexcept:
        """Whether nodes that others surpass are left out."""
        return (
            group.kind_count <= STOCKS_COMPARED_MAX and self.demand_count <= DEMANDS_COMPARED_MAX
        )

    cdef int take_members(self, Group* group, uint32_t number) except -1:
        """The nearest of all kinds in order, less those that ``most`` others surpass."""
        cdef uint32_t D = self.demand_count
        cdef uint32_t kinds[STOCKS_COMPARED_MAX]
        cdef uint32_t places[STOCKS_COMPARED_MAX]
        cdef uint32_t count = 0
        cdef uint32_t i, j, rank, next_kind
        cdef size_t most = 0
        cdef Kind* kind
        cdef Kind* other
        cdef Near* near
        cdef Near* nearest
        cdef uint32_t k = group.first_kind
        while k != NONE:
            kinds[count] = k
            places[count] = 0
            most += self.kinds[k].near_count
            count += 1
            k = self.kinds[k].next
        for i in range(count):
            kind = &self.kinds[kinds[i]]
            for j in range(count):
                if covers(self.kinds[kinds[j]].stock, kind.stock, D):
                    kind.surpassed_by |= <uint64_t>1 << j
        group.members = <Member*>self.arena.take((most + 1) * sizeof(Member))
        while True:
            nearest = NULL
            next_kind = 0
            for i in range(count):
                kind = &self.kinds[kinds[i]]
                if places[i] < kind.near_count:
                    near = &kind.nearest[places[i]]
                    if nearest == NULL or nearer(near, nearest):
                        nearest = near
                        next_kind = i
            if nearest == NULL:
                return 0
            kind = &self.kinds[kinds[next_kind]]
            rank = 0
            for j in range(count):
                if kind.surpassed_by >> j & 1:
                    other = &self.kinds[kinds[j]]
                    rank += other.kept
            if rank >= self.most:
                places[next_kind] = kind.near_count
                continue
            places[next_kind] += 1
            kind.kept += 1
            group.members[group.member_count].distance = nearest.distance
            group.members[group.member_count].node = nearest.node
            group.members[group.member_count].kind = kinds[next_kind]
            group.members[group.member_count].rank = rank
            group.member_count += 1

    cdef int take_all_members(self, Group* group, uint32_t number) except -1:
        cdef uint32_t i
        cdef Member* member
        group.members = <Member*>self.arena.take(group.node_count * sizeof(Member))
        for i in range(self.candidate_count):
            if self.candidates[i].group != number:
                continue
            member = &group.members[group.member_count]
            member.node = self.candidates[i].node
            member.distance = self.meters(member.node)
            member.kind = self.candidates[i].kind
            member.rank = 0
            group.member_count += 1
        return 0

    cdef int make_offers(self) except -1:
        """Each member with each option of its group, in order; and the days they keep."""
        cdef size_t count = 0
        cdef size_t option_count = 0
        cdef uint32_t g, o, m
        cdef Group* group
        cdef Option* option
        cdef Offer* offer
        cdef uint32_t* firsts = self.options.firsts
        for g in range(self.group_count):
            group = &self.groups[g]
            count += <size_t>group.member_count * (firsts[group.set + 1] - firsts[group.set])
            option_count += firsts[group.set + 1] - firsts[group.set]
        self.offers = <Offer*>self.arena.take((count + 1) * sizeof(Offer))
        self.days = <int64_t*>self.arena.take((option_count + 1) * sizeof(int64_t))
        self.offer_count = 0
        self.day_count = 0
        for g in range(self.group_count):
            group = &self.groups[g]
            for o in range(firsts[group.set], firsts[group.set + 1]):
                option = &self.options.options[o]
                put_day(self.days, &self.day_count, option.day)
                for m in range(group.member_count):
                    offer = &self.offers[self.offer_count]
                    offer.whole_cost = (
                        option.base_nanos + option.kilogram_micros * self.weight_grams
                    )
                    offer.distance = group.members[m].distance
                    offer.node = group.members[m].node
                    offer.rank = group.members[m].rank
                    offer.option = option
                    offer.stock = self.kinds[group.members[m].kind].stock
                    offer.banned = False
                    self.offer_count += 1
        qsort(self.offers, self.offer_count, sizeof(Offer), compare_offers)
        self.day_offers = <Offer**>self.arena.take((count + 1) * sizeof(void*))
        self.level_offers = <Offer**>self.arena.take((count + 1) * sizeof(void*))
        self.tried = <Offer**>self.arena.take((count + 1) * sizeof(void*))
        self.tried_count = 0
        self.coverings = <Covering**>self.arena.take(COVERING_SLOTS * sizeof(void*))
        self.plans_by_day = <Plan*>self.arena.take((self.day_count + 1) * sizeof(Plan))
        self.searched = <bint*>self.arena.take((self.day_count + 1) * sizeof(bint))
        memset(self.searched, 0, (self.day_count + 1) * sizeof(bint))
        self.shipment_count_bound = 1
        return 0

    cdef int64_t meters(self, uint32_t node) noexcept:
        """As geography.distances_m, operation for operation, in whole meters."""
        cdef double half_phi, half_lambda, chord
        if not self.located:
            return 0
        half_lambda = (self.longitude - self.nodes.longitudes[node]) * RADIANS / 2
        half_phi = sin((self.phi - self.nodes.phis[node]) / 2)
        half_lambda = sin(half_lambda)
        chord = half_phi * half_phi + self.nodes.phi_cosines[node] * self.phi_cosine * (
            half_lambda * half_lambda
        )
        return <int64_t>rint(2 * EARTH_RADIUS_M * asin(min(1.0, sqrt(chord))))

    # From plans that each keep one day to the best, and to all that a shopper may prefer.

    cdef Plan* kept_by(self, uint32_t day) except NULL:
        cdef Plan* plan = &self.plans_by_day[day]
        if not self.searched[day]:
            self.searched[day] = True
            plan.count = 0
            self.best = plan
            self.prepare(self.days[day])
            self.run()
            if day == self.day_count - 1:
                self.shipment_count_bound = self.bound
        return plan

    cdef Plan* best_of_all(self) except NULL:
        """The earliest of those with the fewest shipments; a plan of none where there is none."""
        cdef uint32_t low = 0
        cdef uint32_t high = self.day_count - 1
        cdef uint32_t middle
        cdef Plan* found
        cdef Plan* plan = self.kept_by(high)
        if plan.count == 0:
            return plan
        while low < high:
            middle = (low + high) // 2
            found = self.kept_by(middle)
            if found.count and found.count <= plan.count:
                plan = found
                high = middle
            else:
                low = middle + 1
        return plan

    cdef list frontier(self, uint32_t most):
        """The days of plans less those another beats, best first; of more than ``most`` the earliest
        plan comes last."""
        cdef uint32_t day, k
        cdef Plan* plan
        cdef Plan* other
        kept = []
        for day in range(self.day_count):
            plan = self.kept_by(day)
            if plan.count == 0:
                continue
            for k in kept:
                other = &self.plans_by_day[k]
                if plan.count >= other.count and plan.cost_nanos >= other.cost_nanos:
                    break
            else:
                kept.append(day)
        ranked = []
        for k in kept:
            plan = &self.plans_by_day[k]
            ranked.append((plan.count, plan.day, plan.cost_nanos, plan.distance, k))
        ranked.sort()
        offered = [k for _, _, _, _, k in ranked]
        if len(offered) > most:
            earliest = offered[0]
            for k in offered:
                if self.plans_by_day[<uint32_t>k].day < self.plans_by_day[<uint32_t>earliest].day:
                    earliest = k
            offered = offered[: most - 1]
            if earliest not in offered:
                offered.append(earliest)
        return offered

    cdef object told(self, list plans, object make_shipment, object make_line):
        cdef uint32_t day
        offered = []
        for day in plans:
            offered.append(self.told_plan(&self.plans_by_day[day], make_shipment, make_line))
        return offered

    cdef object told_plan(self, Plan* plan, object make_shipment, object make_line):
        """Its shipments, lines filled by node; earliest ship date first, then by node."""
        cdef uint32_t D = self.demand_count
        cdef uint32_t s, d, origin, place
        cdef int64_t grams, nanos
        cdef int64_t ship_days[SHIPMENTS_MAX]
        cdef Offer* offer
        memcpy(
            self.line_missing, self.line_quantities, len(self.lines) * sizeof(int32_t)
        )
        cdef list shipments = []
        for s in range(plan.count):
            offer = plan.offers[s]
            lines = self.told_lines(&plan.units[s * D], make_line)
            grams = 0
            for d in range(D):
                grams += plan.units[s * D + d] * self.weights[d]
            origin = <uint32_t>self.origin_of(&self.seen[offer.node])
            (
                method, carrier, ship_date, earliest, latest, order_by_ms, ready_ms,
                base_micros, kilogram_micros,
            ) = self.options.services[origin][offer.option.number]
            nanos = <int64_t>base_micros * NANOS_PER_MICRO + <int64_t>kilogram_micros * grams
            shipment = make_shipment(
                (
                    self.nodes.node_ids[offer.node], lines, method, carrier, ship_date, earliest,
                    latest, (nanos + NANOS_PER_MICRO - 1) // NANOS_PER_MICRO, order_by_ms,
                    ready_ms, 0, None,
                )
            )
            place = s
            ship_days[s] = self.options.ship_days[
                self.options.service_firsts[origin] + offer.option.number
            ]
            while place > 0 and ship_days[place - 1] > ship_days[place]:
                ship_days[place - 1], ship_days[place] = ship_days[place], ship_days[place - 1]
                place -= 1
            shipments.insert(place, shipment)
        return tuple(shipments)

    cdef tuple told_lines(self, int32_t* units, object make_line):
        """Units of each SKU spread over the lines that still miss some, in request order."""
        cdef uint32_t d, i
        cdef int32_t left, taken
        parts = []
        for d in range(self.demand_count):
            left = units[d]
            for i in range(self.line_firsts[d], self.line_firsts[d + 1]):
                if left == 0:
                    break
                taken = min(left, self.line_missing[i])
                if taken:
                    line_id, sku, _ = self.lines[self.lines_by_demand[i]]
                    parts.append(make_line((line_id, sku, taken, "")))
                    self.line_missing[i] -= taken
                    left -= taken
        return tuple(parts)

    # The search of one day: promise_svc.domain.search.

    cdef int keep_day(self, int64_t day) except -1:
        """Mark the options that keep the day and are not at least as dear as another in both costs;
        they stand by cost."""
        cdef uint32_t g, o
        cdef int64_t least
        cdef Group* group
        cdef Option* option
        for g in range(self.group_count):
            group = &self.groups[g]
            group.kept_options = 0
            least = -1
            for o in range(self.options.firsts[group.set], self.options.firsts[group.set + 1]):
                option = &self.options.options[o]
                option.kept = option.day <= day and (least < 0 or option.kilogram_micros < least)
                if option.kept:
                    least = option.kilogram_micros
                    group.kept_options += 1
        return 0

    cdef int prepare(self, int64_t day) except -1:
        cdef uint32_t D = self.demand_count
        cdef uint32_t i, d, g, m, k, highest
        cdef int64_t units
        cdef int64_t counts[DEMANDS_MAX]
        cdef int32_t fullest[SHIPMENTS_MAX * DEMANDS_MAX]
        cdef Group* group
        cdef Offer* offer
        self.keep_day(day)
        memset(counts, 0, sizeof(counts))
        memset(fullest, 0, sizeof(fullest))
        for g in range(self.group_count):
            group = &self.groups[g]
            if group.kept_options == 0:
                continue
            for d in range(D):
                counts[d] += group.supply_counts[d] * group.kept_options
            for m in range(group.member_count):
                put_fullest(
                    fullest, self.kinds[group.members[m].kind].stock, D, self.max_shipments
                )
        for d in range(D):
            units = 0
            for k in range(self.max_shipments + 1):
                self.reach[k * D + d] = <int32_t>min(units, <int64_t>self.wanted[d])
                if k < self.max_shipments:
                    units += fullest[k * D + d]
        for i in range(D):
            k = 0
            for d in range(D):
                if counts[d] < counts[i] or (
                    counts[d] == counts[i] and self.sku_ranks[d] < self.sku_ranks[i]
                ):
                    k += 1
            self.rarest_first[k] = i
        self.day_offer_count = 0
        self.base_nanos_min = self.weight_nanos_min = self.distance_min = 0
        for i in range(self.offer_count):
            offer = &self.offers[i]
            if not offer.option.kept:
                continue
            if self.day_offer_count == 0:
                self.base_nanos_min = offer.option.base_nanos
                self.weight_nanos_min = offer.option.kilogram_micros
                self.distance_min = offer.distance
            self.base_nanos_min = min(self.base_nanos_min, offer.option.base_nanos)
            self.weight_nanos_min = min(self.weight_nanos_min, offer.option.kilogram_micros)
            self.distance_min = min(self.distance_min, offer.distance)
            self.day_offers[self.day_offer_count] = offer
            self.day_offer_count += 1
        self.weight_nanos_min *= self.weight_grams
        return 0

    cdef int run(self) except -1:
        """Deepen from the fewest shipments that stock alone does not rule out."""
        cdef uint32_t D = self.demand_count
        cdef uint32_t count, i
        cdef uint32_t lowest = 0
        self.bound = self.max_shipments + 1
        while not covers(&self.reach[lowest * D], self.wanted, D):
            lowest += 1
            if lowest > self.max_shipments:
                return 0
        self.settle_greedily()
        for count in range(lowest, self.max_shipments + 1):
            self.bound = count
            # Greedy starts with the best offer of everything, if there is one.
            if count > 1 and self.work > 0:
                self.level_offer_count = 0
                for i in range(self.day_offer_count):
                    if self.day_offers[i].rank < count:
                        self.level_offers[self.level_offer_count] = self.day_offers[i]
                        self.level_offer_count += 1
                memset(self.coverings, 0, COVERING_SLOTS * sizeof(void*))
                self.extend(0, self.wanted, count, 0, 0)
            if self.work <= 0 or self.best.count == count:
                return 0
        self.bound = self.max_shipments + 1
        return 0

    cdef int settle_greedily(self) except -1:
        """A first plan: always the offer that completes most SKUs, then covers most units."""
        cdef uint32_t D = self.demand_count
        cdef int32_t missing[DEMANDS_MAX]
        cdef uint32_t count = 0
        cdef uint32_t d, i, c, lines, fewest
        cdef int64_t units, least
        cdef int32_t rest
        cdef Offer* offer
        cdef Offer* best
        memcpy(missing, self.wanted, D * sizeof(int32_t))
        while True:
            fewest = 0
            least = 0
            for d in range(D):
                fewest += missing[d] != 0
                least += missing[d]
            if fewest == 0:
                self.offer_plan(count)
                return 0
            if count == self.max_shipments:
                return 0
            best = NULL
            for i in range(self.day_offer_count):
                offer = self.day_offers[i]
                lines = 0
                units = 0
                for d in range(D):
                    rest = missing[d] - offer.stock[d]
                    if rest > 0:
                        lines += 1
                        units += rest
                if lines > fewest or (lines == fewest and units >= least):
                    continue
                for c in range(count):
                    if self.chosen[c].node == offer.node:
                        break
                else:
                    best = offer
                    fewest = lines
                    least = units
            if best == NULL:
                return 0
            self.chosen[count] = best
            count += 1
            for d in range(D):
                missing[d] = max(0, missing[d] - best.stock[d])

    cdef int extend(
        self, uint32_t depth, int32_t* missing, uint32_t left, int64_t base_nanos, int64_t distance
    ) except -1:
        """Try every completion of what is chosen with at most ``left`` more offers."""
        cdef uint32_t D = self.demand_count
        cdef int32_t rest[DEMANDS_MAX]
        cdef uint32_t i, d, c
        cdef uint32_t rarest = NONE
        cdef Offer* offer
        for i in range(D):
            if missing[self.rarest_first[i]]:
                rarest = self.rarest_first[i]
                break
        if rarest == NONE:
            self.offer_plan(depth)
            return 0
        if not covers(&self.reach[left * D], missing, D):
            return 0
        if self.hopeless(
            base_nanos + left * self.base_nanos_min, distance + left * self.distance_min
        ):
            return 0
        if left == 1:
            return self.complete(depth, missing, base_nanos, distance)
        cdef uint32_t tried_before = self.tried_count
        for i in range(self.level_offer_count):
            offer = self.level_offers[i]
            if offer.stock[rarest] == 0 or offer.banned:
                continue
            for c in range(depth):
                if self.chosen[c].node == offer.node:
                    break
            else:
                if self.work <= 0:
                    break
                self.work -= 1
                self.tried[self.tried_count] = offer
                self.tried_count += 1
                for d in range(D):
                    rest[d] = max(0, missing[d] - offer.stock[d])
                self.chosen[depth] = offer
                self.extend(
                    depth + 1,
                    rest,
                    left - 1,
                    base_nanos + offer.option.base_nanos,
                    distance + offer.distance,
                )
                # Sets with this offer are done: the next siblings go without it.
                offer.banned = True
        while self.tried_count > tried_before:
            self.tried_count -= 1
            self.tried[self.tried_count].banned = False
        return 0

    cdef int complete(
        self, uint32_t depth, int32_t* missing, int64_t base_nanos, int64_t distance
    ) except -1:
        """Try every offer that covers all that is missing."""
        cdef uint32_t i, c
        cdef Offer* offer
        cdef Covering* covering = self.covering(missing)
        self.work -= covering.count // OFFERS_PER_STEP
        for i in range(covering.count):
            offer = covering.offers[i]
            if offer.banned:
                continue
            for c in range(depth):
                if self.chosen[c].node == offer.node:
                    break
            else:
                if self.hopeless(
                    base_nanos + offer.option.base_nanos, distance + offer.distance
                ):
                    continue
                if self.work <= 0:
                    return 0
                self.work -= 1
                self.chosen[depth] = offer
                self.offer_plan(depth + 1)
        return 0

    cdef Covering* covering(self, int32_t* missing) except NULL:
        """Offers of this level that have all that is missing; looked for once."""
        cdef uint32_t D = self.demand_count
        cdef uint32_t i
        cdef uint32_t slot = hash_stock(0, missing, D) % COVERING_SLOTS
        cdef Covering* found = self.coverings[slot]
        while found != NULL:
            if memcmp(found.missing, missing, D * sizeof(int32_t)) == 0:
                return found
            found = found.next
        found = <Covering*>self.arena.take(sizeof(Covering))
        found.missing = <int32_t*>self.arena.take(D * sizeof(int32_t))
        memcpy(found.missing, missing, D * sizeof(int32_t))
        found.count = 0
        for i in range(self.level_offer_count):
            found.count += covers(self.level_offers[i].stock, missing, D)
        found.offers = <Offer**>self.arena.take((found.count + 1) * sizeof(void*))
        found.count = 0
        for i in range(self.level_offer_count):
            if covers(self.level_offers[i].stock, missing, D):
                found.offers[found.count] = self.level_offers[i]
                found.count += 1
        found.next = self.coverings[slot]
        self.coverings[slot] = found
        self.work -= self.level_offer_count // OFFERS_PER_STEP
        return found

    cdef bint hopeless(self, int64_t base_nanos, int64_t distance) noexcept:
        """Whether no plan with these base costs and distance can beat the one at hand."""
        if self.best.count == 0 or self.best.count > self.bound:
            return False
        base_nanos += self.weight_nanos_min
        if base_nanos != self.best.cost_nanos:
            return base_nanos > self.best.cost_nanos
        return distance >= self.best.distance

    cdef void offer_plan(self, uint32_t count) noexcept:
        """Fill the quantities at least cost and keep the plan if it is better."""
        cdef uint32_t D = self.demand_count
        cdef Plan made
        cdef Offer* offers[SHIPMENTS_MAX]
        cdef Offer* offer
        cdef int32_t missing[DEMANDS_MAX]
        cdef int32_t units[DEMANDS_MAX]
        cdef int64_t grams
        cdef uint32_t i, d, place
        for i in range(count):
            offer = self.chosen[i]
            place = i
            while place > 0 and dearer(offers[place - 1], offer):
                offers[place] = offers[place - 1]
                place -= 1
            offers[place] = offer
        memcpy(missing, self.wanted, D * sizeof(int32_t))
        made.count = 0
        made.cost_nanos = 0
        made.distance = 0
        made.day = 0
        for i in range(count):
            offer = offers[i]
            grams = 0
            place = 0
            for d in range(D):
                units[d] = min(missing[d], offer.stock[d])
                missing[d] -= units[d]
                place |= units[d] != 0
                grams += units[d] * self.weights[d]
            if not place:
                continue
            made.cost_nanos += offer.option.base_nanos + offer.option.kilogram_micros * grams
            made.distance += offer.distance
            made.day = max(made.day, offer.option.day)
            place = made.count
            while place > 0 and made.offers[place - 1].node > offer.node:
                made.offers[place] = made.offers[place - 1]
                memcpy(&made.units[place * D], &made.units[(place - 1) * D], D * sizeof(int32_t))
                place -= 1
            made.offers[place] = offer
            memcpy(&made.units[place * D], units, D * sizeof(int32_t))
            made.count += 1
        if self.best.count == 0 or cheaper(&made, self.best):
            self.best.count = made.count
            self.best.cost_nanos = made.cost_nanos
            self.best.distance = made.distance
            self.best.day = made.day
            memcpy(self.best.offers, made.offers, made.count * sizeof(void*))
            memcpy(self.best.units, made.units, made.count * D * sizeof(int32_t))


cdef inline bint equal(int32_t* a, int32_t* b, uint32_t count) noexcept nogil:
    cdef uint32_t d
    for d in range(count):
        if a[d] != b[d]:
            return False
    return True


# Overflow is how a hash spreads, so it is no error here.
@cython.overflowcheck(False)
cdef uint32_t hash_stock(uint32_t group, int32_t* stock, uint32_t count) noexcept nogil:
    cdef uint64_t value = 0xCBF29CE484222325ULL ^ group
    cdef uint32_t d
    for d in range(count):
        value = (value ^ <uint32_t>stock[d]) * <uint64_t>0x9E3779B97F4A7C15ULL
        value ^= value >> 32
    return <uint32_t>value


cdef inline bint covers(int32_t* have, int32_t* want, uint32_t count) noexcept nogil:
    cdef uint32_t d
    for d in range(count):
        if have[d] < want[d]:
            return False
    return True


cdef inline double chord_squared(double* a, double* b) noexcept nogil:
    cdef double x = a[0] - b[0]
    cdef double y = a[1] - b[1]
    cdef double z = a[2] - b[2]
    return x * x + y * y + z * z


cdef inline double widened(double key) noexcept nogil:
    """The key of what lies SLACK_METERS farther, or farther than that."""
    cdef double half = asin(min(1.0, sqrt(key) / 2)) + SLACK_METERS / (2 * EARTH_RADIUS_M)
    if half >= HALF_TURN:
        return 5.0  # all keys are 4 at most
    return 4 * sin(half) * sin(half)


cdef inline void put_key(Kind* kind, double key, uint32_t most) noexcept nogil:
    cdef uint32_t place
    if kind.key_count < most:
        place = kind.key_count
        kind.key_count += 1
    elif key < kind.keys[most - 1]:
        place = most - 1
    else:
        return
    while place > 0 and kind.keys[place - 1] > key:
        kind.keys[place] = kind.keys[place - 1]
        place -= 1
    kind.keys[place] = key


cdef inline bint nearer(Near* a, Near* b) noexcept nogil:
    return a.node < b.node if a.distance == b.distance else a.distance < b.distance


cdef inline void put_near(Kind* kind, Near near, uint32_t most) noexcept nogil:
    cdef uint32_t place
    if kind.near_count < most:
        place = kind.near_count
        kind.near_count += 1
    elif nearer(&near, &kind.nearest[most - 1]):
        place = most - 1
    else:
        return
    while place > 0 and nearer(&near, &kind.nearest[place - 1]):
        kind.nearest[place] = kind.nearest[place - 1]
        place -= 1
    kind.nearest[place] = near


cdef inline void put_day(int64_t* days, uint32_t* count, int64_t day) noexcept nogil:
    """Keep days in order, each once."""
    cdef uint32_t place = count[0]
    while place > 0 and days[place - 1] > day:
        place -= 1
    if place > 0 and days[place - 1] == day:
        return
    cdef uint32_t i = count[0]
    while i > place:
        days[i] = days[i - 1]
        i -= 1
    days[place] = day
    count[0] += 1


cdef inline void put_fullest(
    int32_t* fullest, int32_t* stock, uint32_t count, uint32_t most
) noexcept nogil:
    """Keep the ``most`` largest figures of each demand, falling."""
    cdef uint32_t d, place
    for d in range(count):
        if stock[d] <= fullest[(most - 1) * count + d]:
            continue
        place = most - 1
        while place > 0 and fullest[(place - 1) * count + d] < stock[d]:
            fullest[place * count + d] = fullest[(place - 1) * count + d]
            place -= 1
        fullest[place * count + d] = stock[d]


cdef inline bint dearer(Offer* a, Offer* b) noexcept nogil:
    """Whether units are taken of ``b`` first."""
    if a.option.kilogram_micros != b.option.kilogram_micros:
        return a.option.kilogram_micros > b.option.kilogram_micros
    if a.distance != b.distance:
        return a.distance > b.distance
    return a.node > b.node


cdef inline bint cheaper(Plan* a, Plan* b) noexcept nogil:
    if a.count != b.count:
        return a.count < b.count
    if a.cost_nanos != b.cost_nanos:
        return a.cost_nanos < b.cost_nanos
    return a.distance < b.distance


cdef int compare_offers(const void* first, const void* second) noexcept nogil:
    cdef Offer* a = <Offer*>first
    cdef Offer* b = <Offer*>second
    if a.whole_cost != b.whole_cost:
        return -1 if a.whole_cost < b.whole_cost else 1
    if a.distance != b.distance:
        return -1 if a.distance < b.distance else 1
    if a.node != b.node:
        return -1 if a.node < b.node else 1
    return -1 if a.option.name_rank < b.option.name_rank else 1
