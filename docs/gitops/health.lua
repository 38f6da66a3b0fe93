-- Health of Remote, Sync and FederationPolicy for Argo CD: one script for all three.
--
--   Suspended    stopped on purpose, and the agent has confirmed that
--   Healthy      Ready is True: data arrives, the connection is up, the policy is in force
--   Degraded     it needs somebody, or what has worked does not
--   Progressing  not known yet, or another object may still mend it
--
-- docs/gitops.md says how to install it; health_test.yaml lists what it makes of the objects in testdata.

local health = { status = "Progressing", message = "the operator has not looked at it yet" }

local status = obj.status
if status == nil or status.conditions == nil then
  return health
end

-- Conditions are about the spec of this generation. A new object says -1.
if status.observedGeneration ~= nil and obj.metadata.generation ~= nil
    and status.observedGeneration ~= obj.metadata.generation then
  health.message = "the operator has not looked at the newest spec yet"
  return health
end

local conditions = {}
for _, c in ipairs(status.conditions) do
  conditions[c.type] = c
end

local function is(kind, value)
  return conditions[kind] ~= nil and conditions[kind].status == value
end

local ready = conditions.Ready
if ready == nil then
  return health
end

-- The reason first: each has a page in docs/reasons.
health.message = ready.reason
if ready.message ~= nil and ready.message ~= "" then
  health.message = ready.reason .. ": " .. ready.message
end

if ready.status == "True" then
  -- The position is kept; nothing flows.
  if ready.reason == "Suspended" then
    health.status = "Suspended"
  else
    health.status = "Healthy"
  end
elseif is("Stalled", "True") then
  -- The spec is wrong, or for 30 seconds nothing that it needs has come.
  health.status = "Degraded"
elseif ready.status == "False" then
  -- A Remote or a bundle of the same commit may be there in a moment: the operator says Stalled if not. Calling that
  -- Degraded would end a sync in several waves.
  if is("Accepted", "False") or is("ResolvedRefs", "False") then
    health.status = "Progressing"
  else
    health.status = "Degraded"
  end
end
-- Ready is Unknown: connecting, copying, or the agent is silent.

return health
