"""Layout of a cart's search: what stands as long as a network or a zone does, and what one cart needs.

All of one cart lies in an arena: it is taken piece by piece and given up at once by the next cart.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from native._ats_table cimport AtsTable, Block

cdef enum:
    DEMANDS_MAX = 64  # of a plain cart
    SHIPMENTS_MAX = 20


cdef struct Option:  # one way in which a node could send its part
    int64_t day
    int64_t base_nanos
    int64_t kilogram_micros
    uint32_t name_rank  # among those of its set
    uint32_t number  # in its set, as it was given
    bint kept  # by the day that is searched


cdef struct Near:
    int64_t distance
    uint32_t node


cdef struct Kind:  # nodes of one group with equal stock, capped at what is wanted
    uint32_t group
    uint32_t next  # of the same group
    uint32_t count
    int32_t* stock
    double* keys  # of the nearest so far, rising
    Near* nearest  # no more than a plan may need, by distance and node
    uint32_t key_count
    uint32_t near_count
    double key_max  # whoever lies farther is none of the nearest
    uint64_t surpassed_by  # kinds of its group with at least as much of everything, itself too
    uint32_t kept


cdef struct Member:
    int64_t distance
    uint32_t node
    uint32_t kind
    uint32_t rank  # so many nodes, or more, surpass it


cdef struct Group:  # nodes with equal options
    uint32_t set
    uint32_t first_kind
    uint32_t kind_count
    uint32_t node_count
    uint32_t kept_options  # by the day that is searched
    Member* members
    uint32_t member_count
    int64_t supply_counts[DEMANDS_MAX]


cdef struct Seen:  # of a node
    uint32_t origin
    uint32_t told_in  # the call that told of another origin for it
    int32_t other_origin  # -1 where it is left out
    uint32_t met_in  # the call that met it last
    uint32_t slot  # its candidate then


cdef struct Candidate:
    uint32_t node
    uint32_t group  # at first its set
    uint32_t kind  # at first its stock in one number, where that is small
    double key


cdef struct Offer:
    int64_t whole_cost
    int64_t distance
    uint32_t node
    uint32_t rank
    Option* option
    int32_t* stock
    bint banned


cdef struct Plan:
    uint32_t count  # of shipments; 0 is no plan
    int64_t cost_nanos
    int64_t distance
    int64_t day  # the latest
    Offer* offers[SHIPMENTS_MAX]
    int32_t units[SHIPMENTS_MAX * DEMANDS_MAX]


cdef struct Covering:  # offers that have all that is missing
    int32_t* missing
    Offer** offers
    uint32_t count
    Covering* next


cdef class Arena:
    cdef char* block
    cdef size_t size
    cdef size_t used
    cdef void** extra  # taken beyond the block: a list, each by its first word
    cdef size_t extra_size

    cdef void reset(self) noexcept
    cdef void* take(self, size_t size) except NULL


cdef class Nodes:
    cdef readonly list node_ids
    cdef uint32_t count
    cdef Seen* seen
    cdef uint32_t* codes  # of each its stock in one number while a cart is read, else 0
    cdef uint32_t call
    cdef double* longitudes
    cdef double* phis
    cdef double* phi_cosines
    cdef double* points  # on the unit sphere, three a node


cdef class Options:
    cdef uint32_t origin_count
    cdef int32_t* set_of_origin  # -1 where it does not serve
    cdef list services  # of each origin what a shipment says of each of its options
    cdef uint32_t* service_firsts  # of each origin among the ship days
    cdef int64_t* ship_days
    cdef uint32_t set_count
    cdef uint32_t* firsts  # of each set among the options; one more at the end
    cdef Option* options  # of each set by costs, day and name
    cdef int64_t kilogram_micros_max
    cdef int64_t base_nanos_max

    cdef int read_set(self, object options, uint32_t first) except -1


cdef class CartSearch:
    cdef AtsTable table
    cdef Arena arena
    cdef Nodes nodes
    cdef list node_ids
    cdef Options options
    cdef dict number_of  # node id -> number
    cdef uint32_t* numbers  # place of the table -> node
    cdef uint32_t place_count
    cdef uint32_t place_capacity
    cdef Seen* seen

    # The cart.
    cdef list lines
    cdef uint32_t* line_demands
    cdef uint32_t* lines_by_demand
    cdef uint32_t line_firsts[DEMANDS_MAX + 1]
    cdef int32_t* line_quantities
    cdef int32_t* line_missing
    cdef list skus
    cdef uint32_t demand_count
    cdef uint32_t strides[DEMANDS_MAX]
    cdef uint32_t stock_count  # different stocks there may be; 0 for many
    cdef int32_t wanted[DEMANDS_MAX]
    cdef int64_t weights[DEMANDS_MAX]
    cdef uint32_t sku_ranks[DEMANDS_MAX]
    cdef int64_t weight_grams
    cdef uint32_t max_shipments
    cdef uint32_t most
    cdef bint located
    cdef double longitude
    cdef double phi
    cdef double phi_cosine
    cdef double point[3]
    cdef int64_t work
    cdef list priorities
    cdef uint32_t priority_max

    # Its material.
    cdef Candidate* candidates
    cdef int32_t* stocks
    cdef uint32_t candidate_count
    cdef Kind* kinds
    cdef uint32_t kind_count
    cdef Group* groups
    cdef uint32_t group_count
    cdef Offer* offers
    cdef uint32_t offer_count
    cdef int64_t* days
    cdef uint32_t day_count
    cdef Plan* plans_by_day
    cdef bint* searched
    cdef uint32_t shipment_count_bound

    # The search of one day.
    cdef Offer** day_offers
    cdef uint32_t day_offer_count
    cdef Offer** level_offers
    cdef uint32_t level_offer_count
    cdef Offer** tried  # those of all steps under way; each is of one at most
    cdef uint32_t tried_count
    cdef uint32_t rarest_first[DEMANDS_MAX]
    cdef int32_t reach[(SHIPMENTS_MAX + 1) * DEMANDS_MAX]
    cdef int64_t base_nanos_min
    cdef int64_t weight_nanos_min
    cdef int64_t distance_min
    cdef uint32_t bound
    cdef Covering** coverings
    cdef Offer* chosen[SHIPMENTS_MAX]
    cdef Plan* best

    cdef int follow(self, Nodes nodes) except -1
    cdef int read_demands(self, dict weights) except -1
    cdef int read_lines(self) except -1
    cdef int read_stock(self) except -1
    cdef int count_stock(self, Block** blocks, size_t node_count) except -1
    cdef int list_stock(self, Block** blocks, size_t node_count) except -1
    cdef Candidate* add_candidate(self, uint32_t node, int32_t origin) noexcept
    cdef bint enough(self) noexcept
    cdef int32_t origin_of(self, Seen* seen) noexcept
    cdef int find_kinds(self) except -1
    cdef uint32_t new_kind(self, uint32_t group, int32_t* stock) noexcept
    cdef int choose_nearest(self) except -1
    cdef bint compared(self, Group* group) noexcept
    cdef int take_members(self, Group* group, uint32_t number) except -1
    cdef int take_all_members(self, Group* group, uint32_t number) except -1
    cdef int make_offers(self) except -1
    cdef int64_t meters(self, uint32_t node) noexcept
    cdef Plan* kept_by(self, uint32_t day) except NULL
    cdef int keep_day(self, int64_t day) except -1
    cdef int prepare(self, int64_t day) except -1
    cdef int run(self) except -1
    cdef int settle_greedily(self) except -1
    cdef int extend(
        self, uint32_t depth, int32_t* missing, uint32_t left, int64_t base_nanos, int64_t distance
    ) except -1
    cdef int complete(
        self, uint32_t depth, int32_t* missing, int64_t base_nanos, int64_t distance
    ) except -1
    cdef Covering* covering(self, int32_t* missing) except NULL
    cdef bint hopeless(self, int64_t base_nanos, int64_t distance) noexcept
    cdef void offer_plan(self, uint32_t count) noexcept
    cdef Plan* best_of_all(self) except NULL
    cdef list frontier(self, uint32_t most)
    cdef object told(self, list plans, object make_shipment, object make_line)
    cdef object told_plan(self, Plan* plan, object make_shipment, object make_line)
    cdef tuple told_lines(self, int32_t* units, object make_line)
