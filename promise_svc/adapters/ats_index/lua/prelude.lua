-- Shared by all verbs: constants, the fence, the overlay.
-- Twins of promise_svc/domain/ledger, file by file; rules are explained there and not again here.
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
  'claim_dirty', 'open_at', 'doubt', 'keys', 'touched', 'cursors', 'adjusted', 'buckets',
  'taken', 'counted_until', 'packed', 'closed'}

-- Names of a shard's keys, by its meta key: to join strings costs as much as a small command.
local NAMES = {}
local function names_of(meta)
  local base = string.sub(meta, 1, -5)
  NAMES[meta] = {base = base, row = base .. 'p:', due = base .. 'd:', leg = base .. 'l:', claim = base .. 'c:',
    out = base .. 'out', news = base .. 'news', legs_due = base .. 'legs-due',
    claims_due = base .. 'claims-due', open = base .. 'open', doubt = base .. 'doubt',
    accounts = base .. 'accounts'}
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
