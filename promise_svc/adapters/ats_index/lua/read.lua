-- Reads that write nothing. KEYS meta. O(what is asked for).

local function reading(one)
  return function(keys, args)
    local refused = open(keys[1])
    if refused then return refused end
    local replies = {}
    for i = 1, #args do replies[i] = one(args[i]) end
    return replies
  end
end

-- read_claims: ARGV reservation ids; reply one StepReply each.
verb('read_claims', reading(function(rid)
  local claim = get_claim(rid)
  if not claim then return reply(MISSING) end
  if claim_due(claim) then claim[C_STATE] = EXPIRED end
  return reply(DONE, rid)
end), {'no-writes'})

-- read_legs: ARGV reservation ids; reply one leg or an empty array each.
verb('read_legs', reading(function(rid)
  local leg = get_leg(rid)
  if leg and due(leg[L_STATE], leg[L_EXPIRE]) then leg[L_STATE] = EXPIRED end
  return pack(leg or {})
end), {'no-writes'})

-- read_positions: ARGV SKUs; reply [epoch, sequence, time], then the images of each SKU with due
-- holds given back.
local read_sku = reading(function(sku)
  local images, by_field, arrived = {}, {}, {}
  local flat = call('HGETALL', S.names.row .. sku)
  for i = 1, #flat, 2 do
    local node, bucket = string.match(flat[i], '^([^\t]*)\t(.*)$')
    local image = {sku, node, bucket, unpack_(flat[i + 1])}
    images[#images + 1] = image
    by_field[flat[i]] = image[4]
    if image[4][ARRIVAL_MS] == ARRIVED then arrived[#arrived + 1] = image end
  end
  for _, rid in ipairs(call('ZRANGEBYSCORE', S.names.due .. sku, '-inf', S.time)) do
    local leg = get_leg(rid)
    for _, line in ipairs(leg[L_LINES]) do
      if line[1] == sku then
        local row = by_field[line[2] .. '\t' .. line[3]]
        row[HELD_UNITS] = row[HELD_UNITS] - line[4]
        draw(row, leg, -line[4])
      end
    end
  end
  for _, image in ipairs(arrived) do
    local field = image[2] .. '\t'
    local here = by_field[field] or new_row()
    if passed_on(image[4], here) > 0 and not by_field[field] then
      by_field[field] = here
      images[#images + 1] = {sku, image[2], '', here}
    end
  end
  return pack(images)
end)
verb('read_positions', function(keys, args)
  local replies = read_sku(keys, args)
  if replies.err then return replies end
  table.insert(replies, 1, pack({S.epoch, S.sequence, S.time}))
  return replies
end, {'no-writes'})

-- open_claims: ARGV limit; reply [reservation id, claim] each, oldest first.
verb('open_claims', function(keys, args)
  local refused = open(keys[1])
  if refused then return refused end
  local replies = {}
  for _, rid in ipairs(call('ZRANGEBYSCORE', S.names.open, '-inf', S.time, 'LIMIT', 0, args[1])) do
    replies[#replies + 1] = pack({rid, get_claim(rid)})
  end
  return replies
end, {'no-writes'})

-- read_meta: reply one array; answers also where the shard does not serve.
verb('read_meta', function(keys)
  load_meta(keys[1])
  return pack({S.owner or '', this_process(), S.epoch, S.sequence, S.depoch, S.dsequence, S.time, S.floor})
end, {'no-writes'})
