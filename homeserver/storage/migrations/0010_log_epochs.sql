-- Each start of the server begins an epoch at the log's end of that moment: tokens name it.
CREATE TABLE log_epochs (
    log smallint NOT NULL,
    epoch bigint NOT NULL,
    history text NOT NULL,      -- random: a copy that is put back never has it again
    began_at bigint NOT NULL,   -- the log's position
    PRIMARY KEY (log, epoch)
);

INSERT INTO log_epochs (log, epoch, history, began_at) SELECT log, epoch, history, 0 FROM logs;

ALTER TABLE logs DROP COLUMN history;
