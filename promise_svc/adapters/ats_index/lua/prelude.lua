-- Shared by all verbs: constants, the fence, the overlay, the commit.
-- Twin of promise_svc/domain/ledger; rules are explained there and not again here.
--
-- A Function is isolated, not rolled back. So a verb works on an overlay (S): it reads and checks
-- everything there, and commit() then writes, outbox first, with commands that cannot fail.
-- Keys are built from KEYS[1] as promise_svc/adapters/ats_index/keys.py lays them out.

-- These do not exist while a library loads; load_meta(), where every verb begins, fetches them.
local call, pack, unpack_

-- Names carry the hash of this source: two versions of the service can run side by side.
local function verb(name, callback, flags)
  redis.register_function{function_name = '@LIBRARY@_' .. name, callback = callback, flags = flags}
end

local PENDING, HELD, PINNED, CONFIRMED, RELEASED = 1, 2, 3, 4, 5
local CANCELLED, EXPIRED, SUPERSEDED, FULFILLED, ABORTED = 6, 7, 8, 9, 10

local DONE, REPEATED, EXISTS, BODY_DIFFERS, WINDOW_PASSED = 1, 2, 3, 4, 5
local STALE_ATTEMPT, UNSETTLED, OTHER_PLAN, RESOLVED, INSUFFICIENT = 6, 7, 8, 9, 10
local NETWORK_CHANGED, MISSING, NEEDS_PINS, NEEDS_FOLLOW, REFUSED = 11, 12, 14, 15, 16
local UNCHANGED, STALE_SEQUENCE, BELOW_ZERO, ABOVE_MAXIMUM, REVISION_DIFFERS = 17, 18, 19, 20, 21
local NEEDS_REVISION, ALREADY_ARRIVED, LIMITED, TOO_MANY_SEGMENTS, MORE_THAN_ORDERED = 22, 23, 24, 25, 26

-- Fields of the records, in the order of the NamedTuples.
local L_STATE, L_ATTEMPT, L_PLAN, L_EXPIRE, L_MULTI, L_LINES, L_CHANGE = 2, 3, 4, 5, 6, 7, 8
local L_ENDED, L_REPLACES, L_SEGMENT, L_OWNER, L_LIMITS, L_EPOCH, L_SEQUENCE = 9, 10, 11, 12, 13, 14, 15
local C_STATE, C_ATTEMPT, C_REVISION, C_BODY_HASH, C_PLAN = 2, 3, 4, 5, 6
local C_CREATE, C_EXPIRE = 7, 8
local C_LEGS, C_BODY, C_EPOCH, C_SEQUENCE, C_SETTLED, C_CHANGE = 9, 10, 11, 12, 13, 14
local C_REACQUIRED, C_REPLACES, C_REPLACED, C_SUCCESSOR, C_SUCCESSOR_ATTEMPT = 15, 16, 17, 18, 19
local ON_HAND, COMMITTED, HELD_UNITS, SAFETY, CONFIRMED_TOTAL, CANCELLED_TOTAL = 1, 2, 3, 4, 5, 6
local FULFILLED_TOTAL = 7
local SOURCE, SOURCE_SEQUENCE, MULTI_HOLD_MS, SOLD_SHORT, ARRIVAL_MS = 8, 9, 10, 11, 12
local PROTECTED = 13

local QUANTITY_MAX = 2147483647
local ARRIVED = -1
local PROTECTIONS_MAX = 16
local RESOLVE_AFTER_MS = 2000
local DOUBT_MS = 10000
local CONTENDED_MS = 250
local WINDOW_MS = @WINDOW_MS@
-- A caller's create_time may be this far ahead of the shard, and its key must be known as long.
local CLOCK_SKEW_MS = 600000
-- A tombstone outlives any message that could still be on its way.
local TOMBSTONE_MS = 600000

local EVENT_EPOCH_STARTED, EVENT_SUPPLY_SYNCED, EVENT_SUPPLY_ADJUSTED, EVENT_SALE_RECORDED = 1, 2, 3, 4
local EVENT_PROTECTION_SET = 5
-- By state; 0 where no move leads yet.
local CLAIM_EVENT = {10, 11, 12, 13, 14, 15, 16, 20, 19, 17}
local LEG_EVENT = {0, 31, 32, 33, 34, 35, 36, 40, 39, 37}
local EVENT_RESERVATION_REVISED, EVENT_LEG_REVISED = 18, 38

local OPEN = {[PENDING] = true, [HELD] = true, [PINNED] = true}
local ALIVE = {[PENDING] = true, [HELD] = true, [PINNED] = true, [CONFIRMED] = true}
local FOLLOWED = {[CONFIRMED] = true, [RELEASED] = true, [CANCELLED] = true,
  [EXPIRED] = true, [ABORTED] = true, [SUPERSEDED] = true}
local LETTING_GO = {[RELEASED] = true, [EXPIRED] = true, [ABORTED] = true, [SUPERSEDED] = true}
local GIVING_BACK = {[RELEASED] = true, [EXPIRED] = true, [ABORTED] = true, [CANCELLED] = true,
  [SUPERSEDED] = true}
local MOVES = {
  [PENDING] = {[HELD] = true, [PINNED] = true, [RELEASED] = true, [EXPIRED] = true, [ABORTED] = true},
  [HELD] = {[PINNED] = true, [CONFIRMED] = true, [RELEASED] = true, [EXPIRED] = true, [SUPERSEDED] = true},
  [PINNED] = {[CONFIRMED] = true, [EXPIRED] = true, [ABORTED] = true},
  [CONFIRMED] = {[CANCELLED] = true, [FULFILLED] = true},
}

-- The process this library lives in. A library is loaded anew by every process, so the cached
-- value can never be another process's: that is the fence after a restart or failover.
local process
local function this_process()
  if not process then
    process = string.match(call('INFO', 'server'), 'run_id:(%x+)')
  end
  return process
end

-- The overlay of the call that runs now; single-threaded, reset by open().
local S

local function now_ms()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- What a call has read, changed and must write; most calls leave most of these empty.
local TABLES = {'events', 'rows', 'row_dirty', 'legs', 'leg_before', 'leg_dirty', 'claims', 'claim_before',
  'claim_dirty', 'open_at', 'doubt', 'keys', 'touched', 'cursors', 'adjusted',
  'taken', 'counted_until', 'packed'}

-- Names of a shard's keys, by its meta key: to join strings costs as much as a small command.
local NAMES = {}
local function names_of(meta)
  local base = string.sub(meta, 1, -5)
  NAMES[meta] = {base = base, row = base .. 'p:', due = base .. 'd:', leg = base .. 'l:', claim = base .. 'c:',
    out = base .. 'out', news = base .. 'news', legs_due = base .. 'legs-due',
    claims_due = base .. 'claims-due', open = base .. 'open', doubt = base .. 'doubt'}
  return NAMES[meta]
end

local function load_meta(key)
  if not call then
    call, pack, unpack_, S = redis.call, cmsgpack.pack, cmsgpack.unpack, {}
    for i = 1, #TABLES do S[TABLES[i]] = {} end
  end
  local meta = call('HMGET', key, 'owner', 'epoch', 'sequence', 'time', 'floor', 'depoch', 'dsequence', 'shard')
  local stored = tonumber(meta[4]) or 0
  local time = now_ms()
  local names = NAMES[key] or names_of(key)
  S.meta, S.names, S.base, S.owner, S.shard = key, names, names.base, meta[1], tonumber(meta[8])
  S.epoch, S.sequence, S.floor = tonumber(meta[2]) or 0, tonumber(meta[3]) or 0, tonumber(meta[5]) or 0
  S.depoch, S.dsequence = tonumber(meta[6]) or 0, tonumber(meta[7]) or 0
  S.time = time > stored and time or stored
  for i = 1, #TABLES do
    if next(S[TABLES[i]]) ~= nil then S[TABLES[i]] = {} end
  end
  S.touched_leg, S.touched_claim = false, false
end

-- Every verb but the takeover's own begins here.
local function open(key)
  load_meta(key)
  if S.owner ~= this_process() then
    return redis.error_reply('NOT_SERVING the shard is owned by another process until a takeover')
  end
end

-- Rows -------------------------------------------------------------------------------------

local function row_id(sku, node, bucket) return sku .. '\n' .. node .. '\t' .. bucket end

local function get_row(sku, node, bucket)
  local id = row_id(sku, node, bucket)
  local row = S.rows[id]
  if row == nil then
    local raw = call('HGET', S.names.row .. sku, node .. '\t' .. bucket)
    row = raw and unpack_(raw) or false
    -- Rows of the layout before end one field earlier.
    if row and not row[ARRIVAL_MS] then row[SOLD_SHORT], row[ARRIVAL_MS] = row[SOLD_SHORT] or 0, 0 end
    S.rows[id] = row
  end
  return row
end

-- Rows are changed in place; events pack their images at once, so no image can change later. Fields
-- of an entry: SKU, node, bucket, row, and the row as an event has packed it since.
local function touch_row(sku, node, bucket, row)
  local id = row_id(sku, node, bucket)
  local entry, touched = S.row_dirty[id], S.touched
  if not entry or entry[4] ~= row then
    entry = {sku, node, bucket, row}
    S.rows[id], S.row_dirty[id] = row, entry
  end
  entry[5] = nil
  if not touched[id] then
    touched[id] = true
    touched[#touched + 1] = entry
  end
end

local function new_row() return {0, 0, 0, 0, 0, 0, 0, '', 0, 0, 0, 0} end

-- What nobody has of a bucket that is here becomes stock here now; says how much did.
local function passed_on(row, here)
  local room = QUANTITY_MAX - here[ON_HAND] + (here[SOLD_SHORT] or 0)
  local spare = math.min(row[ON_HAND] - row[COMMITTED] - row[HELD_UNITS], room)
  if spare <= 0 then return 0 end
  local paid = math.min(here[SOLD_SHORT] or 0, spare)
  row[ON_HAND] = row[ON_HAND] - spare
  here[ON_HAND], here[COMMITTED] = here[ON_HAND] + spare - paid, here[COMMITTED] - paid
  here[SOLD_SHORT] = (here[SOLD_SHORT] or 0) - paid
  return spare
end

local function pass_on(sku, node, row)
  if row[ARRIVAL_MS] ~= ARRIVED then return end
  local here = get_row(sku, node, '') or new_row()
  if passed_on(row, here) > 0 then touch_row(sku, node, '', here) end
end

-- Units kept for other segments and unsold.
local function protected_units(row, segment)
  local units = 0
  for _, share in ipairs(row[PROTECTED]) do
    if share[1] ~= segment and share[2] > share[3] then units = units + share[2] - share[3] end
  end
  return units
end

-- The most an account may come to, by a line of it; nil for stock.
local function limit_of(line) return (line[6] or -1) >= 0 and line[6] or nil end

local function left(row, segment, limit)
  if not row then return limit or 0 end
  local units = (limit or row[ON_HAND]) - row[SAFETY] - row[COMMITTED] - row[HELD_UNITS]
  if row[PROTECTED] then units = units - protected_units(row, segment) end
  return units
end

-- What is protected withholds only what is there: it makes no shortage.
local function shortage(row)
  if not row then return 0 end
  return math.max(0, row[COMMITTED] + row[HELD_UNITS] + row[SAFETY] - row[ON_HAND])
end

-- A leg takes units of a position for its segment, or below zero gives some back.
local function draw(row, leg, units)
  local segment, epoch = leg[L_SEGMENT], leg[L_EPOCH] or 0
  if not segment or segment == '' or not row[PROTECTED] then return end
  for _, share in ipairs(row[PROTECTED]) do
    local begun = share[4] or 0
    local older = epoch < begun or epoch == begun and (leg[L_SEQUENCE] or 0) < (share[5] or 0)
    if share[1] == segment and not older then share[3] = math.max(0, share[3] + units) end
  end
end

-- Legs and claims --------------------------------------------------------------------------

local function get_leg(rid)
  local leg = S.legs[rid]
  if leg == nil then
    local raw = call('GET', S.names.leg .. rid)
    leg = raw and unpack_(raw) or false
    S.legs[rid] = leg
    S.leg_before[rid] = leg
  end
  return leg
end

-- Units that count for an owner, by key: fields of a limit are SKU, counter, most, window ms, window.
local function count_key(owner, limit)
  return S.base .. 'u:' .. limit[2] .. '\n' .. owner .. '\n' .. string.format('%d', limit[5])
end

local function counted(owner, limits, lines, alive)
  local units = {}
  for _, limit in ipairs(limits) do
    local key = count_key(owner, limit)
    for _, line in ipairs(lines) do
      if line[1] == limit[1] then
        local gone = limit[4] > 0 and line[5] or 0
        units[key] = (units[key] or 0) + gone + (alive and line[4] or 0)
      end
    end
  end
  return units
end

local function counted_of(leg)
  if not leg or not leg[L_LIMITS] then return {} end
  return counted(leg[L_OWNER], leg[L_LIMITS], leg[L_LINES], ALIVE[leg[L_STATE]])
end

local function units_of(key)
  local units = S.taken[key]
  if units == nil then
    units = tonumber(call('GET', key) or 0)
    S.taken[key] = units
  end
  return units
end

-- Counters follow every change of a leg, whatever made it.
local function count_leg(was, leg)
  for _, each in ipairs({leg, was or nil}) do
    for _, limit in ipairs(each[L_LIMITS] or {}) do
      S.counted_until[count_key(each[L_OWNER], limit)] = limit[4] > 0 and (limit[5] + 2) * limit[4] or 0
    end
  end
  for key, units in pairs(counted_of(was)) do S.taken[key] = units_of(key) - units end
  for key, units in pairs(counted_of(leg)) do S.taken[key] = units_of(key) + units end
end

local function set_leg(rid, leg)
  if S.leg_before[rid] == nil then get_leg(rid) end
  local was = S.legs[rid]
  if leg[L_LIMITS] or was and was[L_LIMITS] then count_leg(was, leg) end
  S.legs[rid] = leg
  S.leg_dirty[rid] = true
end

local function get_claim(rid)
  local claim = S.claims[rid]
  if claim == nil then
    local raw = call('GET', S.names.claim .. rid)
    claim = raw and unpack_(raw) or false
    S.claims[rid] = claim
    S.claim_before[rid] = claim
  end
  return claim
end

local function set_claim(rid, claim)
  if S.claim_before[rid] == nil then get_claim(rid) end
  S.claims[rid] = claim
  S.claim_dirty[rid] = true
end

local function has(list, value)
  for i = 1, #list do
    if list[i] == value then return true end
  end
  return false
end

local function copy(record)
  return {unpack(record)}
end

-- What a record in the place of this one remembers: the attempt that ended here by its time.
local function ended(leg)
  if not leg then return 0 end
  return leg[L_STATE] == EXPIRED and leg[L_ATTEMPT] or leg[L_ENDED] or 0
end

-- A tombstone: this attempt can never have this leg. No event.
local function bar(rid, attempt)
  local before = get_leg(rid)
  if before and before[L_STATE] == FULFILLED then return end
  set_leg(rid, {1, ABORTED, attempt, '', 0, 1, {}, 0, ended(before)})
end

local function due(state, expire)
  return (state == HELD or state == PENDING) and S.time >= expire
end

-- Whether another reservation's home still has to decide which of the two stands.
local function replacing(claim)
  return claim[C_STATE] == PENDING and (claim[C_REPLACES] or '') ~= ''
end

local function claim_due(claim)
  return due(claim[C_STATE], claim[C_EXPIRE]) and not replacing(claim)
end

-- Events -----------------------------------------------------------------------------------

-- Arrays are written by hand around what is packed already: a record goes into its key, its event and
-- the reply, and is packed once.
local NOTHING, IMAGE, EVENT, REPLY, NEWS = '\144', '\148', '\152', '\153', '\150'
local function array_head(count)
  return count < 16 and string.char(0x90 + count) or string.char(0xdc, math.floor(count / 256), count % 256)
end

-- A claim or leg that is not changed any more.
local function keep_packed(record)
  if not record then return NOTHING end
  local bytes = pack(record)
  S.packed[record] = bytes
  return bytes
end

local function packed(record) return S.packed[record] or pack(record) end

local function append(event)
  S.sequence = S.sequence + 1
  S.events[#S.events + 1] = pack(event)
end

local function image_of(entry)
  entry[5] = pack(entry[4])
  return IMAGE .. pack(entry[1], entry[2], entry[3]) .. entry[5]
end

local function images_of(touched)
  local count = #touched
  if count == 0 then return NOTHING end
  if count == 1 then return '\145' .. image_of(touched[1]) end
  local images = {array_head(count)}
  for i = 1, count do images[i + 1] = image_of(touched[i]) end
  return table.concat(images)
end

-- Records what was touched as one event, of the state it is in unless a kind is given; says
-- whether anything was.
local function emit(subject, kind, note)
  local claim, leg, touched = S.touched_claim, S.touched_leg, S.touched
  if not claim and not leg and #touched == 0 then return false end
  if claim then
    claim[C_EPOCH], claim[C_SEQUENCE] = S.epoch, S.sequence + 1
    kind = kind or CLAIM_EVENT[claim[C_STATE]]
  elseif leg then
    kind = kind or LEG_EVENT[leg[L_STATE]]
  end
  S.sequence = S.sequence + 1
  S.events[#S.events + 1] = EVENT .. pack(kind, S.time, subject, note or '') .. keep_packed(claim)
    .. keep_packed(leg) .. images_of(touched) .. NOTHING
  S.touched, S.touched_leg, S.touched_claim = {}, false, false
  return true
end

local function leg_may_move(source, target)
  if OPEN[source] then return FOLLOWED[target] end
  return source == CONFIRMED and (target == CANCELLED or target == EXPIRED or target == ABORTED)
end

local function move_leg(rid, leg, target)
  local source = leg[L_STATE]
  for _, line in ipairs(leg[L_LINES]) do
    local row, quantity = get_row(line[1], line[2], line[3]), line[4]
    local sold = source == CONFIRMED
    if OPEN[source] and not OPEN[target] then
      row[HELD_UNITS] = row[HELD_UNITS] - quantity
      if target == CONFIRMED or target == CANCELLED then
        row[COMMITTED] = row[COMMITTED] + quantity
        row[CONFIRMED_TOTAL] = row[CONFIRMED_TOTAL] + quantity
        sold = true
      end
    end
    if sold and target ~= CONFIRMED then
      row[COMMITTED] = row[COMMITTED] - quantity
      row[CANCELLED_TOTAL] = row[CANCELLED_TOTAL] + quantity
    end
    if GIVING_BACK[target] then draw(row, leg, -quantity) end
    if row[HELD_UNITS] < 0 or row[COMMITTED] < 0 then error('INVARIANT_BROKEN counters below zero') end
    touch_row(line[1], line[2], line[3], row)
    pass_on(line[1], line[2], row)
  end
  local moved = copy(leg)
  moved[L_STATE] = target
  set_leg(rid, moved)
  S.touched_leg = moved
  return moved
end

local function end_leg(rid, leg, target)
  local touched, touched_leg, touched_claim = S.touched, S.touched_leg, S.touched_claim
  S.touched, S.touched_leg, S.touched_claim = {}, false, false
  local moved = move_leg(rid, leg, target)
  emit(rid)
  S.touched, S.touched_leg, S.touched_claim = touched, touched_leg, touched_claim
  return moved
end

local function expire_leg(rid, leg) return end_leg(rid, leg, EXPIRED) end

local function leg_now(rid)
  local leg = get_leg(rid)
  if leg and due(leg[L_STATE], leg[L_EXPIRE]) then return expire_leg(rid, leg) end
  return leg
end

-- Due legs of a SKU come oldest first; the cursor stands for those already expired in this call,
-- which leave the list only at commit.
local function make_room(line, quantity, segment)
  local sku, limit = line[1], limit_of(line)
  local row = get_row(sku, line[2], line[3])
  local free = left(row, segment, limit)
  while free < quantity and row do
    local cursor = S.cursors[sku] or 0
    local found = call('ZRANGEBYSCORE', S.names.due .. sku, '-inf', S.time, 'LIMIT', cursor, 16)
    if #found == 0 then break end
    for i = 1, #found do
      cursor = cursor + 1
      local leg = get_leg(found[i])
      if leg and due(leg[L_STATE], leg[L_EXPIRE]) then
        expire_leg(found[i], leg)
        free = left(row, segment, limit)
        if free >= quantity then break end
      end
    end
    S.cursors[sku] = cursor
  end
  return free, row
end

-- The row that a line takes units of; an account as of the line's limit.
local function row_of(line)
  local row, limit = get_row(line[1], line[2], line[3]), limit_of(line)
  if limit then
    row = row or new_row()
    row[ON_HAND] = limit
  end
  return row
end

-- Units of a counter, after expiring just enough due legs of its owner if too many.
local function have(owner, key, most)
  if units_of(key) <= most then return units_of(key) end
  for _, rid in ipairs(call('ZRANGEBYSCORE', S.names.legs_due, '-inf', S.time)) do
    local leg = get_leg(rid)
    if leg and leg[L_LIMITS] and leg[L_OWNER] == owner and due(leg[L_STATE], leg[L_EXPIRE]) then
      expire_leg(rid, leg)
      if units_of(key) <= most then break end
    end
  end
  return units_of(key)
end

-- Lines of which the owner would have more than a limit allows, or false.
local function over_limit(owner, limits, wanted, own, lines)
  local free, shortfalls = {}, {}
  for _, limit in ipairs(limits) do
    local key = count_key(owner, limit)
    local more, most = wanted[key] or 0, limit[3] + (own[key] or 0)
    if more > 0 and have(owner, key, most - more) + more > most then
      free[limit[1]] = math.max(0, most - units_of(key))
    end
  end
  for i, line in ipairs(lines) do
    if free[line[1]] then shortfalls[#shortfalls + 1] = {i - 1, free[line[1]], 1} end
  end
  return #shortfalls > 0 and shortfalls
end

local function put_claim(rid, claim, state, settled)
  local changed = copy(claim)
  changed[C_STATE], changed[C_SETTLED] = state, settled
  set_claim(rid, changed)
  S.touched_claim = changed
  return changed
end

local function expire_claim(rid, claim)
  local changed = put_claim(rid, claim, EXPIRED, 1)
  S.open_at[rid] = false
  emit(rid)
  return changed
end

local function claim_now(rid)
  local claim = get_claim(rid)
  if claim and claim_due(claim) then return expire_claim(rid, claim) end
  return claim
end

local function step_reply(outcome, state, claim, shortfalls, contended, attempt)
  return REPLY .. pack(outcome, S.epoch, S.sequence, S.time, state) .. (claim and packed(claim) or NOTHING)
    .. (shortfalls and pack(shortfalls) or NOTHING) .. pack(contended or 0, attempt or 0)
end

local function reply(outcome, rid, shortfalls, contended, attempt, state)
  local claim = rid and S.claims[rid]
  return step_reply(outcome, state or claim and claim[C_STATE] or 0, claim, shortfalls, contended, attempt)
end

local function leg_reply(outcome, leg, shortfalls)
  return step_reply(outcome, leg[L_STATE], false, shortfalls)
end

local function other_plan(leg, attempt)
  return step_reply(OTHER_PLAN, leg[L_ENDED] == attempt and EXPIRED or 0)
end

-- The answer to a change of stock under a key, kept as long as the key may be asked for again.
local function keep_adjustment(key, answer)
  local record = pack(answer)
  S.adjusted[key] = record
  S.keys[#S.keys + 1] = {'SET', key, record, 'PX', WINDOW_MS + CLOCK_SKEW_MS}
end

-- Commit -----------------------------------------------------------------------------------

local function commit_rows()
  local first, only = next(S.row_dirty)
  if not first then return end
  if not next(S.row_dirty, first) then
    call('HSET', S.names.row .. only[1], only[2] .. '\t' .. only[3], only[5] or pack(only[4]))
    return
  end
  local by_sku = {}
  for _, dirty in pairs(S.row_dirty) do
    local sku = dirty[1]
    local fields = by_sku[sku]
    if not fields then
      fields = {'HSET', S.names.row .. sku}
      by_sku[sku] = fields
    end
    fields[#fields + 1] = dirty[2] .. '\t' .. dirty[3]
    fields[#fields + 1] = dirty[5] or pack(dirty[4])
  end
  for _, fields in pairs(by_sku) do
    -- unpack() takes no more than the Lua stack holds, about 8,000.
    for from = 3, #fields, 1000 do
      call(fields[1], fields[2], unpack(fields, from, math.min(from + 999, #fields)))
    end
  end
end

-- A counter of a window outlives it by one more: orders of it may still be changed.
local function commit_taken()
  for key, ends in pairs(S.counted_until) do
    local units = units_of(key)
    if units <= 0 or ends > 0 and ends <= S.time then
      call('DEL', key)
    elseif ends > 0 then
      call('SET', key, string.format('%d', units), 'PX', string.format('%d', ends - S.time))
    else
      call('SET', key, string.format('%d', units))
    end
  end
end

local function commit_leg(rid)
  local leg, before = S.legs[rid], S.leg_before[rid]
  local key = S.names.leg .. rid
  local state = leg[L_STATE]
  if ALIVE[state] then
    call('SET', key, packed(leg))
  else
    call('SET', key, packed(leg), 'PX', leg[L_PLAN] == '' and TOMBSTONE_MS or WINDOW_MS + TOMBSTONE_MS)
  end
  local was, is = before and before[L_STATE] == HELD, state == HELD
  for _, line in ipairs(was and before[L_LINES] or {}) do call('ZREM', S.names.due .. line[1], rid) end
  if is then
    call('ZADD', S.names.legs_due, leg[L_EXPIRE], rid)
    for _, line in ipairs(leg[L_LINES]) do call('ZADD', S.names.due .. line[1], leg[L_EXPIRE], rid) end
  elseif was then
    if leg[L_MULTI] == 1 then S.doubt[rid] = false end
    call('ZREM', S.names.legs_due, rid)
  end
end

local function expiring(claim)
  return claim and (claim[C_STATE] == PENDING and not replacing(claim) or claim[C_STATE] == HELD)
end

local function commit_claim(rid)
  local claim, before = S.claims[rid], S.claim_before[rid]
  local key = S.names.claim .. rid
  if claim[C_SETTLED] == 1 and not ALIVE[claim[C_STATE]] then
    call('SET', key, packed(claim), 'PX', WINDOW_MS + CLOCK_SKEW_MS)
  else
    call('SET', key, packed(claim))
  end
  if expiring(claim) then
    if not expiring(before) or before[C_EXPIRE] ~= claim[C_EXPIRE] then
      call('ZADD', S.names.claims_due, claim[C_EXPIRE], rid)
    end
  elseif expiring(before) then
    call('ZREM', S.names.claims_due, rid)
  end
end

-- One message per call: [epoch, sequence, durable epoch, durable sequence, time, [event ...]].
local function publish()
  local events = S.events
  call('SPUBLISH', S.names.news, NEWS .. pack(S.epoch, S.sequence, S.depoch, S.dsequence, S.time)
    .. array_head(#events) .. (events[2] and table.concat(events) or events[1] or ''))
end

local function commit()
  local count = #S.events
  local first = S.sequence - count
  for i = 1, count do
    call('XADD', S.names.out, S.epoch .. '-' .. (first + i), 'e', S.events[i])
  end
  commit_rows()
  for rid in pairs(S.leg_dirty) do commit_leg(rid) end
  commit_taken()
  for rid in pairs(S.claim_dirty) do commit_claim(rid) end
  for rid, at in pairs(S.open_at) do
    if at then call('ZADD', S.names.open, at, rid) else call('ZREM', S.names.open, rid) end
  end
  for rid, at in pairs(S.doubt) do
    if at then call('ZADD', S.names.doubt, at, rid) else call('ZREM', S.names.doubt, rid) end
  end
  for _, other in ipairs(S.keys) do call(unpack(other)) end
  if count > 0 then
    call('HSET', S.meta, 'sequence', S.sequence, 'time', S.time)
    publish()
  end
end

-- A verb over an array of steps: one packed reply each.
local function each(step_of)
  return function(keys, args)
    local refused = open(keys[1])
    if refused then return refused end
    local replies = {}
    for i = 1, #args do replies[i] = step_of(unpack_(args[i])) end
    commit()
    return replies
  end
end
