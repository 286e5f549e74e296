-- Who sent what waits for a device, where it is a user of another server.
ALTER TABLE to_device_messages ADD COLUMN sender text COLLATE "C";
