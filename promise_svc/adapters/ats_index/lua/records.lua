-- Legs and claims, as a call reads and changes them. Twin of domain/ledger/records.py.

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
