"""CreateReservation and PromiseCart: requests from bytes to values, replies from values to bytes.

Specification: the protobuf runtime with rpc/convert. There is no twin in domain, which knows no
wire. Only what is plain is read: each singular field once, none wrong or unknown, texts in ASCII,
no quote token, no strong read. Only what is plain is written: values with a field more than is
known here, and something in it, are not. For all else the answer is None and the specification's
turn has come.
Limits: the contract's. Cost: see native/README.md.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.datetime cimport date, date_day, date_month, date_year, import_datetime
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from native.wire_format cimport (
    Reader, Text, is_id, put_field, put_head, put_number, put_tag, put_text, put_time,
    read_consistency, read_number, read_span, read_text, reader_of,
)

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    str PyUnicode_DecodeASCII(const char* text, Py_ssize_t size, const char* errors)

import_datetime()

cdef enum:
    LINES_MAX = 2000
    CARRIER_SERVICES_MAX = 50
    QUANTITY_MAX = 2147483647
    ORDER_REFERENCE_BYTES_MAX = 128
    REGION_BYTES_MAX = 16
    POSTAL_CODE_BYTES_MAX = 16
    TTL_MS_MIN = 1000
    OPTIONS_MAX = 20
    SHIPMENTS_MAX = 20
    METHODS_MAX = 5

    INSUFFICIENT_STOCK = 60
    CUSTOMER_LIMIT = 62
    HELD = 1

    # Bits of FulfillmentMethod: to an address 1 and 5, to a pickup node 2, 3 and 4.
    ADDRESS_METHODS = 0x22
    PICKUP_METHODS = 0x1C
    ANY_METHOD = 0x3E

    # Bits of Cart.seen, by what a field is called in the struct.
    SEEN_RESERVATION_ID = 1
    SEEN_OWNER_ID = 2
    SEEN_CREATE_TIME = 4
    SEEN_ADDRESS = 8
    SEEN_PICKUP = 16
    SEEN_METHOD = 32
    SEEN_SEGMENT = 64
    SEEN_TTL = 128
    SEEN_REFERENCE = 256
    SEEN_DURABILITY = 512
    SEEN_POLICY = 1024
    SEEN_OPTIONS = 2048
    SEEN_SHIPMENTS = 4096
    SEEN_CONSISTENCY = 8192


def read_create(
    bytes body not None, int64_t create_ms_max, int64_t ttl_ms_default, int64_t ttl_ms_max,
    make_line,
):
    """The values of a CreateReservationRequest, in the order of their use, or None.

    Lines are ``make_line((line_id, sku, quantity, node_id))``, enums their numbers, an absent
    ``create_time`` is 0.
    """
    cdef Cart cart
    cdef Reader reader = reader_of(<uint8_t*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    cdef list lines = []
    cdef set line_ids = set()
    cdef uint64_t tag
    cdef bint all_placed = True
    memset(&cart, 0, sizeof(Cart))
    while reader.at < reader.end:
        tag = read_number(&reader)
        if tag == 0x22:
            line = read_line(read_text(&reader), line_ids, 4, make_line, &all_placed)
            if line is None or len(lines) == LINES_MAX:
                return None
            lines.append(line)
        elif not read_create_field(&reader, tag, &cart):
            return None
    if reader.bad or not lines or not is_id(cart.reservation_id) or not is_id(cart.owner_id):
        return None
    if not method_fits(&cart, cart.method) or not (all_placed or has_destination(&cart)):
        return None
    cdef int64_t ttl_ms = ttl_ms_default, create_ms = 0
    if cart.seen & SEEN_TTL:
        ttl_ms = read_ms(cart.ttl, TTL_MS_MIN, ttl_ms_max, True)
    if cart.seen & SEEN_CREATE_TIME:
        create_ms = read_ms(cart.create_time, 1, create_ms_max, False)
    if ttl_ms < 0 or create_ms < 0 or not is_printable(
        cart.order_reference, ORDER_REFERENCE_BYTES_MAX
    ):
        return None
    address = read_address(cart.address) if cart.seen & SEEN_ADDRESS else ()
    if address is None or not is_optional_id(cart.segment):
        return None
    return (
        string(cart.reservation_id), string(cart.owner_id), tuple(lines), cart.method, address,
        string(cart.pickup_node_id), string(cart.segment), cart.policy, ttl_ms, create_ms,
        string(cart.order_reference), cart.durability,
    )


cdef bint read_create_field(Reader* reader, uint64_t tag, Cart* cart) noexcept nogil:
    """Take one field that is no line; False where it is not plain."""
    if tag == 0x0A:
        return read_once(reader, cart, SEEN_RESERVATION_ID, &cart.reservation_id)
    if tag == 0x12:
        return read_once(reader, cart, SEEN_OWNER_ID, &cart.owner_id)
    if tag == 0x1A:
        return read_once(reader, cart, SEEN_CREATE_TIME, &cart.create_time)
    if tag == 0x2A:
        return not cart.seen & SEEN_PICKUP and read_once(reader, cart, SEEN_ADDRESS, &cart.address)
    if tag == 0x32:
        return read_pickup(reader, cart)
    if tag == 0x38:
        return read_small(reader, cart, SEEN_METHOD, METHODS_MAX, &cart.method)
    if tag == 0x42:
        return read_once(reader, cart, SEEN_SEGMENT, &cart.segment)
    if tag == 0x4A:
        return read_once(reader, cart, SEEN_TTL, &cart.ttl)
    if tag == 0x52:
        return read_once(reader, cart, SEEN_REFERENCE, &cart.order_reference)
    if tag == 0x58:
        return read_small(reader, cart, SEEN_DURABILITY, 4, &cart.durability)
    if tag == 0x68:
        return read_small(reader, cart, SEEN_POLICY, 3, &cart.policy)
    return False


def read_cart(bytes body not None, int64_t order_ms_min, int64_t order_ms_max, make_line):
    """The values of a PromiseCartRequest, in the order of their use, or None.

    Lines are ``make_line((line_id, sku, quantity))``, enums their numbers; absent are an
    ``order_time`` as -1, limits as 0, a bound of age as None.
    """
    cdef Cart cart
    cdef Reader reader = reader_of(<uint8_t*>PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    cdef list lines = [], services = []
    cdef set line_ids = set()
    cdef uint64_t tag
    cdef Text text
    cdef bint all_placed = True
    memset(&cart, 0, sizeof(Cart))
    while reader.at < reader.end:
        tag = read_number(&reader)
        if tag == 0x0A:
            line = read_line(read_text(&reader), line_ids, 3, make_line, &all_placed)
            if line is None or len(lines) == LINES_MAX:
                return None
            lines.append(line)
        elif tag == 0x2A:
            text = read_text(&reader)
            if not is_id(text) or len(services) == CARRIER_SERVICES_MAX:
                return None
            services.append(string(text))
        elif not read_cart_field(&reader, tag, &cart):
            return None
    if reader.bad or not lines or not has_destination(&cart) or not is_optional_id(cart.segment):
        return None
    cdef int64_t order_ms = -1, age_ms = -1
    if cart.seen & SEEN_CREATE_TIME:
        order_ms = read_ms(cart.create_time, order_ms_min, order_ms_max, False)
        if order_ms < 0:
            return None
    if cart.seen & SEEN_CONSISTENCY and not read_consistency(cart.consistency, &age_ms):
        return None
    methods = read_methods(&cart)
    address = read_address(cart.address) if cart.seen & SEEN_ADDRESS else ()
    if methods is None or address is None:
        return None
    return (
        tuple(lines), address, string(cart.pickup_node_id), methods, tuple(services),
        string(cart.segment), order_ms, cart.options_max, cart.shipments_max,
        None if age_ms < 0 else age_ms,
    )


cdef bint read_cart_field(Reader* reader, uint64_t tag, Cart* cart) noexcept nogil:
    """Take one field that is no line and no carrier service; False where it is not plain."""
    if tag == 0x12:
        return not cart.seen & SEEN_PICKUP and read_once(reader, cart, SEEN_ADDRESS, &cart.address)
    if tag == 0x1A:
        return read_pickup(reader, cart)
    if tag == 0x22:
        return read_once(reader, cart, SEEN_METHOD, &cart.methods)
    if tag == 0x32:
        return read_once(reader, cart, SEEN_SEGMENT, &cart.segment)
    if tag == 0x3A:
        return read_once(reader, cart, SEEN_CREATE_TIME, &cart.create_time)
    if tag == 0x40:
        return read_small(reader, cart, SEEN_OPTIONS, OPTIONS_MAX, &cart.options_max)
    if tag == 0x48:
        return read_small(reader, cart, SEEN_SHIPMENTS, SHIPMENTS_MAX, &cart.shipments_max)
    if tag == 0x52:
        return read_once(reader, cart, SEEN_CONSISTENCY, &cart.consistency)
    return False


cdef inline bint read_once(Reader* reader, Cart* cart, uint32_t bit, Text* text) noexcept nogil:
    if cart.seen & bit:
        return False
    cart.seen |= bit
    text[0] = read_text(reader)
    return not reader.bad


cdef inline bint read_small(
    Reader* reader, Cart* cart, uint32_t bit, uint32_t most, uint32_t* number
) noexcept nogil:
    """A number of 0 to ``most``."""
    cdef uint64_t value = read_number(reader)
    if cart.seen & bit or reader.bad or value > most:
        return False
    cart.seen |= bit
    number[0] = <uint32_t>value
    return True


cdef inline bint read_pickup(Reader* reader, Cart* cart) noexcept nogil:
    """A pickup node, which is one choice with the address."""
    if cart.seen & SEEN_ADDRESS or not read_once(
        reader, cart, SEEN_PICKUP, &cart.pickup_node_id
    ):
        return False
    return is_id(cart.pickup_node_id)


cdef inline bint has_destination(Cart* cart) noexcept nogil:
    return cart.seen & (SEEN_ADDRESS | SEEN_PICKUP) != 0


cdef inline bint method_fits(Cart* cart, uint64_t method) noexcept nogil:
    """Whether it is one that leads to the destination."""
    cdef uint32_t fitting = ANY_METHOD
    if cart.seen & SEEN_ADDRESS:
        fitting = ADDRESS_METHODS
    elif cart.seen & SEEN_PICKUP:
        fitting = PICKUP_METHODS
    return method <= METHODS_MAX and fitting >> method & 1


cdef tuple read_methods(Cart* cart):
    """The methods as they were sent, each once; None where one does not fit."""
    cdef Reader reader
    cdef uint64_t method
    cdef uint32_t seen = 0
    cdef list methods = []
    if not cart.seen & SEEN_METHOD:
        return ()
    reader = reader_of(cart.methods.data, cart.methods.size)
    while reader.at < reader.end:
        method = read_number(&reader)
        if reader.bad or not method_fits(cart, method) or seen >> method & 1:
            return None
        seen |= <uint32_t>1 << method
        methods.append(method)
    return tuple(methods)


cdef object read_line(
    Text message, set line_ids, uint32_t field_count, make_line, bint* all_placed
):
    """A line of 3 or, with its node, 4 fields; None where it is not plain."""
    cdef Reader reader = reader_of(message.data, message.size)
    cdef Text texts[5]
    cdef uint64_t quantity = 0, tag, field
    cdef uint32_t seen = 0
    memset(texts, 0, sizeof(texts))
    while reader.at < reader.end:
        tag = read_number(&reader)
        field = tag >> 3
        if not 1 <= field <= field_count or seen >> field & 1:
            return None
        seen |= <uint32_t>1 << field
        if tag == 0x18:
            quantity = read_number(&reader)
        elif tag & 7 == 2 and field != 3:
            texts[field] = read_text(&reader)
        else:
            return None
    if reader.bad or not is_id(texts[1]) or not is_id(texts[2]):
        return None
    if not 1 <= quantity <= QUANTITY_MAX or not is_optional_id(texts[4]):
        return None
    line_id = string(texts[1])
    if line_id in line_ids:
        return None
    line_ids.add(line_id)
    if field_count == 3:
        return make_line((line_id, string(texts[2]), quantity))
    if texts[4].size == 0:
        all_placed[0] = False
    return make_line((line_id, string(texts[2]), quantity, string(texts[4])))


cdef tuple read_address(Text message):
    """Country, postal code, region, and degrees of latitude and longitude where they are given;
    None where it is not plain."""
    cdef Reader reader = reader_of(message.data, message.size)
    cdef Text texts[5]
    cdef uint64_t tag, field
    cdef uint32_t seen = 0, i
    cdef double degrees[2]
    memset(texts, 0, sizeof(texts))
    while reader.at < reader.end:
        tag = read_number(&reader)
        field = tag >> 3
        if tag & 7 != 2 or not 1 <= field <= 4 or seen >> field & 1:
            return None
        seen |= <uint32_t>1 << field
        texts[field] = read_text(&reader)
    if reader.bad or texts[1].size != 2:
        return None
    for i in range(2):
        if not c"A" <= texts[1].data[i] <= c"Z":
            return None
    if not is_printable(texts[2], REGION_BYTES_MAX):
        return None
    if not is_printable(texts[3], POSTAL_CODE_BYTES_MAX) or not has_alphanumeric(texts[3]):
        return None
    country, region, postal_code = string(texts[1]), string(texts[2]), string(texts[3])
    if not seen & 16:
        return country, postal_code, region, None, None
    if not read_degrees(texts[4], degrees):
        return None
    return country, postal_code, region, degrees[0], degrees[1]


cdef bint read_degrees(Text message, double* degrees) noexcept nogil:
    """Latitude and longitude, in their bounds."""
    cdef Reader reader = reader_of(message.data, message.size)
    cdef uint64_t tag
    cdef uint32_t seen = 0
    degrees[0] = degrees[1] = 0.0
    while reader.at < reader.end:
        tag = read_number(&reader)
        if tag != 0x09 and tag != 0x11 or seen & <uint32_t>tag or reader.end - reader.at < 8:
            return False
        # 0x11 has the bit of 0x01 too, and 0x09 that of 0x08.
        seen |= <uint32_t>tag & 0x18
        memcpy(&degrees[1 if tag == 0x11 else 0], reader.at, 8)
        reader.at += 8
    return not reader.bad and -90 <= degrees[0] <= 90 and -180 <= degrees[1] <= 180


cdef int64_t read_ms(Text span, int64_t least, int64_t most, bint whole) noexcept nogil:
    """A Timestamp or Duration in ms, cut off below; -1 outside of the bounds. ``whole``: what is
    cut off counts against ``most``."""
    cdef uint64_t seconds, nanos
    cdef int64_t ms
    if not read_span(span, &seconds, &nanos):
        return -1
    ms = <int64_t>(seconds * 1000 + nanos // 1000000)
    if ms < least or ms > most or (whole and ms == most and nanos % 1000000 != 0):
        return -1
    return ms


cdef inline str string(Text text):
    return PyUnicode_DecodeASCII(<const char*>text.data, text.size, NULL)


cdef inline bint is_optional_id(Text text) noexcept nogil:
    return text.size == 0 or is_id(text)


cdef inline bint is_printable(Text text, uint32_t most) noexcept nogil:
    cdef uint32_t i
    for i in range(text.size):
        if not c" " <= text.data[i] <= c"~":
            return False
    return text.size <= most


cdef inline bint has_alphanumeric(Text text) noexcept nogil:
    cdef uint32_t i
    for i in range(text.size):
        if (
            c"0" <= text.data[i] <= c"9" or c"A" <= text.data[i] <= c"Z"
            or c"a" <= text.data[i] <= c"z"
        ):
            return True
    return False


@cython.final
cdef class Writer:
    """Fills its buffer from the end, field by field, the last first."""

    def __cinit__(self):
        self.size = 4096
        self.buffer = <uint8_t*>malloc(self.size)
        if self.buffer == NULL:
            raise MemoryError
        self.begin()

    def __dealloc__(self):
        free(self.buffer)

    cdef int begin(self) noexcept:
        self.at = self.buffer + self.size
        return 0

    cdef size_t written(self) noexcept:
        return <size_t>(self.buffer + self.size - self.at)

    cdef int room(self, size_t size) except -1:
        """Have ``size`` bytes free, and some for tags and numbers."""
        cdef size_t before = self.written(), larger
        cdef uint8_t* moved
        if <size_t>(self.at - self.buffer) >= size + 64:
            return 0
        larger = (before + size) * 2 + 4096
        moved = <uint8_t*>malloc(larger)
        if moved == NULL:
            raise MemoryError
        memcpy(moved + larger - before, self.at, before)
        free(self.buffer)
        self.buffer, self.size, self.at = moved, larger, moved + larger - before
        return 0

    cdef int text(self, uint8_t tag, object value) except -1:
        cdef Py_ssize_t size
        cdef const char* data = PyUnicode_AsUTF8AndSize(value, &size)
        self.room(<size_t>size)
        self.at = put_text(self.at, tag, <const uint8_t*>data, <uint32_t>size)
        return 0

    cdef int number(self, uint8_t tag, int64_t value) except -1:
        self.room(0)
        self.at = put_field(self.at, tag, value)
        return 0

    cdef int told(self, uint8_t tag, int64_t value) except -1:
        """A number that is there also when it is 0."""
        self.room(0)
        self.at = put_tag(put_number(self.at, <uint64_t>value), tag)
        return 0

    cdef int head(self, uint8_t tag, size_t before) except -1:
        """Tag and length of the message begun when ``before`` was written."""
        self.room(0)
        self.at = put_head(self.at, tag, self.buffer + self.size - before)
        return 0

    cdef int time(self, uint8_t tag, int64_t time_ms) except -1:
        self.room(0)
        self.at = put_time(self.at, tag, time_ms)
        return 0

    cdef int date(self, uint8_t tag, int64_t date) except -1:
        """A civil date as ``day_of`` gives it."""
        cdef size_t before = self.written()
        self.number(0x18, date & 31)
        self.number(0x10, date >> 5 & 15)
        self.number(0x08, date >> 9)
        return self.head(tag, before)

    cdef bytes message(self):
        return PyBytes_FromStringAndSize(<char*>self.at, <Py_ssize_t>self.written())


cdef Writer writer = Writer()
"""Nothing below waits or calls back, so one is enough."""


cdef inline int64_t day_of(object value) except -1:
    """A date as one number, in the order of dates."""
    if not isinstance(value, date):
        raise TypeError("not a date")
    return <int64_t>date_year(value) << 9 | date_month(value) << 5 | date_day(value)


cdef inline bint is_known(object values, Py_ssize_t size) except -1:
    """Whether a tuple has these fields, and nothing in those that came later."""
    cdef Py_ssize_t i
    if not isinstance(values, tuple) or len(values) < size:
        return False
    for i in range(size, len(values)):
        if (<tuple>values)[i]:
            return False
    return True


def write_held(int64_t outcome, tuple reservation not None, bint replayed, int64_t durability):
    """A CreateReservationResponse with its reservation, all lines held, or None.

    ``reservation``: reservation_id, owner_id, state, revision, lines, method, segment,
    order_reference, create_ms, expire_ms; a line: line_id, sku, quantity, shard, planned units.
    """
    cdef size_t before
    cdef Py_ssize_t i
    cdef tuple lines = reservation[4]
    writer.begin()
    writer.number(0x28, durability)
    writer.number(0x20, replayed)
    for i in range(len(lines) - 1, -1, -1):
        if not is_known(lines[i], 5):
            return None
        before = writer.written()
        writer.number(0x10, HELD)
        writer.text(0x0A, (<tuple>lines[i])[0])
        writer.head(0x1A, before)
    if not write_reservation(reservation):
        return None
    writer.number(0x08, outcome)
    return writer.message()


def write_transition(int64_t outcome, tuple reservation not None, bint replayed, int64_t durability):
    """The reply of what moves a reservation (ConfirmReservation and its like), or None.

    ``reservation`` as of ``write_held``.
    """
    writer.begin()
    writer.number(0x20, durability)
    writer.number(0x18, replayed)
    if not write_reservation(reservation):
        return None
    writer.number(0x08, outcome)
    return writer.message()


cdef bint write_reservation(tuple reservation) except -1:
    cdef size_t before = writer.written()
    cdef Py_ssize_t i
    cdef tuple lines = reservation[4]
    writer.time(0x52, reservation[9])
    writer.time(0x4A, reservation[8])
    writer.text(0x42, reservation[7])
    writer.text(0x3A, reservation[6])
    writer.number(0x30, reservation[5])
    for i in range(len(lines) - 1, -1, -1):
        if not is_known(lines[i], 5) or not write_reserved_line(<tuple>lines[i]):
            return False
    writer.number(0x20, reservation[3])
    writer.number(0x18, reservation[2])
    writer.text(0x12, reservation[1])
    writer.text(0x0A, reservation[0])
    writer.head(0x12, before)
    return True


cdef bint write_reserved_line(tuple line) except -1:
    cdef size_t before = writer.written(), inner
    cdef Py_ssize_t i
    cdef int64_t fulfilled = 0, cancelled = 0
    cdef tuple units, parts = line[4]
    for part in parts:
        if not is_known(part, 5):
            return False
        fulfilled += (<tuple>part)[3]
        cancelled += (<tuple>part)[4]
    writer.number(0x30, cancelled)
    writer.number(0x28, fulfilled)
    for i in range(len(parts) - 1, -1, -1):
        inner = writer.written()
        part = parts[i]
        writer.number(0x28, (<tuple>part)[4])
        writer.number(0x20, (<tuple>part)[3])
        writer.number(0x18, (<tuple>part)[2])
        writer.text(0x12, (<tuple>part)[1])
        writer.text(0x0A, (<tuple>part)[0])
        writer.head(0x22, inner)
    writer.number(0x18, line[2])
    writer.text(0x12, line[1])
    writer.text(0x0A, line[0])
    writer.head(0x2A, before)
    return True


def write_refused(int64_t outcome, lines not None):
    """A CreateReservationResponse without a reservation, or None.

    A line: line_id, outcome, ats (-1: not looked at), node_id.
    """
    cdef size_t before
    cdef Py_ssize_t i
    cdef int64_t ats, of_line
    writer.begin()
    for i in range(len(lines) - 1, -1, -1):
        line = lines[i]
        if not is_known(line, 4):
            return None
        before = writer.written()
        of_line, ats = (<tuple>line)[1], (<tuple>line)[2]
        writer.text(0x22, (<tuple>line)[3])
        if (of_line == INSUFFICIENT_STOCK or of_line == CUSTOMER_LIMIT) and ats >= 0:
            writer.told(0x18, ats)
        writer.number(0x10, of_line)
        writer.text(0x0A, (<tuple>line)[0])
        writer.head(0x1A, before)
    writer.number(0x08, outcome)
    return writer.message()


def write_promises(
    int64_t outcome, options not None, tokens not None, unfulfilled not None, tuple terms not None,
    dict methods not None,
):
    """A PromiseCartResponse, or None.

    An option is its shipments, each node_id, lines, method (a key of ``methods``), carrier_service,
    ship, earliest and latest date, cost_micros, order_by_ms, ready_ms; a token: text,
    reservation_id, reason of its absence; an unfulfilled line: line_id, reason, ats; ``terms``:
    network_version, currency_code, order_ms, as_of_ms, age_ms, degraded, degraded_reason.
    """
    cdef size_t before
    cdef Py_ssize_t i
    writer.begin()
    writer.time(0x32, terms[2])
    before = writer.written()
    writer.number(0x20, terms[6])
    writer.number(0x18, bool(terms[5]))
    writer.time(0x12, terms[4])
    writer.time(0x0A, terms[3])
    writer.head(0x2A, before)
    writer.number(0x20, terms[0])
    for i in range(len(unfulfilled) - 1, -1, -1):
        line = unfulfilled[i]
        if not is_known(line, 3):
            return None
        before = writer.written()
        if (<tuple>line)[2] is not None:
            writer.told(0x18, (<tuple>line)[2])
        writer.number(0x10, (<tuple>line)[1])
        writer.text(0x0A, (<tuple>line)[0])
        writer.head(0x1A, before)
    for i in range(len(options) - 1, -1, -1):
        if not write_option(options[i], tokens[i], terms[1], methods):
            return None
    writer.number(0x08, outcome)
    return writer.message()


cdef bint write_option(shipments, token, currency, dict methods) except -1:
    cdef size_t before = writer.written()
    cdef Py_ssize_t i
    cdef int64_t cost = 0, expire_ms = 0, earliest = 0, latest = 0, order_by_ms, day
    if not is_known(token, 3) or not shipments:
        return False
    for i in range(len(shipments)):
        shipment = shipments[i]
        if not is_known(shipment, 10):
            return False
        cost += (<tuple>shipment)[7]
        order_by_ms = (<tuple>shipment)[8]
        expire_ms = order_by_ms if i == 0 else min(expire_ms, order_by_ms)
        day = day_of((<tuple>shipment)[5])
        earliest = day if i == 0 else min(earliest, day)
        latest = max(latest, day_of((<tuple>shipment)[6]))
    writer.text(0x42, (<tuple>token)[1])
    writer.number(0x38, 0 if (<tuple>token)[2] is None else (<tuple>token)[2])
    writer.text(0x32, (<tuple>token)[0])
    writer.time(0x2A, expire_ms)
    writer.date(0x22, latest)
    writer.date(0x1A, earliest)
    write_money(0x12, currency, cost)
    for i in range(len(shipments) - 1, -1, -1):
        if not write_shipment(<tuple>shipments[i], currency, methods):
            return False
    writer.head(0x12, before)
    return True


cdef bint write_shipment(tuple shipment, currency, dict methods) except -1:
    cdef size_t before = writer.written(), inner
    cdef Py_ssize_t i
    cdef tuple lines = shipment[1]
    if shipment[9] is not None:
        writer.time(0x52, shipment[9])
    writer.time(0x4A, shipment[8])
    write_money(0x42, currency, shipment[7])
    writer.date(0x3A, day_of(shipment[6]))
    writer.date(0x32, day_of(shipment[5]))
    writer.date(0x2A, day_of(shipment[4]))
    writer.text(0x22, shipment[3])
    writer.number(0x18, methods[shipment[2]])
    for i in range(len(lines) - 1, -1, -1):
        line = lines[i]
        if not is_known(line, 3):
            return False
        inner = writer.written()
        writer.number(0x18, (<tuple>line)[2])
        writer.text(0x12, (<tuple>line)[1])
        writer.text(0x0A, (<tuple>line)[0])
        writer.head(0x12, inner)
    writer.text(0x0A, shipment[0])
    writer.head(0x0A, before)
    return True


cdef int write_money(uint8_t tag, currency, int64_t micros) except -1:
    cdef size_t before = writer.written()
    writer.number(0x10, micros)
    writer.text(0x0A, currency)
    return writer.head(tag, before)
