-- Deletes a dead letter. ARGV: tenant, job id. KEYS: none, they follow from these. Returns 1, or 0 when there is none.
return letter_drop(ARGV[1], ARGV[2])
