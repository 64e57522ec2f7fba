-- sync_supply: absolute counts; one event for all rows that change. adjust_supply: changes under a
-- key, one event a row. KEYS meta; ARGV one row each; reply one SupplyReply each. O(rows).

local function supply_reply(outcome, row)
  local free = left(row)
  return {outcome, row and row[ON_HAND] or 0, free > 0 and free or 0, S.epoch, S.sequence}
end

local function sync_row(step)
  local sku, node, bucket = step[1], step[2], step[3]
  local row = get_row(sku, node, bucket)
  local known = row
  row = row or {0, 0, 0, 0, 0, 0, 0, '', 0, 0}
  if step[6] ~= '' and step[6] == row[SOURCE] and step[7] < row[SOURCE_SEQUENCE] then
    return supply_reply(STALE_SEQUENCE, known)
  end
  local safety = step[5] < 0 and row[SAFETY] or step[5]
  local same = known and row[ON_HAND] == step[4] and row[SAFETY] == safety
  local moved = row[SOURCE] ~= step[6] or row[SOURCE_SEQUENCE] ~= step[7]
  row[ON_HAND], row[SAFETY], row[SOURCE], row[SOURCE_SEQUENCE] = step[4], safety, step[6], step[7]
  if not same then
    touch_row(sku, node, bucket, row)
  elseif moved then
    S.row_dirty[row_id(sku, node, bucket)] = {sku, node .. '\t' .. bucket, row}
  end
  return supply_reply(same and UNCHANGED or DONE, row)
end

verb('sync_supply', function(keys, args)
  local refused = open(keys[1])
  if refused then return refused end
  local replies = {}
  for i = 1, #args do replies[i] = sync_row(unpack_(args[i])) end
  emit('', EVENT_SUPPLY_SYNCED)
  for i = 1, #replies do
    replies[i][4], replies[i][5] = S.epoch, S.sequence
    replies[i] = pack(replies[i])
  end
  commit()
  return replies
end, {})

local function adjust_row(step)
  local key = S.base .. 'a:' .. step[5]
  local seen = S.adjusted[key] or call('GET', key)
  if seen then
    seen = unpack_(seen)
    local outcome = seen[1] == step[6] and REPEATED or BODY_DIFFERS
    return {outcome, seen[2], seen[3], S.epoch, S.sequence}
  end
  if step[1] == '' then
    local record = pack({step[6], 0, 0})
    S.adjusted[key] = record
    append({EVENT_SUPPLY_ADJUSTED, S.time, step[5], step[6], {}, {}, {}, {}})
    S.keys[#S.keys + 1] = {'SET', key, record, 'PX', WINDOW_MS}
    return {DONE, 0, 0, S.epoch, S.sequence}
  end
  local known = get_row(step[1], step[2], step[3])
  local row = known or {0, 0, 0, 0, 0, 0, 0, '', 0, 0}
  local on_hand = row[ON_HAND] + step[4]
  if on_hand < 0 then return supply_reply(BELOW_ZERO, known) end
  if on_hand > QUANTITY_MAX then return supply_reply(ABOVE_MAXIMUM, known) end
  row[ON_HAND] = on_hand
  touch_row(step[1], step[2], step[3], row)
  emit(step[5], EVENT_SUPPLY_ADJUSTED, step[6])
  local done = supply_reply(DONE, row)
  local record = pack({step[6], done[2], done[3]})
  S.adjusted[key] = record
  S.keys[#S.keys + 1] = {'SET', key, record, 'PX', WINDOW_MS}
  return done
end

verb('adjust_supply', each(function(step) return pack(adjust_row(step)) end), {})
