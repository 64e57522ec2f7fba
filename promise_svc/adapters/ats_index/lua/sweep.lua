-- sweep: expire due legs and claims, longest due first, name the legs that home should be asked
-- about, and say on the channel how far the shard is. KEYS meta; ARGV limit; reply one SweepReply. O(expired).

verb('sweep', function(keys, args)
  local refused = open(keys[1])
  if refused then return refused end
  local limit = tonumber(args[1])
  local legs = call('ZRANGEBYSCORE', S.names.legs_due, '-inf', S.time, 'LIMIT', 0, limit + 1)
  local claims = call('ZRANGEBYSCORE', S.names.claims_due, '-inf', S.time, 'LIMIT', 0, limit + 1)
  local asked = call('ZRANGEBYSCORE', S.names.doubt, '-inf', S.time, 'LIMIT', 0, limit + 1)
  local leg_count, claim_count = math.min(#legs, limit), math.min(#claims, limit)
  for i = 1, leg_count do expire_leg(legs[i], get_leg(legs[i])) end
  for i = 1, claim_count do expire_claim(claims[i], get_claim(claims[i])) end
  local doubtful = {}
  for i = 1, math.min(#asked, limit) do
    local leg = get_leg(asked[i])
    if leg and leg[L_STATE] == HELD and not due(HELD, leg[L_EXPIRE]) then
      doubtful[#doubtful + 1] = asked[i]
      S.doubt[asked[i]] = S.time + DOUBT_MS
    end
  end
  commit()
  if #S.events == 0 then publish() end
  return pack({leg_count, claim_count, (#legs > limit or #claims > limit or #asked > limit) and 1 or 0, doubtful})
end, {'allow-oom'})
