-- The moves that all steps share. Twin of domain/ledger/state.py.

local function leg_may_move(source, target)
  if OPEN[source] then return FOLLOWED[target] end
  return source == CONFIRMED and (target == CANCELLED or target == EXPIRED or target == ABORTED)
end

local function move_leg(rid, leg, target)
  local source = leg[L_STATE]
  for _, line in ipairs(leg[L_LINES]) do
    local row, quantity = get_row(line[1], line[2], line[3]), line[4]
    local sold = source == CONFIRMED
    -- Without a row it is an account that was closed: what it counted has left.
    if row then
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
