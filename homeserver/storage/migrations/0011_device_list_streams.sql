-- The stream ID of a change's last update, for other servers. It goes by the time: a copy that is put
-- back doesn't give IDs out again that others have seen.
ALTER TABLE device_list_changes ADD COLUMN stream_id bigint;

UPDATE device_list_changes
SET stream_id = position * 1024 + greatest(cardinality(devices), 1) - 1;

ALTER TABLE device_list_changes ALTER COLUMN stream_id SET NOT NULL;
