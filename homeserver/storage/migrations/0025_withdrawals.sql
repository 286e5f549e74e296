-- Ends of invites and knocks by the server of whom they concern, which may never have been in the
-- room.
CREATE INDEX state_changes_withdrawals
    ON state_changes (substr(state_key, strpos(state_key, ':') + 1), position)
    WHERE type = 'm.room.member' AND former IN ('invite', 'knock')
    AND membership IN ('leave', 'ban');
