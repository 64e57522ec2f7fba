-- resolve: move claims at their home shard. KEYS meta; ARGV one ResolveStep each; reply one
-- StepReply each. O(lines of the home leg).

local function decide(rid, claim, target, followed)
  local legs = claim[C_LEGS]
  local alone = followed and (claim[C_CHANGE] or 0) == 0 or #legs == 1 and legs[1] == S.shard
  local decided = put_claim(rid, claim, target, alone and 1 or 0)
  if target == EXPIRED and claim[C_EXPIRE] > S.time then decided[C_EXPIRE] = S.time end
  local leg = has(legs, S.shard) and leg_now(rid)
  if leg and leg[L_ATTEMPT] == claim[C_ATTEMPT] and leg_may_move(leg[L_STATE], target) then
    move_leg(rid, leg, target)
  end
  S.open_at[rid] = not alone and S.time + RESOLVE_AFTER_MS
  emit(rid)
  return reply(alone and DONE or NEEDS_FOLLOW, rid)
end

local function confirm(rid, claim, pinned)
  if not OPEN[claim[C_STATE]] then return reply(REFUSED, rid) end
  local legs = claim[C_LEGS]
  local here = has(legs, S.shard)
  local leg = here and leg_now(rid)
  local stands = leg and leg[L_ATTEMPT] == claim[C_ATTEMPT]
    and (OPEN[leg[L_STATE]] or claim[C_STATE] == PINNED and leg[L_STATE] == CONFIRMED)
  if here and not stands then
    local came = leg and leg[L_ATTEMPT] == claim[C_ATTEMPT] and leg[L_STATE] ~= ABORTED
    if claim[C_STATE] ~= HELD and not came then
      if not leg or not ALIVE[leg[L_STATE]] then bar(rid, claim[C_ATTEMPT]) end
      decide(rid, claim, ABORTED)
    else
      decide(rid, claim, EXPIRED)
    end
    return reply(REFUSED, rid)
  end
  local followed = pinned == 1 and claim[C_STATE] == PINNED
  if here and #legs == 1 or followed then return decide(rid, claim, CONFIRMED, followed) end
  if claim[C_STATE] == PINNED then return reply(REPEATED, rid) end
  put_claim(rid, claim, PINNED, 0)
  if leg then move_leg(rid, leg, CONFIRMED) end
  S.open_at[rid] = S.time + RESOLVE_AFTER_MS
  emit(rid)
  return reply(NEEDS_PINS, rid)
end

-- Where the tombstone of one reservation's claim to another's place lies, among the legs.
local function succession(step) return step[6] .. '\n' .. step[1] end

local function barred_successor(step)
  local barred = get_leg(succession(step))
  return barred and barred[L_ATTEMPT] >= step[7]
end

local function supersede(rid, claim, step)
  if claim[C_STATE] == SUPERSEDED then
    local same = claim[C_SUCCESSOR] == step[6] and claim[C_SUCCESSOR_ATTEMPT] == step[7]
    return reply(same and REPEATED or REFUSED, rid)
  end
  if step[6] == '' or barred_successor(step) or claim[C_STATE] ~= HELD then return reply(REFUSED, rid) end
  local named = copy(claim)
  for field, default in pairs({[C_CHANGE] = 0, [C_REACQUIRED] = 0, [C_REPLACES] = '', [C_REPLACED] = 0}) do
    named[field] = named[field] or default
  end
  named[C_SUCCESSOR], named[C_SUCCESSOR_ATTEMPT] = step[6], step[7]
  return decide(rid, named, SUPERSEDED)
end

local function bar_successor(step)
  local rid = step[1]
  local claim = get_claim(rid)
  if claim and claim[C_SUCCESSOR] == step[6] and claim[C_SUCCESSOR_ATTEMPT] == step[7] then
    return reply(REFUSED, rid)
  end
  if not barred_successor(step) then bar(succession(step), step[7]) end
  return reply(DONE, rid)
end

verb('resolve', each(function(step)
  local rid, target = step[1], step[2]
  if step[6] ~= '' and target == ABORTED then return bar_successor(step) end
  local claim = claim_now(rid)
  if not claim then return reply(MISSING, rid) end
  if step[3] ~= 0 and step[3] ~= claim[C_ATTEMPT] then return reply(OTHER_PLAN, rid) end
  if step[4] ~= 0 and step[4] ~= claim[C_REVISION] then return reply(REVISION_DIFFERS, rid) end
  if replacing(claim) and target ~= ABORTED then return reply(UNSETTLED, rid) end
  if target == SUPERSEDED then return supersede(rid, claim, step) end
  if target == ABORTED and claim[C_REACQUIRED] == 1 then target = EXPIRED end
  if claim[C_STATE] == target then return reply(REPEATED, rid) end
  if target == CONFIRMED then return confirm(rid, claim, step[5]) end
  local moves = MOVES[claim[C_STATE]]
  if target == HELD or target == FULFILLED or not (moves and moves[target]) then return reply(REFUSED, rid) end
  if target == CANCELLED and (claim[C_CHANGE] or 0) > 0 then return reply(NEEDS_REVISION, rid) end
  return decide(rid, claim, target)
end), {'allow-oom'})
