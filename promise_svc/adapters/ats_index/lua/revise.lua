-- revise: change a claim's lines or expiry, or close it, if it still is as it was read; home's own
-- leg conforms in the same step. conform: make legs what a change of their claim says. KEYS meta;
-- ARGV one ReviseStep or ConformStep each; reply one StepReply each. O(lines), plus due legs given
-- back where more units are wanted than are left.

local CONFORMED = {[HELD] = true, [CONFIRMED] = true, [FULFILLED] = true, [CANCELLED] = true}
local CLOSED = {[FULFILLED] = true, [CANCELLED] = true}

local NO_LINE = {'', '', '', 0, 0}
local function by_place(lines)
  local places = {}
  for i = 1, #lines do places[row_id(lines[i][1], lines[i][2], lines[i][3])] = lines[i] end
  return places
end

local function place_of(line) return row_id(line[1], line[2], line[3]) end

-- Units that left between two versions of a line, and units that went back into stock.
local function moved_units(old, new)
  local gone = new[5] - (old[5] or 0)
  return gone, old[4] - gone - new[4]
end

local function may_conform(leg, target, lines)
  if not CONFORMED[target] or target == HELD and leg[L_STATE] == CONFIRMED then return false end
  local wanted, before, count = by_place(lines), by_place(leg[L_LINES]), 0
  for _ in pairs(wanted) do count = count + 1 end
  if count ~= #lines then return false end
  for place, old in pairs(before) do
    if (old[5] or 0) > 0 and not wanted[place] then return false end
  end
  for place, line in pairs(wanted) do
    local old = before[place] or NO_LINE
    local gone = moved_units(old, line)
    if gone < 0 or gone > old[4] then return false end
    if target == HELD and gone > 0 or CLOSED[target] and line[4] > 0 then return false end
    if target == CANCELLED and (line[5] or 0) > 0 then return false end
  end
  return true
end

local function growth_refused(leg, lines)
  local before, shortfalls = by_place(leg[L_LINES]), {}
  for i = 1, #lines do
    local line = lines[i]
    local _, back = moved_units(before[place_of(line)] or NO_LINE, line)
    if back < 0 then
      local free, row = make_room(line, -back, leg[L_SEGMENT])
      if free < -back then
        shortfalls[#shortfalls + 1] = {i - 1, free > 0 and free or 0, row and 1 or 0}
      end
    end
  end
  return #shortfalls > 0 and shortfalls
end

local function growth_limited(leg, lines)
  local limits = leg[L_LIMITS]
  if not limits then return false end
  local grown = counted(leg[L_OWNER], limits, lines, true)
  for key, units in pairs(counted_of(leg)) do grown[key] = (grown[key] or 0) - units end
  return over_limit(leg[L_OWNER], limits, grown, {}, lines)
end

local function change_row(line, old, committed, leg)
  local row = row_of(line)
  local gone, back = moved_units(old, line)
  if committed then
    if limit_of(line) then
      row[SAFETY] = row[SAFETY] + gone
    else
      row[ON_HAND] = math.max(0, row[ON_HAND] - gone)
    end
    row[COMMITTED] = row[COMMITTED] - gone - back
    if back < 0 then row[CONFIRMED_TOTAL] = row[CONFIRMED_TOTAL] - back end
    if back > 0 then row[CANCELLED_TOTAL] = row[CANCELLED_TOTAL] + back end
    row[FULFILLED_TOTAL] = row[FULFILLED_TOTAL] + gone
  else
    row[HELD_UNITS] = row[HELD_UNITS] - back
  end
  draw(row, leg, -back)
  if row[HELD_UNITS] < 0 or row[COMMITTED] < 0 then error('INVARIANT_BROKEN counters below zero') end
  touch_row(line[1], line[2], line[3], row)
  pass_on(line[1], line[2], row)
end

local function conform_leg(rid, leg, target, change, expire, lines)
  if target ~= HELD and OPEN[leg[L_STATE]] then leg = move_leg(rid, leg, CONFIRMED) end
  local before = by_place(leg[L_LINES])
  for i = 1, #lines do
    local old = before[place_of(lines[i])] or NO_LINE
    local gone, back = moved_units(old, lines[i])
    if gone ~= 0 or back ~= 0 then change_row(lines[i], old, target ~= HELD, leg) end
    before[place_of(lines[i])] = nil
  end
  for _, old in ipairs(leg[L_LINES]) do
    if before[place_of(old)] and old[4] > 0 then
      change_row({old[1], old[2], old[3], 0, 0}, old, target ~= HELD, leg)
    end
  end
  local moved = copy(leg)
  if target ~= HELD then moved[L_STATE] = target end
  moved[L_EXPIRE], moved[L_LINES], moved[L_CHANGE] = expire, lines, change
  set_leg(rid, moved)
  S.touched_leg = moved
  return moved
end

-- The lines wanted, first, and whatever the leg has beyond them.
local function with_what_goes(leg, wanted)
  local before, lines = by_place(leg[L_LINES]), {}
  for i = 1, #wanted do
    local line, place = copy(wanted[i]), place_of(wanted[i])
    local old = before[place]
    local kept = old and old[4] - (line[5] - (old[5] or 0)) or 0
    if kept > line[4] then line[4] = kept end
    lines[i], before[place] = line, nil
  end
  for _, old in ipairs(leg[L_LINES]) do
    if before[place_of(old)] then lines[#lines + 1] = old end
  end
  return lines
end

local function conforms(leg, target, change, expire, lines)
  if target ~= HELD and leg[L_STATE] ~= target then return false end
  if leg[L_EXPIRE] ~= expire or (leg[L_CHANGE] or 0) ~= change or #leg[L_LINES] ~= #lines then return false end
  for i = 1, #lines do
    local old = leg[L_LINES][i]
    for field = 1, 4 do
      if old[field] ~= lines[i][field] then return false end
    end
    if (old[5] or 0) ~= lines[i][5] or (old[6] or -1) ~= (lines[i][6] or -1) then return false end
  end
  return true
end

verb('revise', each(function(step)
  local rid, source, target, lines = step[1], step[4], step[5], step[9]
  local claim = claim_now(rid)
  if not claim then return reply(MISSING, rid) end
  if claim[C_ATTEMPT] ~= step[2] then return reply(OTHER_PLAN, rid) end
  if (claim[C_CHANGE] or 0) ~= step[3] then return reply(REVISION_DIFFERS, rid) end
  local stays = source == target and (source == HELD or source == CONFIRMED)
  local closes = CLOSED[target] and MOVES[source] and MOVES[source][target]
  if claim[C_STATE] ~= source or not (stays or closes) then return reply(REFUSED, rid) end
  local legs = step[10] and #step[10] > 0 and step[10] or claim[C_LEGS]
  local here = has(legs, S.shard)
  local leg = here and leg_now(rid)
  if here then
    if not leg or leg[L_ATTEMPT] ~= claim[C_ATTEMPT] or not ALIVE[leg[L_STATE]]
      or not may_conform(leg, target, lines) then
      return reply(REFUSED, rid)
    end
    if step[11] > 0 and step[11] < S.floor then return reply(NETWORK_CHANGED, rid) end
    local limited = growth_limited(leg, lines)
    if limited then return reply(LIMITED, rid, limited) end
    local shortfalls = growth_refused(leg, lines)
    if shortfalls then return reply(INSUFFICIENT, rid, shortfalls) end
  end
  local alone = here and #legs == 1
  local changed = put_claim(rid, claim, target, alone and 1 or 0)
  changed[C_REVISION], changed[C_EXPIRE], changed[C_BODY] = step[6], step[7], step[8]
  changed[C_CHANGE], changed[C_LEGS] = step[3] + 1, legs
  if leg then conform_leg(rid, leg, target, step[3] + 1, step[7], lines) end
  S.open_at[rid] = not alone and S.time + RESOLVE_AFTER_MS
  emit(rid, stays and EVENT_RESERVATION_REVISED)
  return reply(alone and DONE or NEEDS_FOLLOW, rid)
end), {})

local function lengthen(rid, leg, expire)
  if not OPEN[leg[L_STATE]] then return leg_reply(REFUSED, leg) end
  if expire <= leg[L_EXPIRE] then return leg_reply(REPEATED, leg) end
  local moved = copy(leg)
  moved[L_EXPIRE] = expire
  set_leg(rid, moved)
  S.touched_leg = moved
  emit(rid, EVENT_LEG_REVISED)
  return leg_reply(DONE, moved)
end

verb('conform', each(function(step)
  local rid, change, target, ttl, lines = step[1], step[3], step[4], step[5], step[6]
  local leg = leg_now(rid)
  if not leg then return reply(MISSING) end
  if leg[L_ATTEMPT] ~= step[2] then return other_plan(leg, step[2]) end
  if not ALIVE[leg[L_STATE]] then return leg_reply(REPEATED, leg) end
  if #lines == 0 then return lengthen(rid, leg, S.time + ttl) end
  local expire = ttl > 0 and S.time + ttl or leg[L_EXPIRE]
  local overtaken = target == HELD and leg[L_STATE] == CONFIRMED
  if change < (leg[L_CHANGE] or 0) or overtaken then return leg_reply(REPEATED, leg) end
  local wanted = lines
  if step[7] == 1 then lines = with_what_goes(leg, wanted) end
  if not may_conform(leg, target, lines) then return leg_reply(REFUSED, leg) end
  if conforms(leg, target, change, expire, lines) then return leg_reply(REPEATED, leg) end
  if step[8] > 0 and step[8] < S.floor then return leg_reply(NETWORK_CHANGED, leg) end
  local limited = growth_limited(leg, wanted)
  if limited then return leg_reply(LIMITED, leg, limited) end
  local shortfalls = growth_refused(leg, lines)
  if shortfalls then return leg_reply(INSUFFICIENT, leg, shortfalls) end
  local moved = conform_leg(rid, leg, target, change, expire, lines)
  local same = moved[L_STATE] == leg[L_STATE] or target == HELD
  emit(rid, same and EVENT_LEG_REVISED)
  return leg_reply(DONE, moved)
end), {'allow-oom'})
