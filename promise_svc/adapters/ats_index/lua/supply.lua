-- sync_supply: absolute counts; one event for all rows that change. adjust_supply: changes and sales
-- under a key, one event a row. protect: shares of segments, one event for all rows. KEYS meta; ARGV
-- one row each; reply one SupplyReply each. O(rows), and, for counts that include what arrived, positions
-- of their SKUs.

local function supply_reply(outcome, row)
  local units = math.max(0, left(row, ''))
  return {outcome, row and row[ON_HAND] or 0, units, S.epoch, S.sequence, shortage(row)}
end

-- Node -> buckets of a SKU, read once a call: the rows of a report are often one SKU at many nodes.
local function buckets_of(sku)
  local found = S.buckets[sku]
  if not found then
    found = {}
    for _, field in ipairs(call('HKEYS', S.names.row .. sku)) do
      local at, bucket = string.match(field, '^([^\t]*)\t(.*)$')
      if not found[at] then found[at] = {} end
      table.insert(found[at], bucket)
    end
    S.buckets[sku] = found
  end
  return found
end

-- Twin of stock_here, with the units ever ordered where the count speaks. A count of stock here now
-- reads its own row only, unless it includes what arrived buckets have: then all of the SKU.
local function stock_here(step, here)
  local rows = {here}
  if step[9] == 1 then
    rows = {}
    for _, bucket in ipairs(buckets_of(step[1])[step[2]] or {}) do
      rows[#rows + 1] = get_row(step[1], step[2], bucket)
    end
  end
  local there, had, wanted, ordered = step[4], 0, 0, 0
  if step[10] >= 0 then there = there + step[10] end
  for _, row in ipairs(rows) do
    ordered = ordered + row[CONFIRMED_TOTAL]
    if step[10] >= 0 then there = there - row[FULFILLED_TOTAL] end
    if row[ARRIVAL_MS] == ARRIVED then
      had, wanted = had + row[ON_HAND], wanted + math.max(row[ON_HAND], row[COMMITTED] + row[HELD_UNITS])
    end
  end
  return math.max(0, there - wanted), math.min(math.max(0, had - there), QUANTITY_MAX), ordered
end

local function sync_row(step)
  local sku, node, bucket = step[1], step[2], step[3]
  local row = get_row(sku, node, bucket)
  local known = row
  row = row or new_row()
  if step[6] ~= '' and step[6] == row[SOURCE] and step[7] < row[SOURCE_SEQUENCE] then
    return supply_reply(STALE_SEQUENCE, known)
  end
  if row[ARRIVAL_MS] == ARRIVED then
    return supply_reply(step[8] == ARRIVED and UNCHANGED or ALREADY_ARRIVED, row)
  end
  local arrival = bucket ~= '' and (step[8] ~= 0 and step[8] or row[ARRIVAL_MS]) or 0
  local safety = arrival == ARRIVED and 0 or step[5] < 0 and row[SAFETY] or step[5]
  local moved = row[SOURCE] ~= step[6] or row[SOURCE_SEQUENCE] ~= step[7]
  local on_hand, owed = step[4], 0
  -- This report was counted before: what left since then has left.
  if step[6] ~= '' and not moved and arrival ~= ARRIVED then
    on_hand, owed = row[ON_HAND], row[SOLD_SHORT]
  elseif bucket == '' then
    local ordered
    on_hand, owed, ordered = stock_here(step, row)
    if step[10] > ordered then return supply_reply(MORE_THAN_ORDERED, known) end
    if on_hand > QUANTITY_MAX then return supply_reply(ABOVE_MAXIMUM, known) end
  else
    -- All that is expected, or came: some of it may have left before its arrival was told.
    on_hand = math.max(0, on_hand - row[FULFILLED_TOTAL])
  end
  local same = known and row[ON_HAND] == on_hand and row[SAFETY] == safety and row[SOLD_SHORT] == owed
    and row[ARRIVAL_MS] == arrival
  row[COMMITTED], row[SOLD_SHORT] = row[COMMITTED] - row[SOLD_SHORT] + owed, owed
  row[ON_HAND], row[SAFETY], row[SOURCE], row[SOURCE_SEQUENCE] = on_hand, safety, step[6], step[7]
  row[ARRIVAL_MS] = arrival
  if not same then
    touch_row(sku, node, bucket, row)
    pass_on(sku, node, row)
  elseif moved then
    S.row_dirty[row_id(sku, node, bucket)] = {sku, node, bucket, row}
  end
  return supply_reply(same and UNCHANGED or DONE, row)
end

-- A verb over an array of rows, whose changes are one event.
local function sync_each(row_of, kind)
  return function(keys, args)
    local refused = open(keys[1])
    if refused then return refused end
    local replies = {}
    for i = 1, #args do replies[i] = row_of(unpack_(args[i])) end
    emit('', kind)
    for i = 1, #replies do
      replies[i][4], replies[i][5] = S.epoch, S.sequence
      replies[i] = pack(replies[i])
    end
    commit()
    return replies
  end
end

verb('sync_supply', sync_each(sync_row, EVENT_SUPPLY_SYNCED), {})

-- Units that leave on hand, and units that become owed or are paid.
local function taken(row, delta, sale)
  if sale == 1 then
    local covered = math.min(row[ON_HAND], -delta)
    return covered, -delta - covered
  end
  local owed = -math.min(row[SOLD_SHORT], math.max(0, delta))
  return -delta - owed, owed
end

local function adjust_row(step)
  local key, sale = S.base .. 'a:' .. step[5], step[8]
  local seen = S.adjusted[key] or call('GET', key)
  if seen then
    seen = unpack_(seen)
    local outcome = seen[1] == step[6] and REPEATED or BODY_DIFFERS
    return {outcome, seen[2], seen[3], S.epoch, S.sequence, seen[4] or 0}
  end
  local known = step[1] ~= '' and get_row(step[1], step[2], step[3])
  if step[7] > 0 and S.time - step[7] > WINDOW_MS then return supply_reply(WINDOW_PASSED, known) end
  local kind = sale == 1 and EVENT_SALE_RECORDED or EVENT_SUPPLY_ADJUSTED
  if step[1] == '' then
    append({kind, S.time, step[5], step[6], {}, {}, {}, {}})
    keep_adjustment(key, {step[6], 0, 0, 0})
    return {DONE, 0, 0, S.epoch, S.sequence, 0}
  end
  local row = known or new_row()
  local covered, owed = taken(row, step[4], sale)
  local on_hand, sold_short = row[ON_HAND] - covered, row[SOLD_SHORT] + owed
  if on_hand < 0 then return supply_reply(BELOW_ZERO, known) end
  if on_hand > QUANTITY_MAX or sold_short > QUANTITY_MAX then return supply_reply(ABOVE_MAXIMUM, known) end
  row[ON_HAND], row[COMMITTED], row[SOLD_SHORT] = on_hand, row[COMMITTED] + owed, sold_short
  touch_row(step[1], step[2], step[3], row)
  pass_on(step[1], step[2], row)
  emit(step[5], kind, step[6])
  local done = supply_reply(DONE, row)
  keep_adjustment(key, {step[6], done[2], done[3], done[6]})
  return done
end

verb('adjust_supply', each(function(step) return pack(adjust_row(step)) end), {})

local function protect_row(step)
  local sku, node, bucket, segment, level = step[1], step[2], step[3], step[4], step[5]
  local known = get_row(sku, node, bucket)
  local shares, share = known and known[PROTECTED] or {}, nil
  for _, each_share in ipairs(shares) do
    if each_share[1] == segment then share = each_share end
  end
  if (share and share[2] or 0) == level then return supply_reply(UNCHANGED, known) end
  if not share and #shares == PROTECTIONS_MAX then return supply_reply(TOO_MANY_SEGMENTS, known) end
  local row = known or new_row()
  if share then share[2] = level else shares[#shares + 1] = {segment, level, 0, S.epoch, S.sequence + 1} end
  local kept = {}
  for _, each_share in ipairs(shares) do
    if each_share[2] > 0 then kept[#kept + 1] = each_share end
  end
  row[PROTECTED] = kept
  touch_row(sku, node, bucket, row)
  return supply_reply(DONE, row)
end

verb('protect', sync_each(protect_row, EVENT_PROTECTION_SET), {})
