-- Names only. A row's number is its row_id; an event's place in its room is (live_index, gap_index):
-- the count of live events, and how far below that one history was fetched; a verdict that rests on
-- another server's state is unverified, and due for a recheck.
ALTER SEQUENCE nids RENAME TO row_ids;

ALTER TABLE rooms RENAME COLUMN room_nid TO room_row_id;

ALTER TABLE room_heads RENAME COLUMN room_nid TO room_row_id;
ALTER TABLE room_heads RENAME COLUMN snapshot_nid TO snapshot_row_id;
ALTER TABLE room_heads RENAME COLUMN n TO live_index;

ALTER TABLE events RENAME COLUMN room_nid TO room_row_id;
ALTER TABLE events RENAME COLUMN event_nid TO event_row_id;
ALTER TABLE events RENAME COLUMN n TO live_index;
ALTER TABLE events RENAME COLUMN fill TO gap_index;
ALTER TABLE events RENAME COLUMN unproven TO unverified;

ALTER TABLE snapshots RENAME COLUMN room_nid TO room_row_id;
ALTER TABLE snapshots RENAME COLUMN snapshot_nid TO snapshot_row_id;
ALTER TABLE snapshots RENAME COLUMN base_nid TO base_row_id;

ALTER TABLE state_changes RENAME COLUMN room_nid TO room_row_id;
ALTER TABLE memberships RENAME COLUMN room_nid TO room_row_id;
ALTER TABLE room_servers RENAME COLUMN room_nid TO room_row_id;
ALTER TABLE pending_redactions RENAME COLUMN room_nid TO room_row_id;
ALTER TABLE resolutions RENAME COLUMN room_nid TO room_row_id;

ALTER TABLE gaps RENAME COLUMN room_nid TO room_row_id;
ALTER TABLE gaps RENAME COLUMN n TO live_index;
ALTER TABLE gaps RENAME COLUMN fill TO gap_index;

ALTER TABLE unproven_parents RENAME TO unverified_parents;
ALTER TABLE unverified_parents RENAME COLUMN room_nid TO room_row_id;
ALTER TABLE unverified_parents RENAME COLUMN event_nid TO event_row_id;
ALTER INDEX unproven_parents_by_event RENAME TO unverified_parents_by_event;
ALTER INDEX unproven_parents_missing RENAME TO unverified_parents_missing;

ALTER TABLE proofs_due RENAME TO rechecks_due;
ALTER TABLE rechecks_due RENAME COLUMN room_nid TO room_row_id;
ALTER TABLE rechecks_due RENAME COLUMN event_nid TO event_row_id;

ALTER TABLE handshake_intents RENAME TO joining_intents;
