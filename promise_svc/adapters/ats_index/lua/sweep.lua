-- sweep: expire due legs and claims, longest due first, and say on the channel how far the shard
-- is. KEYS meta; ARGV limit; reply one SweepReply. O(expired).

verb('sweep', function(keys, args)
  local refused = open(keys[1])
  if refused then return refused end
  local limit = tonumber(args[1])
  local legs = call('ZRANGEBYSCORE', S.base .. 'legs-due', '-inf', S.time, 'LIMIT', 0, limit + 1)
  local claims = call('ZRANGEBYSCORE', S.base .. 'claims-due', '-inf', S.time, 'LIMIT', 0, limit + 1)
  local leg_count, claim_count = math.min(#legs, limit), math.min(#claims, limit)
  for i = 1, leg_count do expire_leg(legs[i], get_leg(legs[i])) end
  for i = 1, claim_count do expire_claim(claims[i], get_claim(claims[i])) end
  commit()
  if #S.events == 0 then publish() end
  return pack({leg_count, claim_count, (#legs > limit or #claims > limit) and 1 or 0})
end, {'allow-oom'})
