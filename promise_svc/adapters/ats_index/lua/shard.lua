-- Life of a shard. KEYS meta. O(1) but restore, which is O(events).

-- mark_durable: ARGV epoch, sequence, entries kept behind it. Trims the outbox; never moves back.
verb('mark_durable', function(keys, args)
  local refused = open(keys[1])
  if refused then return refused end
  local epoch, sequence, keep = tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  if epoch > S.depoch or epoch == S.depoch and sequence > S.dsequence then
    S.depoch, S.dsequence = epoch, sequence
    call('HSET', S.meta, 'depoch', args[1], 'dsequence', args[2])
    if sequence > keep then
      call('XTRIM', S.names.out, 'MINID', '~', args[1] .. '-' .. string.format('%d', sequence - keep))
    end
    publish()
  end
  return 1
end, {'allow-oom'})

-- raise_network_floor: ARGV version.
verb('raise_network_floor', function(keys, args)
  local refused = open(keys[1])
  if refused then return refused end
  if tonumber(args[1]) > S.floor then call('HSET', S.meta, 'floor', args[1]) end
  return 1
end, {'allow-oom'})

-- take_over: ARGV shard, expected epoch, expected sequence. The only way to become the owner.
verb('take_over', function(keys, args)
  load_meta(keys[1])
  if S.owner == this_process() then return redis.error_reply('SERVING the shard already serves') end
  if S.epoch ~= tonumber(args[2]) or S.sequence ~= tonumber(args[3]) then
    return redis.error_reply('MOVED_ON the shard stands at ' .. S.epoch .. '-' .. S.sequence)
  end
  local previous = {S.epoch, S.sequence}
  S.epoch, S.sequence, S.shard = S.epoch + 1, 0, tonumber(args[1])
  append({EVENT_EPOCH_STARTED, S.time, '', '', {}, {}, {}, previous})
  commit()
  call('HSET', S.meta, 'owner', this_process(), 'epoch', string.format('%d', S.epoch), 'shard', args[1])
  return pack({S.epoch, S.sequence})
end, {'allow-oom'})

-- restore: ARGV shard, then epoch, sequence and payload of each event. After-images only; no rules.
verb('restore', function(keys, args)
  load_meta(keys[1])
  if S.owner == this_process() then return redis.error_reply('SERVING the shard already serves') end
  S.shard = tonumber(args[1])
  for i = 2, #args, 3 do
    S.epoch, S.sequence = tonumber(args[i]), tonumber(args[i + 1])
    local event = unpack_(args[i + 2])
    if event[2] > S.time then S.time = event[2] end
    for _, image in ipairs(event[7]) do
      local id = row_id(image[1], image[2], image[3])
      local closed = event[1] == accounts.EVENT_CLOSED
      S.row_dirty[id] = not closed and image or nil
      S.closed[id] = closed and image or nil
      if not closed then accounts.watch(image[1], image[2]) end
    end
    local claim, leg = event[5], event[6]
    if #leg > 0 then
      set_leg(event[3], leg)
      S.doubt[event[3]] = leg[L_STATE] == HELD and leg[L_MULTI] == 1 and #claim == 0 and S.time + DOUBT_MS
    end
    if #claim > 0 then
      set_claim(event[3], claim)
      S.open_at[event[3]] = claim[C_SETTLED] == 0 and S.time + RESOLVE_AFTER_MS
    end
    if event[1] == EVENT_SUPPLY_ADJUSTED or event[1] == EVENT_SALE_RECORDED then
      local row = event[7][1] and event[7][1][4]
      keep_adjustment(S.base .. 'a:' .. event[3],
        {event[4], row and row[ON_HAND] or 0, math.max(0, left(row, '')), shortage(row)})
    end
  end
  for _, image in pairs(S.closed) do accounts.close(image[1], image[2]) end
  commit()
  call('HSET', S.meta, 'epoch', string.format('%d', S.epoch), 'sequence', string.format('%d', S.sequence),
    'time', string.format('%d', S.time), 'shard', args[1])
  return 1
end, {'allow-oom'})
