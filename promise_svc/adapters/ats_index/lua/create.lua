-- create: open claims, take legs. KEYS meta; ARGV one CreateStep each; reply one StepReply each.
-- O(lines), plus due legs given back where a line would not fit.

local function check_claim(step)
  local draft = step[8]
  if #draft == 0 then return DONE end
  local claim = claim_now(step[1])
  if not claim then
    local late = draft[2] > 0 and S.time - draft[2] > WINDOW_MS
    return late and WINDOW_PASSED or DONE
  end
  if claim[C_STATE] == ABORTED then
    if claim[C_SETTLED] ~= 1 then return UNSETTLED end
    return step[2] > claim[C_ATTEMPT] and DONE or STALE_ATTEMPT
  end
  if claim[C_BODY_HASH] ~= draft[1] then return BODY_DIFFERS end
  if claim[C_STATE] == EXPIRED and draft[5] == 1 and step[2] > claim[C_ATTEMPT] then
    return claim[C_SETTLED] == 1 and DONE or UNSETTLED
  end
  if claim[C_ATTEMPT] == step[2] and claim[C_PLAN] == step[3] then return REPEATED end
  return EXISTS
end

local function meet_leg(leg, step)
  local state, change = leg[L_STATE], step[14] or 0
  if leg[L_ATTEMPT] == step[2] and change > 0 then
    local before = leg[L_CHANGE] or 0
    if before < change and state ~= CONFIRMED and state ~= FULFILLED then return end
    return before == change and OPEN[state] and REPEATED or RESOLVED
  end
  if leg[L_ATTEMPT] == step[2] and state ~= ABORTED then
    if leg[L_PLAN] ~= step[3] then return OTHER_PLAN end
    return ALIVE[state] and REPEATED or RESOLVED
  end
  if leg[L_ATTEMPT] >= step[2] then return RESOLVED end
  if ALIVE[state] then return OTHER_PLAN end
  if state == FULFILLED then return RESOLVED end
end

-- What the hold to be replaced has here.
local function older_leg(step)
  local leg = leg_now(step[9])
  return leg and leg[L_ATTEMPT] == step[10] and leg[L_STATE] == HELD and leg
end

local function own_units(leg, segment)
  local own, drew_for = {}, leg[L_SEGMENT] or ''
  local ours = drew_for == '' or drew_for == segment
  for _, line in ipairs(leg[L_LINES]) do
    if ours or limit_of(line) then own[row_id(line[1], line[2], line[3])] = line[4] end
  end
  return own
end

local function limited(step, older)
  local owner, limits = step[12], step[13]
  for _, limit in ipairs(limits) do
    limit[5] = limit[4] > 0 and math.floor(S.time / limit[4]) or 0
  end
  return over_limit(owner, limits, counted(owner, limits, step[7], true), counted_of(older), step[7])
end

local function check_leg(step)
  local lines = step[7]
  if #lines == 0 then return REPEATED end
  local leg = leg_now(step[1])
  if leg then
    local outcome = meet_leg(leg, step)
    if outcome then return outcome end
    if OPEN[leg[L_STATE]] then end_leg(step[1], leg, ABORTED) end
  end
  if step[5] < S.floor then return NETWORK_CHANGED end
  local shortfalls, contended = {}, 0
  local older = step[9] ~= '' and older_leg(step)
  local refused = #step[13] > 0 and limited(step, older)
  if refused then return LIMITED, refused, 0 end
  local own = older and own_units(older, step[11])
  for i = 1, #lines do
    local line = lines[i]
    local mine = own and own[row_id(line[1], line[2], line[3])] or 0
    local free, row = make_room(line, line[4] - mine, step[11])
    free = free + mine
    if free < line[4] then
      shortfalls[#shortfalls + 1] = {i - 1, free > 0 and free or 0, row and 1 or 0}
      if row and row[MULTI_HOLD_MS] > S.time - CONTENDED_MS then contended = 1 end
    end
  end
  if #shortfalls > 0 then return INSUFFICIENT, shortfalls, contended end
  return DONE
end

local function take_leg(step)
  local multi, segment = step[6], step[11]
  local leg = {1, HELD, step[2], step[3], S.time + step[4], multi, step[7], step[14] or 0,
    ended(get_leg(step[1]))}
  if step[9] ~= '' or segment ~= '' or #step[13] > 0 then
    leg[L_REPLACES], leg[L_SEGMENT] = step[9], segment
  end
  if segment ~= '' or #step[13] > 0 then leg[L_OWNER], leg[L_LIMITS] = step[12], step[13] end
  if segment ~= '' then leg[L_EPOCH], leg[L_SEQUENCE] = S.epoch, S.sequence + 1 end
  for _, line in ipairs(step[7]) do
    local row = row_of(line)
    row[HELD_UNITS] = row[HELD_UNITS] + line[4]
    draw(row, leg, line[4])
    if multi == 1 then row[MULTI_HOLD_MS] = S.time end
    touch_row(line[1], line[2], line[3], row)
  end
  set_leg(step[1], leg)
  S.touched_leg = leg
  if multi == 1 and #step[8] == 0 then S.doubt[step[1]] = S.time + DOUBT_MS end
end

local function open_claim(step, state)
  local draft, rid, multi = step[8], step[1], step[6]
  local before = draft[5] == 1 and get_claim(rid)
  local revision, held = before and before[C_REVISION] or 1, before and before[C_CREATE] or S.time
  local claim = {1, state, step[2], revision, draft[1], step[3], held, S.time + step[4], draft[3],
    draft[4], 0, 0, 1 - multi, 0, draft[5]}
  if step[9] ~= '' then claim[C_REPLACES], claim[C_REPLACED] = step[9], step[10] end
  set_claim(rid, claim)
  S.touched_claim = claim
  if multi == 1 then S.open_at[rid] = S.time + RESOLVE_AFTER_MS end
end

verb('create', each(function(step)
  local rid = step[1]
  local home = #step[8] > 0 and rid
  local outcome = check_claim(step)
  if outcome ~= DONE and outcome ~= REPEATED then return reply(outcome, home) end
  local opening = outcome == DONE and home
  local leg_outcome, shortfalls, contended = check_leg(step)
  if leg_outcome ~= DONE and leg_outcome ~= REPEATED then
    if step[6] == 1 and (leg_outcome == INSUFFICIENT or leg_outcome == NETWORK_CHANGED
      or leg_outcome == LIMITED) then
      bar(rid, step[2])
    end
    if opening and step[6] == 1 and step[8][5] == 0 then
      open_claim(step, ABORTED)
      emit(rid)
    end
    local met = get_leg(rid)
    local state = leg_outcome == RESOLVED and ended(met) == step[2] and EXPIRED
    return reply(leg_outcome, home, shortfalls, contended, met and met[L_ATTEMPT] or 0, state)
  end
  if leg_outcome == DONE and #step[7] > 0 then take_leg(step) end
  if opening then open_claim(step, step[6] == 1 and PENDING or HELD) end
  return reply(emit(rid) and DONE or REPEATED, home)
end), {})
