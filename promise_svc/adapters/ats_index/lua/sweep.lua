-- sweep: expire due legs and claims, longest due first, name the legs that home should be asked
-- about, delete accounts of days long past, and say on the channel how far the shard is. KEYS meta;
-- ARGV limit; reply one SweepReply. O(expired).

-- One event for all that are deleted; those with orders that have not left are kept.
local function close_accounts(old)
  local images = {}
  for i = 1, #old do
    local sku, node = string.match(old[i], '^([^\t]*)\t(.*)$')
    local row = get_row(sku, node, '')
    if row and (row[HELD_UNITS] > 0 or row[COMMITTED] > 0) then
      S.keys[#S.keys + 1] = {'ZADD', S.names.accounts, S.time + accounts.LOOK_MS, old[i]}
    else
      images[#images + 1] = {sku, node, '', new_row()}
      accounts.close(sku, node)
    end
  end
  if #images > 0 then append({accounts.EVENT_CLOSED, S.time, '', '', {}, {}, images, {}}) end
end

verb('sweep', function(keys, args)
  local refused = open(keys[1])
  if refused then return refused end
  local limit = tonumber(args[1])
  local legs = call('ZRANGEBYSCORE', S.names.legs_due, '-inf', S.time, 'LIMIT', 0, limit + 1)
  local claims = call('ZRANGEBYSCORE', S.names.claims_due, '-inf', S.time, 'LIMIT', 0, limit + 1)
  local asked = call('ZRANGEBYSCORE', S.names.doubt, '-inf', S.time, 'LIMIT', 0, limit + 1)
  local old = call('ZRANGEBYSCORE', S.names.accounts, '-inf', S.time, 'LIMIT', 0, limit + 1)
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
  local more = math.max(#legs, #claims, #asked, #old) > limit
  old[limit + 1] = nil
  close_accounts(old)
  commit()
  if #S.events == 0 then publish() end
  return pack({leg_count, claim_count, more and 1 or 0, doubtful})
end, {'allow-oom'})
