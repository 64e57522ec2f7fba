-- What a call says: its events and its replies, packed. Twin of emit and reply in
-- domain/ledger/state.py, in the layouts of codec.py.

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
