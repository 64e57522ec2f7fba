-- Rows of positions, as a call reads and changes them. Twin of domain/inventory.py.

local function row_id(sku, node, bucket) return sku .. '\n' .. node .. '\t' .. bucket end

local function get_row(sku, node, bucket)
  local id = row_id(sku, node, bucket)
  local row = S.rows[id]
  if row == nil then
    local raw = call('HGET', S.names.row .. sku, node .. '\t' .. bucket)
    row = raw and unpack_(raw) or false
    -- Rows of the layout before end one field earlier.
    if row and not row[ARRIVAL_MS] then row[SOLD_SHORT], row[ARRIVAL_MS] = row[SOLD_SHORT] or 0, 0 end
    S.rows[id] = row
  end
  return row
end

-- Accounts of nodes' days; one table, for Lua has no more than 200 locals.
local accounts = {EVENT_CLOSED = 6, LOOK_MS = 86400000, KEPT_MS = 32 * 86400000}

-- An account is deleted long after its day, which its name tells.
function accounts.watch(sku, node)
  if string.byte(sku) ~= 126 then return end
  local y, m, d = string.match(sku, '/(%d+)%-(%d+)%-(%d+)/')
  y, m, d = tonumber(y), tonumber(m), tonumber(d)
  -- Days since 1970, by years that begin in March.
  if m <= 2 then y = y - 1 end
  local days = 365 * y + math.floor(y / 4) - math.floor(y / 100) + math.floor(y / 400)
    + math.floor((153 * ((m + 9) % 12) + 2) / 5) + d - 1 - 719468
  S.keys[#S.keys + 1] = {'ZADD', S.names.accounts, days * 86400000 + accounts.KEPT_MS, sku .. '\t' .. node}
end

function accounts.close(sku, node)
  S.keys[#S.keys + 1] = {'HDEL', S.names.row .. sku, node .. '\t'}
  S.keys[#S.keys + 1] = {'ZREM', S.names.accounts, sku .. '\t' .. node}
end

-- Rows are changed in place; events pack their images at once, so no image can change later. Fields
-- of an entry: SKU, node, bucket, row, and the row as an event has packed it since.
local function touch_row(sku, node, bucket, row)
  local id = row_id(sku, node, bucket)
  local entry, touched = S.row_dirty[id], S.touched
  if not entry or entry[4] ~= row then
    if not S.rows[id] then accounts.watch(sku, node) end
    entry = {sku, node, bucket, row}
    S.rows[id], S.row_dirty[id] = row, entry
  end
  entry[5] = nil
  if not touched[id] then
    touched[id] = true
    touched[#touched + 1] = entry
  end
end

local function new_row() return {0, 0, 0, 0, 0, 0, 0, '', 0, 0, 0, 0} end

-- What nobody has of a bucket that is here becomes stock here now; says how much did.
local function passed_on(row, here)
  local room = QUANTITY_MAX - here[ON_HAND] + (here[SOLD_SHORT] or 0)
  local spare = math.min(row[ON_HAND] - row[COMMITTED] - row[HELD_UNITS], room)
  if spare <= 0 then return 0 end
  local paid = math.min(here[SOLD_SHORT] or 0, spare)
  row[ON_HAND] = row[ON_HAND] - spare
  here[ON_HAND], here[COMMITTED] = here[ON_HAND] + spare - paid, here[COMMITTED] - paid
  here[SOLD_SHORT] = (here[SOLD_SHORT] or 0) - paid
  return spare
end

local function pass_on(sku, node, row)
  if row[ARRIVAL_MS] ~= ARRIVED then return end
  local here = get_row(sku, node, '') or new_row()
  if passed_on(row, here) > 0 then touch_row(sku, node, '', here) end
end

-- Units kept for other segments and unsold.
local function protected_units(row, segment)
  local units = 0
  for _, share in ipairs(row[PROTECTED]) do
    if share[1] ~= segment and share[2] > share[3] then units = units + share[2] - share[3] end
  end
  return units
end

-- The most an account may come to, by a line of it; nil for stock.
local function limit_of(line) return (line[6] or -1) >= 0 and line[6] or nil end

local function left(row, segment, limit)
  if not row then return limit or 0 end
  local units = (limit or row[ON_HAND]) - row[SAFETY] - row[COMMITTED] - row[HELD_UNITS]
  if row[PROTECTED] then units = units - protected_units(row, segment) end
  return units
end

-- What is protected withholds only what is there: it makes no shortage.
local function shortage(row)
  if not row then return 0 end
  return math.max(0, row[COMMITTED] + row[HELD_UNITS] + row[SAFETY] - row[ON_HAND])
end

-- A leg takes units of a position for its segment, or below zero gives some back.
local function draw(row, leg, units)
  local segment, epoch = leg[L_SEGMENT], leg[L_EPOCH] or 0
  if not segment or segment == '' or not row[PROTECTED] then return end
  for _, share in ipairs(row[PROTECTED]) do
    local begun = share[4] or 0
    local older = epoch < begun or epoch == begun and (leg[L_SEQUENCE] or 0) < (share[5] or 0)
    if share[1] == segment and not older then share[3] = math.max(0, share[3] + units) end
  end
end
