-- All that is written, at the end of a call. The ledger has no such step: it writes as it goes.

-- The answer to a change of stock under a key, kept as long as the key may be asked for again.
local function keep_adjustment(key, answer)
  local record = pack(answer)
  S.adjusted[key] = record
  S.keys[#S.keys + 1] = {'SET', key, record, 'PX', WINDOW_MS + CLOCK_SKEW_MS}
end

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
