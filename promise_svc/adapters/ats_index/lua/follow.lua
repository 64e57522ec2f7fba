-- follow: make legs follow their claims, or probe them. KEYS meta; ARGV one FollowStep each; reply
-- one StepReply each. O(lines of the leg).

verb('follow', each(function(step)
  local rid, attempt, target = step[1], step[2], step[3]
  local leg = get_leg(rid)
  -- Home pinned the claim in time: its leg's own time does not count against it, as long as nobody
  -- has given the units to another.
  if leg and (target ~= CONFIRMED or leg[L_ATTEMPT] ~= attempt) then leg = leg_now(rid) end
  local barring = target == PENDING or LETTING_GO[target]
  if leg and leg[L_ATTEMPT] ~= attempt then
    if barring and leg[L_ATTEMPT] < attempt and leg[L_STATE] == HELD then
      move_leg(rid, leg, ABORTED)
      emit(rid)
    elseif leg[L_ATTEMPT] > attempt or ALIVE[leg[L_STATE]] then
      return other_plan(leg, attempt)
    end
    leg = false
  end
  if not leg then
    if barring then bar(rid, attempt) end
    return reply(MISSING)
  end
  local state = leg[L_STATE]
  if target == PENDING then return leg_reply(DONE, leg) end
  if state == target then
    if target == HELD then S.doubt[rid] = false end
    return leg_reply(REPEATED, leg)
  end
  if LETTING_GO[target] and not ALIVE[state] then return leg_reply(REPEATED, leg) end
  if not leg_may_move(state, target) then return leg_reply(REFUSED, leg) end
  local moved = move_leg(rid, leg, target)
  emit(rid)
  return leg_reply(DONE, moved)
end), {'allow-oom'})
