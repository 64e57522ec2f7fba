-- settle: note at home that every leg has followed. KEYS meta; ARGV one SettleStep each; reply one
-- StepReply each. O(1).

verb('settle', each(function(step)
  local rid = step[1]
  local claim = claim_now(rid)
  if not claim then return reply(MISSING, rid) end
  local state = claim[C_STATE]
  local same = claim[C_ATTEMPT] == step[2] and state == step[3] and (claim[C_CHANGE] or 0) == step[4]
  if not same then return reply(REFUSED, rid) end
  if replacing(claim) and step[5] == 0 then return reply(REFUSED, rid) end
  if claim[C_SETTLED] == 1 or state == PINNED then return reply(REPEATED, rid) end
  S.open_at[rid] = false
  if state == PENDING then
    put_claim(rid, claim, HELD, 1)
    emit(rid)
  else
    local changed = copy(claim)
    changed[C_SETTLED] = 1
    set_claim(rid, changed)
  end
  return reply(DONE, rid)
end), {'allow-oom'})
