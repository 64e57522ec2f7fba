-- How many units an owner has by a limit: what a leg counts for. Twin of domain/ledger/limits.py.

-- Units that count for an owner, by key: fields of a limit are SKU, counter, most, window ms, window.
local function count_key(owner, limit)
  return S.base .. 'u:' .. limit[2] .. '\n' .. owner .. '\n' .. string.format('%d', limit[5])
end

local function counted(owner, limits, lines, alive)
  local units = {}
  for _, limit in ipairs(limits) do
    local key = count_key(owner, limit)
    for _, line in ipairs(lines) do
      if line[1] == limit[1] then
        local gone = limit[4] > 0 and line[5] or 0
        units[key] = (units[key] or 0) + gone + (alive and line[4] or 0)
      end
    end
  end
  return units
end

local function counted_of(leg)
  if not leg or not leg[L_LIMITS] then return {} end
  return counted(leg[L_OWNER], leg[L_LIMITS], leg[L_LINES], ALIVE[leg[L_STATE]])
end

local function units_of(key)
  local units = S.taken[key]
  if units == nil then
    units = tonumber(call('GET', key) or 0)
    S.taken[key] = units
  end
  return units
end

-- Counters follow every change of a leg, whatever made it.
local function count_leg(was, leg)
  for _, each in ipairs({leg, was or nil}) do
    for _, limit in ipairs(each[L_LIMITS] or {}) do
      S.counted_until[count_key(each[L_OWNER], limit)] = limit[4] > 0 and (limit[5] + 2) * limit[4] or 0
    end
  end
  for key, units in pairs(counted_of(was)) do S.taken[key] = units_of(key) - units end
  for key, units in pairs(counted_of(leg)) do S.taken[key] = units_of(key) + units end
end
